//! Plays the Job controller and the kubelet for Helm's hooks: runs a Job's command with the rights of its service account.

use k8s_openapi::api::batch::v1::Job;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What ran.
#[derive(Debug, Default)]
struct Ran {
    commands: Vec<String>,
    last_words: String,
}

/// Runs Jobs until it is dropped.
pub struct Jobs {
    ran: Arc<Mutex<Ran>>,
    player: tokio::task::JoinHandle<()>,
}

impl Jobs {
    pub fn play(kubeconfig: PathBuf, client: Client, namespace: &'static str) -> Self {
        let ran = Arc::new(Mutex::new(Ran::default()));
        let player = tokio::spawn(play(kubeconfig, client, namespace, Arc::clone(&ran)));
        Self { ran, player }
    }

    /// The arguments of each Job's program, in the order they ran.
    pub fn commands(&self) -> Vec<String> {
        self.ran.lock().unwrap().commands.clone()
    }

    /// What the last one wrote to its log.
    pub fn last_words(&self) -> String {
        self.ran.lock().unwrap().last_words.clone()
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.player.abort();
    }
}

async fn play(kubeconfig: PathBuf, client: Client, namespace: &'static str, ran: Arc<Mutex<Ran>>) {
    let jobs: Api<Job> = Api::namespaced(client, namespace);
    loop {
        // Looking is not waiting for something: whoever waits is Helm, which watches the Job.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Ok(list) = jobs.list(&ListParams::default()).await else { continue };
        for job in list {
            if job.status.as_ref().is_some_and(|status| status.start_time.is_some()) {
                continue;
            }
            let pod = job.spec.unwrap().template.spec.unwrap();
            let account = pod.service_account_name.unwrap();
            let arguments = pod.containers[0].args.clone().unwrap();
            let mut program = tokio::process::Command::new(akv_csi());
            program.args(&arguments).arg("--kubeconfig").arg(as_account(&kubeconfig, namespace, &account));
            let output = program.output().await.unwrap();
            let (done, kinds) = if output.status.success() {
                ("succeeded", ["SuccessCriteriaMet", "Complete"])
            } else {
                ("failed", ["FailureTarget", "Failed"])
            };
            {
                let mut ran = ran.lock().unwrap();
                ran.commands.push(arguments.join(" "));
                ran.last_words =
                    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            }
            let now = "2026-01-01T00:00:00Z";
            let mut status = json!({"startTime": now, done: 1, "conditions": kinds.map(|kind| json!({
                "type": kind, "status": "True", "reason": "Played", "lastTransitionTime": now, "lastProbeTime": now
            }))});
            if output.status.success() {
                status["completionTime"] = json!(now);
            }
            let name = job.metadata.name.unwrap();
            let patch = json!({ "status": status });
            jobs.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        }
    }
}

/// A kubeconfig that acts as the service account, and may do what RBAC grants it.
fn as_account(admin: &std::path::Path, namespace: &str, account: &str) -> PathBuf {
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(admin).unwrap()).unwrap();
    config["users"][0]["user"]["as"] = json!(format!("system:serviceaccount:{namespace}:{account}"));
    let path = admin.with_file_name(format!("{account}.job.kubeconfig"));
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn akv_csi() -> PathBuf {
    if let Some(path) = std::env::var_os("AKV_CSI_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    let found =
        own.ancestors().skip(1).take(2).map(|folder| folder.join("akv-csi")).find(|path| path.is_file());
    found.expect("build the driver first: cargo build -p csi-node --bins")
}
