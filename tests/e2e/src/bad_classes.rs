//! Classes with one mistake each: the driver has to refuse them, and `akv-csi validate` has to find them.

/// A class with a mistake.
#[derive(Debug, Clone, Copy)]
pub struct BadClass {
    /// Parameters that differ from a good class.
    pub parameters: &'static [(&'static str, &'static str)],
    /// Its objects.
    pub objects: &'static [&'static str],
    /// What the driver's message has to have.
    pub message: &'static [&'static str],
    /// Whether the mistake shows in the class. A file that is not there shows on the node only.
    pub shows: bool,
}

const SECRET: &str = "objectName: secret1\nobjectType: secret";

const fn bad(
    parameters: &'static [(&'static str, &'static str)],
    objects: &'static [&'static str],
    message: &'static [&'static str],
) -> BadClass {
    BadClass { parameters, objects, message, shows: true }
}

/// One class for each mistake.
pub const BAD_CLASSES: &[BadClass] = &[
    bad(&[("keyvaultName", "")], &[SECRET], &["parameters.keyvaultName", "keyvaultName is not provided"]),
    bad(
        &[("keyvaultName", "kv")],
        &[SECRET],
        &["Invalid vault name: \"kv\", must be between 3 and 24 chars"],
    ),
    bad(&[("keyvaultName", "kv_test")], &[SECRET], &["must match [-a-zA-Z0-9]{3,24}"]),
    bad(
        &[("tenantId", "")],
        &[SECRET],
        &["parameters.tenantId", "tenantId is not provided", "az keyvault show"],
    ),
    bad(
        &[("usePodIdentity", "yes")],
        &[SECRET],
        &["failed to parse usePodIdentity flag", "parsing \"yes\"", "\"true\" or \"false\""],
    ),
    bad(&[("usePodIdentity", "true")], &[SECRET], &["parameters.usePodIdentity", "workload identity"]),
    bad(
        &[("useVMManagedIdentity", "true"), ("useAzureTokenProxy", "true")],
        &[SECRET],
        &["only one identity mode can be enabled at a time"],
    ),
    bad(
        &[("cloudName", "AzureCloud1")],
        &[SECRET],
        &["cloudName AzureCloud1 is not valid", "parameters.cloudName"],
    ),
    bad(
        &[("cloudName", "AzureStackCloud")],
        &[SECRET],
        &["cloudName AzureStackCloud is not valid", "cloudEnvFileName"],
    ),
    BadClass {
        parameters: &[("cloudName", "AzureStackCloud"), ("cloudEnvFileName", "/nowhere/cloud.json")],
        objects: &[SECRET],
        message: &["open /nowhere/cloud.json: no such file or directory"],
        shows: false,
    },
    bad(&[], &[], &["parameters.objects", "objects is not set"]),
    bad(&[("objects", "array: []")], &[], &["missing object versions", "parameters.objects"]),
    bad(&[("objects", "array:\n- objectName: a\n")], &[], &["failed to yaml unmarshal objects", "!!map"]),
    bad(
        &[],
        &["objectName: a\nobjectType: certificate"],
        &["objects.array[0].objectType", "Should be secret, key, or cert"],
    ),
    bad(
        &[],
        &[SECRET, "objectName: b\nobjectType: secret\nobjectAlias: ../b"],
        &["array[1].objectAlias", "must not contain '..'"],
    ),
    bad(&[], &["objectName: b\nobjectType: secret\nfilePermission: rw"], &["array[0].filePermission", "rw"]),
];
