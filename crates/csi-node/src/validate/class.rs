//! SecretProviderClasses: what the driver itself says of them, and the traps it cannot see.

use super::finding::{Finding, Place, Rule};
use super::input::{Input, PodTemplate, Volume};
use super::manifest::Manifest;
use super::view::{View, below};
use super::{credentials, objects, spelling, sync};
use crate::class::Parameters;
use crate::csi::request::PublishRequest;
use crate::parameters::{self, PARAMETERS};
use crate::plan::{MountPlan, PlannedIdentity};
use crate::provider::ProviderName;
use crate::service_account::Annotations;
use identity::CloudChoice;
use proto::csi::{NodePublishVolumeRequest, VolumeCapability};
use std::collections::BTreeMap;
use std::sync::Arc;
use vault::{Fault, ObjectRequest, VaultEndpoint};

/// The provider that is built in.
const AZURE: &str = "azure";
/// The cloud of classes that name none, where the operator does not choose another.
const DEFAULT_CLOUD: &str = "AzurePublicCloud";

/// A pod's volume that uses the class.
type Use<'a> = (&'a PodTemplate, &'a Volume);

/// Looks at one class, together with the pods that use it.
pub fn check(class: &Manifest, input: &Input, findings: &mut Vec<Finding>) {
    let Some(spec) = class.root.get("spec").filter(View::is_mapping) else {
        findings.push(class.finding(
            Rule::BadClass,
            "spec",
            "the class has no spec",
            "give it spec.provider and spec.parameters",
        ));
        return;
    };
    unknown_fields(class, &spec, findings);
    let parameters = parameters_of(class, &spec, findings);
    match spec.text_of("provider") {
        "" => {
            let cure = "set spec.provider to azure";
            findings.push(class.finding(Rule::BadClass, "spec.provider", "provider not set", cure));
        }
        AZURE => {}
        other => {
            if let Err(error) = ProviderName::parse(other) {
                let cure = "for Azure Key Vault write azure, in lower case";
                findings.push(class.finding(Rule::BadClass, "spec.provider", error.to_string(), cure));
                return;
            }
            let problem = format!("provider {other:?} is not built in: its class is not checked");
            let cure = "the driver hands it to the provider's own socket; for Azure Key Vault write azure, in lower case";
            findings.push(class.finding(Rule::OtherProvider, "spec.provider", problem, cure));
            return;
        }
    }
    if parameters.is_empty() {
        let cure = "spec.parameters needs keyvaultName, tenantId and objects";
        findings.push(class.finding(Rule::BadClass, "spec.parameters", "parameters not set", cure));
        return;
    }

    let uses = input.uses_of(class);
    let mut plans = Vec::new();
    if uses.is_empty() {
        plans.extend(as_mounted(class, &parameters, None, input, findings));
    }
    for &usage in &uses {
        plans.extend(as_mounted(class, &parameters, Some(usage), input, findings));
    }

    unread(class, &parameters, findings);
    odd_values(class, &parameters, findings);
    let requests: Arc<[ObjectRequest]> = match plans.into_iter().next() {
        Some(plan) => plan.objects,
        None => parameters.objects().unwrap_or_default(),
    };
    objects::check(class, &requests, findings);
    sync::check(class, &spec, &requests, findings);
}

/// Looks for classes of one name in one namespace.
pub fn twice(input: &Input, findings: &mut Vec<Finding>) {
    for (index, class) in input.classes.iter().enumerate() {
        let same = |other: &&Manifest| other.name == class.name && other.namespace == class.namespace;
        if !class.name.is_empty() && input.classes.iter().take(index).any(|other| same(&other)) {
            let problem = format!("{class} is defined twice, and only the one that is applied last is there");
            findings.push(class.finding(
                Rule::ClassTwice,
                "metadata.name",
                problem,
                "rename or remove one of them",
            ));
        }
    }
}

/// The class's parameters as the API server hands them on: strings, without nulls.
fn parameters_of(class: &Manifest, spec: &View, findings: &mut Vec<Finding>) -> Parameters {
    let mut parameters = BTreeMap::new();
    for (key, value) in spec.get("parameters").iter().flat_map(View::entries) {
        let Some(name) = key.text().map(str::to_owned) else { continue };
        match value.other_than_string() {
            Some("null") => continue,
            Some(kind) => {
                let path = below("spec.parameters", &name);
                let problem = format!(
                    "{name} is a {kind}, and parameters have to be strings: the API server refuses the class"
                );
                let cure = match value.text() {
                    Some(text) => format!("quote it: {name}: \"{text}\""),
                    None if name == "objects" => "write `objects: |` and indent what follows".to_owned(),
                    None => "write one string".to_owned(),
                };
                findings.push(class.finding(Rule::NotString, &path, problem, cure));
            }
            None => {}
        }
        // What was meant can be looked at all the same.
        if let Some(text) = value.text() {
            parameters.insert(name, text.to_owned());
        }
    }
    parameters.into()
}

fn unknown_fields(class: &Manifest, spec: &View, findings: &mut Vec<Finding>) {
    const FIELDS: [&str; 3] = ["provider", "parameters", "secretObjects"];
    for (key, _) in spec.entries() {
        let Some(name) = key.text().filter(|name| !FIELDS.contains(name)) else { continue };
        let cure = match spelling::nearest(name, FIELDS) {
            Some(field) => format!("did you mean {field}?"),
            None if parameters::is_known(name) => "move it below spec.parameters".to_owned(),
            None => "remove it".to_owned(),
        };
        let problem = format!("a SecretProviderClass has no field spec.{name}: it is dropped");
        findings.push(class.finding(Rule::UnknownField, &below("spec", name), problem, cure));
    }
}

/// What the driver makes of the class for one volume, or for a pod that says nothing special.
fn as_mounted(
    class: &Manifest,
    parameters: &Parameters,
    usage: Option<Use<'_>>,
    input: &Input,
    findings: &mut Vec<Finding>,
) -> Option<MountPlan> {
    let request = request(usage, input)?;
    let told = usage.and_then(|(pod, _)| input.annotations(pod));
    let open = MountPlan::leaves_identity_open(parameters, &request);
    let parse = |account: &Annotations| MountPlan::parse(parameters, &request, DEFAULT_CLOUD, account);
    // An account that is not among the files may be annotated, or not.
    let unknown = open && told.is_none();
    let account = told.unwrap_or_default();
    let assumed = if unknown {
        let id = || Some("00000000-0000-0000-0000-000000000000".to_owned());
        parse(&Annotations { client_id: account.client_id.clone().or_else(id), tenant_id: id() })
    } else {
        parse(&account)
    };
    let certain: Vec<Fault> =
        assumed.as_ref().err().map(|faults| faults.as_slice().to_vec()).unwrap_or_default();
    let plan = if unknown { parse(&account) } else { assumed };
    let faults = plan.as_ref().err().map(|faults| faults.as_slice().to_vec()).unwrap_or_default();
    for fault in &faults {
        let is_certain =
            certain.iter().any(|other| other.field == fault.field && other.problem == fault.problem);
        findings.push(of_fault(
            class,
            usage,
            fault,
            if is_certain { Rule::BadClass } else { Rule::IdentityOfAccount },
        ));
    }
    let plan = plan.ok()?;

    if let CloudChoice::Known(cloud) = &plan.cloud.choice {
        let endpoint =
            VaultEndpoint::new(&plan.vault, cloud.vault_dns_suffix(), Some(cloud.vault_endpoint()));
        findings.extend(endpoint.err().map(|fault| of_fault(class, usage, &fault, Rule::BadClass)));
    } else if plan.cloud.file.is_none() {
        let problem = "cloudName AzureStackCloud without cloudEnvFileName works only where the driver has AZURE_ENVIRONMENT_FILEPATH";
        let cure = "name the cloud's file in parameters.cloudEnvFileName";
        findings.push(class.finding(Rule::NoCloudFile, "spec.parameters.cloudName", problem, cure));
    }
    credentials::check(class, parameters, &plan.identity, &request, usage, unknown, input, findings);
    if matches!(plan.identity, PlannedIdentity::Workload { .. } | PlannedIdentity::TokenProxy { .. }) {
        credentials::audiences(class, &plan, input, findings);
    }
    Some(plan)
}

/// The call the kubelet would make, as far as files can tell.
pub fn request(usage: Option<Use<'_>>, input: &Input) -> Option<PublishRequest> {
    let mut context: BTreeMap<String, String> =
        usage.map(|(_, volume)| volume.attributes.clone()).unwrap_or_default();
    context.entry("secretProviderClass".to_owned()).or_default();
    let secret = usage.and_then(|(pod, volume)| Some((pod, volume.secret.as_deref()?)));
    let secrets = match secret {
        Some((pod, name)) => match input.secret_of(pod, name) {
            Some(secret) => {
                credentials::data(secret).into_iter().map(|(key, datum)| (key, datum.text)).collect()
            }
            // One that is not among the files is taken for what it is there for.
            None => [("clientid".to_owned(), "00000000-0000-0000-0000-000000000000".to_owned())].into(),
        },
        None => std::collections::HashMap::new(),
    };
    let raw = NodePublishVolumeRequest {
        volume_id: "csi-validate".to_owned(),
        target_path: "/var/lib/kubelet/pods/0/volumes/kubernetes.io~csi/secrets/mount".to_owned(),
        volume_capability: Some(VolumeCapability::default()),
        readonly: true,
        volume_context: context.into_iter().collect(),
        secrets,
        ..NodePublishVolumeRequest::default()
    };
    PublishRequest::parse(raw).ok()
}

/// A fault of the driver, where it stands in the files.
fn of_fault(class: &Manifest, usage: Option<Use<'_>>, fault: &Fault, rule: Rule) -> Finding {
    let (manifest, path) = match usage {
        Some((pod, volume)) if fault.field.starts_with("volumeAttributes") => {
            (&pod.manifest, format!("{}.{}", volume.path, fault.field))
        }
        _ => (class, format!("spec.{}", fault.field)),
    };
    let mut finding = manifest.finding(rule, &path, fault.problem.as_str(), fault.cure.as_str());
    if let Some(place) = fault.place {
        let spot = manifest.root.spot(&path);
        if let Some(text) = spot.found {
            // `objects` is trimmed before it is read.
            let skipped = if path.ends_with("objects") {
                text.text().map_or(0, |text| text.chars().take_while(|c| c.is_whitespace()).count())
            } else {
                0
            };
            finding.place = Place { source: manifest.source, span: text.span_within(place + skipped) };
        }
    }
    finding
}

/// Parameters that nobody reads.
fn unread(class: &Manifest, parameters: &BTreeMap<String, String>, findings: &mut Vec<Finding>) {
    let known = || PARAMETERS.iter().map(|parameter| parameter.key);
    for key in parameters.keys().filter(|key| !parameters::is_known(key)) {
        let path = below("spec.parameters", key);
        let finding = match spelling::nearest(key, known()) {
            Some(near) => {
                let problem = format!("{key} is not read: letter case matters, and there is {near}");
                class.finding(Rule::UnreadParameter, &path, problem, format!("write {near}"))
            }
            None if vault::OBJECT_FIELDS.iter().any(|field| field.name == key) => {
                let problem = format!("{key} is not read here: it is a field of an object");
                class.finding(Rule::UnreadParameter, &path, problem, "move it into an item of objects")
            }
            None => class.finding(
                Rule::UnknownParameter,
                &path,
                format!("{key} is not read"),
                "remove it, if nobody else reads it",
            ),
        };
        findings.push(finding);
    }
}

/// Values that are read and do not mean what they seem to.
fn odd_values(class: &Manifest, parameters: &BTreeMap<String, String>, findings: &mut Vec<Finding>) {
    let get = |key: &str| parameters.get(key).map_or("", |value| value.trim());
    let on = |key: &str| crate::cli::go_flags::parse_bool(get(key)).unwrap_or(false);
    let mut found = |rule: Rule, key: &str, problem: String, cure: &str| {
        findings.push(class.finding(rule, &below("spec.parameters", key), problem, cure));
    };
    let vm = on("useVMManagedIdentity");
    if vm && !get("clientID").is_empty() {
        let problem = "clientID is not used: useVMManagedIdentity is \"true\", so the VM's identity is asked"
            .to_owned();
        let cure = "for workload identity set useVMManagedIdentity to \"false\"; for the VM's identity write its id into userAssignedIdentityID";
        found(Rule::IgnoredParameter, "clientID", problem, cure);
    }
    for key in ["userAssignedIdentityID", "userAssignedIdentityObjectID"] {
        if !vm && !get(key).is_empty() {
            let problem = format!("{key} is not used: useVMManagedIdentity is not \"true\"");
            let cure =
                "set useVMManagedIdentity to \"true\"; for workload identity write the id into clientID";
            found(Rule::IgnoredParameter, key, problem, cure);
        }
    }
    if vm && !get("userAssignedIdentityID").is_empty() && !get("userAssignedIdentityObjectID").is_empty() {
        let problem = "userAssignedIdentityObjectID is not used: userAssignedIdentityID wins".to_owned();
        found(Rule::IgnoredParameter, "userAssignedIdentityObjectID", problem, "leave one of them out");
    }
    let (upper, lower) = (get("tenantID"), get("tenantId"));
    if !upper.is_empty() && !lower.is_empty() && upper != lower {
        let problem = "tenantId is not used: there is another tenantID, which wins".to_owned();
        found(Rule::IgnoredParameter, "tenantId", problem, "leave one of them out");
    }
    if !get("cloudEnvFileName").is_empty() && !get("cloudName").eq_ignore_ascii_case("AzureStackCloud") {
        let problem = "cloudEnvFileName is not used: only AzureStackCloud is described by a file".to_owned();
        found(
            Rule::IgnoredParameter,
            "cloudEnvFileName",
            problem,
            "set cloudName to AzureStackCloud, or leave it out",
        );
    }
    let interval = get("rotationPollInterval");
    if let Some(problem) = Some(interval)
        .filter(|text| !text.is_empty())
        .and_then(|text| crate::cli::go_flags::parse_duration(text).err())
    {
        found(
            Rule::BadInterval,
            "rotationPollInterval",
            format!("it is ignored: {problem}"),
            "correct it, or leave it out",
        );
    }
    let client_cure = "write the id as `az identity show --query clientId` or the app registration shows it";
    let client_keys: &[&str] = if vm { &["userAssignedIdentityID"] } else { &["clientID"] };
    for key in client_keys {
        let id = get(key);
        let resource = id.starts_with('/');
        if identity::ClientId::parse(id).is_ok() && !resource && !is_guid(id) {
            found(
                Rule::OddId,
                key,
                format!("{id:?} does not look like a client id, which is a GUID"),
                client_cure,
            );
        }
    }
    let tenant_key = if upper.is_empty() { "tenantId" } else { "tenantID" };
    let tenant = get(tenant_key);
    let plausible = is_guid(tenant) || tenant.contains('.') || tenant.eq_ignore_ascii_case("adfs");
    if !vm && identity::TenantId::parse(tenant).is_ok() && !plausible {
        let problem = format!("{tenant:?} does not look like a tenant, which is a GUID or a domain name");
        found(
            Rule::OddId,
            tenant_key,
            problem,
            "use `az keyvault show --name VAULT --query properties.tenantId`",
        );
    }
    let vault = get("keyvaultName");
    let given = vault.starts_with(|c: char| c.is_ascii_alphabetic()) && !vault.contains("--");
    if vault::VaultName::parse(vault).is_ok() && !given {
        let problem = format!(
            "no vault is called {vault:?}: names begin with a letter and have no two hyphens in a row"
        );
        found(Rule::OddVault, "keyvaultName", problem, "use the vault's name as `az keyvault list` shows it");
    }
}

/// Eight, four, four, four and twelve hexadecimal digits.
fn is_guid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}
