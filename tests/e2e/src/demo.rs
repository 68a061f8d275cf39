//! `make demo`: the main job, end to end, on real mounts. One line for each step; exit code 1 when anything is not as it should be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a broken assumption should end the demo where it is found"
)]

use clap::Parser;
use e2e::{DRIVER_NAME, Stage, StageOptions, VAULT};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Shows the driver at work: three pods, three access methods, a rotation, a clean removal.
#[derive(Debug, Parser)]
struct Arguments {
    /// Leave everything running at the end, and say how to talk to it.
    #[arg(long)]
    keep: bool,
}

/// Where the pods see the volume.
const MOUNT_PATH: &str = "/mnt/secrets-store";
const VOLUME: &str = "secrets-store01-inline";
/// Lines of the driver's log shown after a mismatch.
const LOG_LINES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);

struct Narrator {
    started: Instant,
    step: u32,
    colour: bool,
}

/// What did not go as it should.
type Mismatch = String;

impl Narrator {
    fn title(&self, text: &str) {
        let (bold, plain) = if self.colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        println!("\n{bold}{text}{plain}");
    }

    fn done(&mut self, text: &str) {
        self.step += 1;
        let (green, plain) = if self.colour { ("\x1b[32m", "\x1b[0m") } else { ("", "") };
        println!(
            "{green}ok{plain} {:>2}  [{:>5.1} s] {text}",
            self.step,
            self.started.elapsed().as_secs_f64()
        );
        let _ = std::io::stdout().flush();
    }

    /// What a command in the pod would print.
    fn pod_command(&self, pod: &str, command: &str, output: &str) {
        let (dim, plain) = if self.colour { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        println!("       {dim}$ kubectl exec {pod} -- {command}{plain}");
        for line in output.lines() {
            println!("       {line}");
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut narrator = Narrator { started: Instant::now(), step: 0, colour: std::io::stdout().is_terminal() };
    let options = StageOptions { republish: Duration::from_secs(1), ..StageOptions::default() };
    let mut stage = Stage::set(options).await;
    let result = play(&mut narrator, &mut stage, arguments.keep).await;
    match result {
        Ok(()) if arguments.keep => {
            keep_running(&stage).await;
            ExitCode::SUCCESS
        }
        Ok(()) => {
            println!("\nThe demo went as it should, in {:.1} s.", narrator.started.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(mismatch) => {
            let log = stage.log();
            let last: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
            println!("\nMISMATCH after step {}: {mismatch}\n\nThe end of the driver's log:", narrator.step);
            last.iter().rev().for_each(|line| println!("  {line}"));
            ExitCode::FAILURE
        }
    }
}

async fn play(narrator: &mut Narrator, stage: &mut Stage, keep: bool) -> Result<(), Mismatch> {
    narrator.title("Azure and a node");
    narrator.done(&format!(
        "Key Vault, Entra and IMDS are served by the emulator on {}",
        stage.azure.https_addr()
    ));
    stage.fill_vault();
    narrator.done(&format!("vault {VAULT} holds ExampleSecret, secret1, key1 and cert1"));
    stage.start_driver().await;
    narrator.done(&format!("akv-csi runs, and the kubelet has registered it as {DRIVER_NAME}"));

    narrator.title("1. Service Connector's sample: the add-on's managed identity");
    let manifest = stage.deploy("service-connector", &stage.service_connector("ExampleSecret"));
    let files = mount(narrator, stage, &manifest).await?;
    expect("ExampleSecret", files.read("ExampleSecret")?, "MyAKSExampleSecret")?;

    narrator.title("2. Workload identity: the pod's service account");
    let manifest = stage.deploy("workload-identity", &stage.workload_identity_manifest());
    let rotating = mount(narrator, stage, &manifest).await?;
    expect("secret1", rotating.read("secret1")?, "Hello!")?;
    expect_pem("key1", rotating.read("key1")?, &["PUBLIC KEY"])?;

    narrator.title("3. User-assigned managed identity of the VM");
    let manifest = stage.deploy("managed-identity", &stage.managed_identity_manifest());
    let files = mount(narrator, stage, &manifest).await?;
    expect("secret1", files.read("secret1")?, "Hello!")?;
    expect_pem("key1", files.read("key1")?, &["PUBLIC KEY"])?;

    narrator.title("One certificate as each object type");
    let manifest = stage.deploy("certificate-types", &stage.certificate_types_manifest());
    let files = mount(narrator, stage, &manifest).await?;
    expect_pem("certificate.pem", files.read("certificate.pem")?, &["CERTIFICATE"])?;
    expect_pem("public-key.pem", files.read("public-key.pem")?, &["PUBLIC KEY"])?;
    expect_pem(
        "key-and-certificate.pem",
        files.read("key-and-certificate.pem")?,
        &["PRIVATE KEY", "CERTIFICATE"],
    )?;
    let mode = files.mode("key-and-certificate.pem")?;
    expect("the mode of key-and-certificate.pem", format!("{mode:o}"), "600")?;
    narrator.done("cert gives the certificate, key the public key, secret both with the private key; filePermission holds");

    narrator.title("A secret changes in the vault");
    let mounted_before = stage.mounts();
    stage.azure.vault(VAULT).set_secret("secret1", "Hello again!").map_err(|error| error.to_string())?;
    rotating.wait_for("secret1", "Hello again!").await?;
    narrator.pod_command(&rotating.pod, &format!("cat {MOUNT_PATH}/secret1"), "Hello again!");
    if stage.mounts() != mounted_before {
        return Err("the rotation changed the mounts".to_owned());
    }
    narrator.done("the mounted file followed; nothing was mounted anew");

    narrator.title("The driver goes away and comes back");
    if let Some(driver) = stage.driver.take() {
        driver.kill().await;
    }
    expect("secret1 without a driver", rotating.read("secret1")?, "Hello again!")?;
    narrator.done("the driver was killed; pods still read their files");
    stage.start_driver().await;
    stage.azure.vault(VAULT).set_secret("secret1", "Hello once more!").map_err(|error| error.to_string())?;
    rotating.wait_for("secret1", "Hello once more!").await?;
    narrator.done("a new driver looks after the old mounts");

    if keep {
        return Ok(());
    }
    narrator.title("The pods go");
    let removal = stage.kubelet.delete_all(PATIENCE).await.map_err(|error| error.to_string())?;
    if !removal.is_clean() {
        return Err(format!("left behind: {removal:?}"));
    }
    if !stage.mounts().is_empty() {
        return Err(format!("still mounted: {:?}", stage.mounts()));
    }
    narrator.done("all pods are deleted; nothing is left mounted, and no folder");
    let driver = stage.driver.take().ok_or("the driver is gone")?;
    let status = driver.terminate().await;
    if !status.success() {
        return Err(format!("the driver ended with {status} after SIGTERM"));
    }
    narrator.done("the driver ended in order on SIGTERM");
    Ok(())
}

/// A pod's volume, as the pod sees it.
struct Files {
    pod: String,
    target: PathBuf,
}

/// Starts the manifest's pod and shows its volume.
async fn mount(narrator: &mut Narrator, stage: &Stage, manifest: &str) -> Result<Files, Mismatch> {
    let started = Instant::now();
    let pod = stage.kubelet.add_pod(manifest).map_err(|error| error.to_string())?;
    stage.kubelet.wait_mounted(pod.clone(), PATIENCE).await.map_err(|error| error.to_string())?;
    let took = started.elapsed();
    let target = stage.kubelet.target_path(pod.clone(), VOLUME).map_err(|error| error.to_string())?;
    let files = Files { pod: pod.name.clone(), target };
    let names = files.names();
    narrator.pod_command(&files.pod, &format!("ls {MOUNT_PATH}"), &names.join("\n"));
    for name in &names {
        narrator.pod_command(&files.pod, &format!("cat {MOUNT_PATH}/{name}"), &shortened(&files.read(name)?));
    }
    let mount = stage.mounts().into_iter().rfind(|mount| mount.path == files.target);
    let mount = mount.ok_or_else(|| format!("nothing is mounted at {}", files.target.display()))?;
    let flags: Vec<&str> = mount.flags.split(',').collect();
    if mount.filesystem != "tmpfs" || !flags.contains(&"nosuid") || !flags.contains(&"nodev") {
        return Err(format!("the mount is not a tmpfs with nosuid,nodev: {mount:?}"));
    }
    if !mount.options.contains("size=") {
        return Err(format!("the tmpfs has no size limit: {mount:?}"));
    }
    narrator.done(&format!("pod {pod} has its volume, {} ms after it was scheduled", took.as_millis()));
    Ok(files)
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.target.join(name)
    }

    /// What `ls` prints: names that do not begin with a dot.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.target).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }

    fn read(&self, name: &str) -> Result<String, Mismatch> {
        let path = self.path(name);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn mode(&self, name: &str) -> Result<u32, Mismatch> {
        let path = self.path(name);
        let found = std::fs::metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(found.permissions().mode() & 0o7777)
    }

    async fn wait_for(&self, name: &str, wanted: &str) -> Result<(), Mismatch> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.read(name)?;
            if found == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{name} still holds {found:?} and not {wanted:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn expect(what: &str, found: impl AsRef<str>, wanted: &str) -> Result<(), Mismatch> {
    let found = found.as_ref();
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found:?} and not {wanted:?}")) }
}

fn expect_pem(what: &str, found: impl AsRef<str>, wanted: &[&str]) -> Result<(), Mismatch> {
    let labels: Vec<&str> = found
        .as_ref()
        .lines()
        .filter_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .collect();
    if labels == wanted {
        Ok(())
    } else {
        Err(format!("{what} holds PEM blocks {labels:?} and not {wanted:?}"))
    }
}

/// PEM bodies are cut to their first line, and those of private keys to nothing: this is for the eye.
fn shortened(text: &str) -> String {
    let mut lines = Vec::new();
    let (mut body, mut private) = (0, false);
    for line in text.lines() {
        if line.starts_with("-----") {
            body = 0;
            private = line.contains("PRIVATE");
        } else {
            body += 1;
        }
        match body {
            1 if private => lines.push("[not shown]".to_owned()),
            0 | 1 => lines.push(line.to_owned()),
            2 if !private => lines.push("…".to_owned()),
            _ => {}
        }
    }
    lines.join("\n")
}

async fn keep_running(stage: &Stage) {
    let pid = std::process::id();
    let socket = stage.socket();
    println!("\nEverything is left running, with the pods' volumes mounted. From another shell:");
    println!(
        "  look at the volumes      {}",
        inside(pid, &format!("findmnt -R {}", stage.folder().display()))
    );
    println!(
        "  read a secret            {}",
        inside(
            pid,
            &format!("sh -c 'cat {}/kubelet/pods/*/volumes/*/*/mount/secret1'", stage.folder().display())
        )
    );
    println!("  the driver's CSI socket  {}", socket.display());
    println!("  the driver's log         tail -f {}", stage.path("driver.log").display());
    println!("  classes (edit, and the next republish sees it)  {}", stage.path("classes").display());
    println!("  change a secret          {}", change_secret(stage));
    println!(
        "  what else Azure can do   curl http://{}/_control",
        stage.azure.control_addr().map(|a| a.to_string()).unwrap_or_default()
    );
    println!("Ctrl-C ends it and cleans up.");
    let _ = tokio::signal::ctrl_c().await;
}

/// The mounts of an ordinary user's demo are in a namespace of its own, which `hack/as-mounter.sh` makes and tells of.
fn inside(pid: u32, command: &str) -> String {
    if std::env::var_os("AKV_CSI_IN_NAMESPACE").is_some() {
        format!("nsenter --preserve-credentials -U -m -t {pid} {command}")
    } else {
        command.to_owned()
    }
}

fn change_secret(stage: &Stage) -> String {
    let control = stage.azure.control_addr().map(|address| address.to_string()).unwrap_or_default();
    format!(
        "curl -X PUT http://{control}/_control/vaults/{VAULT}/secrets/secret1 -d '{{\"value\": \"changed\"}}'"
    )
}
