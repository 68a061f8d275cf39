//! Taking files apart for TLS servers, against what `openssl` writes.

use super::*;
use std::sync::LazyLock;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn key_of(file: &[u8]) -> String {
    text(&TlsFile::read(file).unwrap().private_key().unwrap())
}

fn fault(file: &[u8]) -> String {
    match TlsFile::read(file) {
        Ok(read) => read.private_key().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_key_comes_out_in_its_oldest_form_whatever_it_came_in() {
    let openssl = OpenSsl::new();
    for (what, algorithm) in KEYS {
        openssl.key("leaf", algorithm);
        openssl.chain();
        openssl.run("pkcs8 -topk8 -nocrypt -in leaf.key -out pkcs8.key");
        let traditional = match what {
            "Ed25519" => openssl.text("pkcs8.key"),
            _ => text(&openssl.run("pkey -traditional -in leaf.key")),
        };
        let certificate = openssl.text("leaf.pem");
        let digest = if what == "RSA 512" { "-macalg sha1" } else { "" };
        let pfx = openssl.pfx(&format!("-inkey leaf.key -in leaf.pem {digest}"));
        let raw = openssl.read("out.pfx");
        let mounted = in_order(&pfx).unwrap();
        for (form, file) in [
            ("as mounted", mounted.as_bytes()),
            ("already in its oldest form", traditional.as_bytes()),
            ("certificate first", format!("{certificate}{}", openssl.text("pkcs8.key")).as_bytes()),
            ("a PFX", &raw),
            ("a PFX in base64", format!("{pfx}\n").as_bytes()),
        ] {
            assert_eq!(key_of(file), traditional, "{what}, {form}");
        }
        for file in [mounted.as_bytes(), &raw] {
            assert_eq!(text(&TlsFile::read(file).unwrap().certificates().unwrap()), certificate, "{what}");
        }
    }
}

#[test]
fn a_pfx_may_be_of_any_age() {
    let openssl = OpenSsl::new();
    openssl.key("leaf", P256);
    openssl.chain();
    let key = text(&openssl.run("pkey -traditional -in leaf.key"));
    for options in [
        "",
        "-keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1",
        "-keypbe NONE -certpbe NONE",
        "-keypbe AES-256-CBC -certpbe AES-256-CBC -macalg sha256",
        "-nomac",
    ] {
        openssl.pfx(&format!("-inkey leaf.key -in leaf.pem -certfile int.pem {options}"));
        let file = TlsFile::read(&openssl.read("out.pfx")).unwrap();
        assert_eq!(text(&file.private_key().unwrap()), key, "{options}");
        assert_eq!(text(&file.certificates().unwrap()), openssl.concatenated(&["leaf", "int"]), "{options}");
    }
}

#[test]
fn authorities_are_those_that_sign_others_or_themselves() {
    let openssl = OpenSsl::new();
    openssl.key("leaf", P256);
    openssl.chain();
    let authorities = |names: &[&str]| {
        TlsFile::read(openssl.concatenated(names).as_bytes()).unwrap().authorities().map(|pem| text(&pem))
    };
    assert_eq!(authorities(&["leaf", "int", "root"]).unwrap(), openssl.concatenated(&["int", "root"]));
    assert_eq!(authorities(&["root", "leaf"]).unwrap(), openssl.text("root.pem"));
    assert_eq!(authorities(&["leaf"]), Err(TlsError::NoAuthority));
    openssl.run("req -x509 -new -key leaf.key -subj /CN=alone -days 30 -config ext.cnf -extensions leaf -out alone.pem");
    assert_eq!(authorities(&["alone"]).unwrap(), openssl.text("alone.pem"), "trusted for itself");
    let key_alone = TlsFile::read(&openssl.read("leaf.key")).unwrap();
    assert_eq!(key_alone.authorities(), Err(TlsError::NoCertificate { found: "PRIVATE KEY".to_owned() }));
    let no_certificate = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
    let broken = TlsFile::read(no_certificate).unwrap();
    assert!(broken.authorities().unwrap_err().to_string().starts_with("certificate 1 in it"));
    assert_eq!(broken.certificates().unwrap().as_slice(), no_certificate, "not looked into");
}

#[test]
fn the_last_block_that_is_no_certificate_is_the_key_and_other_text_is_dropped() {
    let openssl = OpenSsl::new();
    openssl.key("leaf", "-algorithm RSA -pkeyopt rsa_keygen_bits:1024");
    openssl.chain();
    openssl.key("other", P256);
    let certificate = openssl.text("leaf.pem");
    let file = format!(
        "issuer=x\n{}{certificate}bag attributes\r\n{}{}",
        openssl.text("other.key"),
        openssl.text("leaf.key"),
        certificate.replace('\n', "\r\n")
    );
    let read = TlsFile::read(file.as_bytes()).unwrap();
    assert_eq!(text(&read.certificates().unwrap()), format!("{certificate}{certificate}"));
    assert_eq!(text(&read.private_key().unwrap()), text(&openssl.run("pkey -traditional -in leaf.key")));
}

#[test]
fn a_key_that_cannot_be_read_is_told_and_never_left_empty() {
    let openssl = OpenSsl::new();
    openssl.key("leaf", P256);
    openssl.chain();
    openssl.run("pkcs8 -topk8 -in leaf.key -passout pass:x -out locked.key");
    openssl.run("ec -in leaf.key -aes128 -passout pass:x -out old.key");
    openssl.run("pkcs8 -topk8 -in leaf.key -passout pass: -out empty.key");
    openssl.pfx("-inkey leaf.key -in leaf.pem");
    openssl.run("pkcs12 -export -nokeys -in leaf.pem -passout pass: -out nokey.pfx");
    openssl.run("pkcs12 -export -inkey leaf.key -in leaf.pem -passout pass:x -out locked.pfx");
    openssl.key("x25519", "-algorithm X25519");

    assert_eq!(key_of(&openssl.read("empty.key")), text(&openssl.run("pkey -traditional -in leaf.key")));
    for (file, told) in [
        ("locked.key", "its ENCRYPTED PRIVATE KEY is encrypted with a password"),
        ("old.key", "its EC PRIVATE KEY is encrypted with a password"),
        ("leaf.pem", "it has no private key, only CERTIFICATE"),
        ("nokey.pfx", "it has no private key, only CERTIFICATE"),
        ("locked.pfx", "no PFX with an empty password (pkcs12: decryption password incorrect)"),
        ("x25519.key", "\"PRIVATE KEY\", is no private key that can be used: x509: PKCS#8 wrapping"),
    ] {
        let fault = fault(&openssl.read(file));
        assert!(fault.contains(told), "{file}: {fault}");
    }
    for garbage in [&b""[..], b"hello", &[0x30, 0x80], b"aGVsbG8="] {
        assert!(fault(garbage).contains("no PEM block and is no PFX"), "{garbage:?}");
    }
    let undecodable = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(fault(undecodable).contains("malformed ASN.1"));
    let printed = format!("{:?}", TlsFile::read(&openssl.read("leaf.key")).unwrap());
    assert_eq!(printed, "TlsFile { blocks: \"PRIVATE KEY\" }");
}

proptest! {
    #[test]
    fn never_panics(
        bytes in any::<Vec<u8>>(),
        pem in "(-----BEGIN (CERTIFICATE|X)-----|-----END (CERTIFICATE|X)-----|\n|MAA=|MAMCAQA=|a: b){0,12}",
    ) {
        for file in [&bytes[..], pem.as_bytes()] {
            if let Ok(read) = TlsFile::read(file) {
                let _ = (read.certificates(), read.authorities(), read.private_key());
            }
        }
    }

    /// Whatever stands in it: a truncated or altered key is told, or is still one that reads back.
    #[test]
    fn a_damaged_key_is_an_error_or_a_key(position in 0usize..227, byte: u8) {
        static KEY: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let openssl = OpenSsl::new();
            openssl.key("leaf", P256);
            openssl.read("leaf.key")
        });
        let mut pem = KEY.clone();
        let position = position % pem.len();
        pem[position] = byte;
        if let Ok(key) = TlsFile::read(&pem).and_then(|read| read.private_key()) {
            prop_assert_eq!(TlsFile::read(&key).unwrap().private_key().unwrap(), key);
        }
    }
}
