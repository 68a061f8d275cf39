//! The driver dies by SIGKILL at every step that changes something on disk, and at random moments. Then the kubelet does what
//! it does: it repeats the call, or removes the pod. No container may see anything but all old files or all new ones, and
//! nothing may be left in the end.
//!
//! The steps are the driver's fault points, which are in a build of its own beside the normal one. `AKV_CSI_CRASH_RUNS` is
//! the number of random runs, `AKV_CSI_SEED` repeats one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use azure_emulator::{FaultRule, Service};
use e2e::{
    Content, DriverProcess, FORMER_STAYS, Files, Pod, Random, Seed, Sight, Stage, StageOptions, can_mount,
    fill_secrets, look, setting,
};
use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const RUNS: &str = "AKV_CSI_CRASH_RUNS";
const MOST_PODS: usize = 4;

/// A call of the kubelet.
#[derive(Debug, Clone)]
enum Operation {
    /// With the class as it then is.
    Publish(Content),
    Unpublish,
}

struct Bench {
    stage: Stage,
    binary: PathBuf,
    former: Former,
}

/// How long former sets of files stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Former {
    /// Until the next call, which then passes the steps that remove them.
    UntilTheNextCall,
    /// As they do everywhere.
    AsUsual,
}

impl Bench {
    async fn set(former: Former) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let binary = DriverProcess::binary().with_file_name("akv-csi-fault-points");
        assert!(
            binary.is_file(),
            "{0} is missing. Build it before the normal one:\n  cargo build -p csi-node --features fault-points && cp {1} {0}\n  \
             cargo build -p csi-node",
            binary.display(),
            DriverProcess::binary().display()
        );
        let arguments = ["--enable-secret-rotation", "--rotation-poll-interval=0", "--mount-freshness=0"];
        let arguments = arguments.map(str::to_owned).to_vec();
        let stage = Stage::set(StageOptions { arguments, ..StageOptions::default() }).await;
        fill_secrets(&stage);
        Some(Self { stage, binary, former })
    }

    /// A driver that knows nothing, and dies at the n-th step if one is given.
    async fn driver(&self, dies_at: Option<usize>) -> DriverProcess {
        let _ = std::fs::remove_file(self.steps_file());
        let count = ("AKV_FAULT_COUNT_FILE".to_owned(), self.steps_file().display().to_string());
        let at = dies_at.map(|number| ("AKV_FAULT_ABORT_AT".to_owned(), number.to_string()));
        let former = (self.former == Former::UntilTheNextCall)
            .then(|| ("AKV_FAULT_FORMER_MS".to_owned(), "0".to_owned()));
        self.stage.start_unregistered(&self.binary, [count].into_iter().chain(at).chain(former)).await
    }

    fn steps_file(&self) -> PathBuf {
        self.stage.path("steps")
    }

    /// The steps that the last driver has begun, in order.
    fn steps(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.steps_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn outage(&self) {
        // A refusal is told at once, where the driver would be patient with a vault that is down.
        self.stage.azure.faults().inject(FaultRule::status(Service::Vault, 403));
    }

    fn assert_clean(&self, when: &str) {
        let mounts = self.stage.mounts();
        assert!(mounts.is_empty(), "{when}: mounts are left: {mounts:?}");
    }
}

/// Everything about one pod that its kubelet knows.
struct Life {
    pod: Pod,
    /// What its volume shows since the last publish call that was answered with OK.
    shows: Option<Content>,
    /// The call that got no answer.
    unanswered: Option<Operation>,
    /// Where containers that run see their volumes.
    watched: Watched,
}

type Watched = Arc<Mutex<Vec<PathBuf>>>;

impl Life {
    fn new(stage: &Stage, name: &str, watched: &Watched) -> Self {
        Self { pod: Pod::new(stage, name, name), shows: None, unanswered: None, watched: Arc::clone(watched) }
    }

    fn start(&mut self) {
        if !self.pod.is_running() {
            self.pod.start();
            self.watched.lock().unwrap().push(self.pod.inside().to_owned());
        }
    }

    fn stop(&mut self) {
        self.watched.lock().unwrap().retain(|root| root != self.pod.inside());
        self.pod.stop();
    }

    fn files(&self) -> Option<Files> {
        self.shows.as_ref().map(Content::files)
    }

    /// Makes a call. False if there was no answer, because the driver has died.
    async fn make(&mut self, stage: &Stage, operation: &Operation, when: &str) -> bool {
        self.unanswered = Some(operation.clone());
        match operation {
            Operation::Publish(content) => {
                content.deploy(stage, &self.pod.class);
                if let Err(status) = self.pod.call.publish().await {
                    assert!(no_answer(&status), "{when}: {operation:?}: {status}\n{}", stage.log());
                    return false;
                }
                self.shows = Some(content.clone());
                self.start();
                self.pod.assert_shows(&content.files(), when);
            }
            Operation::Unpublish => {
                // The kubelet unmounts the volumes of pods whose containers have ended.
                self.stop();
                self.shows = None;
                if let Err(status) = self.pod.call.unpublish().await {
                    assert!(no_answer(&status), "{when}: {operation:?}: {status}\n{}", stage.log());
                    return false;
                }
                self.pod.assert_gone(when);
            }
        }
        self.unanswered = None;
        true
    }

    /// What must hold after any death.
    fn assert_whole(&self, when: &str) {
        match (&self.unanswered, self.files()) {
            (None, Some(shown)) => self.pod.assert_shows(&shown, when),
            (None, None) => self.pod.assert_gone(when),
            (Some(Operation::Publish(new)), Some(old)) => {
                self.pod.assert_shows_either(&old, &new.files(), when);
            }
            (Some(Operation::Publish(new)), None) => match look(&self.pod.call.target()) {
                Sight::Absent | Sight::Bare => {}
                // The last step of all: attached, and the answer not sent.
                _ => self.pod.assert_shows(&new.files(), when),
            },
            // Nobody looks any more.
            (Some(Operation::Unpublish), _) => {}
        }
    }

    /// Repeats a publish call that got no answer while the vault gives nothing: what is there must stay.
    async fn repeat_in_vain(&self, when: &str) {
        let Some(Operation::Publish(new)) = &self.unanswered else { return };
        let answer = self.pod.call.publish().await;
        let when = format!("{when}, then repeated without Azure: {answer:?}");
        if self.shows.is_some() {
            assert!(answer.is_ok(), "{when}");
            self.assert_whole(&when);
        } else if answer.is_ok() {
            self.pod.assert_shows(&new.files(), &when);
        } else {
            let sight = look(&self.pod.call.target());
            assert!(matches!(sight, Sight::Absent | Sight::Bare), "{when}: {sight:?}");
        }
    }
}

/// Whether a status is the client's own word for a connection that broke, not an answer of the driver.
fn no_answer(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some() || status.code() == tonic::Code::Unavailable
}

/// A volume's life with every kind of change: files come, go, move into folders and change modes.
fn story() -> [Operation; 6] {
    let first = Content::new([
        ("always", 0, 0o644),
        ("goes", 1, 0o644),
        ("dir/stays", 2, 0o644),
        ("dir/goes", 3, 0o644),
        ("mode", 4, 0o600),
    ]);
    let second = Content::new([
        ("always", 1, 0o644),
        ("comes", 1, 0o644),
        ("dir/stays", 5, 0o644),
        ("dir/comes", 2, 0o644),
        ("new/deep/comes", 3, 0o644),
        ("mode", 4, 0o600),
    ]);
    let third = Content::new([
        ("always", 1, 0o400),
        ("comes", 1, 0o755),
        ("dir/stays", 5, 0o644),
        ("dir/comes", 2, 0o644),
        ("new/deep/comes", 3, 0o644),
        ("mode", 4, 0o640),
    ]);
    [
        Operation::Publish(first.clone()),
        Operation::Publish(first),
        Operation::Publish(second),
        Operation::Publish(third.clone()),
        Operation::Publish(third),
        Operation::Unpublish,
    ]
}

/// What the kubelet does after the driver's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replay {
    /// It repeats the call, and the pod lives on.
    Repeat,
    /// It repeats the call, and the vault refuses; later it does not.
    RepeatInVain,
    /// The pod was deleted meanwhile.
    Unpublish,
}

/// Plays the story once for each of its steps, with a driver that dies there.
async fn die_at_every_step(replay: Replay) {
    let Some(bench) = Bench::set(Former::UntilTheNextCall).await else { return };
    let stage = &bench.stage;
    let mut life = Life::new(stage, "web", &Watched::default());

    let driver = bench.driver(None).await;
    for operation in story() {
        assert!(life.make(stage, &operation, "without a death").await);
    }
    let steps = bench.steps();
    driver.kill().await;
    bench.assert_clean("without a death");
    for needed in [
        "tmpfs: attach",
        "write: mark the former files",
        "write: rename to ..data",
        "remove: directory",
        "unpublish: unmount",
        "unpublish: remove",
    ] {
        assert!(steps.iter().any(|step| step.contains(needed)), "no step {needed:?} in {steps:#?}");
    }

    let mut deaths = 0;
    for number in 1..=steps.len() {
        let mut driver = Some(bench.driver(Some(number)).await);
        for operation in story() {
            let when =
                format!("{operation:?}, killed at step {number}, {:?}, then {replay:?}", steps[number - 1]);
            if life.make(stage, &operation, &when).await {
                continue;
            }
            let status = driver.take().unwrap_or_else(|| panic!("{when}: no answer")).ended().await;
            assert_eq!(status.signal(), Some(9), "{when}: {status}");
            deaths += 1;
            life.assert_whole(&when);

            driver = Some(bench.driver(None).await);
            if replay == Replay::RepeatInVain {
                bench.outage();
                life.repeat_in_vain(&when).await;
                stage.azure.faults().clear();
            }
            let then = if replay == Replay::Unpublish { Operation::Unpublish } else { operation };
            let last = matches!(then, Operation::Unpublish);
            assert!(
                life.make(stage, &then, &when).await,
                "{when}: the fresh driver does not answer\n{}",
                stage.log()
            );
            if last {
                break;
            }
        }
        driver.expect("the last driver lives").kill().await;
        life.pod.assert_gone(&format!("in the end of {number}"));
        bench.assert_clean(&format!("killed at step {number}"));
    }
    assert_eq!(deaths, steps.len(), "each of these steps must be a death: {steps:#?}");
    eprintln!("{replay:?}: {deaths} deaths");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_step_is_made_good_when_the_call_is_repeated() {
    die_at_every_step(Replay::Repeat).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_step_leaves_what_a_repeated_call_without_azure_keeps() {
    die_at_every_step(Replay::RepeatInVain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_any_step_leaves_nothing_that_unpublish_does_not_remove() {
    die_at_every_step(Replay::Unpublish).await;
}

/// A container that reads all the time: one name must be there at every moment.
struct Watcher {
    watched: Watched,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Watcher {
    fn start() -> Self {
        let (watched, stop) = (Watched::default(), Arc::<AtomicBool>::default());
        let (roots, stopped) = (Arc::clone(&watched), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut reads = 0;
            while !stopped.load(Ordering::Relaxed) {
                for root in roots.lock().unwrap().iter() {
                    let started = Instant::now();
                    if let Err(error) = std::fs::read(root.join(Content::ALWAYS)) {
                        // Nothing is promised to a reader that was kept waiting for longer.
                        assert!(started.elapsed() > FORMER_STAYS, "{}: {error}", root.display());
                    }
                    reads += 1;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            reads
        });
        Self { watched, stop, thread }
    }

    /// Asserts that nothing was missing so far.
    fn assert_content(&self) {
        assert!(!self.thread.is_finished(), "a container missed a file; see above");
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Calls of several pods at once until all are done or the driver is dead.
async fn work(
    bench: &Arc<Bench>,
    lives: Vec<(Life, VecDeque<Operation>)>,
    dies_after: Option<Duration>,
    driver: DriverProcess,
    when: &str,
) -> Vec<(Life, VecDeque<Operation>)> {
    let mut running = JoinSet::new();
    for (mut life, mut operations) in lives {
        let (bench, when) = (Arc::clone(bench), when.to_owned());
        running.spawn(async move {
            while let Some(next) = operations.front() {
                if !life.make(&bench.stage, next, &when).await {
                    break;
                }
                operations.pop_front();
            }
            (life, operations)
        });
    }
    let mut done = Vec::new();
    let mut driver = Some(driver);
    if let Some(delay) = dies_after {
        let moment = tokio::time::sleep(delay);
        tokio::pin!(moment);
        loop {
            tokio::select! {
                () = &mut moment => break,
                Some(ended) = running.join_next() => done.push(ended.unwrap_or_else(|error| panic!("{when}: {error}"))),
                else => break,
            }
        }
        driver.take().expect("not ended yet").kill().await;
    }
    while let Some(ended) = running.join_next().await {
        done.push(ended.unwrap_or_else(|error| panic!("{when}: {error}")));
    }
    if let Some(driver) = driver {
        driver.kill().await;
    }
    done
}

/// How often a driver was killed, and how many calls had no answer then.
#[derive(Debug, Default)]
struct Deaths {
    drivers: usize,
    calls: usize,
}

async fn random_run(bench: &Arc<Bench>, lives: Vec<Life>, random: &mut Random) -> (Vec<Life>, Deaths) {
    let stage = &bench.stage;
    let pods = 1 + random.below(lives.len());
    let mut idle = lives;
    let mut work_left = Vec::new();
    for life in idle.drain(..pods) {
        let mut operations = VecDeque::new();
        for _ in 0..=random.below(5) {
            // Often the same once more.
            let content = match operations.back() {
                Some(Operation::Publish(same)) if random.percent(25) => Content::clone(same),
                _ => Content::any(random),
            };
            operations.push_back(Operation::Publish(content));
        }
        if random.percent(50) {
            operations.push_back(Operation::Unpublish);
        }
        work_left.push((life, operations));
    }
    let mut deaths = Deaths::default();
    for death in 0..=random.below(3) {
        let steps = 40 * pods;
        let (at, after) = if random.percent(50) {
            (Some(1 + random.below(steps)), None)
        } else {
            (None, Some(Duration::from_micros(u64::try_from(random.below(60_000 * pods)).unwrap())))
        };
        let when = format!("driver {death}, killed at step {at:?}, after {after:?}");
        let driver = bench.driver(at).await;
        work_left = work(bench, work_left, after, driver, &when).await;
        deaths.drivers += 1;
        let when = format!("{when} ({:?})", bench.steps().last());
        for (life, _) in &work_left {
            deaths.calls += usize::from(life.unanswered.is_some());
            life.assert_whole(&when);
        }
        if random.percent(30) {
            bench.outage();
            let driver = bench.driver(None).await;
            for (life, _) in &work_left {
                life.repeat_in_vain(&when).await;
            }
            driver.kill().await;
            stage.azure.faults().clear();
        }
    }
    // In the end the driver lives long enough. Some pods are deleted before their call was repeated.
    for (_, operations) in &mut work_left {
        if random.percent(25) {
            operations.clear();
        }
        if !matches!(operations.back(), Some(Operation::Unpublish)) {
            operations.push_back(Operation::Unpublish);
        }
    }
    let driver = bench.driver(None).await;
    for (mut life, operations) in work_left {
        for operation in operations {
            assert!(
                life.make(stage, &operation, "with a driver that lives").await,
                "no answer\n{}",
                stage.log()
            );
        }
        idle.push(life);
    }
    driver.kill().await;
    bench.assert_clean("in the end");
    (idle, deaths)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deaths_at_random_moments_leave_every_volume_whole() {
    let Some(bench) = Bench::set(Former::AsUsual).await else { return };
    let bench = Arc::new(bench);
    let (first, runs) = (Seed::first(), setting(RUNS, 200));
    let watcher = Watcher::start();
    let pod = |number| Life::new(&bench.stage, &format!("web-{number}"), &watcher.watched);
    let mut lives: Vec<Life> = (0..MOST_PODS).map(pod).collect();
    let (mut deaths, started) = (Deaths::default(), Instant::now());
    for run in 0..runs {
        let seed = Seed::of_run(first, run, RUNS);
        let died;
        (lives, died) = random_run(&bench, lives, &mut seed.random()).await;
        deaths.drivers += died.drivers;
        deaths.calls += died.calls;
        watcher.assert_content();
    }
    let reads = watcher.end();
    assert!(reads > 0);
    eprintln!("{runs} runs from seed {first}: {deaths:?}, {reads} looks, {:?}", started.elapsed());
}
