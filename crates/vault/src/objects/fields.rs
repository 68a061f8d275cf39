//! The fields of an object: one list for the reader, which knows no other, for `akv-csi validate`, and for the documentation.

/// One field of an item of `objects`.
#[derive(Debug, Clone, Copy)]
pub struct ObjectField {
    /// Its name; letter case matters.
    pub name: &'static str,
    /// What may stand in it.
    pub form: &'static str,
    /// What counts where it is absent or blank.
    pub default: &'static str,
    /// What it means.
    pub about: &'static str,
}

/// All fields, in the order of the documentation.
pub const OBJECT_FIELDS: &[ObjectField] = &[
    ObjectField {
        name: "objectName",
        form: "text",
        default: "required",
        about: "Name of the secret, key or certificate in the vault.",
    },
    ObjectField {
        name: "objectType",
        form: "`secret`, `key` or `cert`, in lower case",
        default: "required",
        about: "`secret`: the value, or, of a certificate, private key and chain. `key`: the public key as PEM. `cert`: the \
                certificate alone as PEM.",
    },
    ObjectField {
        name: "objectAlias",
        form: "relative path without `..`",
        default: "`objectName`",
        about: "The file's path below the mount. Folders are made as needed.",
    },
    ObjectField {
        name: "objectVersion",
        form: "text",
        default: "the current version",
        about: "The version to mount. With an `objectVersionHistory`, the one to begin with; there, `latest` is the newest.",
    },
    ObjectField {
        name: "objectVersionHistory",
        form: "integer, not quoted",
        default: "`0`",
        about: "Above 1: mount the newest versions as files `0`, `1`, … in a folder. One more than the number is mounted, as it has \
                always been.",
    },
    ObjectField {
        name: "objectFormat",
        form: "`pem` or `pfx`, in any letter case",
        default: "`pem`",
        about: "For secrets behind certificates that are PFX in the vault: convert to PEM, or leave as they are.",
    },
    ObjectField {
        name: "objectEncoding",
        form: "`utf-8`, `base64` or `hex`, in any letter case",
        default: "`utf-8`",
        about: "How the value is encoded in the vault; the file gets it decoded. Only for `objectType: secret`.",
    },
    ObjectField {
        name: "filePermission",
        form: "octal digits such as `0644`",
        default: "`0644`",
        about: "Mode of the object's files.",
    },
];
