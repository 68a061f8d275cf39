//! etcd, the API server, the controller manager and the scheduler.

use crate::credentials::Credentials;
use crate::places::{API_SERVER, Places};
use crate::process::Process;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

/// Who signs service-account tokens. The emulated Entra is given the keys, so that nobody has to find this name.
pub const ISSUER: &str = "https://cluster.akv-csi.test";

const START: Duration = Duration::from_secs(120);

/// The processes that are not a node's.
#[derive(Debug)]
pub struct ControlPlane {
    places: Places,
    credentials: PathBuf,
    etcd: Process,
    api_server: Option<Process>,
    others: Vec<Process>,
}

impl ControlPlane {
    /// Starts all of them, the API server last of those that others wait for. Returns before it is ready.
    pub fn start(places: &Places, credentials: &Credentials) -> Self {
        let etcd = Process::start(
            "etcd",
            Command::new("etcd")
                .arg("--data-dir")
                .arg(places.run("etcd"))
                .args([
                    "--listen-client-urls=http://127.0.0.1:2379",
                    "--advertise-client-urls=http://127.0.0.1:2379",
                ])
                .args(["--listen-peer-urls=http://127.0.0.1:2380", "--log-level=warn", "--logger=zap"]),
            &places.log("etcd"),
        );
        // Who wrote what, which is how cases know that the driver writes nothing.
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
                {"level": "Metadata", "users": [crate::cluster::DRIVER_ACCOUNT]},
                {"level": "None"},
            ],
        });
        std::fs::write(credentials.path("audit-policy.json"), policy.to_string())
            .expect("a fresh tmpfs is writable");
        let manager = credentials.path("controller-manager.kubeconfig");
        let scheduler = credentials.path("scheduler.kubeconfig");
        std::fs::write(&manager, credentials.kubeconfig("system:kube-controller-manager", None))
            .expect("a fresh tmpfs is writable");
        std::fs::write(&scheduler, credentials.kubeconfig("system:kube-scheduler", None))
            .expect("a fresh tmpfs is writable");

        let mut plane = Self {
            places: places.clone(),
            credentials: credentials.path(""),
            etcd,
            api_server: None,
            others: Vec::new(),
        };
        plane.start_api_server();
        plane.others.push(Process::start(
            "kube-controller-manager",
            Command::new(places.program("kube-controller-manager"))
                .arg("--kubeconfig")
                .arg(&manager)
                .arg("--service-account-private-key-file")
                .arg(credentials.path("service-accounts.key"))
                .arg("--root-ca-file")
                .arg(credentials.path("ca.crt"))
                .arg("--flex-volume-plugin-dir")
                .arg(places.run("volume-plugins"))
                .args(["--use-service-account-credentials", "--leader-elect=false", "--secure-port=0"]),
            &places.log("kube-controller-manager"),
        ));
        plane.others.push(Process::start(
            "kube-scheduler",
            Command::new(places.program("kube-scheduler"))
                .arg("--kubeconfig")
                .arg(&scheduler)
                .args(["--leader-elect=false", "--secure-port=0"]),
            &places.log("kube-scheduler"),
        ));
        plane
    }

    /// Starts the API server, which must not be running.
    pub fn start_api_server(&mut self) {
        assert!(self.api_server.is_none(), "the API server is running");
        let file = |name: &str| self.credentials.join(name);
        let mut command = Command::new(self.places.program("kube-apiserver"));
        command
            .args(["--etcd-servers=http://127.0.0.1:2379", "--secure-port=443", "--allow-privileged"])
            .args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"])
            .args([
                "--service-cluster-ip-range=198.18.1.0/24",
                "--kubelet-preferred-address-types=InternalIP",
            ])
            .arg(format!("--bind-address={API_SERVER}"))
            .arg(format!("--advertise-address={API_SERVER}"))
            .arg(format!("--service-account-issuer={ISSUER}"))
            .arg("--audit-log-path")
            .arg(self.places.log("audit"))
            .arg("--audit-log-mode=blocking");
        for (flag, name) in [
            ("--client-ca-file", "ca.crt"),
            ("--tls-cert-file", "apiserver.crt"),
            ("--tls-private-key-file", "apiserver.key"),
            ("--kubelet-client-certificate", "apiserver-kubelet-client.crt"),
            ("--kubelet-client-key", "apiserver-kubelet-client.key"),
            ("--service-account-key-file", "service-accounts.key"),
            ("--service-account-signing-key-file", "service-accounts.key"),
            ("--audit-policy-file", "audit-policy.json"),
        ] {
            command.arg(flag).arg(file(name));
        }
        self.api_server =
            Some(Process::start("kube-apiserver", &mut command, &self.places.log("kube-apiserver")));
    }

    /// Ends the API server as a power cut would.
    pub async fn kill_api_server(&mut self) {
        self.api_server.take().expect("the API server is running").kill().await;
    }

    /// Waits until the API server says it is ready.
    pub async fn ready(&mut self, client: &kube::Client) {
        let ready = async {
            loop {
                self.assert_alive();
                let request = hyper::Request::get("/readyz").body(Vec::new()).expect("a valid request");
                if client.request_text(request).await.is_ok_and(|answer| answer == "ok") {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(START, ready).await.expect("the API server must become ready");
    }

    /// Panics if a part has ended by itself.
    pub fn assert_alive(&mut self) {
        self.etcd.assert_alive();
        for process in self.api_server.iter_mut().chain(&mut self.others) {
            process.assert_alive();
        }
    }
}
