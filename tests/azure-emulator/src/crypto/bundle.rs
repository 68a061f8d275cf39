//! Certificates with their keys in the two forms Key Vault takes and gives: PFX and PEM.

use base64::{Engine, engine::general_purpose::STANDARD};
use p12_keystore::{
    Certificate, EncryptionAlgorithm, KeyStore, KeyStoreEntry, MacAlgorithm, Pkcs12Archive, PrivateKey,
    PrivateKeyChain,
};
use x509_cert::der::pem::{self, LineEnding};

use super::{certificate, material::Material};
use crate::error::Error;

/// The iteration count the real service's files have.
const ITERATIONS: u32 = 2000;

/// A key and its certificates (DER).
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    pub key: Material,
    chain: Vec<Vec<u8>>,
    /// Which of them is the key's own.
    own: usize,
}

impl Bundle {
    /// Keeps the certificates in the order given.
    ///
    /// # Errors
    /// [`Error::Crypto`] if none of them is for the key.
    pub(crate) fn new(key: Material, chain: Vec<Vec<u8>>) -> Result<Self, Error> {
        let spki = key.to_spki()?;
        let own = chain
            .iter()
            .position(|der| certificate::is_for(der, &spki))
            .ok_or_else(|| Error::Crypto("no certificate belongs to the private key".to_owned()))?;
        Ok(Self { key, chain, own })
    }

    /// The same with the key's own certificate in front.
    pub(crate) fn leaf_first(mut self) -> Self {
        self.chain[..=self.own].rotate_right(1);
        self.own = 0;
        self
    }

    pub(crate) fn leaf(&self) -> &[u8] {
        self.chain.get(self.own).map(Vec::as_slice).unwrap_or_default()
    }

    /// Reads PEM text: one private key and its certificates, in any order.
    pub(crate) fn from_pem(text: &str) -> Result<Self, Error> {
        let mut key = None;
        let mut chain = Vec::new();
        for block in blocks(text) {
            let (label, der) = pem::decode_vec(block.as_bytes())
                .map_err(|error| Error::Crypto(format!("a PEM block cannot be read: {error}")))?;
            match label {
                "CERTIFICATE" => chain.push(der),
                "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => key = Some(Material::from_der(&der)?),
                // OpenSSL writes the curve in a block of its own in front of an EC key.
                "EC PARAMETERS" => {}
                other => return Err(Error::Crypto(format!("a PEM block '{other}' is not expected here"))),
            }
        }
        let key = key.ok_or_else(|| Error::Crypto("the PEM has no private key".to_owned()))?;
        Self::new(key, chain)
    }

    /// Reads a PFX in base64, with or without line breaks.
    pub(crate) fn from_pfx(base64: &str, password: &str) -> Result<Self, Error> {
        let text: String = base64.split_ascii_whitespace().collect();
        let der = STANDARD
            .decode(text)
            .map_err(|error| Error::Crypto(format!("the PFX is not base64: {error}")))?;
        let archive = Pkcs12Archive::from_pkcs12(&der, password)
            .map_err(|error| Error::Crypto(format!("the PFX cannot be read: {error}")))?;
        let key =
            archive.keys.first().ok_or_else(|| Error::Crypto("the PFX has no private key".to_owned()))?;
        let chain = archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect();
        Self::new(Material::from_der(key.key.as_der())?, chain)
    }

    /// PEM as Key Vault writes it: the key as PKCS#8 first, then the certificates.
    pub(crate) fn to_pem(&self, with_key: bool) -> Result<String, Error> {
        let mut text = String::new();
        if with_key {
            text.push_str(&encode("PRIVATE KEY", &self.key.to_pkcs8()?)?);
        }
        for der in &self.chain {
            text.push_str(&encode("CERTIFICATE", der)?);
        }
        Ok(text)
    }

    /// PFX as Key Vault writes it, in base64: empty password, SHA-1 with triple DES and a SHA-1 MAC. The key's own
    /// certificate comes first.
    pub(crate) fn to_pfx(&self, with_key: bool) -> Result<String, Error> {
        let bad =
            |error: p12_keystore::error::Error| Error::Crypto(format!("the PFX cannot be written: {error}"));
        let certificates: Vec<Certificate> = self
            .clone()
            .leaf_first()
            .chain
            .iter()
            .map(|der| Certificate::from_der(der))
            .collect::<Result<_, _>>()
            .map_err(bad)?;
        let mut store = KeyStore::new();
        if with_key {
            let key = PrivateKey::from_der(&self.key.to_pkcs8()?).map_err(bad)?;
            let chain = PrivateKeyChain::new([1_u8, 0, 0, 0].as_slice(), key, certificates);
            store.add_entry("certificate", KeyStoreEntry::PrivateKeyChain(chain));
        } else {
            for (at, certificate) in certificates.into_iter().enumerate() {
                store.add_entry(&format!("certificate-{at}"), KeyStoreEntry::Certificate(certificate));
            }
        }
        store
            .writer("")
            .encryption_algorithm(EncryptionAlgorithm::PbeWithShaAnd3KeyTripleDesCbc)
            .encryption_iterations(ITERATIONS)
            .mac_algorithm(MacAlgorithm::HmacSha1)
            .mac_iterations(ITERATIONS)
            .write()
            .map(|der| STANDARD.encode(der))
            .map_err(bad)
    }
}

/// The PEM blocks of a text, whatever stands between them left out.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block = String::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("-----BEGIN ") {
            block.clear();
        } else if block.is_empty() {
            continue;
        }
        block.push_str(line);
        block.push('\n');
        if line.starts_with("-----END ") {
            blocks.push(std::mem::take(&mut block));
        }
    }
    blocks
}

fn encode(label: &'static str, der: &[u8]) -> Result<String, Error> {
    pem::encode_string(label, LineEnding::LF, der).map_err(|error| Error::Crypto(format!("{label}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::{super::material::Curve, *};

    fn bundle() -> Bundle {
        let key = Material::generate_ec(Curve::P256);
        let request = certificate::Request {
            subject: "CN=a".to_owned(),
            dns_names: Vec::new(),
            emails: Vec::new(),
            extended_usages: Vec::new(),
            key_usages: vec!["digitalSignature".to_owned()],
            not_before: 0,
            not_after: 1_000_000_000,
        };
        let own = certificate::self_signed(&request, &key).unwrap();
        let other = certificate::self_signed(&request, &Material::generate_ec(Curve::P384)).unwrap();
        let third = certificate::self_signed(&request, &Material::generate_ec(Curve::P521)).unwrap();
        Bundle::new(key, vec![other, third, own]).unwrap().leaf_first()
    }

    #[test]
    fn both_forms_give_back_key_and_chain() {
        let bundle = bundle();
        let spki = bundle.key.to_spki().unwrap();
        assert!(certificate::is_for(bundle.leaf(), &spki));
        assert_eq!(bundle.leaf(), bundle.chain[0]);
        let pem = format!("noise\n{}", bundle.to_pem(true).unwrap().replace('\n', "\r\n"));
        let pfx = bundle.to_pfx(true).unwrap();
        for again in [Bundle::from_pem(&pem).unwrap(), Bundle::from_pfx(&pfx, "").unwrap()] {
            assert_eq!(again.chain, bundle.chain);
            assert_eq!(again.key.to_spki().unwrap(), spki);
        }
        assert!(Bundle::from_pfx(&pfx, "wrong").is_err());
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let pem = bundle().to_pem(false).unwrap();
        assert!(Bundle::from_pem(&pem).is_err());
        let stranger =
            encode("PRIVATE KEY", &Material::generate_ec(Curve::P256).to_pkcs8().unwrap()).unwrap();
        assert!(Bundle::from_pem(&format!("{stranger}{pem}")).is_err());
    }
}
