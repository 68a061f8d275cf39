//! Self-signed certificates by a Key Vault policy.

use std::{str::FromStr, time::Duration};

use p256::ecdsa::signature::{Keypair, Signer};
use rsa::{pkcs1v15, sha2::Sha256};
use x509_cert::{
    Certificate,
    builder::{Builder, CertificateBuilder, profile::BuilderProfile},
    certificate::TbsCertificate,
    der::{
        Decode, Encode,
        asn1::{Ia5String, ObjectIdentifier},
        flagset::FlagSet,
    },
    ext::{
        Extension, ToExtension,
        pkix::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
            SubjectKeyIdentifier, name::GeneralName,
        },
    },
    name::Name,
    serial_number::SerialNumber,
    spki::{
        DynSignatureAlgorithmIdentifier, EncodePublicKey, SignatureBitStringEncoding,
        SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef,
    },
    time::{Time, Validity},
};

use super::material::Material;
use crate::error::Error;

/// What a policy says about the certificate itself.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub subject: String,
    pub dns_names: Vec<String>,
    pub emails: Vec<String>,
    pub extended_usages: Vec<String>,
    pub key_usages: Vec<String>,
    pub not_before: i64,
    pub not_after: i64,
}

/// Makes the certificate, DER.
pub(crate) fn self_signed(request: &Request, key: &Material) -> Result<Vec<u8>, Error> {
    let subject = Name::from_str(&tidy(&request.subject))
        .map_err(|error| Error::Crypto(format!("the subject '{}': {error}", request.subject)))?;
    let names = request.dns_names.iter().map(|name| Ia5String::new(name).map(GeneralName::DnsName));
    let emails = request.emails.iter().map(|name| Ia5String::new(name).map(GeneralName::Rfc822Name));
    let alternative_names: Vec<GeneralName> = names.chain(emails).collect::<Result<_, _>>().map_err(bad)?;
    let extended_usages = request
        .extended_usages
        .iter()
        .map(|oid| {
            ObjectIdentifier::new(oid).map_err(|error| Error::Crypto(format!("the usage '{oid}': {error}")))
        })
        .collect::<Result<_, _>>()?;
    let profile =
        SelfSigned { subject, alternative_names, extended_usages, usages: usages(&request.key_usages)? };
    let time = |seconds: i64| {
        let since_epoch = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        Time::try_from(std::time::UNIX_EPOCH + since_epoch).map_err(bad)
    };
    let validity = Validity::new(time(request.not_before)?, time(request.not_after)?);
    let spki = SubjectPublicKeyInfoOwned::from_der(&key.to_spki()?).map_err(bad)?;
    let builder = CertificateBuilder::new(profile, SerialNumber::generate(&mut rand::rng()), validity, spki)
        .map_err(bad)?;
    match key {
        Material::Rsa(key) => {
            sign::<_, pkcs1v15::Signature>(builder, &pkcs1v15::SigningKey::<Sha256>::new((**key).clone()))
        }
        Material::P256(key) => {
            sign::<_, p256::ecdsa::DerSignature>(builder, &p256::ecdsa::SigningKey::from(key))
        }
        Material::P384(key) => {
            sign::<_, p384::ecdsa::DerSignature>(builder, &p384::ecdsa::SigningKey::from(key))
        }
        Material::P521(key) => {
            sign::<_, p521::ecdsa::DerSignature>(builder, &p521::ecdsa::SigningKey::from(key))
        }
        Material::P256K(key) => {
            sign::<_, k256::ecdsa::DerSignature>(builder, &k256::ecdsa::SigningKey::from(key))
        }
        Material::Symmetric(_) => Err(Error::Crypto("a symmetric key cannot be certified".to_owned())),
    }
}

fn sign<S, Signature>(builder: CertificateBuilder<SelfSigned>, signer: &S) -> Result<Vec<u8>, Error>
where
    S: Signer<Signature> + Keypair + DynSignatureAlgorithmIdentifier,
    S::VerifyingKey: EncodePublicKey,
    Signature: SignatureBitStringEncoding,
{
    builder.build::<S, Signature>(signer).map_err(bad)?.to_der().map_err(bad)
}

/// When a certificate begins and ends, in seconds since the Unix epoch.
pub(crate) fn validity(der: &[u8]) -> Result<(i64, i64), Error> {
    let certificate = Certificate::from_der(der).map_err(bad)?;
    let validity = certificate.tbs_certificate().validity();
    let seconds = |time: Time| i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    Ok((seconds(validity.not_before), seconds(validity.not_after)))
}

/// The subject as text, most specific part first.
pub(crate) fn subject(der: &[u8]) -> Result<String, Error> {
    Certificate::from_der(der)
        .map(|certificate| certificate.tbs_certificate().subject().to_string())
        .map_err(bad)
}

/// Whether a certificate is for a key (`SubjectPublicKeyInfo`, DER).
pub(crate) fn is_for(der: &[u8], spki: &[u8]) -> bool {
    Certificate::from_der(der)
        .and_then(|certificate| certificate.tbs_certificate().subject_public_key_info().to_der())
        .is_ok_and(|own| own == spki)
}

/// Extensions in the order and with the criticality Key Vault's self-signed certificates have.
struct SelfSigned {
    subject: Name,
    alternative_names: Vec<GeneralName>,
    extended_usages: Vec<ObjectIdentifier>,
    usages: FlagSet<KeyUsages>,
}

impl BuilderProfile for SelfSigned {
    fn get_issuer(&self, subject: &Name) -> Name {
        subject.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        own: SubjectPublicKeyInfoRef<'_>,
        issuer: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        let mut extensions = Vec::new();
        extensions.push(KeyUsage(self.usages).to_extension(tbs.subject(), &extensions)?);
        extensions.push(
            BasicConstraints { ca: false, path_len_constraint: None }
                .to_extension(tbs.subject(), &extensions)?,
        );
        if !self.alternative_names.is_empty() {
            extensions.push(
                SubjectAltName(self.alternative_names.clone()).to_extension(tbs.subject(), &extensions)?,
            );
        }
        if !self.extended_usages.is_empty() {
            extensions.push(
                ExtendedKeyUsage(self.extended_usages.clone()).to_extension(tbs.subject(), &extensions)?,
            );
        }
        extensions.push(AuthorityKeyIdentifier::try_from(issuer)?.to_extension(tbs.subject(), &extensions)?);
        extensions.push(SubjectKeyIdentifier::try_from(own)?.to_extension(tbs.subject(), &extensions)?);
        Ok(extensions)
    }
}

fn usages(names: &[String]) -> Result<FlagSet<KeyUsages>, Error> {
    let mut usages = FlagSet::default();
    for name in names {
        usages |= match name.as_str() {
            "digitalSignature" => KeyUsages::DigitalSignature,
            "nonRepudiation" => KeyUsages::NonRepudiation,
            "keyEncipherment" => KeyUsages::KeyEncipherment,
            "dataEncipherment" => KeyUsages::DataEncipherment,
            "keyAgreement" => KeyUsages::KeyAgreement,
            "keyCertSign" => KeyUsages::KeyCertSign,
            "cRLSign" => KeyUsages::CRLSign,
            "encipherOnly" => KeyUsages::EncipherOnly,
            "decipherOnly" => KeyUsages::DecipherOnly,
            other => return Err(Error::Crypto(format!("the key usage '{other}' is not known"))),
        };
    }
    Ok(usages)
}

/// Key Vault takes spaces after the commas of a subject, RFC 4514 does not.
fn tidy(subject: &str) -> String {
    subject.split(',').map(str::trim).collect::<Vec<_>>().join(",")
}

fn bad(error: impl std::fmt::Display) -> Error {
    Error::Crypto(format!("the certificate: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{
        super::material::{Curve, Material},
        *,
    };

    #[test]
    fn a_certificate_is_for_its_key_and_says_what_was_asked() {
        let request = Request {
            subject: "CN=test.domain.com, O=Example".to_owned(),
            dns_names: vec!["test.domain.com".to_owned()],
            emails: Vec::new(),
            extended_usages: vec!["1.3.6.1.5.5.7.3.1".to_owned()],
            key_usages: vec!["digitalSignature".to_owned()],
            not_before: 1_700_000_000,
            not_after: 1_800_000_000,
        };
        let keys = [Curve::P256, Curve::P384, Curve::P521, Curve::P256K].map(Material::generate_ec);
        let other = Material::generate_ec(Curve::P256).to_spki().unwrap();
        for key in keys.into_iter().chain([Material::generate_rsa(2048).unwrap()]) {
            let der = self_signed(&request, &key).unwrap();
            assert!(is_for(&der, &key.to_spki().unwrap()));
            assert!(!is_for(&der, &other));
            assert_eq!(validity(&der).unwrap(), (1_700_000_000, 1_800_000_000));
            assert_eq!(subject(&der).unwrap(), "CN=test.domain.com,O=Example");
        }
    }
}
