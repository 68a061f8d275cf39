//! Where things are: files, programs, addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// The first node.
pub const FIRST_NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// The second node, where a case wants one.
pub const SECOND_NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 11));
/// Entra, Key Vault and the metadata service.
pub const AZURE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
/// The API server, at the first address of the service network. That is where pods look for it, so that it is found without
/// a proxy on the node.
pub const API_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 1, 1));

/// Memory of the cluster: gone when its namespaces are.
const RUN: &str = "/run/akv-csi";

/// Paths that were given on the command line.
#[derive(Debug, Clone)]
pub struct Places {
    /// What outlives the cluster: logs, the administrator's kubeconfig, the chart's values.
    pub state: PathBuf,
    /// Kubernetes' programs.
    pub kubernetes: PathBuf,
    /// Images to load.
    pub images: Vec<PathBuf>,
    /// The project's sources, for its manifests.
    pub checkout: PathBuf,
    /// The cgroup below which pods are.
    pub cgroup: String,
}

impl Places {
    /// The log of a part.
    pub fn log(&self, name: &str) -> PathBuf {
        self.state.join("logs").join(format!("{name}.log"))
    }

    /// A folder in memory, made if it is not there.
    pub fn run(&self, name: &str) -> PathBuf {
        let folder = Path::new(RUN).join(name);
        std::fs::create_dir_all(&folder).expect("a fresh tmpfs is writable");
        folder
    }

    /// One of Kubernetes' programs, or what the machine has of that name.
    pub fn program(&self, name: &str) -> PathBuf {
        let own = self.kubernetes.join(name);
        if own.is_file() { own } else { PathBuf::from(name) }
    }

    /// The values that the chart is installed with.
    pub fn values(&self) -> PathBuf {
        self.state.join("values.json")
    }

    /// The administrator's kubeconfig.
    pub fn admin(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }
}
