//! Where the programs are.

use crate::Error;
use std::path::{Path, PathBuf};

/// The version the project tests with, which is in the name of the folder `hack/` puts it into.
const DEFAULT_FOLDER: &str = "akv-csi/kubernetes-v1.34.4";

/// The two programs of an API server.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) etcd: PathBuf,
    pub(crate) kube_apiserver: PathBuf,
}

impl Programs {
    /// Looks for both. `None`, and a notice, when one is missing on a developer's machine.
    pub(crate) fn find() -> Result<Option<Self>, Error> {
        let folder = std::env::var_os("AKV_CSI_KUBERNETES_BIN").map_or_else(default_folder, PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&path).map(|folder| folder.join("etcd"));
        let etcd = std::iter::once(folder.join("etcd")).chain(in_path).find(|file| file.is_file());
        let kube_apiserver = Some(folder.join("kube-apiserver")).filter(|file| file.is_file());
        let lacking = match (etcd, kube_apiserver) {
            (Some(etcd), Some(kube_apiserver)) => return Ok(Some(Self { etcd, kube_apiserver })),
            (None, _) => "no etcd in PATH (apt-get install etcd-server)".to_owned(),
            (_, None) => {
                format!(
                    "no kube-apiserver in {} (AKV_CSI_KUBERNETES_BIN names another folder)",
                    folder.display()
                )
            }
        };
        if std::env::var_os("CI").is_some_and(|value| !value.is_empty()) {
            return Err(Error::Lacking(lacking));
        }
        eprintln!("NOTICE: {lacking}: tests with a real API server are left out");
        Ok(None)
    }
}

fn default_folder() -> PathBuf {
    let home = || std::env::var_os("HOME").map_or_else(PathBuf::new, PathBuf::from);
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    cache.join(Path::new(DEFAULT_FOLDER))
}
