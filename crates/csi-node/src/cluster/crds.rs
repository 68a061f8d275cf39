//! Custom resource definitions. Left to Helm, those of another version or tool would stay as they are, or stop an installation.

use super::ClusterError;
use crate::kubernetes::said;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use std::time::{Duration, Instant};

/// The definitions of this version.
const MANIFESTS: [&str; 2] = [
    include_str!("../../../../deploy/crds/secrets-store.csi.x-k8s.io_secretproviderclasses.yaml"),
    include_str!("../../../../deploy/crds/secrets-store.csi.x-k8s.io_secretproviderclasspodstatuses.yaml"),
];
const FIELD_MANAGER: &str = "akv-csi";
/// Charts of years ago had the CRDs among their templates. Upgraded from there, Helm would delete them, and every class with
/// them, unless the live object says this.
const KEEP: (&str, &str) = ("helm.sh/resource-policy", "keep");
/// An API server serves a new CRD within a second.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Applies the CRDs and returns their names when the API server serves all of them.
///
/// They are applied by the server, and this version's word counts where another tool said something else: `kubectl apply`,
/// another chart's job, or Helm. Objects of these kinds are not touched.
///
/// Needs the RBAC rules `customresourcedefinitions: [create, get, patch]`.
///
/// # Errors
/// [`ClusterError::Apply`] and [`ClusterError::NotServed`].
pub async fn apply(client: &Client) -> Result<Vec<String>, ClusterError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut names = Vec::new();
    for mut crd in built_in()? {
        crd.annotations_mut().insert(KEEP.0.to_owned(), KEEP.1.to_owned());
        let name = crd.name_any();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &parameters, &Patch::Apply(&crd))
            .await
            .map_err(|error| ClusterError::Apply { name: name.clone(), cause: said(&error) })?;
        names.push(name);
    }
    for name in &names {
        wait_until_served(&api, name).await?;
    }
    Ok(names)
}

/// The definitions of this version, for classes and for status objects.
///
/// # Errors
/// [`ClusterError::Manifest`].
pub fn built_in() -> Result<Vec<CustomResourceDefinition>, ClusterError> {
    let read = |manifest: &str| {
        serde_saphyr::from_str(manifest).map_err(|error| ClusterError::Manifest(error.to_string()))
    };
    MANIFESTS.into_iter().map(read).collect()
}

async fn wait_until_served(api: &Api<CustomResourceDefinition>, name: &str) -> Result<(), ClusterError> {
    let started = Instant::now();
    loop {
        let reason = match api.get(name).await {
            Ok(crd) => match not_served(&crd) {
                None => return Ok(()),
                Some(reason) => reason,
            },
            Err(error) => said(&error),
        };
        if started.elapsed() >= LONGEST_WAIT {
            return Err(ClusterError::NotServed {
                name: name.to_owned(),
                waited_s: LONGEST_WAIT.as_secs(),
                reason,
            });
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Nothing where the CRD is established; else what its conditions say.
fn not_served(crd: &CustomResourceDefinition) -> Option<String> {
    let conditions = crd.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True") {
        return None;
    }
    let told: Vec<String> = conditions
        .iter()
        .map(|condition| {
            format!(
                "{}={} {}",
                condition.type_,
                condition.status,
                condition.message.as_deref().unwrap_or_default()
            )
        })
        .collect();
    Some(if told.is_empty() { "it has no conditions".to_owned() } else { told.join("; ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_built_in_definitions_serve_the_versions_of_today() {
        let plurals = ["secretproviderclasses", "secretproviderclasspodstatuses"];
        for (crd, plural) in built_in().unwrap().into_iter().zip(plurals) {
            assert_eq!(crd.name_any(), format!("{plural}.secrets-store.csi.x-k8s.io"));
            let served: Vec<_> =
                crd.spec.versions.iter().filter(|v| v.served).map(|v| v.name.as_str()).collect();
            assert_eq!(served, ["v1", "v1alpha1"]);
            // Both versions share one schema through a YAML anchor, which has to be followed.
            assert!(crd.spec.versions.iter().all(|version| version.schema.is_some()));
            assert!(not_served(&crd).is_some());
        }
    }
}
