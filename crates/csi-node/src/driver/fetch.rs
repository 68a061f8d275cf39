//! Where a volume's content comes from: Key Vault, or a provider in a process of its own.

use super::{AZURE, Driver, Proven};
use crate::class::{ClassName, Parameters};
use crate::cloud_file;
use crate::credential::{self, PodCredential};
use crate::csi::request::PublishRequest;
use crate::error::MountError;
use crate::plan::{MountPlan, PlannedIdentity};
use crate::provider::ProviderName;
use crate::rotation::Freshness;
use crate::service_account::Annotations;
use crate::status::IdentityKind;
use identity::{Cloud, CloudChoice};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use trace::{Kind, Span};
use vault::{FetchRequest, Lease, ObjectVersion, VaultEndpoint};
use zeroize::Zeroizing;

/// The mode of files whose object has no `filePermission`.
const DEFAULT_MODE: u32 = 0o644;

/// What fetching leaves of a call's time for writing, answering and telling what went wrong.
const MARGIN: Duration = Duration::from_secs(1);

/// Where a volume's content came from.
#[derive(Debug)]
pub(super) enum Source {
    /// The provider that is built in.
    KeyVault {
        /// As whom it was fetched, for a refresh between two calls of the kubelet.
        held: Box<Held>,
        /// The vault's address.
        vault: String,
        /// Keeps the values it came from in the cache.
        _lease: Lease,
    },
    /// A provider in a process of its own.
    Provider(ProviderName),
}

impl Source {
    /// As what kind of identity it was fetched.
    pub(super) fn identity(&self) -> Option<IdentityKind> {
        match self {
            Self::KeyVault { held, .. } => Some(IdentityKind::from(&held.identity)),
            Self::Provider(_) => None,
        }
    }

    /// The provider's name, as classes give it.
    pub(super) fn provider(&self) -> &str {
        match self {
            Self::KeyVault { .. } => AZURE,
            Self::Provider(name) => name.as_str(),
        }
    }
}

/// Everything a volume is to show, and what is remembered of it.
pub(super) struct Fetched {
    /// Path, mode and bytes. Only an external provider can have none, which means that nothing changes.
    pub(super) files: Vec<(String, u32, Zeroizing<Vec<u8>>)>,
    pub(super) versions: Arc<[ObjectVersion]>,
    /// How many requests to Key Vault it took.
    pub(super) requests: u32,
    /// Why Key Vault could not be asked for all of it, so that older values stand in.
    pub(super) stale: Vec<String>,
    pub(super) source: Source,
    /// When the oldest part of it was what its source holds.
    pub(super) checked: Instant,
    pub(super) interval: Duration,
}

/// A credential and what it was made from.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) credential: PodCredential,
    pub(super) identity: PlannedIdentity,
    pub(super) cloud: Cloud,
}

/// How fresh the content of a volume has to be, and how its identity is proven.
pub(super) enum Demand<'a> {
    /// A call of the kubelet, with tokens and secrets, that takes values as fresh as this. The first one for a volume has no
    /// content to fall back on; what one that has content was proven to show may spare it the writing.
    Call { freshness: Freshness, first: bool, proven: Option<Proven> },
    /// A refresh in between, with the credential of the last call.
    Refresh { source: &'a Source },
}

impl Driver {
    /// Plan → token → objects.
    pub(super) async fn fetch_from_key_vault(
        &self,
        class: &ClassName,
        parameters: &Parameters,
        request: &PublishRequest,
        demand: &Demand<'_>,
        deadline: Instant,
    ) -> Result<Fetched, MountError> {
        let account = if MountPlan::leaves_identity_open(parameters, request) {
            self.annotations(request, deadline).await
        } else {
            Annotations::default()
        };
        let plan = MountPlan::parse(parameters, request, &self.settings.default_cloud, &account)
            .map_err(|faults| MountError::Plan { class: class.clone(), faults })?;
        let interval = plan.rotation_interval.unwrap_or(self.settings.schedule.interval);
        let cloud = self.cloud(class, &plan).await?;
        let (held, freshness) = match demand {
            Demand::Call { freshness, .. } => {
                let credential = self.credential(class, parameters, &plan, &cloud, request)?;
                (
                    Box::new(Held { credential, identity: plan.identity.clone(), cloud: cloud.clone() }),
                    *freshness,
                )
            }
            Demand::Refresh { source: Source::KeyVault { held, .. } }
                if held.identity == plan.identity && held.cloud == cloud =>
            {
                (held.clone(), Freshness::NOW)
            }
            Demand::Refresh { .. } => return Err(MountError::IdentityChanged { class: class.clone() }),
        };
        let endpoint =
            VaultEndpoint::new(&plan.vault, cloud.vault_dns_suffix(), Some(cloud.vault_endpoint()))
                .map_err(|fault| MountError::Address { class: class.clone(), fault })?;

        let asked = Instant::now();
        let fetch = FetchRequest {
            endpoint: &endpoint,
            credential: Arc::new(held.credential.clone()),
            objects: &plan.objects,
            rendering: self.settings.rendering,
            deadline: self.fetched_by(deadline),
            max_age: freshness.max_age,
            stale_if_error: freshness.stale_if_error,
            priority: freshness.priority,
        };
        let contents =
            self.vault.fetch(fetch).await.map_err(|cause| MountError::Fetch { class: class.clone(), cause });
        self.witnesses.metrics.calls.contents(contents.is_ok(), asked.elapsed());
        let contents = contents?;
        for failure in &contents.stale {
            let age_s = contents.asked.map(|asked| asked.elapsed().as_secs());
            tracing::warn!(
                pod = %request.pod, %class, age_s, object = failure.object, cause = failure.message,
                "Key Vault could not be asked: an older value, which this identity has fetched before, stands in"
            );
        }
        if contents.files.is_empty() {
            return Err(MountError::NothingSelected { class: class.clone() });
        }
        let files = contents.files.into_iter();
        Ok(Fetched {
            files: files.map(|file| (file.path, file.mode.unwrap_or(DEFAULT_MODE), file.contents)).collect(),
            versions: contents.versions.into(),
            requests: contents.requests,
            stale: contents.stale.into_iter().map(|failure| failure.message).collect(),
            source: Source::KeyVault { held, vault: endpoint.to_string(), _lease: contents.lease },
            // A value that another volume had fetched is as old here as it is there.
            checked: contents.asked.unwrap_or(asked),
            interval,
        })
    }

    /// Hands the whole job of fetching to a provider in a process of its own.
    pub(super) async fn fetch_from_provider(
        &self,
        class: &ClassName,
        name: &str,
        parameters: &BTreeMap<String, String>,
        request: &PublishRequest,
        demand: &Demand<'_>,
        deadline: Instant,
    ) -> Result<Fetched, MountError> {
        if let Demand::Refresh { .. } = demand {
            // It needs the pod's tokens and secrets, which are not kept.
            return Err(MountError::NeedsCall { class: class.clone(), provider: name.to_owned() });
        }
        let failed = |cause| MountError::Provider { class: class.clone(), cause };
        let provider = ProviderName::parse(name).map_err(failed)?;
        let asked = Instant::now();
        let mut span = Span::begin("v1alpha1.CSIDriverProvider/Mount", Kind::Client);
        span.tell("akv_csi.provider", name);
        let mount = self.providers.mount(&provider, parameters, request, self.fetched_by(deadline));
        let delivered = span.scope(mount).await.inspect_err(|error| span.fail(error)).map_err(failed)?;
        drop(span);
        Ok(Fetched {
            files: delivered.files,
            versions: delivered.versions.into(),
            requests: 0,
            stale: Vec::new(),
            source: Source::Provider(provider),
            checked: asked,
            interval: self.settings.schedule.interval,
        })
    }

    /// By when content has to be there: a call that waits for this one has to get its turn, and say what is wrong, before its
    /// own time ends.
    fn fetched_by(&self, deadline: Instant) -> Instant {
        deadline - (self.settings.timeout / 5).min(MARGIN)
    }

    /// What the pod's service account says about its identity. One that cannot be read says nothing: what is missing then is
    /// told as a fault of the class.
    pub(crate) async fn annotations(&self, request: &PublishRequest, deadline: Instant) -> Annotations {
        let pod = &request.pod;
        let read =
            timeout_at(deadline, self.accounts.annotations(&pod.namespace, &pod.service_account)).await;
        read.unwrap_or_else(|_| Err("no answer in time".to_owned())).unwrap_or_else(|error| {
            tracing::warn!(%pod, service_account = %pod.service_account, error, "the service account cannot be read");
            Annotations::default()
        })
    }

    /// The cloud of a plan; a custom one's file is read at each use, so that two classes never share a file by accident.
    pub(crate) async fn cloud(&self, class: &ClassName, plan: &MountPlan) -> Result<Cloud, MountError> {
        let cloud = match &plan.cloud.choice {
            CloudChoice::Known(cloud) => cloud.clone(),
            CloudChoice::File => {
                let Some(path) = plan.cloud.file.as_ref().or(self.settings.default_cloud_file.as_ref())
                else {
                    return Err(MountError::NoCloudFile { class: class.clone() });
                };
                let wrong = |cause| MountError::Cloud { class: class.clone(), cause };
                let file = path.clone();
                let bytes = tokio::task::spawn_blocking(move || cloud_file::read(&file))
                    .await
                    .unwrap_or_else(|failure| Err(std::io::Error::other(failure)))
                    .map_err(|error| wrong(Cloud::unreadable_file(path, &error)))?;
                Cloud::from_file(&bytes, self.settings.default_authority.as_deref()).map_err(wrong)?
            }
        };
        Ok(cloud)
    }

    /// As whom the vault is asked. Nothing is sent yet.
    pub(crate) fn credential(
        &self,
        class: &ClassName,
        parameters: &BTreeMap<String, String>,
        plan: &MountPlan,
        cloud: &Cloud,
        request: &PublishRequest,
    ) -> Result<PodCredential, MountError> {
        let refused = |cause: identity::Error| {
            let mode = match plan.identity {
                PlannedIdentity::Workload { .. } | PlannedIdentity::ServicePrincipal { .. } => "None",
                PlannedIdentity::TokenProxy { .. } => "AzureTokenProxy",
                PlannedIdentity::Vm(_) => "VMManagedIdentity",
            };
            let cure = match plan.identity {
                PlannedIdentity::ServicePrincipal { .. } if !request.names_principal => {
                    format!("; {}", MountPlan::identity_cure(parameters, request))
                }
                _ => String::new(),
            };
            MountError::Identity { class: class.clone(), mode, cause, cure }
        };
        self.settings.policy.admit_cloud(cloud.name()).map_err(refused)?;
        credential::of_plan(&self.tokens, &plan.identity, cloud, request).map_err(refused)
    }
}
