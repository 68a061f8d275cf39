//! Who may talk to whom: a certificate authority, certificates from it, and the key that signs service-account tokens.

use crate::places::{API_SERVER, FIRST_NODE, Places};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rsa::pkcs8::EncodePrivateKey as _;
use serde_json::json;
use std::path::PathBuf;

/// The cluster's authority. Everything it makes is written to files, because that is how Kubernetes' programs take it.
pub struct Credentials {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    authority: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Makes the authority (`ca.crt`), the API server's certificate (`apiserver`), the one it shows to kubelets
    /// (`apiserver-kubelet-client`) and the key of service-account tokens (`service-accounts.key`).
    pub fn create(places: &Places) -> Self {
        let folder = places.run("credentials");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "cluster authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = params.self_signed(&key).expect("a certificate").pem();
        std::fs::write(folder.join("ca.crt"), &authority).expect("a fresh tmpfs is writable");
        let credentials = Self { folder, issuer: Issuer::new(params, key), authority };

        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
        let mut server = CertificateParams::new(names.map(str::to_owned)).expect("valid names");
        server.subject_alt_names.extend([API_SERVER, FIRST_NODE].map(SanType::IpAddress));
        credentials.sign("apiserver", "kube-apiserver", None, server, ExtendedKeyUsagePurpose::ServerAuth);
        credentials.client(
            "apiserver-kubelet-client",
            "kube-apiserver-kubelet-client",
            Some("system:masters"),
        );

        // RSA, because Entra takes no other kind.
        let key = rsa::PrivateKey::new(&mut rand::rng(), 2048).expect("a key");
        let pem = key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).expect("a key can be written");
        std::fs::write(credentials.path("service-accounts.key"), pem.as_bytes())
            .expect("a fresh tmpfs is writable");
        credentials
    }

    /// A file of the authority.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A certificate `NAME.crt` with its key `NAME.key` for a user of the API, in a group if one is named.
    pub fn client(&self, name: &str, user: &str, group: Option<&str>) -> (String, String) {
        self.sign(name, user, group, CertificateParams::default(), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        name: &str,
        user: &str,
        group: Option<&str>,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> (String, String) {
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        std::fs::write(self.path(&format!("{name}.crt")), &certificate).expect("a fresh tmpfs is writable");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem())
            .expect("a fresh tmpfs is writable");
        (certificate, key.serialize_pem())
    }

    /// A kubeconfig for a user, whole in one file.
    pub fn kubeconfig(&self, user: &str, group: Option<&str>) -> String {
        let (certificate, key) = self.client(&user.replace(':', "-"), user, group);
        let encode = |pem: &str| base64(pem.as_bytes());
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "akv-csi", "cluster": {
                "server": format!("https://{API_SERVER}"),
                "certificate-authority-data": encode(&self.authority),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": encode(&certificate),
                "client-key-data": encode(&key),
            }}],
            "contexts": [{"name": "akv-csi", "context": {"cluster": "akv-csi", "user": user}}],
            "current-context": "akv-csi",
        })
        .to_string()
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
