//! The cluster: API server, CSIDriver object, custom resources, permissions.

use super::context::Context;
use super::finding::{Check, Finding};
use super::{crds, network, within};
use crate::class::GROUP;
use crate::cli::NodeArgs;
use crate::error::chain;
use axum::http::Request;
use axum::http::header::DATE;
use futures::future::join_all;
use identity::{AUDIENCE_IDENTITY_BINDING, AUDIENCE_PUBLIC};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};
use kube::api::{Api, PostParams};
use kube::client::Body;
use kube::{Client, ResourceExt};
use std::collections::BTreeMap;
use std::time::SystemTime;

const APPLY: &str = "helm upgrade the chart, or kubectl apply -f the manifests of this version";

/// What the driver does at the API server.
struct Right {
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    /// What it is for, and whether these flags ask for it.
    reason: &'static str,
    /// Whether mounts fail without it.
    essential: bool,
    needed: fn(&NodeArgs) -> bool,
}

const RIGHTS: &[Right] = &[
    Right {
        group: GROUP,
        resource: "secretproviderclasses",
        verbs: &["get", "list", "watch"],
        reason: "to read classes",
        essential: true,
        needed: |_| true,
    },
    Right {
        group: "",
        resource: "serviceaccounts",
        verbs: &["get"],
        reason: "for classes that leave clientID or tenantId to the service account's annotations",
        essential: true,
        needed: |_| true,
    },
    Right {
        group: GROUP,
        resource: "secretproviderclasspodstatuses",
        verbs: &["create", "get", "list", "update", "watch"],
        reason: "to tell what each pod has mounted",
        essential: false,
        needed: |_| true,
    },
    Right {
        group: "",
        resource: "events",
        verbs: &["create", "patch"],
        reason: "to tell at the pod what went wrong",
        essential: false,
        needed: |_| true,
    },
    Right {
        group: "",
        resource: "pods",
        verbs: &["get"],
        reason: "to know whether a pod is still there",
        essential: false,
        needed: |_| true,
    },
    Right {
        group: "",
        resource: "nodes",
        verbs: &["get", "patch"],
        reason: "to remove the startup taint",
        essential: false,
        needed: |node| node.startup_taint.is_some(),
    },
];

/// Everything that is looked at in the cluster.
pub(super) async fn examine(context: &Context) -> Vec<Finding> {
    let client = match &context.kubernetes {
        None => {
            let text = "standalone mode: classes come from a folder, and no API server is asked";
            return [Check::Apiserver, Check::Csidriver, Check::Crds, Check::Rbac]
                .map(|check| Finding::skipped(check, text, None))
                .into();
        }
        Some(Err(error)) => {
            let cure = "run it in a pod of the cluster, or give it --kubeconfig";
            return vec![Finding::failed(Check::Apiserver, error, cure)];
        }
        Some(Ok(client)) => client,
    };
    let mut findings = api_server(context, client).await;
    if findings.iter().any(|finding| finding.check == Check::Apiserver && finding.cure.is_some()) {
        // One reason is enough; the rest would only repeat it.
        return findings;
    }
    findings.extend(csi_driver(context, client).await);
    findings.extend(crds::examine(context, client).await);
    findings.push(permissions(context, client).await);
    findings
}

async fn api_server(context: &Context, client: &Client) -> Vec<Finding> {
    let cure = "let the node reach the API server (KUBERNETES_SERVICE_HOST, network policy), or correct the kubeconfig";
    let (time, check) = (context.arguments.timeout, Check::Apiserver);
    let sent = SystemTime::now();
    let Ok(request) = Request::get("/version").body(Body::empty()) else { return Vec::new() };
    let answer = match within(time, check, "asking the API server", client.send(request)).await {
        Err(finding) => return vec![finding],
        Ok(Err(error)) => {
            return vec![Finding::failed(
                check,
                format!("the API server is not reached: {}", chain(&error)),
                cure,
            )];
        }
        Ok(Ok(answer)) => answer,
    };
    let date = answer.headers().get(DATE).and_then(|value| value.to_str().ok());
    let clock = network::clock("the API server", date, sent);
    let version = within(time, check, "asking the API server", client.apiserver_version()).await;
    let finding = match version {
        Err(finding) => finding,
        Ok(Err(error)) => Finding::failed(
            check,
            format!("the API server does not say its version: {}", chain(&error)),
            cure,
        ),
        Ok(Ok(version)) => {
            let text = format!("Kubernetes {} answers", version.git_version);
            let minor: u32 = version.minor.trim_end_matches('+').parse().unwrap_or(u32::MAX);
            if version.major == "1" && minor < 30 {
                Finding::warning(check, text, "akv-csi is tested from Kubernetes 1.30 on")
            } else {
                Finding::ok(check, text)
            }
        }
    };
    vec![finding, clock]
}

async fn csi_driver(context: &Context, client: &Client) -> Vec<Finding> {
    let name = context.node.as_ref().map_or("", |node| node.driver_name.as_str());
    let (time, check) = (context.arguments.timeout, Check::Csidriver);
    let drivers: Api<CSIDriver> = Api::all(client.clone());
    match within(time, check, "reading the CSIDriver object", drivers.get(name)).await {
        Err(finding) => vec![finding],
        Ok(Ok(driver)) => {
            let rotation = context.node.as_ref().is_ok_and(|node| node.enable_secret_rotation.is_on());
            let chart = context.status.as_ref().ok().and_then(|status| status.chart_version.as_deref());
            let mut findings = fields_of(name, &driver.spec, rotation);
            findings.extend(owner_of(name, driver.labels(), chart));
            findings
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => vec![Finding::skipped(
            check,
            "whoever runs this may not read CSIDriver objects",
            Some("grant get on csidrivers.storage.k8s.io, or use another --kubeconfig"),
        )],
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => vec![Finding::failed(
            check,
            format!("there is no CSIDriver {name}: no pod can mount its volumes"),
            APPLY,
        )],
        Ok(Err(error)) => vec![Finding::failed(check, chain(&error), APPLY)],
    }
}

/// What a CSIDriver object says against what the driver needs.
fn fields_of(name: &str, spec: &CSIDriverSpec, rotation: bool) -> Vec<Finding> {
    let check = Check::Csidriver;
    let faults = faults_of(spec, rotation);
    let mut findings = Vec::new();
    if !faults.is_empty() {
        findings.push(Finding::failed(check, format!("CSIDriver {name}: {}", faults.join("; ")), APPLY));
    }
    let policy = spec.fs_group_policy.as_deref().unwrap_or("ReadWriteOnceWithFSType");
    if policy != "File" {
        let text = format!(
            "CSIDriver {name}: fsGroupPolicy is {policy}, not File: a kubelet that does not hand a pod's fsGroup to the driver \
             leaves the files to root"
        );
        findings.push(Finding::warning(check, text, APPLY));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(check, format!("CSIDriver {name} says what the driver needs")));
    }
    findings
}

/// Whose the CSIDriver object is by its labels. It is one object for the cluster, so it shows a release that was left behind, and
/// an upgrade that has not come to this node.
fn owner_of(name: &str, labels: &BTreeMap<String, String>, chart: Option<&str>) -> Option<Finding> {
    let check = Check::Version;
    if let Some(other) = labels.get("helm.sh/chart").filter(|label| !label.starts_with("akv-csi-")) {
        return Some(Finding::warning(
            check,
            format!("CSIDriver {name} belongs to the chart {other}, not to akv-csi's"),
            "take that release over with helm upgrade, as docs/migration.md says; uninstalling it would take the object away",
        ));
    }
    let (object, chart) = (labels.get("app.kubernetes.io/version")?, chart?);
    (object != chart).then(|| {
        Finding::warning(
            check,
            format!("the cluster's objects are of chart {object}, and this node's driver was started by chart {chart}"),
            "see whether the DaemonSet's update gets on: kubectl -n kube-system rollout status daemonset -l app=secrets-store-csi-driver",
        )
    })
}

/// What a CSIDriver object lacks.
fn faults_of(spec: &CSIDriverSpec, rotation: bool) -> Vec<String> {
    let mut faults = Vec::new();
    if spec.pod_info_on_mount != Some(true) {
        faults
            .push("podInfoOnMount is not true, so the driver is not told whose volume it mounts".to_owned());
    }
    if rotation && spec.requires_republish != Some(true) {
        faults.push("requiresRepublish is not true, so nothing is rotated".to_owned());
    }
    if spec.attach_required != Some(false) {
        faults.push("attachRequired is not false, so pods wait for an attachment that never comes (it cannot be changed: delete the object first)".to_owned());
    }
    if !spec.volume_lifecycle_modes.iter().flatten().any(|mode| mode == "Ephemeral") {
        faults.push("volumeLifecycleModes lacks Ephemeral, so inline volumes are refused (it cannot be changed: delete the object first)".to_owned());
    }
    let audiences: Vec<&str> =
        spec.token_requests.iter().flatten().map(|request| request.audience.as_str()).collect();
    let federated = audiences.iter().any(|audience| audience.starts_with(AUDIENCE_PUBLIC));
    if !federated && !audiences.contains(&AUDIENCE_IDENTITY_BINDING) {
        let listed = if audiences.is_empty() { "none".to_owned() } else { audiences.join(", ") };
        faults.push(format!(
            "tokenRequests lists no audience for Azure ({listed}), so workload identity gets no token: {AUDIENCE_PUBLIC} is needed"
        ));
    }
    faults
}

async fn permissions(context: &Context, client: &Client) -> Finding {
    let check = Check::Rbac;
    let Ok(node) = &context.node else { return Finding::skipped(check, "the flags are not known", None) };
    let who = if context.arguments.kubeconfig.is_some() {
        "the caller of --kubeconfig"
    } else {
        "the service account"
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let wanted: Vec<(&Right, &str)> = RIGHTS
        .iter()
        .filter(|right| (right.needed)(node))
        .flat_map(|right| right.verbs.iter().map(move |verb| (right, *verb)))
        .collect();
    let parameters = PostParams::default();
    let asking = wanted.iter().map(|(right, verb)| {
        let attributes = ResourceAttributes {
            group: Some(right.group.to_owned()),
            resource: Some(right.resource.to_owned()),
            verb: Some((*verb).to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let (reviews, parameters) = (&reviews, &parameters);
        async move { reviews.create(parameters, &review).await }
    });
    let answers =
        match within(context.arguments.timeout, check, "asking what is allowed", join_all(asking)).await {
            Ok(answers) => answers,
            Err(finding) => return finding,
        };
    let (mut missing, mut essential) = (Vec::new(), false);
    for ((right, verb), answer) in wanted.iter().zip(answers) {
        match answer {
            Ok(review) if review.status.as_ref().is_some_and(|status| status.allowed) => {}
            Ok(_) => {
                missing.push(format!("{verb} {} ({})", right.resource, right.reason));
                essential |= right.essential;
            }
            Err(error) => {
                let text = format!("the API server does not say what is allowed: {}", chain(&error));
                return Finding::failed(check, text, "see that the service account's token is valid");
            }
        }
    }
    let cure = format!("{APPLY}: its ClusterRole grants them");
    let text = format!("{who} may not: {}", missing.join(", "));
    match (missing.is_empty(), essential) {
        (true, _) => Finding::ok(check, format!("{who} may do all {} things the driver does", wanted.len())),
        (false, true) => Finding::failed(check, text, cure),
        (false, false) => Finding::warning(check, text, cure),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn spec(change: serde_json::Value) -> CSIDriverSpec {
        let mut spec = serde_json::json!({
            "podInfoOnMount": true, "attachRequired": false, "requiresRepublish": true,
            "volumeLifecycleModes": ["Ephemeral"], "fsGroupPolicy": "File",
            "tokenRequests": [{"audience": AUDIENCE_PUBLIC}],
        });
        if let serde_json::Value::Object(change) = change {
            for (key, value) in change {
                spec[key] = value;
            }
        }
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn each_field_the_driver_needs_is_told_when_it_is_missing() {
        assert_eq!(faults_of(&spec(serde_json::json!({})), true), Vec::<String>::new());
        for (change, words) in [
            (serde_json::json!({"podInfoOnMount": false}), "podInfoOnMount"),
            (serde_json::json!({"requiresRepublish": null}), "requiresRepublish"),
            (serde_json::json!({"attachRequired": true}), "attachRequired"),
            (serde_json::json!({"volumeLifecycleModes": ["Persistent"]}), "Ephemeral"),
            (serde_json::json!({"tokenRequests": []}), "api://AzureADTokenExchange"),
            (serde_json::json!({"tokenRequests": [{"audience": "vault"}]}), "(vault)"),
        ] {
            let faults = faults_of(&spec(change), true);
            assert!(faults.len() == 1 && faults[0].contains(words), "{faults:?}");
        }
        assert!(faults_of(&spec(serde_json::json!({"requiresRepublish": false})), false).is_empty());
    }

    #[test]
    fn another_fs_group_policy_is_worth_a_look() {
        let verdicts =
            |change| fields_of("d", &spec(change), true).into_iter().map(|f| f.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(serde_json::json!({})), [Verdict::Ok]);
        assert_eq!(verdicts(serde_json::json!({"fsGroupPolicy": null})), [Verdict::Warning]);
        assert_eq!(
            verdicts(serde_json::json!({"fsGroupPolicy": "None", "podInfoOnMount": false})),
            [Verdict::Failed, Verdict::Warning]
        );
    }

    #[test]
    fn the_objects_labels_show_another_release_and_an_upgrade_under_way() {
        let owner = |labels: &[(&str, &str)], chart| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            owner_of("d", &labels, chart).map(|finding| finding.text)
        };
        let version = ("app.kubernetes.io/version", "2.0.0");
        assert_eq!(owner(&[("helm.sh/chart", "akv-csi-2.0.0"), version], Some("2.0.0")), None);
        assert_eq!(owner(&[version], None), None);
        let text = owner(&[version], Some("1.0.0")).unwrap();
        assert!(text.contains("chart 2.0.0") && text.contains("started by chart 1.0.0"), "{text}");
        let text = owner(&[("helm.sh/chart", "secrets-store-csi-driver-1.5.4")], Some("1.0.0")).unwrap();
        assert!(text.contains("secrets-store-csi-driver-1.5.4"), "{text}");
    }
}
