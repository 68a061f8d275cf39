//! What validation finds, and the rules by which it does.

use std::ops::Range;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; never changes the exit code.
    Note,
    /// Surely not what was meant, but it mounts.
    Warning,
    /// It does not mount, or the API server refuses it.
    Error,
}

impl Severity {
    /// The word for it, which is also SARIF's.
    pub fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Where something is, as characters of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index of the source.
    pub source: usize,
    /// Its characters there.
    pub span: Range<usize>,
}

/// One thing that was found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// By which rule.
    pub rule: Rule,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    pub place: Place,
    /// The object it is in, as `Kind namespace/name`; empty where that could not be read.
    pub object: String,
    /// Path of the field in the object.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to write instead; may be empty.
    pub cure: String,
}

/// Defines the rules: name, identifier, severity, meaning.
macro_rules! rules {
    ($($(#[$meta:meta])* $name:ident = $id:literal, $severity:ident, $about:literal;)*) => {
        /// A rule of validation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $about] $name,)*
        }

        impl Rule {
            /// All rules, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its identifier, which stays the same from version to version.
            pub fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// How bad it is what this rule finds.
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// What it finds, in one sentence.
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => $about,)* }
            }
        }
    };
}

rules! {
    Yaml = "yaml", Error, "The text is not YAML.";
    NotString = "not-a-string", Error, "A value that has to be a string is something else, so the API server refuses the object.";
    BadClass = "bad-class", Error, "The driver refuses the class; the message is the one of the pod's event.";
    ClassTwice = "class-twice", Error, "Two classes have one name in one namespace.";
    FileConflict = "file-conflict", Error, "One path would have to be a file and a folder.";
    VersionLatest = "version-latest", Error, "objectVersion `latest` has a meaning only with an objectVersionHistory; else Key Vault is asked for a version of this name.";
    BadVolume = "bad-volume", Error, "The driver refuses the pod's volume.";
    OtherNamespace = "other-namespace", Error, "The class is in another namespace than the pod.";
    NoCredentials = "no-credentials", Error, "The class names no identity, and the pod brings none.";
    BadCredentials = "bad-credentials", Error, "The Secret of nodePublishSecretRef lacks what the driver needs.";
    BadDriver = "bad-csidriver", Error, "With this CSIDriver object no volume can be mounted.";
    DuplicateKey = "duplicate-key", Warning, "A key is written twice, and only the last one counts.";
    UnknownField = "unknown-field", Warning, "A field that does not exist, so it is dropped.";
    UnreadParameter = "unread-parameter", Warning, "A parameter that is not read, and looks like one that is.";
    UnreadObjectField = "unread-object-field", Warning, "A field of an object that is not read.";
    IgnoredParameter = "ignored-parameter", Warning, "A parameter without effect beside the others.";
    NoIdentity = "no-identity", Warning, "The class names no identity, and nothing shows that pods bring one.";
    IdentityOfAccount = "identity-of-account", Warning, "The class mounts only for service accounts that are annotated with a client or tenant id.";
    OddId = "odd-id", Warning, "A client or tenant id that does not look like one.";
    OddVault = "odd-vault", Warning, "A vault name that Key Vault does not give.";
    OddObjectName = "odd-object-name", Warning, "An object name that Key Vault does not give.";
    OddVersion = "odd-version", Warning, "A version that does not look like one.";
    OddHistory = "odd-history", Warning, "An objectVersionHistory without effect.";
    OddMode = "odd-mode", Warning, "A filePermission that loses bits, or that nobody can read.";
    IgnoredFormat = "ignored-format", Warning, "An objectFormat without effect.";
    BadInterval = "bad-interval", Warning, "A rotationPollInterval that cannot be read, so the driver's own is used.";
    NoCloudFile = "no-cloud-file", Warning, "AzureStackCloud without cloudEnvFileName works only where the driver has a default.";
    SamePath = "same-path", Warning, "Two objects write one file; the last one wins.";
    SyncedSecret = "synced-secret", Warning, "An entry of secretObjects that cannot be synced.";
    SyncedFile = "synced-file", Warning, "secretObjects names a file that no object makes.";
    SyncedTls = "synced-tls", Warning, "A kubernetes.io/tls secret from an object that is not key and certificate in one.";
    SubPath = "sub-path", Warning, "A subPath mount keeps its first content for ever.";
    SubPathFile = "sub-path-file", Warning, "A subPath that no object makes.";
    UnusedSecretRef = "unused-secret-ref", Warning, "A nodePublishSecretRef that the class's identity does not use.";
    ReservedAttribute = "reserved-attribute", Warning, "A volume attribute that the kubelet overwrites.";
    EnvKey = "env-key", Warning, "A variable from a key that the synced secret does not have.";
    EnvWithoutVolume = "env-without-volume", Warning, "A variable from a synced secret in a pod that does not mount the class.";
    EnvNearMiss = "env-near-miss", Warning, "A variable from a secret whose name is almost that of a synced one.";
    TokenRequests = "token-requests", Warning, "The CSIDriver object lacks a token audience that a class needs.";
    DriverOption = "csidriver-option", Warning, "A CSIDriver option that takes something away from volumes.";
    SecretNewline = "secret-newline", Warning, "A credential that ends with a line break, which counts.";
    OtherProvider = "other-provider", Note, "A class of another provider, which is not checked.";
    UnknownParameter = "unknown-parameter", Note, "A parameter that is not read.";
    ClassNotGiven = "class-not-given", Note, "The class of a volume is not among the files.";
    SecretNotGiven = "secret-not-given", Note, "The Secret of a volume is not among the files.";
    HistoryPlusOne = "history-plus-one", Note, "objectVersionHistory N makes up to N+1 files.";
    PfxText = "pfx-text", Note, "A PFX is written as base64 text unless objectEncoding says base64.";
}

/// Puts findings into the order of the files, and what was found once for each pod of a class down to one.
pub fn settle(findings: &mut Vec<Finding>) {
    let mut seen = std::collections::HashSet::new();
    findings.retain(|finding| {
        let Place { source, span } = &finding.place;
        seen.insert((
            finding.rule,
            *source,
            span.start,
            span.end,
            finding.field.clone(),
            finding.problem.clone(),
        ))
    });
    findings.sort_by_key(|finding| {
        (finding.place.source, finding.place.span.start, std::cmp::Reverse(finding.severity), finding.rule)
    });
}
