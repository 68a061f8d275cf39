//! The mount plan: what a class and a pod together ask for. Pure parsing, without I/O, and it tells all faults at once.

use crate::class::Parameters;
use crate::cli::go_flags::{parse_bool, parse_duration};
use crate::csi::request::PublishRequest;
use crate::service_account::Annotations;
use identity::{ClientId, CloudChoice, TenantId, VmIdentity};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use vault::{Fault, Faults, ObjectRequest, VaultName};

/// Everything a mount needs to know before it asks anybody.
#[derive(Debug, Clone)]
pub struct MountPlan {
    /// The vault that holds the objects.
    pub vault: VaultName,
    /// The Azure cloud that the vault and the identity live in.
    pub cloud: PlannedCloud,
    /// As whom to ask.
    pub identity: PlannedIdentity,
    /// What to fetch, in the class's order.
    pub objects: Arc<[ObjectRequest]>,
    /// The class's own rotation interval.
    pub rotation_interval: Option<Duration>,
}

/// The cloud of a plan.
#[derive(Debug, Clone)]
pub struct PlannedCloud {
    /// What `cloudName` asks for.
    pub choice: CloudChoice,
    /// `cloudEnvFileName`: the file that describes a custom cloud.
    pub file: Option<PathBuf>,
}

/// The identity of a plan, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedIdentity {
    /// The pod's service-account token, exchanged at Entra.
    Workload {
        /// The tenant to ask in.
        tenant: TenantId,
        /// The application or managed identity that trusts the service account.
        client_id: ClientId,
    },
    /// The pod's service-account token, exchanged through the AKS token proxy.
    TokenProxy {
        /// The tenant to ask in.
        tenant: TenantId,
        /// The managed identity that is bound to the cluster.
        client_id: ClientId,
    },
    /// A managed identity of the virtual machine.
    Vm(VmIdentity),
    /// An application's own credentials, from the pod's `nodePublishSecretRef`.
    ServicePrincipal {
        /// The tenant to ask in.
        tenant: TenantId,
    },
}

impl MountPlan {
    /// Works out the plan of a volume.
    ///
    /// `parameters` are the class's; the pod's volume attributes win over them, as in the reference. `default_cloud` serves
    /// where neither names a cloud, `account` (the annotations of the pod's service account) where neither names a client or
    /// tenant; see [`MountPlan::leaves_identity_open`].
    ///
    /// # Errors
    /// All faults of the class and the pod's attributes, each with its field path, value and cure.
    pub fn parse(
        parameters: &Parameters,
        request: &PublishRequest,
        default_cloud: &str,
        account: &Annotations,
    ) -> Result<Self, Faults> {
        let fields = Fields { parameters, attributes: &request.attributes };
        let mut faults = Vec::new();

        let pod_identity = fields.flag("usePodIdentity", &mut faults);
        let vm_identity = fields.flag("useVMManagedIdentity", &mut faults);
        let token_proxy = fields.flag("useAzureTokenProxy", &mut faults);
        if [pod_identity, vm_identity, token_proxy].into_iter().filter(|on| *on).count() > 1 {
            faults.push(Fault::new(
                "parameters",
                "only one identity mode can be enabled at a time: usePodIdentity, useVMManagedIdentity, or useAzureTokenProxy",
                "set all but one of them to \"false\"",
            ));
        } else if pod_identity {
            faults.push(Fault::new(
                fields.path("usePodIdentity"),
                "pod identity has no server side any more: AAD Pod Identity was retired",
                "set usePodIdentity to \"false\", and either give a clientID with a federated credential (workload identity) or \
                 set useVMManagedIdentity to \"true\"",
            ));
        }

        let vault = match fields.get("keyvaultName") {
            "" => {
                faults.push(Fault::new(
                    fields.path("keyvaultName"),
                    format!("keyvaultName is not provided{}", fields.near_miss(&["keyvaultName"])),
                    "give the name of the vault, which is the first part of its host name",
                ));
                None
            }
            name => VaultName::parse(name)
                .map_err(|fault| faults.push(Fault { field: fields.path("keyvaultName"), ..fault }))
                .ok(),
        };

        // `tenantID` wins when both are given, as in the reference; its message spells the other one either way.
        let tenant_key = if fields.get("tenantID").is_empty() { "tenantId" } else { "tenantID" };
        let given =
            Some(fields.get(tenant_key)).filter(|tenant| !tenant.is_empty()).or(account.tenant_id.as_deref());
        let tenant = match given.unwrap_or_default() {
            "" => {
                faults.push(Fault::new(
                    fields.path("tenantId"),
                    format!("tenantId is not provided{}", fields.near_miss(&["tenantId", "tenantID"])),
                    "give the vault's tenant (az keyvault show --name VAULT --query properties.tenantId), or annotate the service \
                     account with azure.workload.identity/tenant-id",
                ));
                None
            }
            // A managed identity's tenant is the VM's own; what stands here is not used.
            _ if vm_identity => None,
            id => TenantId::parse(id)
                .map_err(|error| {
                    faults.push(
                        Fault::new(fields.path(tenant_key), error.to_string(), "correct the tenant id")
                            .with_value(id),
                    );
                })
                .ok(),
        };

        let cloud_name =
            Some(fields.get("cloudName")).filter(|name| !name.is_empty()).unwrap_or(default_cloud);
        let cloud = CloudChoice::parse(cloud_name)
            .map(|choice| {
                let file = Some(fields.get("cloudEnvFileName")).filter(|file| !file.is_empty()).map(PathBuf::from);
                PlannedCloud { choice, file }
            })
            .map_err(|error| {
                let cure = "use AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud, or AzureStackCloud with cloudEnvFileName";
                faults.push(Fault::new(fields.path("cloudName"), error.to_string(), cure).with_value(cloud_name));
            })
            .ok();

        // A pod that brings credentials of an application does not mean its service account's identity.
        let of_account = account.client_id.as_deref().filter(|_| !request.names_principal);
        let given = Some(fields.get("clientID")).filter(|id| !id.is_empty()).or(of_account);
        // Beside a VM identity a client id has no use, and what is wrong with it does not matter.
        let client_id = given.filter(|_| !vm_identity).and_then(|id| {
            ClientId::parse(id)
                .map_err(|error| {
                    let cure = "give the client id of the application or managed identity";
                    faults.push(Fault::new(fields.path("clientID"), error.to_string(), cure).with_value(id));
                })
                .ok()
        });
        let identity = if vm_identity {
            fields.vm_identity(&mut faults).map(PlannedIdentity::Vm)
        } else if token_proxy {
            if given.is_none() {
                faults.push(Fault::new(
                    fields.path("clientID"),
                    "failed to build auth config for mode AzureTokenProxy: clientID is required for identity binding",
                    "give the client id of the managed identity that is bound to this cluster, or annotate the service account \
                     with azure.workload.identity/client-id",
                ));
            }
            tenant.zip(client_id).map(|(tenant, client_id)| PlannedIdentity::TokenProxy { tenant, client_id })
        } else if let Some(client_id) = client_id {
            tenant.map(|tenant| PlannedIdentity::Workload { tenant, client_id })
        } else {
            tenant.map(|tenant| PlannedIdentity::ServicePrincipal { tenant })
        };

        // Not a key of the reference, which ignores it with any value: what mounts there has to mount here.
        let rotation_interval =
            Some(fields.get("rotationPollInterval")).filter(|text| !text.is_empty()).and_then(|text| {
                let ignored =
                    |problem| tracing::warn!(pod = %request.pod, problem, "rotationPollInterval is ignored");
                parse_duration(text).map_err(ignored).ok()
            });

        let parsed = match (fields.get("objects"), request.attributes.contains_key("objects")) {
            ("", _) => {
                let cure = "list the objects to mount under `array:`, each as a block string";
                Err(Fault::new(fields.path("objects"), "objects is not set", cure).into())
            }
            (text, true) => vault::parse_objects(text).map(Into::into),
            (_, false) => parameters.objects(),
        };
        let objects: Arc<[ObjectRequest]> = parsed.unwrap_or_else(|more| {
            let (class_path, path) = ("parameters.objects", fields.path("objects"));
            faults.extend(
                more.into_iter()
                    .map(|fault| Fault { field: fault.field.replacen(class_path, &path, 1), ..fault }),
            );
            Arc::default()
        });
        if objects.is_empty() && faults.is_empty() {
            faults.push(Fault::new(
                fields.path("objects"),
                "no object is listed, so the volume would be empty (missing object versions)",
                "list the objects to mount under `array:`, each as a block string",
            ));
        }

        Faults::check(faults)?;
        match (vault, cloud, identity) {
            (Some(vault), Some(cloud), Some(identity)) => {
                Ok(Self { vault, cloud, identity, objects, rotation_interval })
            }
            // Each of the three is missing only where a fault was noted, so this cannot be reached.
            _ => Err(Fault::new("parameters", "the class is incomplete", "").into()),
        }
    }
}

impl MountPlan {
    /// What to write into a class that names no identity, for the message of a pod that brings none either. The class then
    /// stands for a service principal, which hardly anybody means.
    pub fn identity_cure(parameters: &BTreeMap<String, String>, request: &PublishRequest) -> String {
        let fields = Fields { parameters, attributes: &request.attributes };
        let mut cure = format!("the class has no clientID{}", fields.near_miss(&["clientID"]));
        cure.push_str(" and useVMManagedIdentity is not \"true\"");
        if !fields.get("userAssignedIdentityID").is_empty() {
            cure.push_str(" although userAssignedIdentityID is given");
        }
        cure.push_str(
            ": set clientID for workload identity, or useVMManagedIdentity: \"true\" for an identity of the VM, or give the pod's \
             volume a nodePublishSecretRef with clientid and clientsecret",
        );
        cure
    }

    /// Whether a class leaves out a client or tenant that the annotations of the pod's service account could name.
    pub fn leaves_identity_open(parameters: &BTreeMap<String, String>, request: &PublishRequest) -> bool {
        let fields = Fields { parameters, attributes: &request.attributes };
        let on = |key| parse_bool(fields.get(key)).unwrap_or(false);
        let no_client = fields.get("clientID").is_empty() && !request.names_principal;
        let no_tenant = fields.get("tenantID").is_empty() && fields.get("tenantId").is_empty();
        !on("usePodIdentity") && !on("useVMManagedIdentity") && (no_client || no_tenant)
    }
}

/// Parameters of the class with the pod's volume attributes laid over them.
struct Fields<'a> {
    parameters: &'a BTreeMap<String, String>,
    attributes: &'a BTreeMap<String, String>,
}

impl<'a> Fields<'a> {
    /// A value without surrounding white space; empty when it is given nowhere.
    fn get(&self, key: &str) -> &'a str {
        debug_assert!(crate::parameters::is_known(key), "{key} is not in the list of parameters");
        #[cfg(test)]
        tests::READ.with_borrow_mut(|read| read.insert(key.to_owned()));
        self.attributes.get(key).or_else(|| self.parameters.get(key)).map_or("", |value| value.trim())
    }

    /// A key that differs from the spellings that are read in letter case only and so is not read, as a hint.
    fn near_miss(&self, spellings: &[&str]) -> String {
        let mut keys = self.attributes.keys().chain(self.parameters.keys());
        let other = keys.find(|other| {
            !spellings.contains(&other.as_str())
                && spellings.iter().any(|read| other.eq_ignore_ascii_case(read))
        });
        other.map_or_else(String::new, |other| {
            format!(" (there is a {other}, which is not read: letter case matters)")
        })
    }

    /// Where the value stands, for messages.
    fn path(&self, key: &str) -> String {
        if self.attributes.contains_key(key) {
            format!("volumeAttributes.{key}")
        } else {
            format!("parameters.{key}")
        }
    }

    fn flag(&self, key: &'static str, faults: &mut Vec<Fault>) -> bool {
        let text = self.get(key);
        if text.is_empty() {
            return false;
        }
        parse_bool(text).unwrap_or_else(|error| {
            let problem = format!("failed to parse {key} flag, error: {error}");
            faults.push(Fault::new(self.path(key), problem, "write \"true\" or \"false\"").with_value(text));
            false
        })
    }

    /// The reference takes client ids only. A resource id is told from one by its form; an object id has the same form as a
    /// client id and therefore a key of its own.
    fn vm_identity(&self, faults: &mut Vec<Fault>) -> Option<VmIdentity> {
        let (id, object_id) = (self.get("userAssignedIdentityID"), self.get("userAssignedIdentityObjectID"));
        match (id, object_id) {
            ("", object_id) if !object_id.is_empty() => Some(VmIdentity::ObjectId(object_id.to_owned())),
            // Only the first is a key of the reference, so it wins when both are given.
            (id, _) => VmIdentity::from_user_assigned_id(id)
                .map_err(|error| {
                    let cure = "give the identity's client id or resource id; leave it empty for the VM's own identity";
                    faults.push(Fault::new(self.path("userAssignedIdentityID"), error.to_string(), cure).with_value(id));
                })
                .ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::csi::{NodePublishVolumeRequest, VolumeCapability};

    thread_local! {
        /// The keys that this thread's parsers have asked for.
        pub(super) static READ: std::cell::RefCell<std::collections::BTreeSet<String>> = const { std::cell::RefCell::new(std::collections::BTreeSet::new()) };
    }

    const OBJECTS: &str = "array:\n- |\n  objectName: a\n  objectType: secret\n";

    fn request(attributes: &[(&str, &str)]) -> PublishRequest {
        let mut context: Vec<(&str, &str)> = vec![("secretProviderClass", "kv")];
        context.extend(attributes);
        let raw = NodePublishVolumeRequest {
            volume_id: "v".into(),
            target_path: "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/v/mount".into(),
            volume_capability: Some(VolumeCapability::default()),
            volume_context: context.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            ..NodePublishVolumeRequest::default()
        };
        PublishRequest::parse(raw).ok().unwrap()
    }

    fn plan(parameters: &[(&str, &str)], attributes: &[(&str, &str)]) -> Result<MountPlan, Faults> {
        let good = [("keyvaultName", "shop-kv"), ("tenantId", "t-1"), ("objects", OBJECTS)];
        let parameters: BTreeMap<String, String> =
            good.iter().chain(parameters).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let account = Annotations::default();
        MountPlan::parse(&parameters.into(), &request(attributes), "AzurePublicCloud", &account)
    }

    fn identity(parameters: &[(&str, &str)]) -> PlannedIdentity {
        plan(parameters, &[]).unwrap().identity
    }

    #[test]
    fn the_identity_follows_the_references_rules() {
        let tenant = TenantId::parse("t-1").unwrap();
        let client_id = ClientId::parse("c-1").unwrap();
        let workload = PlannedIdentity::Workload { tenant: tenant.clone(), client_id: client_id.clone() };
        assert_eq!(identity(&[("clientID", " c-1 ")]), workload);
        assert_eq!(
            identity(&[("usePodIdentity", "f"), ("useVMManagedIdentity", "0"), ("clientID", "c-1")]),
            workload
        );
        assert_eq!(identity(&[]), PlannedIdentity::ServicePrincipal { tenant: tenant.clone() });
        assert_eq!(
            identity(&[("useAzureTokenProxy", "True"), ("clientID", "c-1")]),
            PlannedIdentity::TokenProxy { tenant, client_id: client_id.clone() }
        );
        let vm = ("useVMManagedIdentity", "true");
        assert_eq!(identity(&[vm]), PlannedIdentity::Vm(VmIdentity::SystemAssigned));
        assert_eq!(
            identity(&[vm, ("userAssignedIdentityID", "c-1")]),
            PlannedIdentity::Vm(VmIdentity::ClientId(client_id))
        );
        assert_eq!(
            identity(&[vm, ("userAssignedIdentityObjectID", "o-1")]),
            PlannedIdentity::Vm(VmIdentity::ObjectId("o-1".into()))
        );
        assert_eq!(
            identity(&[vm, ("userAssignedIdentityID", "c-1"), ("userAssignedIdentityObjectID", "o-1")]),
            identity(&[vm, ("userAssignedIdentityID", "c-1")])
        );
        assert_eq!(
            identity(&[vm, ("clientID", "<your client id>")]),
            PlannedIdentity::Vm(VmIdentity::SystemAssigned)
        );
    }

    #[test]
    fn the_pods_attributes_win_over_the_class_and_are_named_as_such() {
        let plan_of = |value| plan(&[], &[("keyvaultName", value)]);
        assert_eq!(plan_of("other-kv").unwrap().vault.as_str(), "other-kv");
        let faults = plan_of("x").unwrap_err();
        assert_eq!(faults.as_slice()[0].field, "volumeAttributes.keyvaultName");
        let faults = plan(&[], &[("objects", "array:\n- |\n  objectType: nope\n")]).unwrap_err();
        assert!(
            faults.as_slice().iter().all(|f| f.field.starts_with("volumeAttributes.objects")),
            "{faults}"
        );
    }

    #[test]
    fn either_spelling_of_the_tenant_will_do_and_the_capital_one_wins() {
        let tenant = |parameters: &[(&str, &str)]| match identity(parameters) {
            PlannedIdentity::ServicePrincipal { tenant } => tenant.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(tenant(&[("tenantID", "t-2")]), "t-2");
        assert_eq!(tenant(&[("tenantID", " ")]), "t-1");
    }

    #[test]
    fn clouds_and_intervals_are_read() {
        let plan_of = |parameters: &[(&str, &str)]| plan(parameters, &[]).unwrap();
        assert!(matches!(plan_of(&[("cloudName", "")]).cloud.choice, CloudChoice::Known(_)));
        let stack =
            plan_of(&[("cloudName", "azurestackcloud"), ("cloudEnvFileName", " /etc/cloud.json ")]).cloud;
        assert_eq!((stack.choice, stack.file), (CloudChoice::File, Some(PathBuf::from("/etc/cloud.json"))));
        assert_eq!(
            plan_of(&[("rotationPollInterval", "30s")]).rotation_interval,
            Some(Duration::from_secs(30))
        );
        assert_eq!(plan_of(&[]).rotation_interval, None);
        assert_eq!(plan_of(&[("rotationPollInterval", "5")]).rotation_interval, None);
    }

    #[test]
    fn the_service_account_fills_in_what_the_class_leaves_out() {
        let account = Annotations { client_id: Some("c-sa".into()), tenant_id: Some("t-sa".into()) };
        let plan = |parameters: &[(&str, &str)], principal: bool| {
            let parameters: BTreeMap<String, String> = [("keyvaultName", "shop-kv"), ("objects", OBJECTS)]
                .iter()
                .chain(parameters)
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            let parameters = Parameters::from(parameters);
            let mut request = request(&[]);
            request.names_principal = principal;
            let open = MountPlan::leaves_identity_open(&parameters, &request);
            (open, MountPlan::parse(&parameters, &request, "AzurePublicCloud", &account).unwrap().identity)
        };
        let workload = |tenant, client| PlannedIdentity::Workload {
            tenant: TenantId::parse(tenant).unwrap(),
            client_id: ClientId::parse(client).unwrap(),
        };
        assert_eq!(plan(&[], false), (true, workload("t-sa", "c-sa")));
        assert_eq!(plan(&[("tenantId", "t")], false), (true, workload("t", "c-sa")));
        assert_eq!(plan(&[("tenantId", "t"), ("clientID", "c")], false), (false, workload("t", "c")));
        // A pod with credentials of its own does not mean the service account's identity.
        let principal = PlannedIdentity::ServicePrincipal { tenant: TenantId::parse("t").unwrap() };
        assert_eq!(plan(&[("tenantId", "t")], true), (false, principal));
        assert!(!plan(&[("tenantId", "t"), ("useVMManagedIdentity", "true")], false).0);
    }

    #[test]
    fn the_listed_parameters_are_those_that_are_read() {
        READ.take();
        let _ = plan(&[("useVMManagedIdentity", "true")], &[]);
        let _ = plan(&[], &[]);
        let listed = crate::parameters::PARAMETERS.iter().map(|parameter| parameter.key.to_owned());
        assert_eq!(READ.take(), listed.collect());
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let faults = plan(
            &[
                ("keyvaultName", ""),
                ("tenantId", ""),
                ("cloudName", "Mars"),
                ("usePodIdentity", "yes"),
                ("objects", ""),
            ],
            &[],
        )
        .unwrap_err();
        let fields: Vec<&str> = faults.as_slice().iter().map(|fault| fault.field.as_str()).collect();
        let expected = ["usePodIdentity", "keyvaultName", "tenantId", "cloudName", "objects"];
        assert_eq!(fields, expected.map(|field| format!("parameters.{field}")));
    }

    proptest::proptest! {
        #[test]
        fn any_parameters_are_a_plan_or_faults(
            parameters in proptest::collection::btree_map(".{0,20}", ".{0,60}", 0..6),
            flag in ".{0,8}",
        ) {
            let mut parameters = parameters;
            parameters.insert("useVMManagedIdentity".into(), flag);
            let (parameters, account) = (parameters.into(), Annotations::default());
            let _ = MountPlan::parse(&parameters, &request(&[]), "AzurePublicCloud", &account);
        }
    }
}
