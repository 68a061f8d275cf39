//! As whom a pod asks: what the class wants of it, and what the pod, its Secret and the CSIDriver bring.

use super::finding::{Finding, Rule};
use super::input::{Input, PodTemplate, Volume};
use super::manifest::Manifest;
use super::view::{View, below};
use crate::csi::request::PublishRequest;
use crate::plan::{MountPlan, PlannedIdentity};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use identity::{AUDIENCE_IDENTITY_BINDING, CloudChoice};
use std::collections::BTreeMap;

/// One value of a Secret.
#[derive(Debug, Clone)]
pub struct Datum {
    /// Path of the value in the Secret.
    pub path: String,
    /// The value; empty where it is no text.
    pub text: String,
    /// Whether it is written in base64 that cannot be decoded.
    pub broken: bool,
}

/// What is in a Secret; `stringData` wins over `data`.
pub fn data(secret: &Manifest) -> BTreeMap<String, Datum> {
    let mut found = BTreeMap::new();
    for field in ["data", "stringData"] {
        for (key, value) in secret.root.get(field).iter().flat_map(View::entries) {
            let (Some(key), Some(text)) = (key.text(), value.text()) else { continue };
            let decoded = match field {
                "data" => STANDARD.decode(text.split_whitespace().collect::<String>()).ok(),
                _ => Some(text.as_bytes().to_vec()),
            };
            let broken = decoded.is_none();
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
            found.insert(key.to_owned(), Datum { path: below(field, key), text, broken });
        }
    }
    found
}

/// Looks at what a volume brings for the identity of its class.
#[allow(
    clippy::too_many_arguments,
    reason = "one question about one volume; a struct for it would be made and taken apart here"
)]
pub fn check(
    class: &Manifest,
    parameters: &BTreeMap<String, String>,
    identity: &PlannedIdentity,
    request: &PublishRequest,
    usage: Option<(&PodTemplate, &Volume)>,
    account_unknown: bool,
    input: &Input,
    findings: &mut Vec<Finding>,
) {
    let secret = usage.and_then(|(pod, volume)| Some((pod, volume, volume.secret.as_deref()?)));
    match (identity, secret) {
        (PlannedIdentity::ServicePrincipal { .. }, Some((pod, volume, name))) => {
            if let Some(secret) = input.secret_of(pod, name) {
                of_secret(secret, findings);
            } else {
                let problem = format!("Secret {name} is not among the files, so its keys are not checked");
                let cure = "it needs clientid and clientsecret (or clientcertificate)";
                let path = format!("{}.nodePublishSecretRef", volume.path);
                findings.push(pod.manifest.finding(Rule::SecretNotGiven, &path, problem, cure));
            }
        }
        (PlannedIdentity::ServicePrincipal { .. }, None) => {
            let cure = MountPlan::identity_cure(parameters, request);
            let problem = "failed to get credentials, nodePublishSecretRef secret is not set";
            match usage {
                Some((pod, volume)) if !account_unknown => {
                    let problem = format!("failed to build auth config for mode None: {problem}");
                    findings.push(pod.manifest.finding(Rule::NoCredentials, &volume.path, problem, cure));
                }
                Some((pod, volume)) => {
                    let account = pod.service_account();
                    let problem = format!(
                        "{problem}: this mounts only if ServiceAccount {account}, which is not among the files, is annotated with \
                         azure.workload.identity/client-id"
                    );
                    findings.push(pod.manifest.finding(Rule::NoIdentity, &volume.path, problem, cure));
                }
                None => {
                    let problem = "the class names no identity: it mounts only for pods with a nodePublishSecretRef or an annotated \
                                   service account";
                    findings.push(class.finding(Rule::NoIdentity, "spec.parameters", problem, cure));
                }
            }
        }
        (_, Some((pod, volume, _))) => {
            let mode = match identity {
                PlannedIdentity::Vm(_) => "an identity of the VM",
                PlannedIdentity::TokenProxy { .. } => "an identity binding",
                _ => "workload identity",
            };
            let problem = format!("nodePublishSecretRef is not used: {class} asks with {mode}");
            let cure = "remove it, or take the other identity out of the class";
            let path = format!("{}.nodePublishSecretRef", volume.path);
            findings.push(pod.manifest.finding(Rule::UnusedSecretRef, &path, problem, cure));
        }
        _ => {}
    }
}

fn of_secret(secret: &Manifest, findings: &mut Vec<Finding>) {
    let data = data(secret);
    for (key, datum) in &data {
        if datum.broken {
            let problem = format!("{key} is not base64: the API server refuses the Secret");
            let cure = "encode it (printf %s VALUE | base64), or move it into stringData";
            findings.push(secret.finding(Rule::BadCredentials, &datum.path, problem, cure));
        }
        let counts = ["clientid", "clientsecret"].iter().any(|known| key.eq_ignore_ascii_case(known));
        if counts && datum.text.ends_with('\n') {
            let problem = format!("{key} ends with a line break, which is sent to Entra as part of it");
            let cure = "encode it without one: printf %s VALUE | base64";
            findings.push(secret.finding(Rule::SecretNewline, &datum.path, problem, cure));
        }
    }
    let pairs = data.iter().map(|(key, datum)| (key.as_str(), datum.text.as_str()));
    if let Err(error) = identity::service_principal_from_secrets(pairs) {
        let cure = "give it clientid and clientsecret (or clientcertificate)";
        let path = if secret.root.get("stringData").is_some() { "stringData" } else { "data" };
        findings.push(secret.finding(Rule::BadCredentials, path, error.to_string(), cure));
    }
}

/// Whether the CSIDriver lets the kubelet send the token that the class needs.
pub fn audiences(class: &Manifest, plan: &MountPlan, input: &Input, findings: &mut Vec<Finding>) {
    let needed: Vec<&str> = match (&plan.identity, &plan.cloud.choice) {
        (PlannedIdentity::TokenProxy { .. }, _) => vec![AUDIENCE_IDENTITY_BINDING],
        (_, CloudChoice::Known(cloud)) => cloud.token_audiences().to_vec(),
        (_, CloudChoice::File) => vec![identity::AUDIENCE_PUBLIC],
    };
    for driver in &input.drivers {
        let requests = driver.root.spot("spec.tokenRequests").found;
        let has = |audience: &&str| {
            requests.iter().flat_map(View::items).any(|request| request.text_of("audience") == *audience)
        };
        if !needed.iter().any(has) {
            let audience = needed.first().copied().unwrap_or_default();
            let problem = format!(
                "the kubelet sends no token for audience {audience}, which {class} needs: service account tokens not found"
            );
            let cure = format!("add `- audience: {audience}` to spec.tokenRequests");
            findings.push(driver.finding(Rule::TokenRequests, "spec.tokenRequests", problem, cure));
        }
    }
}
