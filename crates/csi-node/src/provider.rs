//! Providers in processes of their own: classes whose `provider` is not the one built in reach its socket by the v1alpha1
//! protocol, so that a cluster with several secret stores needs only one driver.

use crate::csi::request::PublishRequest;
use proto::provider::csi_driver_provider_client::CsiDriverProviderClient;
use proto::provider::{MountRequest, MountResponse};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use vault::ObjectVersion;
use zeroize::Zeroizing;

/// The longest name the protocol allows.
const LONGEST_NAME: usize = 30;

/// How often a provider that says `UNAVAILABLE` is called, and the wait in between.
const ATTEMPTS: u32 = 3;
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);

/// How long a socket that refuses connections is tried: a provider that is being replaced is back within seconds. The
/// reference waits for the kubelet's whole two minutes, and the pod's events say nothing meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);
const BETWEEN_CONNECTS: Duration = Duration::from_millis(250);

/// The mode that files without one of their own shall have: 0644, in decimal as the protocol wants it.
const PERMISSION: &str = "420";

/// The name of a provider, which is the name of its socket too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderName(String);

impl ProviderName {
    /// Takes a name of letters, digits, `_` and `-`, at most 30 of them: it becomes part of a path.
    ///
    /// # Errors
    /// [`ProviderError::InvalidName`].
    pub fn parse(name: &str) -> Result<Self, ProviderError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(ProviderError::InvalidName { provider: name.to_owned() })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProviderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a provider did not deliver. The phrases in front are the reference's.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The name cannot be a provider's.
    #[error(
        "error connecting to provider {provider:?}: invalid provider: provider {provider:?}: names have at most {LONGEST_NAME} letters, \
         digits, _ and -"
    )]
    InvalidName {
        /// The name in the class.
        provider: String,
    },
    /// No socket has this name.
    #[error(
        "error connecting to provider {name:?}: provider not found: provider {name:?}: no socket {name}.sock in {}; provider azure is built \
         in, any other has to run on this node{hint}",
        list(folders),
        name = provider.0
    )]
    NotFound {
        /// The provider.
        provider: ProviderName,
        /// Where its socket was looked for.
        folders: Vec<PathBuf>,
        /// What else may explain it; empty or starts with a separator.
        hint: String,
    },
    /// The socket is there, and nobody answers on it.
    #[error(
        "error connecting to provider {:?}: {} refused connections for {} s: {cause}; is the provider's pod running on this node?",
        provider.0, socket.display(), waited.as_secs()
    )]
    Unreachable {
        /// The provider.
        provider: ProviderName,
        /// Its socket.
        socket: PathBuf,
        /// How long it was tried.
        waited: Duration,
        /// The last error.
        cause: String,
    },
    /// It answered with an error, or not in time.
    #[error("provider {:?}: rpc error: code = {:?} desc = {}{hint}", provider.0, status.code(), status.message())]
    Refused {
        /// The provider.
        provider: ProviderName,
        /// What it answered.
        status: Box<Status>,
        /// The cure, where there is one here; empty or starts with a separator.
        hint: String,
    },
    /// It reported a code of its own.
    #[error("mount request failed with provider error code {code} (provider {:?})", provider.0)]
    Code {
        /// The provider.
        provider: ProviderName,
        /// The code, in the provider's words.
        code: String,
    },
    /// It delivered nothing.
    #[error("missing object versions: provider {:?} delivered no object; check the objects in the class's parameters", provider.0)]
    NoVersions {
        /// The provider.
        provider: ProviderName,
    },
}

impl ProviderError {
    /// The provider's name, as the class gives it.
    pub fn provider(&self) -> &str {
        match self {
            Self::InvalidName { provider } => provider,
            Self::NotFound { provider, .. }
            | Self::Unreachable { provider, .. }
            | Self::Refused { provider, .. }
            | Self::Code { provider, .. }
            | Self::NoVersions { provider } => provider.as_str(),
        }
    }

    /// The gRPC code that the kubelet gets: the provider's own where it gave one, as with the reference.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused { status, .. } if status.code() != Code::Ok => status.code(),
            _ => Code::Unknown,
        }
    }
}

fn list(folders: &[PathBuf]) -> String {
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    folders.join(" or ")
}

/// What a provider delivered.
pub struct Provided {
    /// The files: path, mode as `chmod(2)` takes it, bytes. None at all means that nothing is to change.
    pub files: Vec<(String, u32, Zeroizing<Vec<u8>>)>,
    /// The versions delivered, one per id.
    pub versions: Vec<ObjectVersion>,
}

/// The sockets of all providers on this node.
#[derive(Debug, Clone)]
pub struct ExternalProviders {
    folders: Vec<PathBuf>,
    largest_answer: usize,
}

impl ExternalProviders {
    /// Looks for sockets in these folders, in this order, and takes answers up to this many bytes.
    pub fn new(folders: Vec<PathBuf>, largest_answer: usize) -> Self {
        Self { folders, largest_answer }
    }

    /// Lets a provider fetch what a class asks for.
    ///
    /// # Errors
    /// [`ProviderError`], by the deadline at the latest.
    pub async fn mount(
        &self,
        provider: &ProviderName,
        parameters: &BTreeMap<String, String>,
        request: &PublishRequest,
        deadline: Instant,
    ) -> Result<Provided, ProviderError> {
        let socket = self.socket(provider)?;
        let refused = |status: Status| self.refusal(provider, status);
        let mut attempt = 1;
        let answer = loop {
            let channel = connect(provider, &socket, deadline).await?;
            let mut client =
                CsiDriverProviderClient::new(channel).max_decoding_message_size(self.largest_answer);
            let mut call = tonic::Request::new(mount_request(parameters, request));
            call.set_timeout(deadline.saturating_duration_since(Instant::now()));
            let answer = timeout_at(deadline, client.mount(call)).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded("the provider did not answer within the time for one call"))
            });
            match answer {
                Err(status) if status.code() == Code::Unavailable && attempt < ATTEMPTS => {
                    tracing::debug!(%provider, attempt, error = status.message(), "the provider is unavailable, asking again");
                    attempt += 1;
                    if timeout_at(deadline, sleep(BETWEEN_ATTEMPTS)).await.is_err() {
                        return Err(refused(status));
                    }
                }
                answer => break answer.map_err(refused)?.into_inner(),
            }
        };
        read_answer(provider, answer)
    }

    /// The first socket with the provider's name.
    fn socket(&self, provider: &ProviderName) -> Result<PathBuf, ProviderError> {
        let candidates = self.folders.iter().map(|folder| folder.join(format!("{provider}.sock")));
        candidates.into_iter().find(|path| path.exists()).ok_or_else(|| ProviderError::NotFound {
            provider: provider.clone(),
            folders: self.folders.clone(),
            hint: if provider.0.eq_ignore_ascii_case("azure") {
                "; write spec.provider: azure in lower case".to_owned()
            } else {
                String::new()
            },
        })
    }

    fn refusal(&self, provider: &ProviderName, status: Status) -> ProviderError {
        // The client's own wording; servers say the same words when a request is too long, with the code ResourceExhausted.
        let too_long = matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted)
            && status.message().contains("message length too large");
        let (status, hint) = if too_long {
            let hint = format!(
                "; its answer is longer than the {} bytes of --max-call-recv-msg-size (Helm value maxCallRecvMsgSize)",
                self.largest_answer
            );
            (Status::resource_exhausted(status.message()), hint)
        } else {
            (status, String::new())
        };
        ProviderError::Refused { provider: provider.clone(), status: Box::new(status), hint }
    }
}

/// A new connection for each call: it costs a fraction of a millisecond, and a provider may restart in between.
async fn connect(
    provider: &ProviderName,
    socket: &Path,
    deadline: Instant,
) -> Result<Channel, ProviderError> {
    let started = Instant::now();
    let unreachable = |cause: String| ProviderError::Unreachable {
        provider: provider.clone(),
        socket: socket.to_owned(),
        waited: started.elapsed(),
        cause,
    };
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
        .map_err(|error| unreachable(crate::error::chain(&error)))?
        // Providers that are strict about it expect what Go's clients send.
        .origin(Uri::from_static("http://localhost"));
    let give_up = deadline.min(started + PATIENCE);
    loop {
        match timeout_at(give_up, endpoint.connect()).await {
            Ok(Ok(channel)) => return Ok(channel),
            Ok(Err(error)) if Instant::now() + BETWEEN_CONNECTS >= give_up => {
                return Err(unreachable(crate::error::chain(&error)));
            }
            Ok(Err(_)) => sleep(BETWEEN_CONNECTS).await,
            Err(_) => return Err(unreachable("no connection in time".to_owned())),
        }
    }
}

/// The request as the reference makes it: everything the class and the pod say in one map, in which the pod's word counts
/// more. The versions that are mounted are not sent, as the reference does not send them any more: no provider can rely on them.
fn mount_request(parameters: &BTreeMap<String, String>, request: &PublishRequest) -> MountRequest {
    let mut attributes: BTreeMap<&str, &str> =
        parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    attributes.extend(request.context());
    let secrets: BTreeMap<&str, &str> = request.raw_secrets().collect();
    // A map of strings always has a JSON form.
    let json = |map: &BTreeMap<&str, &str>| serde_json::to_string(map).unwrap_or_default();
    MountRequest {
        attributes: json(&attributes),
        secrets: if secrets.is_empty() { "null".to_owned() } else { json(&secrets) },
        target_path: request.target.to_string(),
        permission: PERMISSION.to_owned(),
        current_object_version: Vec::new(),
    }
}

fn read_answer(provider: &ProviderName, answer: MountResponse) -> Result<Provided, ProviderError> {
    if let Some(error) = answer.error
        && !error.code.is_empty()
    {
        return Err(ProviderError::Code { provider: provider.clone(), code: error.code });
    }
    if answer.object_version.is_empty() {
        return Err(ProviderError::NoVersions { provider: provider.clone() });
    }
    let versions: BTreeMap<String, String> =
        answer.object_version.into_iter().map(|object| (object.id, object.version)).collect();
    let files = answer.files.into_iter().map(|file| {
        // The bits are what counts, as for chmod(2); a provider that sends none means 0.
        (file.path, file.mode.cast_unsigned(), Zeroizing::new(file.contents))
    });
    Ok(Provided {
        files: files.collect(),
        versions: versions.into_iter().map(|(id, version)| ObjectVersion { id, version }).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::provider::{Error, ObjectVersion as Version};

    #[test]
    fn only_names_that_are_safe_in_a_path_are_names() {
        for name in ["vault", "e2e-provider", "a_B-9", "x".repeat(30).as_str()] {
            assert!(ProviderName::parse(name).is_ok(), "{name}");
        }
        for name in ["", "..", "a/b", "a.b", "a b", "ä", "x\0", "x".repeat(31).as_str()] {
            let message = ProviderName::parse(name).unwrap_err().to_string();
            assert!(
                message.contains("invalid provider") && message.contains(&format!("{name:?}")),
                "{message}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_folder(name in "\\PC{0,40}") {
            if let Ok(name) = ProviderName::parse(&name) {
                let path = Path::new("/run/providers").join(format!("{name}.sock"));
                prop_assert_eq!(path.parent(), Some(Path::new("/run/providers")));
            }
        }
    }

    #[test]
    fn an_answer_is_read_in_the_references_order() {
        let name = ProviderName::parse("p").unwrap();
        let read = |answer: MountResponse| read_answer(&name, answer);
        let version = |id: &str, version: &str| Version { id: id.into(), version: version.into() };
        let code = |code: &str| Some(Error { code: code.into() });

        let refused = MountResponse {
            error: code("Denied"),
            object_version: vec![version("a", "1")],
            ..MountResponse::default()
        };
        let message = read(refused).err().unwrap().to_string();
        assert!(message.starts_with("mount request failed with provider error code Denied"), "{message}");
        let nothing = read(MountResponse { error: code(""), ..MountResponse::default() }).err().unwrap();
        assert!(nothing.to_string().starts_with("missing object versions"), "{nothing}");

        let twice = MountResponse {
            object_version: vec![version("b", "1"), version("a", "1"), version("b", "2")],
            ..MountResponse::default()
        };
        let provided = read(twice).ok().unwrap();
        let versions: Vec<_> =
            provided.versions.iter().map(|v| (v.id.as_str(), v.version.as_str())).collect();
        assert_eq!(versions, [("a", "1"), ("b", "2")]);
        assert!(provided.files.is_empty());
    }
}
