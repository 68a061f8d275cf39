//! What the tests share: a running emulator with one identity and one vault, and a client that finds it.

#![allow(dead_code, reason = "each test file uses its own part")]

use azure_emulator::{Config, Emulator, Identity, Permissions, Vault};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Client, Method, Response, StatusCode};
use ring::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use rsa::pkcs8::EncodePrivateKey;
use serde_json::{Value, json};

pub const API: &str = "api-version=7.4";
pub const RESOURCE: &str = "https://vault.azure.net";

/// An emulator whose identity `app` (secret `client-secret`) may do everything on the vault `kv1`.
pub struct Azure {
    pub emulator: Emulator,
    pub client: Client,
    pub app: Identity,
    pub vault: Vault,
}

impl Azure {
    pub async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    pub async fn start_with(config: Config) -> Self {
        let emulator = Emulator::start(config).await.unwrap();
        let client = emulator.client_builder().build().unwrap();
        let app = emulator.entra().add_identity("app");
        emulator.entra().add_secret(&app.client_id, "client-secret", None).unwrap();
        let vault = emulator.vault("kv1");
        vault.grant(&app.client_id, Permissions::all());
        Self { emulator, client, app, vault }
    }

    pub fn token(&self) -> String {
        self.emulator.entra().issue_token(&self.app.client_id, RESOURCE).unwrap()
    }

    /// One request to the vault with a good token; the path has its own query.
    pub async fn send(&self, method: Method, path: &str, body: Value) -> Response {
        let url = format!("{}{path}", self.vault.url());
        let request = self.client.request(method, url).bearer_auth(self.token());
        let request = if body.is_null() { request } else { request.json(&body) };
        request.send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        let separator = if path.contains('?') { '&' } else { '?' };
        let response = self.send(Method::GET, &format!("{path}{separator}{API}"), Value::Null).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    /// A request that must be refused: status and the `error` object.
    pub async fn refused(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let response = self.send(method, path, body).await;
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        (status, body["error"].clone())
    }

    /// A token request; more fields replace those of the same name, empty ones are left out.
    pub async fn token_request(&self, fields: &[(&str, &str)]) -> (u16, Value) {
        let url = format!("{}{}/oauth2/v2.0/token", self.emulator.authority_url(), self.emulator.tenant());
        self.token_request_at(&self.client, &url, fields).await
    }

    pub async fn token_request_at(
        &self,
        client: &Client,
        url: &str,
        fields: &[(&str, &str)],
    ) -> (u16, Value) {
        let mut form = vec![
            ("client_id", self.app.client_id.as_str()),
            ("grant_type", "client_credentials"),
            ("scope", "https://vault.azure.net/.default"),
            ("client_info", "1"),
            ("claims", r#"{"access_token":{"xms_cc":{"values":["CP1"]}}}"#),
        ];
        for (name, value) in fields {
            form.retain(|(other, _)| other != name);
            if !value.is_empty() {
                form.push((name, value));
            }
        }
        let response = client.post(url).form(&form).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

/// An RSA key that signs assertions.
pub struct Signer {
    pair: RsaKeyPair,
    pub key_id: String,
}

impl Signer {
    pub fn new(key_id: &str) -> Self {
        let key = rsa::PrivateKey::new(&mut rand::rng(), 2048).unwrap();
        Self::from_pkcs8(key.to_pkcs8_der().unwrap().as_bytes(), key_id)
    }

    pub fn from_pkcs8(der: &[u8], key_id: &str) -> Self {
        Self { pair: RsaKeyPair::from_pkcs8(der).unwrap(), key_id: key_id.to_owned() }
    }

    pub fn jwk(&self) -> Value {
        let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(self.pair.public());
        json!({
            "kty": "RSA", "kid": self.key_id, "use": "sig", "alg": "RS256",
            "n": URL_SAFE_NO_PAD.encode(public.n),
            "e": URL_SAFE_NO_PAD.encode(public.e),
        })
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({ "alg": "RS256", "kid": self.key_id }), claims)
    }

    pub fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The claims of a token, unchecked.
pub fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}
