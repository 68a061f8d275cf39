//! The objects that matter here, and who refers to whom.

use super::manifest::Manifest;
use super::view::View;
use crate::class::GROUP;
use crate::service_account::Annotations;
use std::collections::BTreeMap;

/// All objects of one run.
#[derive(Debug)]
pub struct Input {
    /// Name of the CSI driver, by which pods' volumes are recognised.
    pub driver_name: String,
    /// SecretProviderClasses.
    pub classes: Vec<Manifest>,
    /// Pods, and the pod templates of workloads.
    pub pods: Vec<PodTemplate>,
    /// ServiceAccounts.
    pub accounts: Vec<Manifest>,
    /// Secrets.
    pub secrets: Vec<Manifest>,
    /// CSIDrivers of this name.
    pub drivers: Vec<Manifest>,
}

/// A pod, or what a workload makes pods of.
#[derive(Debug)]
pub struct PodTemplate {
    /// The object it is in.
    pub manifest: Manifest,
    /// Path of the pod's spec in the object.
    pub path: String,
    /// The pod's spec.
    pub spec: View,
    /// Its volumes of our driver.
    pub volumes: Vec<Volume>,
}

/// A volume of our driver.
#[derive(Debug)]
pub struct Volume {
    /// Path of its `csi` in the object.
    pub path: String,
    /// The volume's name.
    pub name: String,
    /// The class it names; empty where it names none.
    pub class: String,
    /// Whether it says `readOnly: true`.
    pub read_only: bool,
    /// Its `volumeAttributes`.
    pub attributes: BTreeMap<String, String>,
    /// Name of its `nodePublishSecretRef`.
    pub secret: Option<String>,
}

/// Where workloads have their pod's spec.
const TEMPLATE: &str = "spec.template.spec";
const CRON_TEMPLATE: &str = "spec.jobTemplate.spec.template.spec";

impl Input {
    /// Sorts the objects by what they are.
    pub fn new(manifests: Vec<Manifest>, driver_name: &str) -> Self {
        let mut input = Self {
            driver_name: driver_name.to_owned(),
            classes: Vec::new(),
            pods: Vec::new(),
            accounts: Vec::new(),
            secrets: Vec::new(),
            drivers: Vec::new(),
        };
        for manifest in manifests {
            if manifest.is(GROUP, "SecretProviderClass") {
                input.classes.push(manifest);
            } else if manifest.is("", "ServiceAccount") {
                input.accounts.push(manifest);
            } else if manifest.is("", "Secret") {
                input.secrets.push(manifest);
            } else if manifest.is("storage.k8s.io", "CSIDriver") {
                if manifest.name == driver_name {
                    input.drivers.push(manifest);
                }
            } else if let Some(pod) = PodTemplate::of(manifest, driver_name) {
                input.pods.push(pod);
            }
        }
        input
    }

    /// The class of a pod's volume, if it is among the objects; one of the same namespace, if there are several.
    pub fn class_of(&self, pod: &PodTemplate, volume: &Volume) -> Option<&Manifest> {
        self.classes.iter().find(|class| class.name == volume.class && class.shares_namespace(&pod.manifest))
    }

    /// The volumes that use a class.
    pub fn uses_of(&self, class: &Manifest) -> Vec<(&PodTemplate, &Volume)> {
        let volumes = self.pods.iter().flat_map(|pod| pod.volumes.iter().map(move |volume| (pod, volume)));
        volumes
            .filter(|(pod, volume)| volume.class == class.name && class.shares_namespace(&pod.manifest))
            .collect()
    }

    /// What a pod's service account says about its identity; `None` where the account is not among the objects.
    pub fn annotations(&self, pod: &PodTemplate) -> Option<Annotations> {
        let name = pod.service_account();
        let account = self
            .accounts
            .iter()
            .find(|account| account.name == name && account.shares_namespace(&pod.manifest))?;
        let annotations = account.root.get("metadata").and_then(|metadata| metadata.get("annotations"));
        let texts = annotations.iter().flat_map(View::entries);
        let texts = texts.filter_map(|(key, value)| Some((key.text()?.to_owned(), value.text()?.to_owned())));
        Some(Annotations::of(&texts.collect()))
    }

    /// A Secret of a pod's namespace, if it is among the objects.
    pub fn secret_of(&self, pod: &PodTemplate, name: &str) -> Option<&Manifest> {
        self.secrets.iter().find(|secret| secret.name == name && secret.shares_namespace(&pod.manifest))
    }
}

impl PodTemplate {
    /// The pod in an object of any kind that has one where Pods and workloads have it.
    fn of(manifest: Manifest, driver_name: &str) -> Option<Self> {
        let path = match manifest.kind.as_str() {
            "Pod" => "spec",
            "CronJob" => CRON_TEMPLATE,
            _ => TEMPLATE,
        };
        let spec = manifest.root.spot(path).found.filter(View::is_mapping)?;
        let mut volumes = Vec::new();
        for (index, volume) in spec.get("volumes").iter().flat_map(View::items).enumerate() {
            let Some(csi) = volume.get("csi").filter(|csi| csi.text_of("driver") == driver_name) else {
                continue;
            };
            let attributes = csi.get("volumeAttributes");
            let texts = attributes.iter().flat_map(View::entries);
            let texts =
                texts.filter_map(|(key, value)| Some((key.text()?.to_owned(), value.text()?.to_owned())));
            let attributes: BTreeMap<_, _> = texts.collect();
            volumes.push(Volume {
                path: format!("{path}.volumes[{index}].csi"),
                name: volume.text_of("name").to_owned(),
                class: attributes.get("secretProviderClass").cloned().unwrap_or_default(),
                read_only: csi.is_true("readOnly"),
                attributes,
                secret: csi
                    .get("nodePublishSecretRef")
                    .map(|reference| reference.text_of("name").to_owned())
                    .filter(|name| !name.is_empty()),
            });
        }
        Some(Self { path: path.to_owned(), spec, volumes, manifest })
    }

    /// Name of the pod's service account.
    pub fn service_account(&self) -> &str {
        ["serviceAccountName", "serviceAccount"]
            .into_iter()
            .map(|key| self.spec.text_of(key))
            .find(|name| !name.is_empty())
            .unwrap_or("default")
    }

    /// The pod's containers of all kinds, with their paths.
    pub fn containers(&self) -> impl Iterator<Item = (String, View)> {
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |kind| {
            let list = self.spec.get(kind);
            let containers: Vec<_> = list.iter().flat_map(View::items).collect();
            let path = format!("{}.{kind}", self.path);
            containers
                .into_iter()
                .enumerate()
                .map(move |(index, container)| (format!("{path}[{index}]"), container))
        })
    }
}
