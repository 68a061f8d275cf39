//! A node: containerd and the kubelet.

use crate::credentials::Credentials;
use crate::places::{API_SERVER, FIRST_NODE, Places};
use crate::process::Process;
use serde_json::json;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// How often the kubelet looks at each of its pods, in seconds. A mounted volume is published again that often and up to
/// half of it more; in a real cluster it is 60.
const SYNC_SECONDS: u32 = 5;

/// A machine within the machine: namespaces for network and mounts, held open by a process that does nothing.
#[derive(Debug)]
pub struct Room {
    holder: Process,
}

impl Room {
    /// Makes one with this address, which the cluster's own namespaces reach and which reaches them.
    pub async fn open(places: &Places, name: &str, address: IpAddr) -> Self {
        let mut hold = Command::new("unshare");
        hold.args(["--mount", "--net", "--propagation", "private", "sleep", "infinity"]);
        let room = Self { holder: Process::start(name, &mut hold, &places.log(&format!("{name}/room"))) };
        // Until `unshare` has done its work, its process is in the namespaces of this one.
        let own =
            |which: &str| std::fs::read_link(format!("/proc/self/ns/{which}")).expect("procfs is mounted");
        let theirs = |which: &str| std::fs::read_link(format!("/proc/{}/ns/{which}", room.holder.pid())).ok();
        while ["net", "mnt"].iter().any(|which| theirs(which).is_none_or(|found| found == own(which))) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let pid = room.holder.pid();
        let near = format!("to-{name}");
        shell(
            Command::new("sh"),
            &format!(
                "ip link add {near} type veth peer name uplink netns {pid}
             ip link set {near} up
             ip route add {address}/32 dev {near} src {FIRST_NODE}"
            ),
        )
        .await;
        // The kubelet's folder is a fresh one there, in the place of the first node's and not on top of it: containerd takes the
        // lower of two mounts for the one that counts.
        shell(
            room.command("sh"),
            &format!(
                "ip link set lo up
             ip addr add {address}/32 dev lo
             ip link set uplink up
             ip route add 198.51.100.0/24 dev uplink src {address}
             ip route add {API_SERVER}/32 dev uplink src {address}
             umount --lazy /var/lib/kubelet
             mount -t tmpfs -o mode=755 kubelet /var/lib/kubelet
             mount --make-rshared /var/lib/kubelet"
            ),
        )
        .await;
        room
    }

    /// A command to be run in it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.pid().to_string(), "--mount", "--net", "--"]).arg(program);
        command
    }
}

async fn shell(mut shell: Command, script: &str) {
    let output = shell.args(["-euc", script]).output().await.expect("every machine has a shell");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    name: String,
    _room: Option<Room>,
    socket: PathBuf,
    containerd: Process,
    kubelet: Option<Process>,
}

impl Node {
    /// Starts containerd, loads the images, starts the kubelet; where the cluster is, or in a room of its own.
    pub async fn start(
        places: &Places,
        credentials: &Credentials,
        name: &str,
        address: IpAddr,
        room: Option<Room>,
    ) -> Self {
        let command = |program: &Path| match &room {
            Some(room) => room.command(program),
            None => Command::new(program),
        };
        let folder = places.run(name);
        let socket = folder.join("containerd.sock");
        let network = places.run(&format!("{name}/cni"));
        let config = folder.join("containerd.toml");
        let pods = pod_network(address);
        std::fs::write(&config, containerd_config(&folder, &network)).expect("a fresh tmpfs is writable");
        let list = json!({
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [{
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "dataDir": folder.join("addresses"),
                    "ranges": [[{"subnet": pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }],
        });
        std::fs::write(network.join("pods.conflist"), list.to_string()).expect("a fresh tmpfs is writable");
        let containerd = Process::start(
            "containerd",
            command(Path::new("containerd")).arg("--config").arg(&config),
            &places.log(&format!("{name}/containerd")),
        );
        let mut kubelet = command(&places.program("kubelet"));
        let mut node = Self { name: name.to_owned(), _room: room, socket, containerd, kubelet: None };
        for image in &places.images {
            node.load(image).await;
        }

        let kubeconfig = folder.join("kubelet.kubeconfig");
        let user = format!("system:node:{name}");
        std::fs::write(&kubeconfig, credentials.kubeconfig(&user, Some("system:nodes")))
            .expect("a fresh tmpfs is writable");
        let config = folder.join("kubelet.json");
        std::fs::write(&config, node.kubelet_config(places, credentials, address))
            .expect("a fresh tmpfs is writable");
        node.kubelet = Some(Process::start(
            "kubelet",
            kubelet
                .arg("--config")
                .arg(&config)
                .arg("--kubeconfig")
                .arg(&kubeconfig)
                .arg(format!("--hostname-override={name}"))
                .arg(format!("--node-ip={address}"))
                .args(["--root-dir=/var/lib/kubelet", "--v=2"])
                .arg("--cert-dir")
                .arg(places.run(&format!("{name}/certificates"))),
            &places.log(&format!("{name}/kubelet")),
        ));
        node
    }

    /// Loads an image, waiting for containerd to come up.
    async fn load(&mut self, image: &Path) {
        for attempt in 0.. {
            self.containerd.assert_alive();
            let output = Command::new("ctr")
                .arg("--address")
                .arg(&self.socket)
                .args(["--namespace", "k8s.io", "images", "import"])
                .arg(image)
                .output()
                .await
                .expect("ctr comes with containerd");
            if output.status.success() {
                return;
            }
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(attempt < 100, "{} cannot be loaded: {error}", image.display());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn kubelet_config(&self, places: &Places, credentials: &Credentials, address: IpAddr) -> String {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": credentials.path("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("{}/{}", places.cgroup, self.name),
            "enforceNodeAllocatable": ["none"],
            "failCgroupV1": false,
            "failSwapOn": false,
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": format!("unix://{}", self.socket.display()),
            "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
            "healthzBindAddress": address,
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": false,
            "makeIPTablesUtilChains": false,
            "maxPods": 250,
            "registryPullQPS": 0,
            "eventRecordQPS": 0,
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
            "podLogsDir": places.state.join("logs").join(&self.name).join("pods"),
            "resolvConf": "",
            "volumePluginDir": places.run(&format!("{}/volume-plugins", self.name)),
            "syncFrequency": format!("{SYNC_SECONDS}s"),
            "nodeStatusUpdateFrequency": "10s",
        })
        .to_string()
    }

    /// Panics if a part has ended by itself.
    pub fn assert_alive(&mut self) {
        self.containerd.assert_alive();
        if let Some(kubelet) = &mut self.kubelet {
            kubelet.assert_alive();
        }
    }
}

/// A network of its own for each node's pods.
fn pod_network(node: IpAddr) -> String {
    match node {
        IpAddr::V4(address) => format!("198.19.{}.0/24", address.octets()[3]),
        IpAddr::V6(_) => unreachable!("nodes have IPv4 addresses"),
    }
}

/// Private folders, and what a machine that is a container itself needs.
fn containerd_config(folder: &Path, network: &Path) -> String {
    let folder = folder.display();
    let network = network.display();
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "akv-csi.test/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{network}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}
