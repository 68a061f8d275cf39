//! What the reference's own end-to-end tests look at, through the CSI socket: names, modes and bytes of mounted files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use azure_emulator::ObjectKind;
use e2e::{Call, Stage, StageOptions, VAULT, can_mount, class};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

async fn stage(arguments: &[&str]) -> Stage {
    let options = StageOptions {
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        ..StageOptions::default()
    };
    Stage::start(options).await
}

/// Mounts these objects as a pod of their own.
async fn mount(stage: &Stage, name: &str, objects: &[&str], extra: &[(&str, &str)]) -> Call {
    stage.deploy(name, &class(stage, name, objects, extra));
    let call = Call::new(stage, name, name);
    call.publish().await.unwrap_or_else(|status| panic!("{name}: {}", status.message()));
    call
}

fn names(call: &Call) -> Vec<String> {
    call.files().into_keys().collect()
}

/// The output of openssl, which must succeed.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A key and a self-signed certificate for test.domain.com, made by openssl, as PEM and as PFX without a password.
fn self_signed(folder: &Path, key: &[&str]) -> (String, String) {
    let path = |name: &str| folder.join(name).display().to_string();
    let (key_file, cert_file) = (path("key.pem"), path("cert.pem"));
    let mut arguments = vec![
        "req",
        "-x509",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=test.domain.com",
        "-keyout",
        &key_file,
        "-out",
        &cert_file,
    ];
    arguments.extend(["-addext", "subjectAltName=DNS:test.domain.com"]);
    arguments.extend(key);
    openssl(&arguments, b"");
    let pem = std::fs::read_to_string(&key_file).unwrap() + &std::fs::read_to_string(&cert_file).unwrap();
    let pfx =
        openssl(&["pkcs12", "-export", "-inkey", &key_file, "-in", &cert_file, "-passout", "pass:"], b"");
    (pem, String::from_utf8(openssl(&["base64", "-A"], &pfx)).unwrap())
}

#[tokio::test]
async fn secrets_by_name_and_by_alias() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    let value = "no newline, ümlauts, \0 and \r\n kept";
    stage.azure.vault(VAULT).set_secret("secret1", value).unwrap();
    let objects = [
        "objectName: secret1\nobjectType: secret\nobjectVersion: \"\"\nobjectVersionHistory: 0\nobjectAlias: \"\"\nobjectFormat: \"\"\nobjectEncoding: \"\"\nfilePermission: \"\"",
        "objectName: secret1\nobjectType: secret\nobjectAlias: SECRET_1",
        "objectName: secret1\nobjectType: secret\nobjectAlias: tree/of/secrets",
        "objectName: secret1\nobjectType: secret\nobjectAlias: executable\nfilePermission: \"0755\"",
        "objectName: secret1\nobjectType: secret\nobjectAlias: octal\nfilePermission: 0600",
    ];
    let call = mount(&stage, "secrets", &objects, &[]).await;
    assert_eq!(names(&call), ["SECRET_1", "executable", "octal", "secret1", "tree/of/secrets"]);
    assert!(call.files().values().all(|content| content == value.as_bytes()));
    let mode = |name: &str| {
        std::fs::metadata(call.target().join("..data").join(name)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!([mode("secret1"), mode("executable"), mode("octal")], [0o644, 0o755, 0o600]);
    let link = std::fs::read_link(call.target().join("secret1")).unwrap();
    assert_eq!(link, Path::new("..data/secret1"));
    let generation = std::fs::read_link(call.target().join("..data")).unwrap().display().to_string();
    let (time, random) = generation.strip_prefix("..").unwrap().split_once('.').unwrap();
    assert_eq!((time.len(), time.matches('_').count()), (19, 5), "{generation}");
    assert!(random.bytes().all(|b| b.is_ascii_digit()), "{generation}");
}

#[tokio::test]
async fn encodings_are_undone() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    let vault = stage.azure.vault(VAULT);
    vault.set_secret("base64", "QmFzZTY0RW5jb2RlZFN0cmluZw==").unwrap();
    vault.set_secret("hex", "48455845").unwrap();
    let objects = [
        "objectName: base64\nobjectType: secret\nobjectEncoding: base64",
        "objectName: hex\nobjectType: secret\nobjectEncoding: HEX",
        "objectName: hex\nobjectType: secret\nobjectAlias: text\nobjectEncoding: utf-8",
    ];
    let call = mount(&stage, "encodings", &objects, &[]).await;
    assert_eq!(
        [call.read("base64"), call.read("hex"), call.read("text")],
        ["Base64EncodedString", "HEXE", "48455845"]
    );
    vault.set_secret("broken", "not base64!").unwrap();
    let object = "objectName: broken\nobjectType: secret\nobjectEncoding: base64";
    stage.deploy("bad", &class(&stage, "bad", &[object], &[]));
    let refused = Call::new(&stage, "bad", "bad").publish().await.unwrap_err();
    assert!(refused.message().contains("illegal base64 data at input byte"), "{}", refused.message());
    assert!(refused.message().contains("broken"), "the object must be named: {}", refused.message());
}

#[tokio::test]
async fn keys_are_public_keys_in_pem() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    let vault = stage.azure.vault(VAULT);
    let kinds = [
        ("key1", json!({"kty": "RSA", "key_size": 2048}), "2048 bit"),
        ("rsahsmkey1", json!({"kty": "RSA-HSM", "key_size": 2048}), "2048 bit"),
        ("echsmkey1", json!({"kty": "EC-HSM", "crv": "P-256"}), "prime256v1"),
        ("p384", json!({"kty": "EC", "crv": "P-384"}), "secp384r1"),
        ("p521", json!({"kty": "EC", "crv": "P-521"}), "secp521r1"),
    ];
    for (name, body, _) in &kinds {
        vault.create_key(name, body.clone()).unwrap();
    }
    let objects: Vec<String> =
        kinds.iter().map(|(name, ..)| format!("objectName: {name}\nobjectType: key")).collect();
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    let call = mount(&stage, "keys", &objects, &[]).await;
    for (name, _, shown) in kinds {
        let pem = call.read(name);
        let text =
            String::from_utf8(openssl(&["pkey", "-pubin", "-noout", "-text"], pem.as_bytes())).unwrap();
        assert!(text.contains(shown), "{name}: {text}");
        // The PEM form is the one openssl itself writes.
        assert_eq!(pem.as_bytes(), openssl(&["pkey", "-pubin"], pem.as_bytes()), "{name}");
    }
}

#[tokio::test]
async fn certificates_as_cert_key_secret_and_pfx() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--write-cert-and-key-in-separate-files=true"]).await;
    let vault = stage.azure.vault(VAULT);
    let folder = tempfile::tempdir().unwrap();
    let rsa = self_signed(folder.path(), &["-newkey", "rsa:2048"]);
    let ec = self_signed(folder.path(), &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    vault.import_certificate("pemcert1", &rsa.0, None).unwrap();
    vault.import_certificate("pkcs12cert1", &rsa.1, None).unwrap();
    vault.import_certificate("ecccert1", &ec.1, None).unwrap();
    for name in ["pemcert1", "pkcs12cert1", "ecccert1"] {
        let objects = ["cert", "key", "secret"]
            .map(|kind| format!("objectName: {name}\nobjectType: {kind}\nobjectAlias: {kind}"));
        let mut objects: Vec<&str> = objects.iter().map(String::as_str).collect();
        let pfx = format!("objectName: {name}\nobjectType: secret\nobjectFormat: pfx\nobjectAlias: pfx");
        let binary = format!("{pfx}-binary\nobjectEncoding: base64");
        if name != "pemcert1" {
            objects.extend([pfx.as_str(), binary.as_str()]);
        }
        let call = mount(&stage, name, &objects, &[]).await;

        let certificate = call.read("cert");
        openssl(&["x509", "-noout", "-checkhost", "test.domain.com"], certificate.as_bytes());
        let public = openssl(&["x509", "-noout", "-pubkey"], certificate.as_bytes());
        assert_eq!(
            call.read("key").as_bytes(),
            public,
            "{name}: the key file is the certificate's public key"
        );
        let secret = call.read("secret");
        assert_eq!(
            openssl(&["pkey", "-pubout"], secret.as_bytes()),
            public,
            "{name}: key and certificate match"
        );
        assert_eq!(
            openssl(&["x509", "-outform", "DER"], secret.as_bytes()),
            openssl(&["x509", "-outform", "DER"], certificate.as_bytes())
        );
        assert!(
            secret.starts_with("-----BEGIN PRIVATE KEY-----\n"),
            "{name}: PKCS#8, and the key comes first"
        );

        // .crt and .key beside it hold the same blocks, apart.
        assert!(call.read("secret.crt").starts_with("-----BEGIN CERTIFICATE-----\n"));
        assert_eq!(openssl(&["pkey", "-pubout"], call.read("secret.key").as_bytes()), public);
        if name == "pkcs12cert1" {
            assert_eq!(secret, call.read("secret.key") + &call.read("secret.crt"));
        }
        if name != "pemcert1" {
            let text = call.read("pfx");
            assert!(!text.contains('\n'), "one line of base64");
            let binary = &call.files()["pfx-binary"];
            assert_eq!(&openssl(&["base64", "-d", "-A"], text.as_bytes()), binary);
            let opened = openssl(&["pkcs12", "-legacy", "-nodes", "-passin", "pass:"], binary);
            assert_eq!(
                openssl(&["x509", "-outform", "DER"], &opened),
                openssl(&["x509", "-outform", "DER"], certificate.as_bytes())
            );
            // A PFX is no PEM, so there is nothing for the separate files.
            assert_eq!((call.files()["pfx.crt"].len(), call.files()["pfx.key"].len()), (0, 0));
        }
    }
}

#[tokio::test]
async fn version_history_counts_from_the_newest_and_skips_disabled_versions() {
    if !can_mount() {
        return;
    }
    let stage = stage(&["--enable-secret-rotation", "--rotation-poll-interval=0"]).await;
    let vault = stage.azure.vault(VAULT);
    let mut versions = Vec::new();
    for value in ["one", "two", "three", "four"] {
        versions.push(vault.set_secret("secret1", value).unwrap());
        // Versions are ordered by their time of creation, which counts whole seconds.
        stage.azure.clock().advance(std::time::Duration::from_secs(1));
    }
    let history = "objectName: secret1\nobjectType: secret\nobjectVersionHistory: 5";
    let call = mount(&stage, "history", &[history, &format!("{history}\nobjectAlias: SECRET_1")], &[]).await;
    let expected = ["four", "three", "two", "one"];
    for (index, value) in expected.iter().enumerate() {
        assert_eq!(call.read(&format!("secret1/{index}")), *value);
        assert_eq!(call.read(&format!("SECRET_1/{index}")), *value);
    }
    assert_eq!(call.files().len(), 8);

    // The reference takes one more than it is asked for.
    let two =
        mount(&stage, "two", &["objectName: secret1\nobjectType: secret\nobjectVersionHistory: 2"], &[])
            .await;
    assert_eq!(names(&two), ["secret1/0", "secret1/1", "secret1/2"]);
    let from = format!(
        "objectName: secret1\nobjectType: secret\nobjectVersionHistory: 2\nobjectVersion: {}",
        versions[1]
    );
    let pinned = mount(&stage, "from", &[&from], &[]).await;
    assert_eq!(
        (pinned.read("secret1/0"), pinned.read("secret1/1"), names(&pinned).len()),
        ("two".into(), "one".into(), 2)
    );
    let one = format!("objectName: secret1\nobjectType: secret\nobjectVersion: {}", versions[2]);
    assert_eq!(mount(&stage, "one", &[&one], &[]).await.read("secret1"), "three");

    // After a rotation 0 is the new value and 1 the old one.
    vault.set_secret("secret1", "five").unwrap();
    stage.azure.clock().advance(std::time::Duration::from_secs(1));
    vault
        .update(ObjectKind::Secrets, "secret1", Some(&versions[3]), json!({"attributes": {"enabled": false}}))
        .unwrap();
    call.publish().await.unwrap();
    assert_eq!((call.read("secret1/0"), call.read("secret1/1")), ("five".into(), "three".into()));

    // A history that selects nothing is no empty volume.
    let none = "objectName: secret1\nobjectType: secret\nobjectVersionHistory: 2\nobjectVersion: 00000000000000000000000000000000";
    stage.deploy("none", &class(&stage, "none", &[none], &[]));
    let refused = Call::new(&stage, "none", "none").publish().await.unwrap_err();
    assert!(refused.message().contains("missing object versions"), "{}", refused.message());
}

#[tokio::test]
async fn more_versions_than_a_page_holds() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    for value in 0..30 {
        stage.azure.vault(VAULT).set_secret("secret1", &value.to_string()).unwrap();
        stage.azure.clock().advance(std::time::Duration::from_secs(1));
    }
    let call =
        mount(&stage, "pages", &["objectName: secret1\nobjectType: secret\nobjectVersionHistory: 40"], &[])
            .await;
    assert_eq!(call.files().len(), 30);
    assert_eq!((call.read("secret1/0"), call.read("secret1/29")), ("29".into(), "0".into()));
}

#[tokio::test]
async fn a_custom_cloud_is_read_from_the_file_that_the_class_names() {
    if !can_mount() {
        return;
    }
    let names = ("login.stack.example".to_owned(), "vault.stack.example".to_owned());
    let stage = Stage::start(StageOptions { custom_cloud: Some(names), ..StageOptions::default() }).await;
    stage.fill_vault();
    let file = stage.cloud_file();
    let cloud = [("cloudName", "AzureStackCloud"), ("cloudEnvFileName", file.as_str())];
    let objects = [
        "objectName: secret1\nobjectType: secret",
        "objectName: secret1\nobjectType: secret\nobjectAlias: SECRET_1",
    ];
    let call = mount(&stage, "stack", &objects, &cloud).await;
    assert_eq!((call.read("secret1"), call.read("SECRET_1")), ("Hello!".into(), "Hello!".into()));
    // A file in a pod's volume is a pod's word, not the operator's.
    let planted = stage.path("kubelet/pods/u/volumes/kubernetes.io~empty-dir/x");
    std::fs::create_dir_all(&planted).unwrap();
    let planted = planted.join("cloud.json");
    std::fs::copy(&file, &planted).unwrap();
    stage.deploy("planted", &class(&stage, "planted", &objects, &cloud));
    let call = Call::new(&stage, "planted", "planted")
        .with_attribute("cloudEnvFileName", &planted.display().to_string());
    let refused = call.publish().await.unwrap_err();
    assert!(refused.message().contains("lies in a pod's volume"), "{}", refused.message());
    // The next class names no file, and does not inherit this one.
    stage.deploy("other", &class(&stage, "other", &objects, &cloud[..1]));
    let refused = Call::new(&stage, "other", "other").publish().await.unwrap_err();
    assert!(refused.message().contains("cloudName AzureStackCloud is not valid"), "{}", refused.message());
}

#[tokio::test]
async fn volume_attributes_of_the_pod_win_over_the_class() {
    if !can_mount() {
        return;
    }
    let stage = stage(&[]).await;
    stage.fill_vault();
    stage.deploy("kv", &class(&stage, "kv", &["objectName: secret1\nobjectType: secret"], &[]));
    let objects = "array:\n  - |\n    objectName: ExampleSecret\n    objectType: secret\n";
    let call = Call::new(&stage, "web", "kv").with_attribute("objects", objects);
    call.publish().await.unwrap();
    assert_eq!(names(&call), ["ExampleSecret"]);
}
