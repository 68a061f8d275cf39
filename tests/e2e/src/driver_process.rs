//! A running `akv-csi`.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(30);

/// The driver's process. It is killed when this value is dropped.
#[derive(Debug)]
pub struct DriverProcess {
    child: Child,
    log: PathBuf,
}

impl DriverProcess {
    /// Path of the binary: `AKV_CSI_BIN`, or `akv-csi` in the folder this program was built into.
    pub fn binary() -> PathBuf {
        if let Some(path) = std::env::var_os("AKV_CSI_BIN") {
            return path.into();
        }
        let own = std::env::current_exe().expect("a process knows its program");
        // Tests are one folder deeper than binaries.
        let found =
            own.ancestors().skip(1).take(2).map(|folder| folder.join("akv-csi")).find(|path| path.is_file());
        found.unwrap_or_else(|| {
            panic!("no akv-csi beside {}: run `cargo build -p csi-node` first", own.display())
        })
    }

    /// Starts `akv-csi node` with these arguments and environment, and nothing else in the environment. Its log goes to a
    /// file. Returns as soon as `socket` takes connections.
    ///
    /// # Errors
    /// The log's text, when the process ends before that, or does not come up in time.
    pub async fn start(
        socket: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        log: &Path,
    ) -> Result<Self, String> {
        Self::start_binary(&Self::binary(), socket, arguments, environment, log).await
    }

    /// The same with another build of the driver.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_binary(
        binary: &Path,
        socket: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        log: &Path,
    ) -> Result<Self, String> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("the stage's folder is writable");
        let child = Command::new(binary)
            .arg("node")
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("the driver's binary can be started");
        let mut driver = Self { child, log: log.to_owned() };
        let up = timeout(START, async {
            loop {
                if let Ok(Some(status)) = driver.child.try_wait() {
                    return Err(status);
                }
                if tokio::net::UnixStream::connect(socket).await.is_ok() {
                    return Ok(());
                }
                sleep(Duration::from_millis(2)).await;
            }
        });
        match up.await {
            Ok(Ok(())) => Ok(driver),
            Ok(Err(status)) => Err(format!("the driver ended with {status}:\n{}", driver.log())),
            Err(_) => {
                Err(format!("the driver did not listen on {} in time:\n{}", socket.display(), driver.log()))
            }
        }
    }

    /// Runs `akv-csi` with these arguments to its end: exit code, standard output, standard error.
    pub async fn command(arguments: &[&str]) -> (i32, String, String) {
        Self::command_in(arguments, &[]).await
    }

    /// Runs a subcommand to its end in this environment and nothing else: exit code, standard output, standard error.
    pub async fn command_in(arguments: &[&str], environment: &[(String, String)]) -> (i32, String, String) {
        let environment = environment.iter().map(|(name, value)| (name, value));
        let output =
            Command::new(Self::binary()).args(arguments).env_clear().envs(environment).output().await;
        let output = output.expect("the driver's binary can be started");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the driver writes UTF-8");
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks the process to end with SIGTERM and waits for it.
    pub async fn terminate(mut self) -> ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).expect("process ids are small"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the driver is running");
        timeout(STOP, self.child.wait())
            .await
            .expect("the driver must end after SIGTERM")
            .expect("it can be waited for")
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(mut self) -> ExitStatus {
        let ended = timeout(STOP, self.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("the driver lives:\n{}", self.log()));
        ended.expect("it can be waited for")
    }

    /// Kills the process with SIGKILL and waits for it.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the driver is running");
    }
}
