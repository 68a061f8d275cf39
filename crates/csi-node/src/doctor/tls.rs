//! Looks at a server's certificate while the driver's own verifier judges it, and says in words what is wrong with it.

use crate::http::trust::Verifier;
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use std::sync::Arc;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A verifier that notes what it was shown and what came of it. The verdict is the driver's.
#[derive(Debug)]
pub(super) struct Witness {
    verifier: Verifier,
    seen: Mutex<Option<Seen>>,
}

/// What a server showed.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Its own certificate.
    leaf: Option<Certificate>,
    /// The certificates it sent along.
    others: usize,
    /// Why it was refused.
    pub refused: Option<Error>,
}

#[derive(Debug, Clone)]
struct Certificate {
    subject: String,
    issuer: String,
    names: Vec<String>,
    not_before: String,
    not_after: String,
}

impl Witness {
    /// Judges as `verifier` does.
    pub(super) fn new(verifier: Verifier) -> Arc<Self> {
        Arc::new(Self { verifier, seen: Mutex::new(None) })
    }

    /// What was shown last.
    pub(super) fn seen(&self) -> Option<Seen> {
        self.seen.lock().clone()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        *self.seen.lock() = Some(Seen {
            leaf: Certificate::read(end_entity),
            others: intermediates.len(),
            refused: verdict.as_ref().err().cloned(),
        });
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

impl Certificate {
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let parsed = x509_cert::Certificate::from_der(der).ok()?;
        let parsed = parsed.tbs_certificate();
        let moment = |time: x509_cert::time::Time| {
            let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
            OffsetDateTime::from_unix_timestamp(seconds)
                .ok()
                .and_then(|time| time.format(&Rfc3339).ok())
                .unwrap_or_default()
        };
        let names = parsed.get_extension::<SubjectAltName>().ok().flatten();
        let names = names.into_iter().flat_map(|(_, names)| names.0);
        Some(Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            names: names
                .filter_map(|name| match name {
                    GeneralName::DnsName(name) => Some(name.to_string()),
                    _ => None,
                })
                .collect(),
            not_before: moment(parsed.validity().not_before),
            not_after: moment(parsed.validity().not_after),
        })
    }
}

impl Seen {
    /// The certificate, for the line of a server that is trusted.
    pub(super) fn describe(&self) -> String {
        match &self.leaf {
            Some(leaf) => format!("certificate of {} valid until {}", leaf.issuer, leaf.not_after),
            None => "a certificate that cannot be read".to_owned(),
        }
    }

    /// Why it was refused, and the cure.
    pub(super) fn explain(&self, host: &str, trusted: &str) -> Option<(String, String)> {
        let refused = self.refused.as_ref()?;
        let unread = Certificate {
            subject: "?".to_owned(),
            issuer: "?".to_owned(),
            names: Vec::new(),
            not_before: "?".to_owned(),
            not_after: "?".to_owned(),
        };
        let leaf = self.leaf.as_ref().unwrap_or(&unread);
        let clock = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let Error::InvalidCertificate(fault) = refused else {
            return Some((refused.to_string(), format!("check what answers at {host}")));
        };
        Some(match fault {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                format!("its certificate expired at {}; this node's clock says {clock}", leaf.not_after),
                format!("set the node's clock if it is wrong; else the certificate of {host}, or of the proxy that answers for it, has to be renewed"),
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                format!("its certificate is valid from {} on; this node's clock says {clock}", leaf.not_before),
                "set the node's clock: it is behind".to_owned(),
            ),
            CertificateError::UnknownIssuer => (
                format!(
                    "its certificate is issued by {}, which is none of the CAs trusted here ({trusted}), nor leads to one by the {} certificates sent along",
                    leaf.issuer, self.others
                ),
                "a proxy that inspects TLS has a CA of its own: give the driver its certificate as a PEM file by SSL_CERT_FILE; or \
                 exempt Azure's hosts from inspection".to_owned(),
            ),
            CertificateError::BadSignature => (
                format!(
                    "its certificate names {} as its issuer, but the CA of that name that is trusted here ({trusted}) has not signed it",
                    leaf.issuer
                ),
                "the CA was made anew under its old name: replace its certificate in the file of SSL_CERT_FILE".to_owned(),
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
                format!("its certificate is for {} and not for {host}", if leaf.names.is_empty() { leaf.subject.clone() } else { leaf.names.join(", ") }),
                format!("something else answers under the name {host}: check DNS, private endpoints and proxies, and keyvaultName and cloudName of the class"),
            ),
            other => (format!("its certificate is refused: {other:?}"), format!("check what answers at {host}")),
        })
    }
}
