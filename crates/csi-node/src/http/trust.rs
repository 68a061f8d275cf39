//! Which servers are trusted: the certificates that are trusted without further proof, and the verifier that uses them.

use crate::error::StartError;
use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::ExtendedKeyUsage;

/// Where distributions keep the CA certificates of the system: bundles, of which the first that exists is read, and
/// folders, which are all read.
const SYSTEM: [&str; 8] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
];

/// id-kp-serverAuth (RFC 5280, section 4.2.1.12).
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
/// anyExtendedKeyUsage, same section.
const ANY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");

/// The certificates that are trusted without further proof.
#[derive(Debug)]
pub struct Anchors {
    roots: RootCertStore,
    /// SHA-256 of each certificate whole. The store keeps names and keys only, and whole certificates would be some
    /// hundred kilobytes for as long as the process lives.
    fingerprints: HashSet<[u8; 32]>,
    /// Where they were looked for, in words.
    sources: Vec<String>,
}

impl Anchors {
    /// How many there are and where they are from, for people: `143 CAs of the system`.
    pub fn describe(&self) -> String {
        format!("{} CAs of {}", self.roots.len(), self.sources.join(" and "))
    }

    /// Reads what the environment and the system say, as [`anchors`] does.
    ///
    /// # Errors
    /// Those of [`anchors`].
    pub fn from_environment() -> Result<Self, StartError> {
        let (file, folders) = (std::env::var_os("SSL_CERT_FILE"), std::env::var_os("SSL_CERT_DIR"));
        anchors(file.as_deref(), folders.as_deref(), &SYSTEM.map(Path::new))
    }

    /// Adds the certificates of a PEM text and says how many could be used. What is no certificate, such as a key, is
    /// passed over, and so are certificates the TLS library cannot take: large bundles have some.
    fn add(&mut self, pem_text: &[u8], path: &Path) -> usize {
        let mut usable = 0;
        for certificate in CertificateDer::pem_slice_iter(pem_text) {
            let added: Result<(), String> = match certificate {
                Ok(certificate) if self.contains(&certificate) => Ok(()),
                Ok(certificate) => {
                    let fingerprint = fingerprint(&certificate);
                    self.roots.add(certificate).map_err(|error| error.to_string()).map(|()| {
                        self.fingerprints.extend(fingerprint);
                    })
                }
                Err(error) => Err(pem_fault(&error)),
            };
            match added {
                Ok(()) => usable += 1,
                Err(fault) => tracing::debug!(path = %path.display(), fault, "a CA certificate is not used"),
            }
        }
        usable
    }

    fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        fingerprint(certificate).is_some_and(|fingerprint| self.fingerprints.contains(&fingerprint))
    }
}

/// The digest has 32 bytes, so there always is one; the type of the digest does not say so.
fn fingerprint(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    digest(&SHA256, certificate).as_ref().try_into().ok()
}

/// In words, and without the text of the file: it may be anything.
fn pem_fault(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is not well-formed".to_owned(),
        pem::Error::Base64Decode(_) => "a section is not base64".to_owned(),
        other => other.to_string(),
    }
}

/// Collects the certificates to trust from PEM files:
///
/// * `ssl_cert_file`, the value of `SSL_CERT_FILE`: a file;
/// * `ssl_cert_dir`, the value of `SSL_CERT_DIR`: folders with colons between them, of which all files are read;
/// * `system`: of the files the first that exists, and all files of the folders.
///
/// The variables add to the system's certificates: an operator sets them for a private CA and still needs the public ones.
/// A variable that is empty counts as not set. Folders are not searched recursively, and a folder or one of its files that
/// cannot be read is passed over with a warning.
///
/// # Errors
/// [`StartError::Http`] when the file of `SSL_CERT_FILE` cannot be read or has no certificate that can be used, and when
/// there is no certificate at all.
pub fn anchors(
    ssl_cert_file: Option<&OsStr>,
    ssl_cert_dir: Option<&OsStr>,
    system: &[&Path],
) -> Result<Anchors, StartError> {
    let mut anchors =
        Anchors { roots: RootCertStore::empty(), fingerprints: HashSet::new(), sources: Vec::new() };

    let file = ssl_cert_file.filter(|file| !file.is_empty()).map(Path::new);
    if let Some(file) = file {
        let pem_text = std::fs::read(file).map_err(|error| {
            let file = file.display();
            StartError::Http(format!(
                "SSL_CERT_FILE is {file}, which cannot be read: {error}; put the PEM file of your CA there, or unset the variable"
            ))
        })?;
        anchors.sources.push(format!("SSL_CERT_FILE={}", file.display()));
        if anchors.add(&pem_text, file) == 0 {
            let file = file.display();
            return Err(StartError::Http(format!(
                "SSL_CERT_FILE is {file}, which has no certificate that can be used; it must be a PEM file with \
                 BEGIN CERTIFICATE lines, or unset the variable"
            )));
        }
    }

    let named = ssl_cert_dir.into_iter().flat_map(std::env::split_paths);
    let named = named.filter(|folder| !folder.as_os_str().is_empty());
    let folders = system.iter().filter(|path| path.is_dir()).map(|path| path.to_path_buf());
    let bundle = system.iter().find(|path| path.is_file()).map(|path| path.to_path_buf());

    // Folders of certificates have each under several names, all links to the same file, and often to the bundle, which
    // many name in SSL_CERT_FILE, too.
    let mut seen: HashSet<PathBuf> =
        file.and_then(|file| std::fs::canonicalize(file).ok()).into_iter().collect();
    let (named, folders): (Vec<PathBuf>, Vec<PathBuf>) = (named.collect(), folders.collect());
    anchors.sources.extend(named.iter().map(|folder| format!("SSL_CERT_DIR={}", folder.display())));
    if bundle.is_some() || !folders.is_empty() {
        anchors.sources.push("the system".to_owned());
    }
    let folders = named.iter().chain(&folders);
    for path in bundle.into_iter().chain(folders.flat_map(|folder| files_of(folder))) {
        let read = std::fs::canonicalize(&path).and_then(|target| {
            let new = target.is_file() && !seen.contains(&target);
            let pem_text = if new { Some(std::fs::read(&target)?) } else { None };
            seen.insert(target);
            Ok(pem_text)
        });
        match read {
            Ok(Some(pem_text)) => {
                anchors.add(&pem_text, &path);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a file of CA certificates cannot be read");
            }
        }
    }

    if anchors.roots.is_empty() {
        return Err(StartError::Http("there is no CA certificate to check servers against: install the package ca-certificates, or set SSL_CERT_FILE".to_owned()));
    }
    Ok(anchors)
}

/// The entries of a folder.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    entries.unwrap_or_else(|error| {
        tracing::warn!(path = %folder.display(), %error, "a folder of CA certificates cannot be read");
        Vec::new()
    })
}

/// Verifies as WebPKI asks, and takes a server's certificate also when it is an anchor itself.
///
/// People who make a certificate for one server with `openssl req -x509` get a self-signed one that says it is a CA.
/// WebPKI refuses a CA as a server, though whoever configured exactly this certificate trusts exactly this server. Go's
/// verifier and OpenSSL's take it.
#[derive(Debug)]
pub struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    fingerprints: HashSet<[u8; 32]>,
}

impl Verifier {
    /// A verifier that trusts the anchors, with the cryptography of `provider`.
    ///
    /// # Errors
    /// [`StartError::Http`] when there are no anchors.
    pub fn new(anchors: Anchors, provider: Arc<CryptoProvider>) -> Result<Self, StartError> {
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(anchors.roots), provider)
            .build()
            .map_err(|error| StartError::Http(error.to_string()))?;
        Ok(Self { webpki, fingerprints: anchors.fingerprints })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        // "It is a CA" has no code of its own and comes as `Other`; `UnknownIssuer` is what an anchor gets that another CA
        // issued. All the rest (period, name, purpose, encoding) an anchor must satisfy too.
        let about_the_chain = matches!(
            refused,
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_))
        );
        let is_anchor =
            fingerprint(end_entity).is_some_and(|fingerprint| self.fingerprints.contains(&fingerprint));
        if !about_the_chain || !is_anchor {
            return Err(refused);
        }
        // WebPKI stops at the first thing it refuses, so nothing is taken as checked.
        verify_alone(end_entity, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Checks all there is to check about a server's certificate without its issuer: well-formed with no critical extension
/// that is not understood, good for the name, for the time and for TLS servers.
fn verify_alone(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)?;

    let parsed = x509_cert::Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let parsed = parsed.tbs_certificate();
    let seconds = |time: x509_cert::time::Time| UnixTime::since_unix_epoch(time.to_unix_duration());
    let not_before = seconds(parsed.validity().not_before);
    let not_after = seconds(parsed.validity().not_after);
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }

    let usage = parsed.get_extension::<ExtendedKeyUsage>().map_err(|_| CertificateError::BadEncoding)?;
    if usage.is_some_and(|(_, usage)| !usage.0.iter().any(|oid| [SERVER_AUTH, ANY_USAGE].contains(oid))) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "test code")]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use std::time::Duration;

    #[test]
    fn the_period_of_a_certificate_is_checked_to_the_second() {
        let mut params = CertificateParams::new(["kv.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2030, 1, 1), date_time_ymd(2060, 1, 1));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let name = ServerName::try_from("kv.example").unwrap();
        let check = |seconds| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            verify_alone(certificate.der(), &name, now)
        };
        let first = 1_893_456_000;
        let last = 2_840_140_800;
        assert!(matches!(
            check(first - 1),
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { .. }))
        ));
        assert_eq!(check(first), Ok(()));
        assert_eq!(check(last), Ok(()));
        assert!(matches!(
            check(last + 1),
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))
        ));
    }
}
