//! The client against the emulated Key Vault: real TLS, challenges, permissions and certificates.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{sync::Arc, time::Duration};

use azure_core::{
    credentials::{AccessToken, TokenCredential, TokenRequestOptions},
    time::OffsetDateTime,
};
use azure_emulator::{
    Config, Emulator, Extent, FaultRule, ObjectKind, Permissions, RetryAfter, Service, Vault,
};
use serde_json::json;
use tokio::time::Instant;
use vault::{
    Client, ClientOptions, Contents, Credential, FailureKind, FetchError, FetchRequest, Priority, Rendering,
    VaultEndpoint, VaultName, parse_objects,
};

/// An identity whose tokens come straight from the emulated Entra.
struct Reader {
    azure: Arc<Emulator>,
    client_id: String,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

#[async_trait::async_trait]
impl TokenCredential for Reader {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let audience = scopes[0].trim_end_matches("/.default");
        let token = self.azure.entra().issue_token(&self.client_id, audience).unwrap();
        Ok(AccessToken {
            token: token.into(),
            expires_on: OffsetDateTime::now_utc() + Duration::from_mins(5),
        })
    }
}

impl Credential for Reader {
    fn key(&self) -> Option<&str> {
        Some(&self.client_id)
    }

    fn refused(&self, _: &str) {}

    fn describe(&self) -> String {
        format!("reader {}", self.client_id)
    }

    fn source(&self) -> String {
        "https://login.test".to_owned()
    }
}

struct Stage {
    azure: Arc<Emulator>,
    vault: Vault,
    endpoint: VaultEndpoint,
    client: Client,
    reader: Arc<Reader>,
}

impl Stage {
    async fn new() -> Self {
        let azure = Arc::new(Emulator::start(Config::default()).await.unwrap());
        let client_id = azure.entra().add_identity("reader").client_id;
        let vault = azure.vault("kv1");
        vault.grant(&client_id, Permissions::read());
        let name = VaultName::parse("kv1").unwrap();
        let endpoint =
            VaultEndpoint::new(&name, azure.vault_suffix(), Some(&azure.vault_resource())).unwrap();
        let client = Client::new(azure.client_builder().build().unwrap(), ClientOptions::default());
        let reader = Arc::new(Reader { azure: Arc::clone(&azure), client_id });
        Self { azure, vault, endpoint, client, reader }
    }

    async fn fetch(&self, objects: &str, max_age: Duration) -> Result<Contents, FetchError> {
        let objects = parse_objects(objects).unwrap();
        let request = FetchRequest {
            endpoint: &self.endpoint,
            credential: Arc::clone(&self.reader) as Arc<dyn Credential>,
            objects: &objects,
            rendering: Rendering { construct_pem_chain: true, separate_cert_and_key_files: true },
            deadline: Instant::now() + Duration::from_secs(60),
            max_age,
            stale_if_error: Duration::ZERO,
            priority: Priority::Mount,
        };
        self.client.fetch(request).await
    }
}

fn text(contents: &Contents, path: &str) -> String {
    let file = contents.files.iter().find(|file| file.path == path).unwrap();
    String::from_utf8(file.contents.to_vec()).unwrap()
}

#[tokio::test]
async fn every_kind_of_object() {
    let stage = Stage::new().await;
    let old = stage.vault.set_secret("plain", "one").unwrap();
    // Versions are told apart by the second they were made in.
    stage.azure.clock().advance(Duration::from_secs(2));
    let new = stage.vault.set_secret("plain", "two").unwrap();
    stage.vault.create_key("rsa", json!({"kty": "RSA", "key_size": 2048})).unwrap();
    stage.vault.create_key("ec", json!({"kty": "EC", "crv": "P-521"})).unwrap();
    for (name, form) in [("pfx", "application/x-pkcs12"), ("pem", "application/x-pem-file")] {
        let policy = json!({"policy": {
            "key_props": {"kty": "RSA", "key_size": 2048, "exportable": true},
            "secret_props": {"contentType": form},
            "issuer": {"name": "Self"},
            "x509_props": {"subject": "CN=demo.test.com"},
        }});
        stage.vault.create_certificate(name, policy).unwrap();
    }
    let contents = stage
        .fetch(
            "array:
            - 'objectName: plain\n\n  objectType: secret\n\n  objectVersionHistory: 2'
            - '{objectName: plain, objectType: secret, objectAlias: now}'
            - '{objectName: rsa, objectType: key}'
            - '{objectName: ec, objectType: key}'
            - '{objectName: pfx, objectType: cert}'
            - '{objectName: pfx, objectType: secret, objectAlias: tls/pfx}'
            - '{objectName: pem, objectType: secret, objectAlias: tls/pem}'
            - '{objectName: pfx, objectType: secret, objectAlias: raw, objectFormat: pfx, objectEncoding: base64}'
            ",
            Duration::ZERO,
        )
        .await
        .unwrap();
    assert_eq!(
        [text(&contents, "plain/0"), text(&contents, "plain/1"), text(&contents, "now")],
        ["two", "one", "two"]
    );
    let version =
        |id: &str| contents.versions.iter().find(|version| version.id == id).unwrap().version.clone();
    for (id, expected) in [("secret/plain/0", &new), ("secret/plain/1", &old), ("secret/plain", &new)] {
        assert!(expected.ends_with(&version(id)) && !version(id).is_empty(), "{id}: {expected}");
    }
    for key in ["rsa", "ec"] {
        assert!(text(&contents, key).starts_with("-----BEGIN PUBLIC KEY-----\n"));
    }
    let certificate = text(&contents, "pfx");
    assert!(certificate.starts_with("-----BEGIN CERTIFICATE-----\n"));
    let (key, crt) = (text(&contents, "tls/pfx.key"), text(&contents, "tls/pfx.crt"));
    assert_eq!(crt, certificate);
    assert_eq!(text(&contents, "tls/pfx"), format!("{key}{crt}"));
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert!(text(&contents, "tls/pem").contains("-----BEGIN CERTIFICATE-----\n"));
    let raw = contents.files.iter().find(|file| file.path == "raw").unwrap();
    assert_eq!(raw.contents[0], 0x30, "a binary PFX");
}

#[tokio::test]
async fn refusals_name_their_cure() {
    let stage = Stage::new().await;
    stage.vault.set_secret("s", "v").unwrap();
    let object = "array: ['{objectName: s, objectType: secret}']";
    let missing =
        stage.fetch("array: ['{objectName: gone, objectType: secret}']", Duration::ZERO).await.unwrap_err();
    assert_eq!(missing.kind(), FailureKind::NotFound, "{missing}");
    stage.vault.set_enabled(ObjectKind::Secrets, "s", false).unwrap();
    let disabled = stage.fetch(object, Duration::ZERO).await.unwrap_err();
    assert!(disabled.to_string().contains("(SecretDisabled); enable that version"), "{disabled}");
    stage.vault.set_enabled(ObjectKind::Secrets, "s", true).unwrap();
    stage.vault.revoke(&stage.reader.client_id);
    let forbidden = stage.fetch(object, Duration::ZERO).await.unwrap_err();
    assert_eq!(forbidden.kind(), FailureKind::Forbidden, "{forbidden}");
    assert!(forbidden.to_string().contains(&stage.reader.client_id), "{forbidden}");
}

#[tokio::test]
async fn many_volumes_ask_once() {
    let stage = Stage::new().await;
    let names: Vec<String> = (0..5).map(|i| format!("s{i}")).collect();
    let mut objects = "array:\n".to_owned();
    for name in &names {
        stage.vault.set_secret(name, "v").unwrap();
        objects.push_str("- '{objectName: ");
        objects.push_str(name);
        objects.push_str(", objectType: secret}'\n");
    }
    let before = stage.azure.counters();
    let volumes = (0..50).map(|_| stage.fetch(&objects, Duration::from_mins(1)));
    let volumes = futures::future::join_all(volumes).await;
    assert!(volumes.iter().all(|contents| contents.as_ref().is_ok_and(|contents| contents.files.len() == 5)));
    let after = stage.azure.counters();
    assert_eq!(after.vault_requests() - before.vault_requests(), 5);
    assert_eq!(after.endpoint("vault.challenge"), 0, "the first guess was right");
}

/// Every second request is throttled for ten seconds, while twenty classes of five objects are mounted, five pods each.
#[tokio::test]
async fn a_storm_of_throttling_fails_no_mount_and_is_not_answered_with_a_storm_of_requests() {
    const OBJECTS: u64 = 100;
    // What is under way when the storm begins, and one request for each pause that the vault asks for, or that grows.
    for (asked_for, most_throttled) in [(Some(1), 16 + 12), (None, 16 + 6)] {
        let stage = Stage::new().await;
        let class = |class: u64| {
            let object = |i| format!("- '{{objectName: s{}, objectType: secret}}'\n", class * 5 + i);
            format!("array:\n{}", (0..5).map(object).collect::<String>())
        };
        for object in 0..OBJECTS {
            stage.vault.set_secret(&format!("s{object}"), "v").unwrap();
        }
        let mut rule = FaultRule::status(Service::Vault, 429).extent(Extent::EveryNth(2)).authorized_only();
        if let Some(seconds) = asked_for {
            rule = rule.retry_after(RetryAfter::Seconds(seconds));
        }
        stage.azure.faults().inject(rule);
        let pods: Vec<String> = (0..OBJECTS).map(|pod| class(pod % 20)).collect();
        let mounts = pods.iter().map(|objects| stage.fetch(objects, Duration::from_mins(1)));
        let storm = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            let during = stage.azure.counters();
            stage.azure.faults().clear();
            during
        };
        let (mounts, during) = tokio::join!(futures::future::join_all(mounts), storm);
        for mount in mounts {
            assert_eq!(mount.unwrap().files.len(), 5);
        }
        let throttled = during.status("vault", 429);
        assert!((1..=most_throttled).contains(&throttled), "{throttled} with {asked_for:?}");
        let after = stage.azure.counters();
        assert_eq!(after.status("vault", 200), OBJECTS, "every object was answered once");
        assert_eq!(after.status("vault", 429), throttled, "the storm was over");
    }
}
