//! SecretProviderClasses: what a pod's volume refers to by name.

mod api_server;
mod folder;
mod parameters;
mod secret_objects;
mod watched;

pub use api_server::ApiServer;
pub use folder::Folder;
pub use parameters::Parameters;
pub use secret_objects::{SecretObject, SecretObjectData};
pub use watched::Entry;

use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// API group of SecretProviderClass.
pub const GROUP: &str = "secrets-store.csi.x-k8s.io";

/// Namespace and name of a class.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassName {
    /// Namespace, which is always the pod's own.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl fmt::Display for ClassName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The part of a SecretProviderClass's `spec` that a mount needs.
///
/// Both API versions, `v1` and `v1alpha1`, have the same fields here. Everything is optional, as in the CRD: what is
/// missing is told at mount time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ClassSpec {
    /// Name of the provider; `azure` is the one built in.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub provider: String,
    /// The provider's parameters.
    #[serde(default)]
    pub parameters: Parameters,
    /// Kubernetes Secrets to make of the mounted files.
    #[serde(default, rename = "secretObjects", deserialize_with = "secret_objects::list")]
    pub secret_objects: Vec<SecretObject>,
}

/// A key that somebody left blank (`cloudName:`) is null in YAML; the API server drops it.
fn without_nulls<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, String>, D::Error> {
    let given: Option<BTreeMap<String, Option<String>>> = Option::deserialize(input)?;
    Ok(given.unwrap_or_default().into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

fn null_is_empty<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// Why a class could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ClassError {
    /// There is no such class. The first part is the API server's own wording, which people and tests look for.
    #[error(
        "SecretProviderClass.{GROUP} {:?} not found: create it in namespace {:?}, or correct secretProviderClass in the pod's volumeAttributes{hint}",
        class.name, class.namespace
    )]
    NotFound {
        /// The class asked for.
        class: ClassName,
        /// What else was seen that may explain it; empty or starts with a separator.
        hint: String,
    },
    /// The API server did not answer, or refused.
    #[error("reading SecretProviderClass {class} from the API server: {cause}")]
    ApiServer {
        /// The class asked for.
        class: ClassName,
        /// The client's error, in full.
        cause: String,
    },
    /// The folder of classes could not be read.
    #[error("reading the folder of SecretProviderClasses {}: {cause}", folder.display())]
    Folder {
        /// The folder given with `--secret-provider-classes`.
        folder: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The class exists but its YAML does not say what a class says.
    #[error("SecretProviderClass {class} in {}: {reason}", file.display())]
    Malformed {
        /// The class asked for.
        class: ClassName,
        /// The file it is in.
        file: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// Two documents define the same class.
    #[error("SecretProviderClass {class} is defined twice, in {} and in {}: remove one", first.display(), second.display())]
    Twice {
        /// The class asked for.
        class: ClassName,
        /// The file that is read first.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },
}

/// Where classes come from.
#[derive(Debug, Clone)]
pub enum Classes {
    /// YAML files in a folder: standalone mode.
    Folder(Folder),
    /// The Kubernetes API server.
    ApiServer(ApiServer),
}

/// A class as a mount uses it.
#[derive(Debug, Clone)]
pub struct Class {
    /// What it says.
    pub spec: Arc<ClassSpec>,
    /// Whether it was read for this use. What was not may be older than a change made a moment ago.
    pub live: bool,
    /// Keeps the class known while a volume uses it.
    pub lease: Option<Arc<Entry>>,
}

impl Classes {
    /// One class: as known, where a watch vouches for that, else read now. When the API server cannot be reached, a class in
    /// use stays what it was.
    ///
    /// # Errors
    /// [`ClassError`], which names the class and, where there is one, the file.
    pub async fn get(&self, class: &ClassName) -> Result<Class, ClassError> {
        self.have(class, false).await
    }

    /// One class, read now.
    ///
    /// # Errors
    /// As [`Classes::get`].
    pub async fn get_live(&self, class: &ClassName) -> Result<Class, ClassError> {
        self.have(class, true).await
    }

    async fn have(&self, class: &ClassName, live: bool) -> Result<Class, ClassError> {
        match self {
            Self::Folder(folder) => Ok(Class { spec: folder.get(class).await?, live: true, lease: None }),
            Self::ApiServer(api_server) => {
                let had = api_server.get(class, live).await?;
                Ok(Class { spec: had.spec, live: had.live, lease: Some(had.entry) })
            }
        }
    }
}
