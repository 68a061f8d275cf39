//! What can go wrong in a call of the kubelet, and which gRPC status it becomes. The message is the user interface: the kubelet
//! puts it into the pod's events, and that is all most people ever see of this driver.

use crate::class::{ClassError, ClassName};
use crate::csi::request::{InvalidRequest, Pod};
use crate::provider::ProviderError;
use crate::volume::VolumeError;
use std::path::PathBuf;
use std::time::Duration;
use tonic::{Code, Status};

/// Why a volume could not be published. The wording keeps the reference's phrases, which people search for.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The request itself is wrong.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// The pod's volume is writable.
    #[error("Readonly is not true in request: set readOnly: true on the csi volume of pod {pod}")]
    NotReadOnly {
        /// Whose volume.
        pod: Pod,
    },
    /// The pod names no class.
    #[error(
        "secretProviderClass is not set: pod {pod} must name one in its volume's volumeAttributes.secretProviderClass"
    )]
    NoClass {
        /// Whose volume.
        pod: Pod,
    },
    /// The kubelet does not say whose volume it is.
    #[error(
        "pod {missing} is not provided in the volume attributes of volume {volume}: the CSIDriver object needs podInfoOnMount: true"
    )]
    NoPodInfo {
        /// What is missing: `name` or `namespace`.
        missing: &'static str,
        /// The volume's id.
        volume: String,
    },
    /// The class could not be had.
    #[error("failed to get secretproviderclass {class}, error: {cause} (pod {pod})")]
    Class {
        /// Whose volume.
        pod: Pod,
        /// The class asked for.
        class: ClassName,
        /// Why.
        cause: ClassError,
    },
    /// The class names no provider.
    #[error("provider not set in {class}: set spec.provider to azure (pod {pod})")]
    NoProvider {
        /// Whose volume.
        pod: Pod,
        /// The class in question.
        class: ClassName,
    },
    /// The class has no parameters.
    #[error(
        "parameters not set in {class}: spec.parameters needs keyvaultName, tenantId and objects (pod {pod})"
    )]
    NoParameters {
        /// Whose volume.
        pod: Pod,
        /// The class in question.
        class: ClassName,
    },
    /// Everything that happens on the way from the class to the files.
    #[error("failed to mount secrets store objects for pod {pod}, err: {step}")]
    Mount {
        /// Whose volume.
        pod: Pod,
        /// What failed.
        step: MountError,
    },
    /// Another call for the same target did not end in time.
    #[error("an operation for target path {target} is still running after {} s; the kubelet will try again", waited.as_secs())]
    Busy {
        /// The target of both calls.
        target: String,
        /// How long this call waited.
        waited: Duration,
    },
    /// A defect of this driver.
    #[error("internal error while publishing {target}: {cause}; the driver's log has the details")]
    Internal {
        /// The target of the call.
        target: String,
        /// What is known.
        cause: String,
    },
}

/// Which step of a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The class or the pod's attributes are wrong.
    #[error("failed to mount objects, error: SecretProviderClass {class}: {faults}")]
    Plan {
        /// The class in question.
        class: ClassName,
        /// All that is wrong.
        faults: vault::Faults,
    },
    /// The custom cloud's file is missing or wrong.
    #[error(
        "failed to mount objects, error: SecretProviderClass {class}: cloudName AzureStackCloud is not valid, error: {cause}"
    )]
    Cloud {
        /// The class in question.
        class: ClassName,
        /// What is wrong with the file.
        cause: identity::Error,
    },
    /// The file of the custom cloud is not named anywhere.
    #[error(
        "failed to mount objects, error: SecretProviderClass {class}: cloudName AzureStackCloud is not valid, error: open : no such \
         file or directory: name the cloud's file in parameters.cloudEnvFileName"
    )]
    NoCloudFile {
        /// The class in question.
        class: ClassName,
    },
    /// The identity cannot be built from what the class and the request say, or the operator does not allow it.
    #[error(
        "failed to mount objects, error: SecretProviderClass {class}: failed to build auth config for mode {mode}: {cause}{cure}"
    )]
    Identity {
        /// The class in question.
        class: ClassName,
        /// The reference's name for the access mode.
        mode: &'static str,
        /// What is missing or wrong.
        cause: identity::Error,
        /// What to write into the class, where the cause does not say it; empty or starts with a separator.
        cure: String,
    },
    /// A refresh between two calls of the kubelet found that the class names another identity now.
    #[error(
        "SecretProviderClass {class} names another identity or cloud now; the kubelet's next call brings what it needs"
    )]
    IdentityChanged {
        /// The class in question.
        class: ClassName,
    },
    /// The vault's address cannot be built.
    #[error("failed to mount objects, error: SecretProviderClass {class}: {fault}")]
    Address {
        /// The class in question.
        class: ClassName,
        /// What is wrong.
        fault: vault::Fault,
    },
    /// Entra, IMDS or Key Vault said no, or could not be reached.
    #[error("failed to mount objects, error: {cause} (SecretProviderClass {class})")]
    Fetch {
        /// The class in question.
        class: ClassName,
        /// Who was asked for what, and what the answer was.
        cause: vault::FetchError,
    },
    /// A provider in a process of its own did not deliver.
    #[error("{cause} (SecretProviderClass {class})")]
    Provider {
        /// The class in question.
        class: ClassName,
        /// Which provider, and what it said.
        cause: ProviderError,
    },
    /// A refresh between two calls of the kubelet is for the built-in provider only.
    #[error(
        "SecretProviderClass {class} is served by provider {provider:?}, which needs the tokens that only the kubelet's next call brings"
    )]
    NeedsCall {
        /// The class in question.
        class: ClassName,
        /// Its provider.
        provider: String,
    },
    /// Every object was asked for with a version history that selects nothing.
    #[error(
        "missing object versions: no enabled version of any object in SecretProviderClass {class} matches its objectVersion; \
         correct parameters.objects"
    )]
    NothingSelected {
        /// The class in question.
        class: ClassName,
    },
    /// The files cannot be written as asked.
    #[error("{cause}")]
    Volume {
        /// Which step on which path.
        #[from]
        cause: VolumeError,
    },
}

/// Why a volume could not be unpublished.
#[derive(Debug, thiserror::Error)]
pub enum UnpublishError {
    /// `volume_id` is empty, or the target path cannot be one.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// The mount or its folder could not be removed.
    #[error("failed to clean and unmount target path: {0}")]
    Volume(#[from] VolumeError),
    /// Another call for the same target did not end in time.
    #[error("an operation for target path {target} is still running after {} s; the kubelet will try again", waited.as_secs())]
    Busy {
        /// The target of both calls.
        target: String,
        /// How long this call waited.
        waited: Duration,
    },
    /// A defect of this driver.
    #[error("internal error while unpublishing {target}: {cause}; the driver's log has the details")]
    Internal {
        /// The target of the call.
        target: String,
        /// What is known.
        cause: String,
    },
}

/// Why the driver could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A flag has a value that cannot be used.
    #[error("{flag}: {reason}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is wrong with its value, and what to write instead.
        reason: String,
    },
    /// A socket could not be bound.
    #[error("cannot listen on {}: {cause}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The Kubernetes client could not be set up.
    #[error(
        "no Kubernetes client: {0}; use --kubeconfig, or --secret-provider-classes DIR to run without an API server"
    )]
    Kubernetes(String),
    /// The HTTP client could not be set up.
    #[error("no HTTP client: {0}")]
    Http(String),
    /// The identity service could not be set up.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// A server ended by itself.
    #[error("the {service} server failed: {cause}")]
    Server {
        /// Which one.
        service: &'static str,
        /// Why.
        cause: String,
    },
}

// === gRPC codes ===
//
// The kubelet tells final codes from non-final ones. After a final one on a first publish it removes the target folder and
// forgets the volume; after `Canceled`, `DeadlineExceeded`, `Unavailable`, `ResourceExhausted` and `Aborted` it takes the
// state for uncertain and unpublishes later. A publish that failed leaves nothing behind here, so all codes are final but
// for `Busy` and a locked volume, where another call is still at work on the target, and what an external provider says. Apart from that the codes are the reference's.

impl From<PublishError> for Status {
    fn from(error: PublishError) -> Self {
        let code = match &error {
            PublishError::Request(_) | PublishError::NotReadOnly { .. } => Code::InvalidArgument,
            PublishError::Mount { step: MountError::Volume { cause }, .. } if !cause.is_final() => {
                Code::Aborted
            }
            // What the provider answered is passed on, as with the reference, non-final codes too: nothing is left behind.
            PublishError::Mount { step: MountError::Provider { cause, .. }, .. } => cause.code(),
            PublishError::NoClass { .. }
            | PublishError::NoPodInfo { .. }
            | PublishError::Class { .. }
            | PublishError::NoProvider { .. }
            | PublishError::NoParameters { .. }
            | PublishError::Mount { .. } => Code::Unknown,
            PublishError::Busy { .. } => Code::Aborted,
            PublishError::Internal { .. } => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<UnpublishError> for Status {
    fn from(error: UnpublishError) -> Self {
        let code = match &error {
            UnpublishError::Request(_) => Code::InvalidArgument,
            UnpublishError::Volume(cause) if !cause.is_final() => Code::Aborted,
            UnpublishError::Volume(_) | UnpublishError::Internal { .. } => Code::Internal,
            UnpublishError::Busy { .. } => Code::Aborted,
        };
        Self::new(code, error.to_string())
    }
}

/// How a task of ours ended that did not end by itself. What a panic said is not repeated here: it may quote what was being
/// worked on, and this goes into events.
pub fn ended(failure: &tokio::task::JoinError) -> String {
    if failure.is_panic() { "a task panicked".to_owned() } else { "a task was stopped".to_owned() }
}

/// An error and everything that caused it, in one line: `outer: middle: inner`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many libraries repeat their cause in their own message.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
