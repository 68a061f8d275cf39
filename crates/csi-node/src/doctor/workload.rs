//! One volume, step by step as a mount goes: class, plan, the way to Azure, token, objects.

use super::case::{self, Case};
use super::context::Context;
use super::finding::{Check, Finding};
use super::network::{self, Service};
use super::{tokens, within};
use crate::class::Parameters;
use crate::credential::PodCredential;
use crate::driver::Driver;
use crate::plan::{MountPlan, PlannedIdentity};
use crate::service_account::Annotations;
use crate::status::IdentityKind;
use azure_core::credentials::TokenCredential;
use futures::future::join_all;
use identity::{Cloud, TenantId};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;
use url::Url;
use vault::{Credential, FetchRequest, ObjectRequest, Priority, VaultEndpoint};

/// Everything up to the point where Azure is asked.
struct Planned {
    parameters: Parameters,
    plan: MountPlan,
    cloud: Cloud,
    endpoint: VaultEndpoint,
}

/// Examines the volumes asked for; without any, the way to Azure alone.
pub(super) async fn examine(context: &Context) -> Vec<Finding> {
    let driver = match &context.driver {
        Ok(driver) => driver,
        Err(error) => {
            let cure = "run it on a node or in a pod of the cluster, or give it --kubeconfig, or --secret-provider-classes DIR behind --";
            return vec![Finding::failed(Check::Class, error, cure)];
        }
    };
    let cases = match case::cases(context).await {
        Ok(cases) => cases,
        Err(finding) => return vec![finding],
    };
    if cases.is_empty() {
        let how = "--pod NAMESPACE/NAME, or --class NAMESPACE/NAME --service-account NAME";
        let mut findings = hosts(context, &known_hosts(context, driver)).await;
        for check in [Check::Class, Check::Token, Check::Objects] {
            findings.push(Finding::skipped(check, "no pod and no class was named", Some(how)));
        }
        return findings;
    }
    let mut findings = Vec::new();
    for case in &cases {
        findings.extend(volume(context, driver, case).await);
    }
    findings
}

async fn volume(context: &Context, driver: &Driver, case: &Case) -> Vec<Finding> {
    let planned = match plan(context, driver, case).await {
        Ok(planned) => planned,
        Err(findings) => return findings,
    };
    let kind = IdentityKind::from(&planned.plan.identity);
    let mut findings = vec![Finding::ok(
        Check::Class,
        format!(
            "{}: {} of vault {}, as {kind}",
            case.class,
            objects_of(&planned.plan.objects),
            planned.plan.vault.as_str()
        ),
    )];
    let mut wanted: Vec<(Url, Service)> = Vec::new();
    // The metadata service and the token proxy ask Entra themselves.
    if let PlannedIdentity::Workload { tenant, .. } | PlannedIdentity::ServicePrincipal { tenant } =
        &planned.plan.identity
    {
        match authority(&planned.cloud, tenant) {
            Ok(url) => wanted.push((url, Service::Authority)),
            Err(finding) => findings.push(finding),
        }
    }
    wanted.extend(vault_probe(planned.endpoint.url()).map(|url| (url, Service::Vault)));
    findings.extend(hosts(context, &wanted).await);
    match token(context, driver, case, &planned).await {
        Ok((credential, finding)) => {
            findings.push(finding);
            findings.extend(objects(context, driver, &planned, &credential).await);
        }
        Err(finding) => {
            findings.push(finding);
            findings.push(Finding::skipped(Check::Objects, "without a token nothing can be read", None));
        }
    }
    findings
}

/// Class → annotations → plan → cloud → address, as in a mount.
async fn plan(context: &Context, driver: &Driver, case: &Case) -> Result<Planned, Vec<Finding>> {
    let (class, request) = (&case.class, &case.request);
    let one = |finding| vec![finding];
    let bad = |text: String, cure: &str| vec![Finding::failed(Check::Class, text, cure)];
    if class.name.is_empty() {
        return Err(bad(
            "the pod's volume names no class".to_owned(),
            "set volumeAttributes.secretProviderClass",
        ));
    }
    let time = context.arguments.timeout;
    let spec =
        within(time, Check::Class, "reading the class", driver.classes().get(class)).await.map_err(one)?;
    let cure = "create the class in the pod's namespace, or let the driver read it (RBAC, folder)";
    let spec = spec.map_err(|error| bad(error.to_string(), cure))?.spec;
    if spec.provider.is_empty() || spec.parameters.is_empty() {
        let text = format!("{class} has no spec.provider or no spec.parameters");
        return Err(bad(
            text,
            "set spec.provider to azure and spec.parameters to keyvaultName, tenantId and objects",
        ));
    }
    if spec.provider != crate::driver::AZURE {
        let text = format!("{class} is of provider {:?}, which is a process of its own", spec.provider);
        return Err(vec![Finding::skipped(Check::Class, text, Some("look at that provider's log"))]);
    }
    let account = if MountPlan::leaves_identity_open(&spec.parameters, request) {
        driver.annotations(request, Instant::now() + time).await
    } else {
        Annotations::default()
    };
    let plan = MountPlan::parse(&spec.parameters, request, &driver.settings().default_cloud, &account);
    let plan = plan.map_err(|faults| {
        let finding = |fault: &vault::Fault| {
            let bare = vault::Fault { cure: String::new(), ..fault.clone() };
            Finding::failed(Check::Class, format!("{class}: {bare}"), fault.cure.clone())
        };
        faults.as_slice().iter().map(finding).collect::<Vec<_>>()
    })?;
    let cure = "correct cloudName and cloudEnvFileName of the class";
    let cloud = driver.cloud(class, &plan).await.map_err(|error| bad(error.to_string(), cure))?;
    let endpoint = VaultEndpoint::new(&plan.vault, cloud.vault_dns_suffix(), Some(cloud.vault_endpoint()))
        .map_err(|fault| bad(fault.to_string(), "correct keyvaultName and cloudName"))?;
    Ok(Planned { parameters: spec.parameters.clone(), plan, cloud, endpoint })
}

/// Asks for a token as the pod would.
async fn token(
    context: &Context,
    driver: &Driver,
    case: &Case,
    planned: &Planned,
) -> Result<(PodCredential, Finding), Finding> {
    let mut request = case.request.without_secrets();
    let binding = matches!(planned.plan.identity, PlannedIdentity::TokenProxy { .. });
    let mut from = String::new();
    match &planned.plan.identity {
        PlannedIdentity::Workload { .. } | PlannedIdentity::TokenProxy { .. } => {
            let sent = tokens::of(context, case, &planned.cloud, binding).await?;
            request.tokens = Some(sent.json);
            from = format!(", shown the token {}", sent.from);
        }
        PlannedIdentity::ServicePrincipal { .. } if case.has_secret => {
            let text = "the pod signs in with the Secret of its nodePublishSecretRef, which is not read here";
            return Err(Finding::skipped(
                Check::Token,
                text,
                Some("see the pod's own events, or akv-csi status on its node"),
            ));
        }
        PlannedIdentity::ServicePrincipal { .. } | PlannedIdentity::Vm(_) => {}
    }
    let cure = "correct the class, its identity or the CSIDriver object, as said here";
    let failed = |error: &dyn std::fmt::Display| Finding::of_error(Check::Token, error, cure);
    let credential = driver
        .credential(&case.class, &planned.parameters, &planned.plan, &planned.cloud, &request)
        .map_err(|error| failed(&error))?;
    let scope = format!("{}/.default", planned.endpoint.resource());
    let scopes = [scope.as_str()];
    let asking = credential.get_token(&scopes, None);
    let what = format!("asking {} for a token", credential.source());
    let answer = within(context.arguments.timeout, Check::Token, &what, asking).await?;
    let token = answer.map_err(|error| match identity::Error::find(&error) {
        Some(own) => failed(own),
        None => failed(&error),
    })?;
    let left = (token.expires_on - OffsetDateTime::now_utc()).whole_minutes();
    let text = format!(
        "{} gets a token from {}, good for {left} min{from}",
        credential.describe(),
        credential.source()
    );
    Ok((credential, Finding::ok(Check::Token, text)))
}

/// Fetches each object by itself, so that each has a line of its own. What comes back is dropped, and wiped, at once.
async fn objects(
    context: &Context,
    driver: &Driver,
    planned: &Planned,
    credential: &PodCredential,
) -> Vec<Finding> {
    let plan = &planned.plan;
    if context.arguments.no_fetch {
        let text = format!("{} not read, as asked for with --no-fetch", objects_of(&plan.objects));
        return vec![Finding::skipped(Check::Objects, text, None)];
    }
    let credential: Arc<dyn Credential> = Arc::new(credential.clone());
    let each = plan.objects.iter().map(|object| {
        let request = FetchRequest {
            endpoint: &planned.endpoint,
            credential: Arc::clone(&credential),
            objects: std::slice::from_ref(object),
            rendering: driver.settings().rendering,
            deadline: Instant::now() + context.arguments.timeout,
            max_age: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            priority: Priority::Mount,
        };
        async move {
            let name = format!("{}/{}", object.kind.as_str(), object.name);
            match driver.vault().fetch(request).await {
                Ok(contents) => {
                    let mut versions: Vec<&str> =
                        contents.versions.iter().map(|version| version.version.as_str()).collect();
                    versions.dedup();
                    let mut text = format!("{name} may be read: version {}", versions.join(", "));
                    let _ = write!(text, "; fetched from the vault and thrown away at once");
                    vec![Finding::ok(Check::Objects, text)]
                }
                Err(error) => error
                    .failures()
                    .iter()
                    .map(|failure| {
                        let text = failure.message.replacen(&format!("; {}", failure.cure), "", 1);
                        let cure = if failure.cure.is_empty() {
                            "correct the object, or its entry in the class".to_owned()
                        } else {
                            failure.cure.clone()
                        };
                        Finding::failed(Check::Objects, text, cure)
                    })
                    .collect(),
            }
        }
    });
    join_all(each).await.into_iter().flatten().collect()
}

fn objects_of(objects: &[ObjectRequest]) -> String {
    if objects.len() == 1 { "1 object".to_owned() } else { format!("{} objects", objects.len()) }
}

async fn hosts(context: &Context, wanted: &[(Url, Service)]) -> Vec<Finding> {
    join_all(wanted.iter().map(|(url, service)| network::host(context, url, *service)))
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// The authority of the default cloud, and the vaults that the running driver has asked.
fn known_hosts(context: &Context, driver: &Driver) -> Vec<(Url, Service)> {
    let choice = identity::CloudChoice::parse(&driver.settings().default_cloud);
    let cloud = match choice {
        Ok(identity::CloudChoice::Known(cloud)) => Some(cloud),
        _ => None,
    };
    let tenant = TenantId::parse("organizations").ok();
    let authority = cloud.zip(tenant).and_then(|(cloud, tenant)| authority(&cloud, &tenant).ok());
    let vaults: BTreeSet<Url> = context
        .status
        .iter()
        .flat_map(|status| &status.vaults)
        .filter_map(|vault| vault_probe(&Url::parse(&vault.vault).ok()?))
        .collect();
    let vaults = vaults.into_iter().map(|url| (url, Service::Vault));
    authority.map(|url| (url, Service::Authority)).into_iter().chain(vaults).collect()
}

/// A document of the authority that needs no sign-in.
fn authority(cloud: &Cloud, tenant: &TenantId) -> Result<Url, Finding> {
    let cure = "correct the cloud's activeDirectoryEndpoint";
    let authority = cloud.authority(tenant).map_err(|error| Finding::of_error(Check::Tls, &error, cure))?;
    let url = format!("{}/{}/v2.0/.well-known/openid-configuration", authority.origin(), tenant.as_str());
    Url::parse(&url).map_err(|error| Finding::failed(Check::Tls, format!("{url}: {error}"), cure))
}

/// A request of the vault's API without a token, which it answers by saying where to get one.
fn vault_probe(vault: &Url) -> Option<Url> {
    vault.join("secrets?api-version=7.4").ok()
}
