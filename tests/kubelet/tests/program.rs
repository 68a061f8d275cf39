//! The program `test-kubelet`, from start to SIGTERM.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod fake;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use fake::{House, NAME, pod};
use rustix::process::{Pid, Signal, kill_process};

/// Kills what a failed test leaves running.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn terminate(&self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
    }
}

fn start(house: &House, more: &[&str]) -> (Running, impl Iterator<Item = String> + Send + 'static) {
    let file = |name: &str, text: &str| -> PathBuf {
        let path = house.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let driver = format!(
        "{{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {{name: {NAME}}}, \
         spec: {{requiresRepublish: true, volumeLifecycleModes: [Ephemeral]}}}}"
    );
    let with_account = pod("web").replace("spec:\n", "spec:\n  serviceAccountName: app\n");
    let mut child = Command::new(env!("CARGO_BIN_EXE_test-kubelet"))
        .arg("--root")
        .arg(house.root())
        .arg("--registration-dir")
        .arg(house.registration_dir())
        .arg("--pods")
        .arg(file("pod.yaml", &with_account))
        .arg(file("account.yaml", "{apiVersion: v1, kind: ServiceAccount, metadata: {name: app}}"))
        .arg("--csi-driver")
        .arg(file("driver.yaml", &driver))
        .args(["--issuer", "127.0.0.1:0", "--republish-period", "0.05"])
        .args(more)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    (Running(child), lines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_republishes_and_unmounts_on_sigterm() {
    let house = House::new();
    let _driver = house.driver();
    let (mut running, mut lines) = start(&house, &[]);
    let (status, seen) = tokio::task::spawn_blocking(move || {
        let mut seen: Vec<String> =
            lines.by_ref().take_while(|line| !line.contains("volume store republished in")).collect();
        running.terminate();
        seen.extend(lines.filter(|line| !line.contains("republished")));
        (running.0.wait().unwrap(), seen)
    })
    .await
    .unwrap();
    assert!(status.success(), "{status}");
    let expected = [
        "issuer http://127.0.0.1:",
        "driver fake.csi.example registered in ",
        "pod default/web: added, uid ",
        "pod default/web: volume store mounted in ",
        "pod default/web: volume store unmounted in ",
        "pod default/web: removed",
    ];
    let mut seen = seen.iter();
    for expected in expected {
        assert!(seen.any(|line| line.starts_with(expected)), "{expected:?} missing, or too late");
    }
    assert!(!house.root().join("pods").read_dir().unwrap().any(|_| true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_volumes_mounted_when_asked_to() {
    let house = House::new();
    let mut driver = house.driver();
    let (mut running, mut lines) = start(&house, &["--keep-mounted"]);
    let status = tokio::task::spawn_blocking(move || {
        lines.find(|line| line.contains("volume store mounted in")).unwrap();
        running.terminate();
        lines.for_each(drop);
        running.0.wait().unwrap()
    })
    .await
    .unwrap();
    assert!(status.success());
    assert!(!driver.pending().contains(&"NodeUnpublishVolume"));
    assert!(house.root().join("pods").read_dir().unwrap().any(|_| true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fails_when_something_is_left_behind() {
    let house = House::new();
    let driver = house.driver();
    driver.set(|behaviour| behaviour.leave_content = true);
    let (mut running, mut lines) = start(&house, &[]);
    let (status, left) = tokio::task::spawn_blocking(move || {
        lines.find(|line| line.contains("volume store mounted in")).unwrap();
        running.terminate();
        (running.0.wait().unwrap(), lines.any(|line| line.contains("left behind")))
    })
    .await
    .unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(left);
}
