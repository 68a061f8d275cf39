//! Key Vault's data plane over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail this way")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use azure_emulator::{AccessModel, Config, JwkQuirks, Network, ObjectKind, Operation, Permissions};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reqwest::{Method, StatusCode, Version};
use serde_json::{Value, json};
use support::{API, Azure, RESOURCE};

#[tokio::test]
async fn the_challenge_comes_before_anything_else() {
    let azure = Azure::start().await;
    for path in ["/secrets/a", "/secrets/in_valid?api-version=nonsense", "/nowhere"] {
        let response =
            azure.client.put(format!("{}{path}", azure.vault.url())).body("not JSON").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
        let authority = azure.emulator.authority_url();
        let tenant = azure.emulator.tenant();
        let resource = azure.emulator.vault_resource();
        assert_eq!(
            challenge,
            format!(r#"Bearer authorization="{authority}{tenant}", resource="{resource}""#)
        );
        // Clients verify that the vault's host ends with a dot and the resource's host.
        assert!(azure.vault.url().ends_with(&format!(".{}", resource.trim_start_matches("https://"))));
        let body: Value = response.json().await.unwrap();
        assert_eq!(
            body,
            json!({ "error": { "code": "Unauthorized", "message": "AKV10000: Request is missing a Bearer or PoP token." } })
        );
    }
    assert_eq!(azure.emulator.counters().endpoint("vault.challenge"), 3);
    assert_eq!(azure.emulator.counters().vault_requests(), 0);
}

#[tokio::test]
async fn public_names_have_the_public_resource() {
    let azure = Azure::start_with(Config::default().with_public_names()).await;
    let response = azure.client.get("https://kv1.vault.azure.net/secrets/a").send().await.unwrap();
    assert_eq!(
        response.headers()["www-authenticate"].to_str().unwrap(),
        format!(
            r#"Bearer authorization="https://login.microsoftonline.com/{}", resource="https://vault.azure.net""#,
            azure.emulator.tenant()
        )
    );
}

#[tokio::test]
async fn the_api_version_is_required() {
    let azure = Azure::start().await;
    azure.vault.set_secret("a", "1").unwrap();
    for query in ["", "?api-version=", "?api-version=8.0", "?other=7.4"] {
        let (status, error) = azure.refused(Method::GET, &format!("/secrets/a{query}"), Value::Null).await;
        assert_eq!((status, &error["code"]), (400, &json!("BadParameter")), "{query}");
    }
    for version in ["2016-10-01", "7.0", "7.4", "7.6", "2025-07-01", "2026-04-01"] {
        let response =
            azure.send(Method::GET, &format!("/secrets/a?api-version={version}"), Value::Null).await;
        assert_eq!(response.status(), StatusCode::OK, "{version}");
    }
}

#[tokio::test]
async fn a_secret_has_the_documented_shape() {
    let azure = Azure::start().await;
    let written = azure
        .send(
            Method::PUT,
            &format!("/secrets/Db?{API}"),
            json!({ "value": "s3", "contentType": "text/plain", "tags": { "a": "b" }, "attributes": { "exp": 100, "nbf": 50 } }),
        )
        .await;
    assert_eq!(written.status(), StatusCode::OK);
    let written: Value = written.json().await.unwrap();
    let id = written["id"].as_str().unwrap();
    let version = id.strip_prefix(&format!("{}/secrets/Db/", azure.vault.url())).unwrap();
    assert!(version.len() == 32 && version.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let now = azure.emulator.clock().now();
    let created = written["attributes"]["created"].as_i64().unwrap();
    assert!((now - 60..=now).contains(&created));
    let expected = json!({
        "id": id,
        "value": "s3",
        "contentType": "text/plain",
        "tags": { "a": "b" },
        "attributes": {
            "enabled": true, "created": created, "updated": created, "exp": 100, "nbf": 50,
            "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90,
        },
    });
    assert_eq!(written, expected);
    // Names are compared without regard to case, and a slash at the end stands for no version.
    for path in ["/secrets/Db".to_owned(), "/secrets/db/".to_owned(), format!("/secrets/DB/{version}")] {
        assert_eq!(azure.get(&path).await, expected, "{path}");
    }
    let listed = azure.get("/secrets").await;
    let mut item = expected.clone();
    item["id"] = format!("{}/secrets/Db", azure.vault.url()).into();
    item.as_object_mut().unwrap().remove("value");
    assert_eq!(listed, json!({ "value": [item], "nextLink": null }));
    let versions = azure.get("/secrets/db/versions").await;
    assert_eq!(versions["value"][0]["id"], *id);
    assert_eq!(versions["value"][0].get("value"), None);
}

#[tokio::test]
async fn answers_carry_the_services_headers() {
    let azure = Azure::start().await;
    azure.vault.set_secret("a", "1").unwrap();
    let response = azure
        .client
        .get(format!("{}/secrets/a?{API}", azure.vault.url()))
        .bearer_auth(azure.token())
        .header("x-ms-client-request-id", "mine")
        .send()
        .await
        .unwrap();
    let headers = response.headers();
    assert_eq!(headers["x-ms-client-request-id"], "mine");
    assert_eq!(headers["cache-control"], "no-cache");
    assert_eq!(
        headers["x-ms-keyvault-network-info"],
        "conn_type=Ipv4;addr=127.0.0.1;act_addr_fam=InterNetwork;"
    );
    for name in ["x-ms-request-id", "x-ms-keyvault-region", "x-ms-keyvault-service-version"] {
        assert!(headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn both_http_versions_are_spoken() {
    let azure = Azure::start().await;
    let url = format!("{}/secrets/a", azure.vault.url());
    assert_eq!(azure.client.get(&url).send().await.unwrap().version(), Version::HTTP_2);
    let old = azure.emulator.client_builder().http1_only().build().unwrap();
    assert_eq!(old.get(&url).send().await.unwrap().version(), Version::HTTP_11);
}

#[tokio::test]
async fn the_host_chooses_the_vault() {
    let azure = Azure::start().await;
    azure.vault.set_secret("where", "kv1").unwrap();
    let other = azure.emulator.vault("kv2");
    other.set_secret("where", "kv2").unwrap();
    other.grant(&azure.app.client_id, Permissions::read());
    let port = azure.emulator.https_addr().port();
    for (host, expected) in [
        (format!("kv2.{}", azure.emulator.vault_suffix()), "kv2"),
        (format!("KV2.{}", azure.emulator.vault_suffix()), "kv2"),
        (format!("kv2.vault.azure.net:{port}"), "kv2"),
        (format!("127.0.0.1:{port}"), "kv1"),
        (format!("localhost:{port}"), "kv1"),
    ] {
        let url = format!("https://{host}/secrets/where?{API}");
        let response = azure.client.get(&url).bearer_auth(azure.token()).send().await.unwrap();
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["value"], expected, "{host}");
        assert!(body["id"].as_str().unwrap().starts_with(&format!("https://{}/", host.to_lowercase())));
    }
    let url = format!("https://none.{}/secrets/where?{API}", azure.emulator.vault_suffix());
    let response = azure.client.get(&url).bearer_auth(azure.token()).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_token_must_be_for_this_vault() {
    let azure = Azure::start().await;
    azure.vault.set_secret("a", "1").unwrap();
    let entra = azure.emulator.entra();
    entra.add_tenant("contoso.example");
    let mut foreign = azure.app.clone();
    foreign.client_id = "99999999-0000-4000-8000-000000000000".to_owned();
    foreign.tenant = "contoso.example".to_owned();
    entra.register(foreign.clone());
    azure.vault.grant(&foreign.client_id, Permissions::all());

    let url = format!("{}/secrets/a?{API}", azure.vault.url());
    let status = async |token: String| {
        let response = azure.client.get(&url).bearer_auth(token).send().await.unwrap();
        let challenged = response.headers().contains_key("www-authenticate");
        let status = response.status().as_u16();
        assert_eq!(challenged, status == 401);
        let body: Value = response.json().await.unwrap();
        (status, body["error"]["message"].as_str().unwrap_or_default().to_owned())
    };
    let issue = |client_id: &str, audience: &str| entra.issue_token(client_id, audience).unwrap();
    let id = azure.app.client_id.as_str();

    for audience in [RESOURCE, &azure.emulator.vault_resource(), "cfa8b339-82a2-471a-a3c9-0fc0be7a4093"] {
        assert_eq!(status(issue(id, audience)).await.0, 200, "{audience}");
    }
    for audience in ["https://vault.azure.net/", "https://graph.microsoft.com"] {
        let (status, message) = status(issue(id, audience)).await;
        assert_eq!(status, 401, "{audience}");
        assert!(message.starts_with("AKV10022: Invalid audience."), "{message}");
        assert!(message.contains(&format!("found: {audience}.")), "{message}");
    }
    let (code, message) = status(issue(&foreign.client_id, RESOURCE)).await;
    assert_eq!(code, 401);
    assert!(message.starts_with("AKV10032: Invalid issuer."), "{message}");
    assert_eq!(status("nonsense".to_owned()).await.0, 401);

    // A changed claim and a changed signature are both noticed.
    let good = issue(id, RESOURCE);
    let parts: Vec<&str> = good.split('.').collect();
    let mut claims = support::claims(&good);
    claims["exp"] = json!(i64::MAX);
    let forged = format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()), parts[2]);
    assert!(status(forged).await.1.starts_with("AKV10046"));

    azure.emulator.clock().advance(Duration::from_secs(3601));
    let (code, message) = status(good.clone()).await;
    assert_eq!(code, 401);
    assert!(message.contains("expired"), "{message}");
    azure.emulator.clock().set_offset(0);
    assert_eq!(status(good.clone()).await.0, 200);
    entra.rotate_signing_key().unwrap();
    assert!(status(good).await.1.starts_with("AKV10046"));
}

#[tokio::test]
async fn permissions_are_per_identity_collection_and_operation() {
    let azure = Azure::start().await;
    azure.vault.set_secret("a", "1").unwrap();
    azure.vault.create_key("k", json!({ "kty": "EC" })).unwrap();
    let id = azure.app.client_id.clone();
    azure.vault.grant(&id, Permissions::none().on(ObjectKind::Secrets, [Operation::Get]));
    assert_eq!(azure.get("/secrets/a").await["value"], "1");
    for (path, action) in [
        ("/secrets/a/versions", "Microsoft.KeyVault/vaults/secrets/readMetadata/action"),
        ("/secrets", "Microsoft.KeyVault/vaults/secrets/readMetadata/action"),
        ("/keys/k", "Microsoft.KeyVault/vaults/keys/read"),
    ] {
        let (status, error) = azure.refused(Method::GET, &format!("{path}?{API}"), Value::Null).await;
        assert_eq!((status, &error["code"]), (403, &json!("Forbidden")), "{path}");
        assert_eq!(error["innererror"]["code"], "ForbiddenByRbac");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&format!("Action: '{action}'")) && message.contains("\r\n"), "{message}");
        assert!(message.contains(&format!(
            "Caller: appid={id};oid={};iss=https://sts.windows.net/",
            azure.app.object_id
        )));
    }
    azure.vault.set_access_model(AccessModel::AccessPolicy);
    let (status, error) =
        azure.refused(Method::PUT, &format!("/secrets/a?{API}"), json!({ "value": "2" })).await;
    assert_eq!((status, &error["innererror"]["code"]), (403, &json!("AccessDenied")));
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("does not have secrets set permission on key vault 'kv1;")
    );
    // A missing permission says nothing about whether the object exists.
    azure.vault.revoke(&id);
    let absent = azure.refused(Method::GET, &format!("/secrets/none?{API}"), Value::Null).await;
    let present = azure.refused(Method::GET, &format!("/secrets/a?{API}"), Value::Null).await;
    assert_eq!((absent.0, &absent.1["innererror"]), (403, &present.1["innererror"]));

    azure.vault.grant(&id, Permissions::all());
    for (network, inner) in
        [(Network::Firewall, "ForbiddenByFirewall"), (Network::Private, "ForbiddenByConnection")]
    {
        azure.vault.set_network(network);
        let (status, error) = azure.refused(Method::GET, &format!("/secrets/a?{API}"), Value::Null).await;
        assert_eq!((status, &error["innererror"]["code"]), (403, &json!(inner)));
    }
}

#[tokio::test]
async fn lists_come_in_pages() {
    let azure = Azure::start().await;
    for number in 0..60 {
        azure.vault.set_secret(&format!("s-{number}"), "x").unwrap();
    }
    let follow = async |first: &str| {
        let mut sizes = Vec::new();
        let mut ids = BTreeSet::new();
        let mut next = Some(format!("{}{first}", azure.vault.url()));
        while let Some(url) = next {
            let response = azure.client.get(&url).bearer_auth(azure.token()).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{url}");
            let page: Value = response.json().await.unwrap();
            let items = page["value"].as_array().unwrap();
            sizes.push(items.len());
            ids.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            next = page["nextLink"].as_str().map(str::to_owned);
        }
        (sizes, ids.len())
    };
    assert_eq!(follow(&format!("/secrets?{API}")).await, (vec![25, 25, 10], 60));
    assert_eq!(follow(&format!("/secrets/?{API}&maxresults=20")).await, (vec![20, 20, 20], 60));
    for number in 0..26 {
        azure.vault.set_secret("often", &number.to_string()).unwrap();
    }
    assert_eq!(follow(&format!("/secrets/often/versions?{API}")).await, (vec![25, 1], 26));
    assert_eq!(azure.get("/secrets/none/versions").await, json!({ "value": [], "nextLink": null }));
    for wrong in ["0", "26", "x", ""] {
        let (status, _) =
            azure.refused(Method::GET, &format!("/secrets?{API}&maxresults={wrong}"), Value::Null).await;
        assert_eq!(status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn refusals_have_the_services_codes() {
    let azure = Azure::start().await;
    let old = azure.vault.set_secret("a", "1").unwrap();
    azure.vault.create_key("k", json!({ "kty": "EC" })).unwrap();
    azure.vault.create_certificate("c", json!({ "key_props": { "kty": "EC" } })).unwrap();
    let code = async |method: Method, path: &str, body: Value| {
        let (status, error) = azure.refused(method, &format!("{path}?{API}"), body).await;
        (
            status,
            error["code"].as_str().unwrap().to_owned(),
            error["innererror"]["code"].as_str().map(str::to_owned),
        )
    };
    let expect =
        |status: u16, code: &str, inner: Option<&str>| (status, code.to_owned(), inner.map(str::to_owned));
    for (path, name) in [
        ("/secrets/x", "SecretNotFound"),
        ("/keys/x", "KeyNotFound"),
        ("/certificates/x", "CertificateNotFound"),
    ] {
        assert_eq!(code(Method::GET, path, Value::Null).await, expect(404, name, None));
    }
    let absent = format!("/secrets/a/{}", "0".repeat(32));
    assert_eq!(code(Method::GET, &absent, Value::Null).await, expect(404, "SecretNotFound", None));
    assert_eq!(code(Method::GET, "/secrets/a_b", Value::Null).await, expect(400, "BadParameter", None));
    assert_eq!(code(Method::PUT, "/secrets/b", json!({})).await, expect(400, "BadParameter", None));
    let long = json!({ "value": "x".repeat(25 * 1024 + 1) });
    assert_eq!(code(Method::PUT, "/secrets/b", long).await, expect(400, "BadParameter", None));
    assert_eq!(
        code(Method::POST, "/keys/b/create", json!({ "kty": "RSA", "key_size": 1024 })).await,
        expect(400, "BadParameter", None)
    );

    for (kind, name, path, inner) in [
        (ObjectKind::Secrets, "a", "/secrets/a", "SecretDisabled"),
        (ObjectKind::Keys, "k", "/keys/k", "KeyDisabled"),
        (ObjectKind::Certificates, "c", "/certificates/c", "CertificateDisabled"),
    ] {
        azure.vault.set_enabled(kind, name, false).unwrap();
        assert_eq!(code(Method::GET, path, Value::Null).await, expect(403, "Forbidden", Some(inner)));
    }
    assert_eq!(
        code(Method::GET, "/secrets/c", Value::Null).await,
        expect(403, "Forbidden", Some("SecretDisabled"))
    );
    assert_eq!(azure.get("/secrets/a/versions").await["value"][0]["attributes"]["enabled"], false);
    // An older version that is enabled can still be read by its id, and a newer one makes the name readable.
    azure.vault.set_enabled(ObjectKind::Secrets, "a", true).unwrap();
    azure.vault.set_secret("a", "2").unwrap();
    azure.vault.set_enabled(ObjectKind::Secrets, "a", false).unwrap();
    assert_eq!(azure.get(&format!("/secrets/a/{old}")).await["value"], "1");

    let (_, disabled) = azure.refused(Method::GET, &format!("/secrets/a?{API}"), Value::Null).await;
    assert_eq!(disabled["message"], "Operation get is not allowed on a disabled secret.");
    let (_, absent) = azure.refused(Method::GET, &format!("/keys/x?{API}"), Value::Null).await;
    let absent = absent["message"].as_str().unwrap();
    assert!(absent.starts_with("A key with (name/id) x was not found in this key vault."), "{absent}");

    azure.vault.delete(ObjectKind::Secrets, "a").unwrap();
    assert_eq!(code(Method::GET, "/secrets/a", Value::Null).await, expect(404, "SecretNotFound", None));
    assert_eq!(
        code(Method::PUT, "/secrets/a", json!({ "value": "3" })).await,
        expect(409, "Conflict", Some("ObjectIsDeletedButRecoverable"))
    );
    let deleted = azure.get("/deletedsecrets/a").await;
    assert_eq!(deleted["recoveryId"], format!("{}/deletedsecrets/a", azure.vault.url()));
    let days = deleted["scheduledPurgeDate"].as_i64().unwrap() - deleted["deletedDate"].as_i64().unwrap();
    assert_eq!((days, deleted.get("value")), (90 * 24 * 60 * 60, None));
    // Nothing is recoverable for ever.
    azure.emulator.clock().advance(Duration::from_hours(90 * 24));
    assert_eq!(
        code(Method::GET, "/deletedsecrets/a", Value::Null).await,
        expect(404, "SecretNotFound", None)
    );
    assert_eq!(code(Method::PUT, "/secrets/c", json!({ "value": "x" })).await, expect(409, "Conflict", None));
    assert_eq!(code(Method::DELETE, "/secrets/c", Value::Null).await, expect(409, "Conflict", None));
    // A deleted secret keeps its name from certificates as well.
    azure.vault.set_secret("d", "1").unwrap();
    azure.vault.delete(ObjectKind::Secrets, "d").unwrap();
    let own = json!({ "policy": { "key_props": { "kty": "EC" } } });
    assert_eq!(
        code(Method::POST, "/certificates/d/create", own).await,
        expect(409, "Conflict", Some("ObjectIsDeletedButRecoverable"))
    );
    let taken = json!({ "policy": { "key_props": { "kty": "EC" } } });
    assert_eq!(code(Method::POST, "/certificates/k/create", taken).await, expect(409, "Conflict", None));
}

#[tokio::test]
async fn keys_are_written_as_numbers_of_full_length() {
    let azure = Azure::start().await;
    azure.vault.create_key("rsa", json!({ "kty": "RSA", "key_size": 2048 })).unwrap();
    azure.vault.create_key("ec", json!({ "kty": "EC-HSM", "crv": "P-521" })).unwrap();
    azure.vault.create_key("oct", json!({ "kty": "oct-HSM", "key_size": 128 })).unwrap();
    let number = |key: &Value, name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    let rsa = azure.get("/keys/rsa").await["key"].clone();
    assert_eq!(
        (number(&rsa, "n").len(), rsa["e"].as_str().unwrap(), &rsa["kty"]),
        (256, "AQAB", &json!("RSA"))
    );
    let ec = azure.get("/keys/ec").await["key"].clone();
    assert_eq!((number(&ec, "x").len(), number(&ec, "y").len(), &ec["kty"]), (66, 66, &json!("EC-HSM")));
    let oct = azure.get("/keys/oct").await["key"].clone();
    assert_eq!((oct["kty"].as_str().unwrap(), oct.get("k"), oct.get("n")), ("oct-HSM", None, None));

    azure.vault.set_jwk_quirks(JwkQuirks { leading_zero: true, short_coordinates: true });
    let rsa = azure.get("/keys/rsa").await["key"].clone();
    assert_eq!((number(&rsa, "n").len(), number(&rsa, "n")[0]), (257, 0));
    // A P-521 coordinate begins with seven zero bits, and half of them with eight.
    let ec = azure.get("/keys/ec").await["key"].clone();
    assert_ne!(number(&ec, "x")[0], 0);
}

#[tokio::test]
async fn a_certificate_owns_a_secret_and_a_key_of_its_version() {
    let azure = Azure::start().await;
    let version = azure.vault.create_certificate("web", json!({ "key_props": { "kty": "EC" } })).unwrap();
    let certificate = azure.get("/certificates/web").await;
    for (field, kind) in [("id", "certificates"), ("kid", "keys"), ("sid", "secrets")] {
        assert_eq!(certificate[field], format!("{}/{kind}/web/{version}", azure.vault.url()));
    }
    let der = STANDARD.decode(certificate["cer"].as_str().unwrap()).unwrap();
    let sha1 = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &der);
    assert_eq!(certificate["x5t"], URL_SAFE_NO_PAD.encode(sha1));
    assert_eq!(certificate["policy"]["secret_props"]["contentType"], "application/x-pkcs12");
    assert_eq!(certificate["policy"]["id"], format!("{}/certificates/web/policy", azure.vault.url()));

    let secret = azure.get(&format!("/secrets/web/{version}")).await;
    assert_eq!((&secret["managed"], &secret["kid"]), (&json!(true), &certificate["kid"]));
    assert_eq!(secret["attributes"]["exp"], certificate["attributes"]["exp"]);
    let pfx = STANDARD.decode(secret["value"].as_str().unwrap()).unwrap();
    // pbeWithSHAAnd3-KeyTripleDES-CBC, 1.2.840.113549.1.12.1.3, on key and certificates, and no newer scheme.
    let legacy: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01, 0x03];
    assert_eq!(pfx.windows(legacy.len()).filter(|window| *window == legacy).count(), 2);
    let archive = p12_keystore::Pkcs12Archive::from_pkcs12(&pfx, "").unwrap();
    assert_eq!((archive.keys.len(), archive.certs.len()), (1, 1));
    assert_eq!(archive.certs[0].cert.as_der(), der);
    assert_eq!(azure.get("/keys/web").await["managed"], true);

    // A newer interface turns the PFX into PEM on request; the older one does not know the parameter.
    let ask = async |version: &str| -> Value {
        let path = format!("/secrets/web?api-version={version}&outContentType=application/x-pem-file");
        azure.send(Method::GET, &path, Value::Null).await.json().await.unwrap()
    };
    let pem = ask("2025-07-01").await;
    assert_eq!(pem["contentType"], "application/x-pem-file");
    assert!(pem["value"].as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(ask("7.4").await["contentType"], "application/x-pkcs12");

    let second = azure.vault.create_certificate("web", json!({})).unwrap();
    assert_ne!(second, version);
    let newest: Value = azure
        .send(Method::GET, "/secrets/web?api-version=2026-04-01", Value::Null)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(newest["previousVersion"], version);
}

#[tokio::test]
async fn what_is_not_exportable_keeps_its_key() {
    let azure = Azure::start().await;
    for (name, content_type) in [("pem", "application/x-pem-file"), ("pfx", "application/x-pkcs12")] {
        let policy = json!({
            "key_props": { "kty": "EC", "exportable": false },
            "secret_props": { "contentType": content_type },
        });
        azure.vault.create_certificate(name, policy).unwrap();
    }
    let pem = azure.get("/secrets/pem").await;
    assert!(pem["value"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let pfx = STANDARD.decode(azure.get("/secrets/pfx").await["value"].as_str().unwrap()).unwrap();
    let archive = p12_keystore::Pkcs12Archive::from_pkcs12(&pfx, "").unwrap();
    assert_eq!((archive.keys.len(), archive.certs.len()), (0, 1));
}

#[tokio::test]
async fn an_imported_chain_starts_with_the_leaf_unless_its_order_is_to_stay() {
    let azure = Azure::start().await;
    let mut made = Vec::new();
    for name in ["one", "other"] {
        let policy = json!({ "key_props": { "kty": "EC" }, "secret_props": { "contentType": "application/x-pem-file" } });
        azure.vault.create_certificate(name, policy).unwrap();
        let pem = azure.get(&format!("/secrets/{name}")).await["value"].as_str().unwrap().to_owned();
        let (key, certificate) = pem.split_once("-----END PRIVATE KEY-----\n").unwrap();
        made.push((format!("{key}-----END PRIVATE KEY-----\n"), certificate.to_owned()));
    }
    let [(key, leaf), (_, other)] = made.try_into().unwrap();
    let text = format!("{other}{leaf}{key}");
    for (name, preserve, expected) in
        [("a", json!(null), format!("{key}{leaf}{other}")), ("b", json!(true), format!("{key}{other}{leaf}"))]
    {
        // The SDKs send PEM in base64.
        let body = json!({ "value": STANDARD.encode(&text), "preserveCertOrder": preserve });
        let imported: Value = azure
            .send(Method::POST, &format!("/certificates/{name}/import?{API}"), body)
            .await
            .json()
            .await
            .unwrap();
        let der: String = leaf.lines().filter(|line| !line.starts_with("-----")).collect();
        assert_eq!(imported["cer"], der);
        assert_eq!(azure.get(&format!("/secrets/{name}")).await["value"], expected);
    }
}

#[tokio::test]
async fn creating_a_certificate_is_an_operation() {
    let azure = Azure::start().await;
    let body = json!({ "policy": { "key_props": { "kty": "EC" }, "issuer": { "name": "Self" } } });
    let response = azure.send(Method::POST, &format!("/certificates/op/create?{API}"), body).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let operation: Value = response.json().await.unwrap();
    assert_eq!((&operation["status"], operation.get("target")), (&json!("inProgress"), None));
    let later = azure.get("/certificates/op/pending").await;
    assert_eq!(later["status"], "completed");
    assert_eq!(later["request_id"], operation["request_id"]);
    assert_eq!(later["target"], format!("{}/certificates/op", azure.vault.url()));
}
