//! Random sequences of everything that happens to a node: pods come and go, calls are cancelled, the driver restarts and dies,
//! Azure fails in all its ways, values and classes change. After each step every volume is held against a model that knows
//! what may be there and what the call had to answer.
//!
//! `AKV_CSI_MODEL_RUNS` is the number of sequences, `AKV_CSI_SEED` repeats one; a failure prints the whole history.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use azure_emulator::{Fault, FaultRule, Service};
use e2e::{
    DriverProcess, Files, Pod, Random, Seed, Sight, Stage, StageOptions, VAULT, can_mount, class, look,
    setting,
};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::{Code, Status};

const RUNS: &str = "AKV_CSI_MODEL_RUNS";
const STEPS: usize = 60;
const PODS: usize = 10;
const CLASSES: usize = 3;
const SECRETS: usize = 4;
const PATHS: [&str; 4] = ["a", "b", "dir/a", "dir/deep/b"];
const MODES: [u32; 3] = [0o644, 0o600, 0o440];

/// A vault that throttles gets a pause that outlasts the trouble, 20 s at most.
const THROTTLED: Duration = Duration::from_secs(21);

/// What is wrong with Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Slow,
    Refusing,
    Down,
    Throttling,
    Silent,
}

/// What a class says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Class {
    /// Path → number of the secret, mode.
    Good(BTreeMap<&'static str, (usize, u32)>),
    NoYaml,
    Gone,
    UnknownObject,
    BadParameter,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Terminated,
    Killed,
}

#[derive(Debug, Clone)]
enum Step {
    /// Calls at once; a number that comes twice is two calls at once for one target.
    Publish(Vec<usize>),
    /// The same with a client that gives up so soon.
    Cancel(Vec<usize>, Duration),
    Unpublish(Vec<usize>),
    ChangeSecret(usize),
    ChangeClass(usize, Class),
    Azure(Trouble),
    Restart(End),
    /// So long after these calls were begun.
    RestartDuring(End, Vec<usize>, Duration),
}

/// What the model knows of one volume.
#[derive(Debug, Default)]
struct Volume {
    /// What may be there: one thing, except after calls without an answer.
    possible: Vec<Option<Files>>,
    /// A cancelled call may still be at work on it.
    busy: bool,
    /// A process died at work on it: names may be missing that come or go.
    torn: bool,
}

/// What a publish call has to come to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Success(Files),
    Failure,
    Either(Files),
}

struct World {
    stage: Arc<Stage>,
    driver: Option<DriverProcess>,
    pods: Vec<Pod>,
    volumes: Vec<Volume>,
    secrets: [u32; SECRETS],
    classes: Vec<Class>,
    trouble: Trouble,
    throttled: Option<Instant>,
    history: History,
}

/// Printed when the test fails.
#[derive(Default)]
struct History(Vec<String>);

impl Drop for History {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("history:\n{}", self.0.join("\n"));
        }
    }
}

fn class_name(number: usize) -> String {
    format!("class-{number}")
}

impl Class {
    fn any_good(random: &mut Random) -> Self {
        let mut files: BTreeMap<_, _> =
            PATHS.iter().filter_map(|path| random.percent(50).then_some((*path, (0, 0)))).collect();
        files.insert("always", (0, 0));
        for file in files.values_mut() {
            *file = (random.below(SECRETS), *random.pick(&MODES));
        }
        Self::Good(files)
    }

    /// Often another with a small difference, which may be a mode alone.
    fn edited(&self, random: &mut Random) -> Self {
        let Self::Good(files) = self else { return Self::any_good(random) };
        if random.percent(40) {
            return Self::any_good(random);
        }
        let mut files = files.clone();
        let number = random.below(files.len());
        let (secret, mode) = files.values_mut().nth(number).expect("below their number");
        if random.percent(70) {
            *mode = *random.pick(&MODES);
        } else {
            *secret = random.below(SECRETS);
        }
        Self::Good(files)
    }

    fn any_bad(random: &mut Random) -> Self {
        random.pick(&[Self::NoYaml, Self::Gone, Self::UnknownObject, Self::BadParameter]).clone()
    }

    fn deploy(&self, stage: &Stage, name: &str) {
        let path = stage.path("classes").join(format!("{name}.yaml"));
        let text = match self {
            Self::Good(files) => {
                let object = |(path, (secret, mode)): (&&str, &(usize, u32))| {
                    format!(
                        "objectName: m{secret}\nobjectType: secret\nobjectAlias: {path}\nfilePermission: \"{mode:04o}\""
                    )
                };
                let objects: Vec<String> = files.iter().map(object).collect();
                class(stage, name, &objects.iter().map(String::as_str).collect::<Vec<_>>(), &[])
            }
            Self::NoYaml => "apiVersion: [".to_owned(),
            Self::UnknownObject => {
                class(stage, name, &["objectName: nobody-made-this\nobjectType: secret"], &[])
            }
            Self::BadParameter => {
                class(stage, name, &["objectName: m0\nobjectType: secret\nobjectAlias: ../outside"], &[])
            }
            Self::Gone => return std::fs::remove_file(&path).unwrap_or_default(),
        };
        let half = path.with_extension("half");
        std::fs::write(&half, text).unwrap();
        std::fs::rename(&half, &path).unwrap();
    }
}

impl World {
    async fn new(stage: Arc<Stage>, random: &mut Random) -> Self {
        let pods =
            (0..PODS).map(|number| Pod::new(&stage, &format!("web-{number}"), &class_name(number % CLASSES)));
        let volumes = (0..PODS).map(|_| Volume { possible: vec![None], ..Volume::default() }).collect();
        let classes: Vec<Class> = (0..CLASSES).map(|_| Class::any_good(random)).collect();
        for (number, class) in classes.iter().enumerate() {
            class.deploy(&stage, &class_name(number));
        }
        let pods = pods.collect();
        let (trouble, throttled) = (Trouble::None, None);
        let mut world = Self {
            stage,
            driver: None,
            pods,
            volumes,
            secrets: [0; SECRETS],
            classes,
            trouble,
            throttled,
            history: History::default(),
        };
        for secret in 0..SECRETS {
            world.write_secret(secret);
        }
        world.start_driver().await;
        world
    }

    async fn start_driver(&mut self) {
        self.driver = Some(self.stage.start_unregistered(&DriverProcess::binary(), []).await);
        self.throttled = None;
    }

    async fn end_driver(&mut self, end: End) {
        let driver = self.driver.take().expect("it runs");
        match end {
            End::Terminated => {
                let status = driver.terminate().await;
                assert!(status.success(), "{status}\n{}", self.stage.log());
            }
            End::Killed => driver.kill().await,
        }
    }

    fn value(&self, secret: usize) -> String {
        format!("m{secret} in version {}", self.secrets[secret])
    }

    fn write_secret(&self, secret: usize) {
        self.stage.azure.vault(VAULT).set_secret(&format!("m{secret}"), &self.value(secret)).unwrap();
    }

    /// What the class of a pod would make of the vault now.
    fn wanted(&self, pod: usize) -> Option<Files> {
        let Class::Good(files) = &self.classes[pod % CLASSES] else { return None };
        let file = |(path, (secret, mode)): (&&str, &(usize, u32))| {
            ((*path).to_owned(), (self.value(*secret).into_bytes(), *mode))
        };
        Some(files.iter().map(file).collect())
    }

    fn expected(&self, pod: usize) -> Expected {
        let paused = self.throttled.is_some_and(|since| since.elapsed() < THROTTLED);
        match (self.wanted(pod), self.trouble) {
            (None, _) | (_, Trouble::Refusing | Trouble::Down | Trouble::Throttling | Trouble::Silent) => {
                Expected::Failure
            }
            (Some(files), _) if paused => Expected::Either(files),
            (Some(files), Trouble::None | Trouble::Slow) => Expected::Success(files),
        }
    }

    /// A step that makes sense now.
    fn choose(&self, random: &mut Random) -> Step {
        let pods =
            |random: &mut Random| (0..=random.below(5)).map(|_| random.below(PODS)).collect::<Vec<_>>();
        let end = |random: &mut Random| if random.percent(50) { End::Killed } else { End::Terminated };
        // Bad times cost seconds a call, and are left soon.
        if self.trouble != Trouble::None && random.percent(35) {
            return Step::Azure(Trouble::None);
        }
        match random.below(100) {
            0..35 => Step::Publish(pods(random)),
            35..47 => Step::Unpublish(pods(random)),
            47..57 => Step::Cancel(pods(random), Duration::from_millis(1 + random.number() % 100)),
            57..67 => Step::ChangeSecret(random.below(SECRETS)),
            67..76 => {
                let number = random.below(CLASSES);
                Step::ChangeClass(number, self.classes[number].edited(random))
            }
            76..80 => Step::ChangeClass(random.below(CLASSES), Class::any_bad(random)),
            80..86 => Step::Azure(*random.pick(&[Trouble::Slow, Trouble::Refusing])),
            86..90 => Step::Azure(*random.pick(&[Trouble::Down, Trouble::Throttling, Trouble::Silent])),
            90..94 => Step::Restart(end(random)),
            _ => {
                let after = Duration::from_millis(random.number() % 40);
                Step::RestartDuring(end(random), pods(random), after)
            }
        }
    }

    async fn take(&mut self, step: Step) {
        self.history.0.push(format!("{step:?}"));
        match step {
            Step::Publish(pods) => {
                for (pod, answer) in self.publish(&pods, None, None).await {
                    self.check_answer(pod, &answer);
                }
            }
            Step::Cancel(pods, after) => {
                for (pod, answer) in self.publish(&pods, Some(after), None).await {
                    match &answer {
                        Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => {
                            self.volumes[pod].busy = true;
                            self.may_become_what_is_wanted(pod);
                        }
                        _ => self.check_answer(pod, &answer),
                    }
                }
            }
            Step::Unpublish(mut pods) => {
                pods.sort_unstable();
                pods.dedup();
                for pod in pods {
                    self.pods[pod].stop();
                    let answer = self.pods[pod].call.unpublish().await;
                    assert!(answer.is_ok(), "pod {pod}: unpublish must not fail: {answer:?}");
                    self.pods[pod].assert_gone("unpublished");
                    self.volumes[pod] = Volume { possible: vec![None], ..Volume::default() };
                }
            }
            Step::ChangeSecret(secret) => {
                self.settle().await;
                self.secrets[secret] += 1;
                self.write_secret(secret);
            }
            Step::ChangeClass(number, class) => {
                self.settle().await;
                class.deploy(&self.stage, &class_name(number));
                self.classes[number] = class;
            }
            Step::Azure(trouble) => self.set_trouble(trouble),
            Step::Restart(end) => {
                self.end_driver(end).await;
                self.check_after_death();
                self.start_driver().await;
            }
            Step::RestartDuring(end, pods, after) => {
                for (pod, answer) in self.publish(&pods, None, Some((end, after))).await {
                    match &answer {
                        Err(status)
                            if status.code() != Code::Unknown
                                || std::error::Error::source(status).is_some() =>
                        {
                            self.volumes[pod].torn = true;
                            self.may_become_what_is_wanted(pod);
                        }
                        // An answer counts, whatever came after it.
                        _ => self.check_answer(pod, &answer),
                    }
                }
                self.check_after_death();
                self.start_driver().await;
            }
        }
        self.check();
    }

    /// Nothing works on any volume any more.
    fn check_after_death(&mut self) {
        for volume in &mut self.volumes {
            volume.torn |= volume.busy;
            volume.busy = false;
        }
        self.check();
    }

    fn set_trouble(&mut self, trouble: Trouble) {
        let faults = self.stage.azure.faults();
        faults.clear();
        if self.trouble == Trouble::Throttling {
            self.throttled = Some(Instant::now());
        }
        self.trouble = trouble;
        match trouble {
            Trouble::None => {}
            Trouble::Slow => faults.set_latency(Service::Vault, Duration::from_millis(60)),
            Trouble::Refusing => faults.inject(FaultRule::status(Service::Vault, 403)),
            Trouble::Down => faults.inject(FaultRule::status(Service::Vault, 503)),
            Trouble::Throttling => faults.inject(FaultRule::status(Service::Vault, 429)),
            Trouble::Silent => faults.inject(FaultRule::new(Service::Vault, Fault::Hang)),
        }
    }

    /// Waits, by a call of the kubelet, for cancelled calls: what they see must not change under their hands, or the model
    /// would have to know how far they are.
    async fn settle(&mut self) {
        let busy: Vec<usize> = (0..PODS).filter(|pod| self.volumes[*pod].busy).collect();
        if busy.is_empty() {
            return;
        }
        self.history.0.push(format!("  settle {busy:?}"));
        self.set_trouble(Trouble::None);
        for (pod, answer) in self.publish(&busy, None, None).await {
            self.check_answer(pod, &answer);
        }
        self.check();
    }

    /// Calls at once; a call whose client gives up; a driver that ends meanwhile.
    async fn publish(
        &mut self,
        pods: &[usize],
        within: Option<Duration>,
        end: Option<(End, Duration)>,
    ) -> Vec<(usize, Result<(), Status>)> {
        let mut running = JoinSet::new();
        for &pod in pods {
            let (call, busy) = (self.pods[pod].call.clone(), self.volumes[pod].busy);
            running.spawn(async move {
                if let Some(deadline) = within {
                    return (pod, call.publish_within(deadline).await);
                }
                match call.publish().await {
                    // The cancelled call held the target until this one's time was up as well.
                    Err(status) if busy && status.code() == Code::Aborted => (pod, call.publish().await),
                    answer => (pod, answer),
                }
            });
        }
        if let Some((end, after)) = end {
            // How far the calls get is left to chance.
            tokio::time::sleep(after).await;
            self.end_driver(end).await;
        }
        running.join_all().await
    }

    fn may_become_what_is_wanted(&mut self, pod: usize) {
        if let Some(files) = self.wanted(pod) {
            let volume = &mut self.volumes[pod];
            if !volume.possible.contains(&Some(files.clone())) {
                volume.possible.push(Some(files));
            }
        }
    }

    /// Holds the answer of a publish call against what was to be expected.
    fn check_answer(&mut self, pod: usize, answer: &Result<(), Status>) {
        let expected = self.expected(pod);
        let volume = &mut self.volumes[pod];
        let (was_there, was_absent) =
            (volume.possible.iter().all(Option::is_some), volume.possible.iter().all(Option::is_none));
        let said = format!("pod {pod}: {answer:?} where {expected:?} was expected of {volume:?}");
        match (answer, expected) {
            (Ok(()), Expected::Success(files)) => {
                *volume = Volume { possible: vec![Some(files)], ..Volume::default() }
            }
            (Ok(()), Expected::Either(files)) => {
                volume.possible.retain(Option::is_some);
                volume.possible.push(Some(files));
            }
            (Ok(()), Expected::Failure) => {
                assert!(!was_absent, "{said}");
                volume.possible.retain(Option::is_some);
            }
            (Err(status), Expected::Failure | Expected::Either(_)) => {
                // `Aborted` is for a call that found another one at work on its target until its time ended.
                let told = matches!(status.code(), Code::Unknown | Code::Aborted);
                assert!(!was_there && told, "{said}");
                volume.possible = vec![None];
            }
            (Err(_), Expected::Success(_)) => panic!("{said}\n{}", self.stage.log()),
        }
        volume.busy = false;
        if answer.is_ok() {
            self.pods[pod].start();
        }
    }

    /// Holds every volume against the model, and takes note of what is seen where several things were possible.
    fn check(&mut self) {
        let mut mounted = 0;
        for (number, (pod, volume)) in self.pods.iter().zip(&mut self.volumes).enumerate() {
            let sight = look(&pod.call.target());
            let said = |sight: &dyn Debug| {
                format!("pod {number} shows {sight:?}, possible is {:#?}", volume.possible)
            };
            let seen = match &sight {
                Sight::Absent | Sight::Bare => None,
                Sight::Volume(view) => Some(view.files.clone()),
                Sight::Torn(_) => panic!("{}", said(&sight)),
            };
            mounted += usize::from(seen.is_some());
            assert!(volume.possible.contains(&seen), "{}", said(&sight));
            if let (Sight::Volume(view), Some(files)) = (&sight, &seen)
                && !volume.torn
                && !volume.busy
            {
                view.is(files).unwrap_or_else(|reason| panic!("pod {number}: {reason}"));
            }
            if !volume.busy {
                volume.possible = vec![seen.clone()];
            }
            if pod.is_running() {
                let Sight::Volume(view) = look(pod.inside()) else {
                    panic!("pod {number}: its container sees nothing")
                };
                assert!(
                    volume.possible.contains(&Some(view.files)),
                    "pod {number}: its container sees something else"
                );
            }
        }
        let pods = self.stage.path("kubelet/pods");
        let mounts: Vec<_> =
            self.stage.mounts().into_iter().filter(|mount| mount.path.starts_with(&pods)).collect();
        let busy = self.volumes.iter().any(|volume| volume.busy);
        assert!(busy || mounts.len() == mounted, "{mounted} volumes, but {mounts:#?}");
    }

    async fn end(mut self) {
        self.set_trouble(Trouble::None);
        self.take(Step::Unpublish((0..PODS).collect())).await;
        self.end_driver(End::Terminated).await;
        let mounts = self.stage.mounts();
        assert!(mounts.is_empty(), "mounts are left: {mounts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_what_a_small_model_says_they_are() {
    if !can_mount() {
        return;
    }
    let arguments = [
        "--enable-secret-rotation",
        "--rotation-poll-interval=0",
        "--mount-freshness=0",
        "--stale-if-error=0",
        "--publish-timeout=3s",
    ];
    let arguments = arguments.map(str::to_owned).to_vec();
    let stage = Arc::new(Stage::set(StageOptions { arguments, ..StageOptions::default() }).await);
    let (first, runs, started) = (Seed::first(), setting(RUNS, 10), Instant::now());
    for run in 0..runs {
        let seed = Seed::of_run(first, run, RUNS);
        let mut random = seed.random();
        let mut world = World::new(Arc::clone(&stage), &mut random).await;
        for _ in 0..STEPS {
            let step = world.choose(&mut random);
            world.take(step).await;
        }
        world.end().await;
    }
    eprintln!("{runs} runs of {STEPS} steps from seed {first}: {:?}", started.elapsed());
}
