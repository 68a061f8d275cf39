//! A service-account token for the examined pod: from a file, or from the API server.

use super::case::Case;
use super::context::Context;
use super::finding::{Check, Finding};
use super::within;
use crate::error::chain;
use identity::{AUDIENCE_IDENTITY_BINDING, Assertion, Cloud};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::{Api, PostParams};
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use std::path::Path;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

/// The shortest life that the API server grants.
const SECONDS: i64 = 600;

/// Tokens as the kubelet would send them, and where they are from.
pub(super) struct Sent {
    /// JSON by audience.
    pub json: SecretString,
    /// In words.
    pub from: String,
}

/// Gets the tokens that the kubelet would send for a pod.
///
/// # Errors
/// The finding that says why there are none.
pub(super) async fn of(
    context: &Context,
    case: &Case,
    cloud: &Cloud,
    binding: bool,
) -> Result<Sent, Finding> {
    if let Some(file) = &context.arguments.token_file {
        return of_file(file);
    }
    let account = &case.request.pod.service_account;
    let cure = "give it one: --token-file with a projected token, or --kubeconfig of somebody who may create \
                serviceaccounts/token (kubectl create token NAME --audience api://AzureADTokenExchange makes one for a file)";
    let client = match &context.kubernetes {
        Some(Ok(client)) => client,
        Some(Err(error)) => {
            return Err(Finding::skipped(Check::Token, format!("no token to show: {error}"), Some(cure)));
        }
        None => {
            let text = "no token to show: in standalone mode there is no API server to ask for one";
            return Err(Finding::skipped(Check::Token, text, Some(cure)));
        }
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &case.class.namespace);
    let mut by_audience = Map::new();
    for audience in audiences(context, client, cloud, binding).await {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.clone()],
                expiration_seconds: Some(SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let parameters = PostParams::default();
        let asking = accounts.create_token_request(account, &parameters, &request);
        let answer =
            within(context.arguments.timeout, Check::Token, "asking the API server for a token", asking)
                .await?;
        match answer.map(|answer| answer.status) {
            Ok(Some(status)) => {
                let expires = serde_json::to_value(&status.expiration_timestamp).unwrap_or_default();
                by_audience.insert(audience, json!({"token": status.token, "expirationTimestamp": expires}));
            }
            Ok(None) => {}
            Err(kube::Error::Api(status)) if status.code == 403 => {
                let text = format!(
                    "no token to show: whoever runs this may not create tokens of {}/{account}",
                    case.class.namespace
                );
                return Err(Finding::skipped(Check::Token, text, Some(cure)));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let text = format!("there is no service account {}/{account}", case.class.namespace);
                return Err(Finding::failed(
                    Check::Token,
                    text,
                    "create it, or correct --service-account or the pod's serviceAccountName",
                ));
            }
            Err(error) => {
                let text = format!("no token to show: {}", chain(&error));
                return Err(Finding::failed(Check::Token, text, cure));
            }
        }
    }
    let json = Zeroizing::new(Value::Object(by_audience).to_string());
    Ok(Sent { json: SecretString::from(json.as_str()), from: "made by the API server for this".to_owned() })
}

/// The audiences that the kubelet asks for, which the CSIDriver object lists; where that cannot be read, the one that is needed.
async fn audiences(context: &Context, client: &kube::Client, cloud: &Cloud, binding: bool) -> Vec<String> {
    let name = context.node.as_ref().map_or("", |node| node.driver_name.as_str());
    let drivers: Api<CSIDriver> = Api::all(client.clone());
    let read = tokio::time::timeout(context.arguments.timeout, drivers.get(name)).await;
    let listed = read.ok().and_then(Result::ok).and_then(|driver| driver.spec.token_requests);
    let needed = if binding {
        AUDIENCE_IDENTITY_BINDING
    } else {
        cloud.token_audiences().first().copied().unwrap_or_default()
    };
    match listed {
        Some(listed) if !listed.is_empty() => listed.into_iter().map(|request| request.audience).collect(),
        _ => vec![needed.to_owned()],
    }
}

fn of_file(file: &Path) -> Result<Sent, Finding> {
    let cure =
        "give it the file of a projected service-account token: one line, three parts with dots between";
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text =
        text.map_err(|error| Finding::failed(Check::Token, format!("{}: {error}", file.display()), cure))?;
    let jwt = text.trim();
    let assertion = Assertion::new(String::new(), SecretString::from(jwt), None);
    let Some(claims) = assertion.claims() else {
        return Err(Finding::failed(
            Check::Token,
            format!("{} holds no service-account token", file.display()),
            cure,
        ));
    };
    let expires = claims.expires.and_then(|expires| expires.format(&Rfc3339).ok());
    let entry = json!({"token": jwt, "expirationTimestamp": expires});
    let by_audience: Map<String, Value> =
        claims.audiences.iter().map(|audience| (audience.clone(), entry.clone())).collect();
    let json = Zeroizing::new(Value::Object(by_audience).to_string());
    Ok(Sent { json: SecretString::from(json.as_str()), from: format!("in {}", file.display()) })
}
