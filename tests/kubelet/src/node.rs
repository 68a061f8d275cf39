//! What all volumes of a node share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::RwLock;
use secrecy::SecretString;

use crate::csi_driver::CsiDriver;
use crate::events::EventLog;
use crate::manifest::{DriverName, Secret, ServiceAccount};
use crate::registration::Registry;
use crate::timing::Timings;
use crate::tokens::TokenManager;
use crate::volume::uuid_of;

/// The node: its folders, its drivers, and the API objects its pods refer to.
pub(crate) struct Node {
    pub name: String,
    pub root: PathBuf,
    pub timings: Timings,
    pub registry: Registry,
    pub tokens: TokenManager,
    pub events: EventLog,
    pub objects: RwLock<Objects>,
}

/// The API objects known so far.
#[derive(Default)]
pub(crate) struct Objects {
    drivers: BTreeMap<DriverName, CsiDriver>,
    service_accounts: BTreeMap<(String, String), String>,
    secrets: BTreeMap<(String, String), BTreeMap<String, SecretString>>,
}

impl Objects {
    pub(crate) fn set_driver(&mut self, driver: CsiDriver) {
        self.drivers.insert(driver.name.clone(), driver);
    }

    /// A service account keeps its uid when it is applied again without one.
    pub(crate) fn set_service_account(&mut self, account: ServiceAccount) {
        let ServiceAccount { namespace, name, uid } = account;
        let implied = uuid_of(format!("{namespace}/{name}").as_bytes());
        let kept = self.service_accounts.entry((namespace, name)).or_insert(implied);
        if let Some(uid) = uid {
            *kept = uid;
        }
    }

    pub(crate) fn set_secret(&mut self, secret: Secret) {
        self.secrets.insert((secret.namespace, secret.name), secret.data);
    }

    /// The uid of a service account. `default` is there in every namespace.
    pub(crate) fn service_account_uid(&self, namespace: &str, name: &str) -> Option<String> {
        let known = self.service_accounts.get(&(namespace.to_owned(), name.to_owned())).cloned();
        known.or_else(|| (name == "default").then(|| uuid_of(format!("{namespace}/{name}").as_bytes())))
    }
}

impl Node {
    pub(crate) fn csi_driver(&self, name: &DriverName) -> Option<CsiDriver> {
        self.objects.read().drivers.get(name).cloned()
    }

    pub(crate) fn service_account_uid(&self, namespace: &str, name: &str) -> Option<String> {
        self.objects.read().service_account_uid(namespace, name)
    }

    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<BTreeMap<String, SecretString>> {
        self.objects.read().secrets.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }
}
