//! The custom resources as the API server serves them, against those that this version was built with.
//!
//! A definition may be older than the driver: Helm does not touch CRDs on an upgrade, and other tools bring their own. What it
//! does not know, the API server drops without a word. All is read by what every pod may read (discovery, OpenAPI) and by the
//! driver's own right to list; the definitions themselves are for administrators.

use super::context::Context;
use super::finding::{Check, Finding};
use super::within;
use crate::class::GROUP;
use crate::cluster::crds::built_in;
use crate::error::chain;
use axum::http::Request;
use axum::http::header::ACCEPT;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;
use serde_json::Value;

/// What the driver speaks, and what objects should be stored as.
const VERSION: &str = "v1";
const CURE: &str = "helm upgrade the chart, whose hook brings them up to date, or: akv-csi cluster apply-crds --kubeconfig FILE";
/// As `kubectl get` asks, for the columns.
const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Whether they are served, with every field and column.
pub(super) async fn examine(context: &Context, client: &Client) -> Vec<Finding> {
    let (time, check) = (context.arguments.timeout, Check::Crds);
    let crds = match built_in() {
        Ok(crds) => crds,
        Err(error) => {
            return vec![Finding::failed(
                check,
                error.to_string(),
                "this is a defect of akv-csi: please report it",
            )];
        }
    };
    let version = format!("{GROUP}/{VERSION}");
    let asking = client.list_api_group_resources(&version);
    let served = match within(time, check, "asking for the custom resources", asking).await {
        Err(finding) => return vec![finding],
        Ok(Err(error)) => {
            return vec![Finding::failed(check, format!("{version} is not served: {}", chain(&error)), CURE)];
        }
        Ok(Ok(served)) => served,
    };
    let lacking: Vec<&str> = crds.iter().map(plural).filter(|name| !has(&served, name)).collect();
    if !lacking.is_empty() {
        let text = format!("{version} lacks {}", lacking.join(" and "));
        return vec![Finding::failed(check, text, CURE)];
    }

    let mut findings = Vec::new();
    let (mut dropped, mut odd, mut unseen) = (Vec::new(), Vec::new(), Vec::new());
    odd.extend(
        crds.iter()
            .filter(|crd| is_stored_otherwise(crd, &served))
            .map(|crd| format!("objects of {} are stored as another version than {VERSION}", plural(crd))),
    );
    let path = format!("/openapi/v3/apis/{version}");
    match within(time, check, "reading the served fields", get(client, &path, "application/json")).await {
        Err(late) => findings.push(late),
        Ok(Err(error)) => unseen.push(format!("its fields: {error}")),
        Ok(Ok(document)) => dropped.extend(crds.iter().flat_map(|crd| dropped_fields(crd, &document))),
    }
    for crd in &crds {
        let path = format!("/apis/{version}/{}?limit=1&includeObject=None", plural(crd));
        match within(time, check, "reading the columns", get(client, &path, AS_TABLE)).await {
            Err(late) => findings.push(late),
            Ok(Err(error)) => unseen.push(format!("columns of {}: {error}", plural(crd))),
            Ok(Ok(table)) => {
                let columns = missing_columns(crd, &table);
                if !columns.is_empty() {
                    odd.push(format!("kubectl get {} does not show {}", plural(crd), columns.join(", ")));
                }
            }
        }
    }

    if !dropped.is_empty() {
        let text = format!("the CRDs are of another version: the API server drops {}", dropped.join(", "));
        findings.push(Finding::failed(check, text, CURE));
    }
    if !odd.is_empty() {
        let text = format!("the CRDs are of another version: {}", odd.join("; "));
        findings.push(Finding::warning(check, text, CURE));
    }
    if findings.is_empty() {
        let names: Vec<&str> = crds.iter().map(plural).collect();
        let text = format!("{} are served as {version}", names.join(" and "));
        let text = if unseen.is_empty() {
            format!("{text}, with the fields and columns of this version")
        } else {
            text
        };
        findings.push(Finding::ok(check, text));
    }
    if !unseen.is_empty() {
        let text = format!("not compared: {}", unseen.join("; "));
        findings.push(Finding::skipped(
            check,
            text,
            Some("use a --kubeconfig of somebody who may; right after a change of CRDs, try again"),
        ));
    }
    findings
}

/// An answer of the API server as it is.
async fn get(client: &Client, path: &str, accept: &str) -> Result<Value, String> {
    let request = Request::get(path).header(ACCEPT, accept).body(Vec::new());
    let request = request.map_err(|error| error.to_string())?;
    client.request::<Value>(request).await.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 404 => {
            "the API server does not publish them (yet)".to_owned()
        }
        kube::Error::Api(status) if status.code == 403 => "whoever runs this may not list them".to_owned(),
        error => chain(&error),
    })
}

fn plural(crd: &CustomResourceDefinition) -> &str {
    &crd.spec.names.plural
}

fn has(served: &APIResourceList, plural: &str) -> bool {
    served.resources.iter().any(|resource| resource.name == plural)
}

/// Discovery tells the stored version by a digest of its name: the first 8 bytes of SHA-256 of `GROUP/VERSION/KIND`.
fn is_stored_otherwise(crd: &CustomResourceDefinition, served: &APIResourceList) -> bool {
    let name = format!("{GROUP}/{VERSION}/{}", crd.spec.names.kind);
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let expected = digest.as_ref().get(..8).map(|start| STANDARD.encode(start));
    let told = served
        .resources
        .iter()
        .find(|resource| resource.name == plural(crd))
        .and_then(|resource| resource.storage_version_hash.clone())
        .filter(|hash| !hash.is_empty());
    told.is_some() && told != expected
}

/// Fields of the built-in definition that the served one does not have.
fn dropped_fields(crd: &CustomResourceDefinition, document: &Value) -> Vec<String> {
    let kind = &crd.spec.names.kind;
    let schemas = document.pointer("/components/schemas").and_then(Value::as_object);
    let served = schemas.into_iter().flatten().map(|(_, schema)| schema).find(|schema| {
        let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
        kinds.into_iter().flatten().any(|gvk| {
            gvk.get("kind").and_then(Value::as_str) == Some(kind)
                && gvk.get("version").and_then(Value::as_str) == Some(VERSION)
        })
    });
    let own = crd.spec.versions.iter().find(|version| version.name == VERSION);
    let own = own.and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    let (Some(served), Some(Ok(own))) = (served, own.map(serde_json::to_value)) else { return Vec::new() };
    let mut dropped = Vec::new();
    compare(&own, served, kind, &mut dropped);
    dropped
}

/// Goes down both schemas and notes the paths that only `own` has.
fn compare(own: &Value, served: &Value, path: &str, dropped: &mut Vec<String>) {
    if served.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) == Some(true) {
        return;
    }
    for (name, field) in own.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{name}");
        match served.get("properties").and_then(|properties| properties.get(name)) {
            Some(served) => compare(field, served, &path, dropped),
            None => dropped.push(path),
        }
    }
    for (below, mark) in [("items", "[]"), ("additionalProperties", ".*")] {
        match (own.get(below), served.get(below)) {
            (Some(own), Some(served)) => compare(own, served, &format!("{path}{mark}"), dropped),
            (Some(_), None) => dropped.push(format!("{path}{mark}")),
            (None, _) => {}
        }
    }
}

/// Columns of the built-in definition that a table of the API server does not have.
fn missing_columns<'a>(crd: &'a CustomResourceDefinition, table: &Value) -> Vec<&'a str> {
    let shown: Vec<&str> = table
        .get("columnDefinitions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|column| column.get("name")?.as_str())
        .collect();
    let own = crd.spec.versions.iter().find(|version| version.name == VERSION);
    let columns = own.and_then(|version| version.additional_printer_columns.as_deref()).unwrap_or_default();
    columns.iter().map(|column| column.name.as_str()).filter(|name| !shown.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_the_server_would_drop_is_told() {
        let own = json!({"properties": {
            "a": {"type": "string"}, "list": {"items": {"properties": {"x": {}, "y": {}}}},
            "map": {"additionalProperties": {"type": "string"}}, "free": {"properties": {"z": {}}},
        }});
        let mut dropped = Vec::new();
        compare(&own, &own, "K", &mut dropped);
        assert!(dropped.is_empty(), "{dropped:?}");
        let served = json!({"properties": {
            "more": {}, "list": {"items": {"properties": {"x": {}}}}, "map": {"type": "object"},
            "free": {"x-kubernetes-preserve-unknown-fields": true},
        }});
        compare(&own, &served, "K", &mut dropped);
        assert_eq!(dropped, ["K.a", "K.list[].y", "K.map.*"]);
    }
}
