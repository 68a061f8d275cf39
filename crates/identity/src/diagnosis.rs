//! From a token service's refusal to its cause and cure.
//!
//! The codes are Entra's AADSTS numbers
//! (<https://learn.microsoft.com/entra/identity-platform/reference-error-codes>). Microsoft asks programs to
//! act on `error` and the HTTP status only; here the codes choose words, and whether a retry makes sense,
//! never whether a token is good.

use crate::{Assertion, error::Kind, redact::excerpt};

/// Cause and cure of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    pub(crate) cause: String,
    pub(crate) cure: String,
}

/// Codes that a fresher service account token cures.
pub(crate) const STALE: &[u32] = &[700_024, 50_013, 500_133];

/// Codes that mean "later": outages and throttling inside Entra.
const TRANSIENT: &[u32] = &[90_055, 90_024, 90_033, 90_006, 90_090];

/// What to do about a code.
enum Cure {
    /// These words.
    Words(&'static str),
    /// Create or repair the federated credential, spelt out as a command.
    FederatedCredential(&'static str),
}

struct Entry {
    codes: &'static [u32],
    kind: Kind,
    cause: &'static str,
    cure: Cure,
}

const ENTRIES: &[Entry] = &[
    Entry {
        codes: &[70_021, 70_025],
        kind: Kind::Refused,
        cause: "the identity has no federated credential for this issuer, subject and audience.",
        cure: Cure::FederatedCredential("A new one takes some minutes to be seen everywhere."),
    },
    Entry {
        codes: &[700_211],
        kind: Kind::Refused,
        cause: "the identity has no federated credential for this issuer; often only a trailing slash differs, \
                or the cluster was re-created and has a new issuer.",
        cure: Cure::FederatedCredential("A new one takes some minutes to be seen everywhere."),
    },
    Entry {
        codes: &[700_212],
        kind: Kind::Refused,
        cause: "the identity has a federated credential for this issuer and subject, but for another audience.",
        cure: Cure::FederatedCredential(
            "The audience comes from spec.tokenRequests of the CSIDriver object; one federated credential has \
             exactly one.",
        ),
    },
    Entry {
        codes: &[700_213],
        kind: Kind::Refused,
        cause: "the identity has no federated credential for this subject: the namespace or service account is \
                another one, or misspelt.",
        cure: Cure::FederatedCredential("A new one takes some minutes to be seen everywhere."),
    },
    Entry {
        codes: &[7_002_138],
        kind: Kind::Refused,
        cause: "a federated credential differs from the token only in upper and lower case; issuer, subject and \
                audience are compared letter by letter.",
        cure: Cure::FederatedCredential("Delete the one that differs."),
    },
    Entry {
        codes: &[700_222, 700_229],
        kind: Kind::Refused,
        cause: "the token shown was issued by Entra itself, which Entra does not take as a federated credential \
                from this caller.",
        cure: Cure::Words(
            "Use a service account token of the cluster; check that the CSIDriver object's tokenRequests and the \
             federated credential's issuer are the cluster's.",
        ),
    },
    Entry {
        codes: &[700_024],
        kind: Kind::Transient,
        cause: "the service account token was outside its validity by Entra's clock.",
        cure: Cure::Words(
            "The kubelet sends a fresh token with its next call (requiresRepublish on the CSIDriver object); if \
             this stays, compare the clocks of node and API server with the true time.",
        ),
    },
    Entry {
        codes: &[50_013, 500_133, 700_027],
        kind: Kind::Refused,
        cause: "Entra could not verify the token's signature or took it for expired: the issuer's signing keys \
                have changed, or its key document cannot be reached from the internet.",
        cure: Cure::Words(
            "For a service account token open ISSUER/.well-known/openid-configuration and the jwks_uri it names \
             from outside the cluster; after a key rotation wait until Entra has read the new keys. For a \
             certificate check that it is uploaded to the app registration and not expired.",
        ),
    },
    Entry {
        codes: &[90_061],
        kind: Kind::Transient,
        cause: "Entra could not read the issuer's OpenID documents.",
        cure: Cure::Words(
            "Open ISSUER/.well-known/openid-configuration and the jwks_uri it names from outside the cluster.",
        ),
    },
    Entry {
        codes: &[700_016, 700_011],
        kind: Kind::Misconfiguration,
        cause: "there is no application with this client id in this tenant.",
        cure: Cure::Words(
            "Compare clientID and tenantID of the class with `az identity show` or `az ad app show`; a client id \
             is not an object id, and a deleted and re-created identity has a new one.",
        ),
    },
    Entry {
        codes: &[7_000_112],
        kind: Kind::Misconfiguration,
        cause: "the application is disabled in this tenant.",
        cure: Cure::Words("Enable its service principal (accountEnabled), or use another identity."),
    },
    Entry {
        codes: &[7_000_215],
        kind: Kind::Misconfiguration,
        cause: "the client secret is wrong; often the secret's id was copied instead of its value.",
        cure: Cure::Words(
            "Create a new secret (`az ad app credential reset --id CLIENT_ID --append`) and put its value under \
             clientsecret in the nodePublishSecretRef secret.",
        ),
    },
    Entry {
        codes: &[7_000_222],
        kind: Kind::Misconfiguration,
        cause: "the client secret has expired.",
        cure: Cure::Words(
            "Create a new secret (`az ad app credential reset --id CLIENT_ID --append`) and put its value under \
             clientsecret in the nodePublishSecretRef secret; or move to workload identity, which has no secret.",
        ),
    },
    Entry {
        codes: &[7_000_218],
        kind: Kind::Misconfiguration,
        cause: "neither a secret nor an assertion arrived at Entra.",
        cure: Cure::Words("Check for a proxy between node and Entra that rewrites requests."),
    },
    Entry {
        codes: &[90_002],
        kind: Kind::Misconfiguration,
        cause: "there is no such tenant in this cloud.",
        cure: Cure::Words(
            "Compare tenantID with `az account show --query tenantId`, and cloudName with the cloud.",
        ),
    },
    Entry {
        codes: &[900_023, 900_021],
        kind: Kind::Misconfiguration,
        cause: "the tenant is neither a GUID nor a domain name.",
        cure: Cure::Words("Set tenantID to the value of `az account show --query tenantId`."),
    },
    Entry {
        codes: &[70_011, 1_002_012],
        kind: Kind::Misconfiguration,
        cause: "the scope is not one resource followed by /.default.",
        cure: Cure::Words(
            "The scope comes from the vault's challenge; check cloudName and a custom cloud's file.",
        ),
    },
    Entry {
        codes: &[500_011],
        kind: Kind::Misconfiguration,
        cause: "the resource is not known in this tenant.",
        cure: Cure::Words("Check that the vault and the tenant are in the same cloud (cloudName)."),
    },
    Entry {
        codes: &[900_144],
        kind: Kind::Misconfiguration,
        cause: "a field of the token request is missing.",
        cure: Cure::Words("Check for a proxy between node and Entra that rewrites requests."),
    },
    Entry {
        codes: &[53_003, 530_032],
        kind: Kind::Refused,
        cause: "Conditional Access (or a tenant policy) forbids this identity to sign in from here.",
        cure: Cure::Words(
            "Look the sign-in up in Entra's workload identity sign-in log; allow the cluster's outbound address \
             as a named location, or exempt the identity.",
        ),
    },
];

/// A refusal of Entra that is known, for the documentation.
#[derive(Clone, Copy, Debug)]
pub struct KnownRefusal {
    /// Its AADSTS codes.
    pub codes: &'static [u32],
    /// What they mean.
    pub cause: &'static str,
    /// What to do about it. Where that is a command to be pasted, what is said beside it.
    pub cure: &'static str,
    /// Whether the message spells out the command that creates the federated credential.
    pub with_command: bool,
}

/// All refusals of Entra that are known.
pub fn known_refusals() -> impl Iterator<Item = KnownRefusal> {
    ENTRIES.iter().map(|entry| {
        let (cure, with_command) = match entry.cure {
            Cure::Words(words) => (words, false),
            Cure::FederatedCredential(remark) => (remark, true),
        };
        KnownRefusal { codes: entry.codes, cause: entry.cause, cure, with_command }
    })
}

/// Kind and advice for Entra's answer. `error` and `status` decide where no code is known.
pub(crate) fn of_entra(
    codes: &[u32],
    error: &str,
    status: u16,
    assertion: Option<&Assertion>,
    client_id: &str,
) -> (Kind, Advice) {
    let entry = codes.iter().find_map(|code| ENTRIES.iter().find(|entry| entry.codes.contains(code)));
    let (kind, cause, cure) = match entry {
        Some(Entry { kind, cause, cure: Cure::Words(words), .. }) => {
            (*kind, (*cause).to_owned(), (*words).to_owned())
        }
        Some(Entry { kind, cause, cure: Cure::FederatedCredential(remark), .. }) => {
            let cure = match assertion.and_then(|a| federated_credential(a, client_id)) {
                Some(command) => format!("{command} {remark}"),
                None => format!("Create a federated credential for the pod's service account. {remark}"),
            };
            (*kind, (*cause).to_owned(), cure)
        }
        None if is_transient(codes, error, status) => (
            Kind::Transient,
            "Entra is out of order or throttles.".to_owned(),
            "Wait; the request is repeated.".to_owned(),
        ),
        None => (
            Kind::Refused,
            "the identity was refused a token.".to_owned(),
            match codes.first() {
                Some(code) => format!("See https://login.microsoftonline.com/error?code={code}."),
                None => "Look the request up in Entra's sign-in log of service principals.".to_owned(),
            },
        ),
    };
    let cause = match assertion.and_then(Assertion::claims) {
        Some(claims) => format!(
            "{cause} The token was sent with issuer {:?}, subject {:?}, audience {:?}.",
            excerpt(&claims.issuer, 200),
            excerpt(&claims.subject, 200),
            excerpt(&claims.audiences.join(", "), 200)
        ),
        None if assertion.is_some() => {
            format!("{cause} The token sent is not a JWT this program can read.")
        }
        None => cause,
    };
    (kind, Advice { cause, cure })
}

/// Whether the same request may succeed in a moment.
pub(crate) fn is_transient(codes: &[u32], error: &str, status: u16) -> bool {
    codes.iter().any(|code| TRANSIENT.contains(code))
        || matches!(error, "temporarily_unavailable" | "server_error")
        || matches!(status, 408 | 429 | 500..=599)
}

/// The command that creates the federated credential the token would fit.
///
/// Its values come from a token nobody has verified, and an operator will paste them into a shell: they are
/// quoted for it.
fn federated_credential(assertion: &Assertion, client_id: &str) -> Option<String> {
    let claims = assertion.claims()?;
    let audience = claims.audiences.first()?;
    let subject = claims.subject.strip_prefix("system:serviceaccount:").unwrap_or(&claims.subject);
    let name: String = subject
        .replace(':', "-")
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(100)
        .collect();
    // The client id is the class author's text.
    let client_id = quote(client_id);
    Some(format!(
        "az identity federated-credential create --name {} --identity-name IDENTITY_NAME --resource-group \
         RESOURCE_GROUP --issuer {} --subject {} --audiences {} (for the identity with client id {client_id}; for \
         an app registration: az ad app federated-credential create --id {client_id}).",
        quote(&format!("kubernetes-{name}")),
        quote(&claims.issuer),
        quote(&claims.subject),
        quote(audience)
    ))
}

/// Quotes text for a POSIX shell; plain words stay as they are.
fn quote(text: &str) -> String {
    let text = excerpt(text, 300);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '@');
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Advice for a refusal by the token proxy itself, before Entra was asked: Kubernetes decides there who may
/// use which identity.
pub(crate) fn of_token_proxy(assertion: Option<&Assertion>, client_id: &str) -> (Kind, Advice) {
    let subject = assertion.and_then(Assertion::claims).map(|claims| excerpt(&claims.subject, 200));
    let who =
        subject.map_or_else(|| "the pod's service account".to_owned(), |subject| format!("{subject:?}"));
    let cause = format!("the cluster's token proxy does not let {who} use this identity.");
    let cure = format!(
        "Bind a ClusterRole with apiGroups cid.wi.aks.azure.com, resources {client_id}, verbs \
         use-managed-identity to the service account by a ClusterRoleBinding, and check that the identity is bound \
         to this cluster (az aks identity-binding list)."
    );
    (Kind::Refused, Advice { cause, cure })
}

/// Advice for a refusal of the VM's metadata service or the Arc agent.
pub(crate) fn of_metadata_service(status: u16, description: &str, user_assigned: bool) -> (Kind, Advice) {
    let has = |words: &str| description.to_ascii_lowercase().contains(words);
    let (kind, cause, cure) = if has("multiple user assigned identities") {
        (
            Kind::Misconfiguration,
            "the VM has several user-assigned identities and none was named.",
            "Set userAssignedIdentityID in the class to the client id of the one that may read the vault \
             (`az vmss identity show`, `az aks show --query identityProfile`).",
        )
    } else if status == 400 && user_assigned {
        (
            Kind::Misconfiguration,
            "the identity named is not assigned to this VM.",
            "Assign it (`az vmss identity assign --identities RESOURCE_ID`), or correct \
             userAssignedIdentityID; it takes the identity's client id, not its object id.",
        )
    } else if status == 400 && (has("identity not found") || has("not found")) {
        (
            Kind::Misconfiguration,
            "the VM has no system-assigned identity.",
            "Enable it (`az vmss identity assign`), or name a user-assigned identity with \
             userAssignedIdentityID.",
        )
    } else if status == 400 && has("metadata header") {
        (
            Kind::Misconfiguration,
            "something between this node and the metadata service drops the Metadata header.",
            "Let nothing intercept 169.254.169.254.",
        )
    } else if status == 403 {
        (
            Kind::Refused,
            "the metadata service, or a proxy in front of it, forbids this node's pods to ask.",
            "Run the driver with host networking, and let nothing intercept 169.254.169.254.",
        )
    } else {
        (
            Kind::Refused,
            "the metadata service refused.",
            "See https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/\
             how-to-use-vm-token#error-handling.",
        )
    };
    (kind, Advice { cause: cause.to_owned(), cure: cure.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::assertion::tests::{claims, jwt};

    fn assertion(subject: &str) -> Assertion {
        Assertion::new("aud".into(), jwt(&claims(subject, "api://AzureADTokenExchange", 60)).into(), None)
    }

    fn advice(code: u32, with: Option<&Assertion>) -> (Kind, Advice) {
        of_entra(&[code], "invalid_client", 401, with, "client")
    }

    #[test]
    fn every_code_has_its_words() {
        let table = [
            (70021, Kind::Refused, "no federated credential", "federated-credential create"),
            (70025, Kind::Refused, "no federated credential", "federated-credential create"),
            (700_211, Kind::Refused, "trailing slash", "--issuer https://issuer.test/"),
            (700_212, Kind::Refused, "another audience", "--audiences api://AzureADTokenExchange"),
            (700_213, Kind::Refused, "for this subject", "--subject system:serviceaccount:shop:web"),
            (7_002_138, Kind::Refused, "letter by letter", "--name kubernetes-shop-web"),
            (700_222, Kind::Refused, "issued by Entra", "tokenRequests"),
            (700_229, Kind::Refused, "issued by Entra", "tokenRequests"),
            (700_024, Kind::Transient, "outside its validity", "clocks"),
            (50_013, Kind::Refused, "signature", "jwks_uri"),
            (500_133, Kind::Refused, "signature", "jwks_uri"),
            (700_027, Kind::Refused, "signature", "jwks_uri"),
            (90_061, Kind::Transient, "OpenID", "openid-configuration"),
            (700_016, Kind::Misconfiguration, "no application", "clientID"),
            (700_011, Kind::Misconfiguration, "no application", "clientID"),
            (7_000_112, Kind::Misconfiguration, "disabled", "Enable"),
            (7_000_215, Kind::Misconfiguration, "secret is wrong", "credential reset"),
            (7_000_222, Kind::Misconfiguration, "expired", "credential reset"),
            (7_000_218, Kind::Misconfiguration, "neither", "proxy"),
            (90_002, Kind::Misconfiguration, "no such tenant", "tenantID"),
            (900_023, Kind::Misconfiguration, "GUID", "tenantID"),
            (70_011, Kind::Misconfiguration, "scope", "cloudName"),
            (1_002_012, Kind::Misconfiguration, "scope", "cloudName"),
            (500_011, Kind::Misconfiguration, "resource", "cloud"),
            (900_144, Kind::Misconfiguration, "missing", "proxy"),
            (53_003, Kind::Refused, "Conditional Access", "sign-in log"),
            (530_032, Kind::Refused, "Conditional Access", "sign-in log"),
            (90_055, Kind::Transient, "throttles", "repeated"),
            (90_024, Kind::Transient, "throttles", "repeated"),
            (90_033, Kind::Transient, "throttles", "repeated"),
            (90_006, Kind::Transient, "throttles", "repeated"),
            (90_090, Kind::Transient, "throttles", "repeated"),
            (1, Kind::Refused, "refused a token", "error?code=1"),
        ];
        let assertion = assertion("system:serviceaccount:shop:web");
        for (code, kind, cause, cure) in table {
            let (got, advice) = advice(code, Some(&assertion));
            assert_eq!(got, kind, "{code}");
            assert!(advice.cause.contains(cause), "{code}: {}", advice.cause);
            assert!(advice.cure.contains(cure), "{code}: {}", advice.cure);
            assert!(advice.cause.contains("issuer \"https://issuer.test/\""), "{}", advice.cause);
        }
    }

    #[test]
    fn no_two_entries_share_a_code() {
        let mut all: Vec<_> = ENTRIES.iter().flat_map(|entry| entry.codes).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn a_hostile_subject_cannot_leave_its_quotes() {
        let (_, advice) = advice(700_213, Some(&assertion("x'; rm -rf $HOME #\n`id`")));
        assert!(advice.cure.contains(r"--subject 'x'\''; rm -rf $HOME # `id`' "), "{}", advice.cure);
        let (_, advice) = of_entra(&[700_213], "invalid_client", 401, Some(&assertion("s")), "$(reboot)");
        assert!(advice.cure.contains("--id '$(reboot)'"), "{}", advice.cure);
    }

    #[test]
    fn the_metadata_services_refusals() {
        let cause = |status, text, user| of_metadata_service(status, text, user).1.cause;
        assert!(cause(400, "Multiple user assigned identities exist", false).contains("several"));
        assert!(cause(400, "Identity not found", true).contains("not assigned"));
        assert!(cause(400, "Identity not found", false).contains("no system-assigned"));
        assert!(cause(400, "Required metadata header not specified", false).contains("Metadata header"));
        assert!(cause(403, "", false).contains("forbids"));
    }

    proptest! {
        #[test]
        fn a_quoted_word_stays_one_word(text in any::<String>()) {
            let quoted = quote(&text);
            // Outside single quotes only plain characters and \' may stand.
            let mut inside = false;
            let mut chars = quoted.chars();
            while let Some(c) = chars.next() {
                match c {
                    '\'' => inside = !inside,
                    '\\' if !inside => prop_assert_eq!(chars.next(), Some('\'')),
                    c if !inside => prop_assert!(c.is_ascii_alphanumeric() || "-_.:/@".contains(c)),
                    _ => {}
                }
            }
            prop_assert!(!inside);
        }
    }
}
