//! Conversions against the `openssl` command, and what the reference's data shows.

use std::{io::Write, path::PathBuf, process::Command};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

mod tls;

/// A folder in which `openssl` works.
struct OpenSsl(TempDir);

impl OpenSsl {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command line whose arguments hold no blanks of their own.
    fn run(&self, line: &str) -> Vec<u8> {
        let output =
            Command::new("openssl").args(line.split_whitespace()).current_dir(&self.0).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::File::create(self.path(name)).unwrap().write_all(bytes).unwrap();
    }

    fn key(&self, name: &str, algorithm: &str) {
        self.run(&format!("genpkey {algorithm} -out {name}.key"));
    }

    /// A chain `root`, `int`, `leaf` with key identifiers, the leaf's key being `leaf.key`.
    fn chain(&self) {
        self.write(
            "ext.cnf",
            b"[ca]\nbasicConstraints=critical,CA:true\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always\n[leaf]\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n[req]\ndistinguished_name=dn\n[dn]\n",
        );
        self.key("root", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
        self.key("int", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
        self.run("req -x509 -new -key root.key -subj /CN=root -days 30 -config ext.cnf -extensions ca -out root.pem");
        self.signed("int", "root", "ca");
        self.signed("leaf", "int", "leaf");
    }

    fn signed(&self, name: &str, issuer: &str, extensions: &str) {
        self.run(&format!("req -new -key {name}.key -subj /CN={name} -config ext.cnf -out {name}.csr"));
        self.run(&format!(
            "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -CAcreateserial -days 30 -extfile ext.cnf -extensions {extensions} -out {name}.pem"
        ));
    }

    /// `certs.pem` and a key as a PFX, as the vault would return it.
    fn pfx(&self, options: &str) -> String {
        self.run(&format!("pkcs12 -export -out out.pfx -passout pass: {options}"));
        BASE64_STANDARD.encode(self.read("out.pfx"))
    }

    fn concatenated(&self, names: &[&str]) -> String {
        names.iter().map(|name| self.text(&format!("{name}.pem"))).collect()
    }
}

fn pem_of(value: &str, rendering: Rendering) -> Result<String, ConvertError> {
    let value =
        SecretValue { value, kid: Some("https://v/keys/n/1"), content_type: Some("application/x-pkcs12") };
    let parts = secret(&value, SecretFormat::Pem, SecretEncoding::Utf8, rendering)?;
    Ok(String::from_utf8(parts.last().unwrap().bytes.to_vec()).unwrap())
}

fn in_order(value: &str) -> Result<String, ConvertError> {
    pem_of(value, Rendering::default())
}

fn as_it_is(value: &str) -> Result<String, ConvertError> {
    pem_of(value, Rendering { construct_pem_chain: false, ..Rendering::default() })
}

const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";

const KEYS: [(&str, &str); 10] = [
    ("RSA 512", "-algorithm RSA -pkeyopt rsa_keygen_bits:512"),
    ("RSA 1024", "-algorithm RSA -pkeyopt rsa_keygen_bits:1024"),
    ("RSA 2048", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
    ("RSA 2048, three primes", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_primes:3"),
    ("P-224", "-algorithm EC -pkeyopt ec_paramgen_curve:P-224"),
    ("P-256", P256),
    ("P-384", "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"),
    ("P-521", "-algorithm EC -pkeyopt ec_paramgen_curve:P-521"),
    ("secp256k1", "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1"),
    ("Ed25519", "-algorithm ED25519"),
];

#[test]
fn every_key_comes_out_as_openssl_writes_it() {
    let openssl = OpenSsl::new();
    for (what, algorithm) in KEYS {
        openssl.key("leaf", algorithm);
        openssl.chain();
        let digest = if what == "RSA 512" { "-macalg sha1" } else { "" };
        let value = openssl.pfx(&format!("-inkey leaf.key -in leaf.pem {digest}"));
        let key = String::from_utf8(openssl.run("pkcs8 -topk8 -nocrypt -in leaf.key")).unwrap();
        assert_eq!(in_order(&value).unwrap(), format!("{key}{}", openssl.text("leaf.pem")), "{what}");
    }
}

#[test]
fn every_encryption_and_mac_is_read() {
    let openssl = OpenSsl::new();
    openssl.key("leaf", P256);
    openssl.chain();
    let expected = format!("{}{}", openssl.text("leaf.key"), openssl.text("leaf.pem"));
    for options in [
        "",
        "-legacy",
        "-legacy -keypbe PBE-SHA1-RC2-40 -certpbe PBE-SHA1-RC2-40",
        "-legacy -keypbe PBE-SHA1-RC2-128 -certpbe PBE-SHA1-RC2-128",
        "-legacy -keypbe PBE-SHA1-2DES -certpbe PBE-SHA1-2DES",
        "-keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1",
        "-keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha256",
        "-keypbe AES-128-CBC -certpbe AES-192-CBC -macalg sha1",
        "-keypbe DES-EDE3-CBC -certpbe AES-256-CBC -macalg sha384",
        "-macalg sha512",
        "-keypbe NONE -certpbe NONE",
        "-certpbe NONE",
        "-keypbe NONE",
        "-nomac",
        "-nomac -legacy",
        "-nomac -keypbe NONE -certpbe NONE",
        "-noiter -nomaciter",
        "-name with-a-name -CSP some-provider -LMK",
    ] {
        let value = openssl.pfx(&format!("-inkey leaf.key -in leaf.pem {options}"));
        assert_eq!(in_order(&value), Ok(expected.clone()), "{options}");
    }
    openssl.run("pkcs12 -export -out other.pfx -passout pass:secret -inkey leaf.key -in leaf.pem");
    let other = BASE64_STANDARD.encode(openssl.read("other.pfx"));
    assert_eq!(in_order(&other), Err(ConvertError::Pfx("pkcs12: decryption password incorrect".into())));
}

#[test]
fn chains_are_put_in_order_or_left_alone() {
    let openssl = OpenSsl::new();
    openssl.key("leaf", P256);
    openssl.chain();
    let key = openssl.text("leaf.key");
    let value_of = |names: &[&str]| {
        openssl.write("certs.pem", openssl.concatenated(names).as_bytes());
        openssl.pfx("-export -nokeys -in certs.pem")
    };
    let certificates = ["leaf", "int", "root"];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let names = order.map(|index| certificates[index]);
        let value = value_of(&names);
        assert_eq!(in_order(&value).unwrap(), openssl.concatenated(&certificates), "{names:?}");
        assert_eq!(as_it_is(&value).unwrap(), openssl.concatenated(&names), "{names:?}");
    }
    // With a gap, the order stays as it is.
    assert_eq!(in_order(&value_of(&["root", "leaf"])).unwrap(), openssl.concatenated(&["root", "leaf"]));
    // Twice the root is a loop.
    assert_eq!(
        in_order(&value_of(&["leaf", "int", "root", "root"])),
        Err(ConvertError::Chain("constructing chain resulted in cycle".into()))
    );
    // A key comes before all certificates.
    openssl.write("certs.pem", openssl.concatenated(&["root", "int", "leaf"]).as_bytes());
    let value = openssl.pfx("-inkey leaf.key -in certs.pem");
    assert_eq!(in_order(&value).unwrap(), format!("{key}{}", openssl.concatenated(&certificates)));
    // No certificate at all has no leaf, unless nobody looks for one.
    let value = openssl.pfx("-inkey leaf.key -nocerts");
    assert_eq!(in_order(&value), Err(ConvertError::Chain("no leaf found".into())));
    assert_eq!(as_it_is(&value).unwrap(), key);
}

#[test]
fn two_intermediates_and_a_leaf_without_an_identifier_of_its_own() {
    let openssl = OpenSsl::new();
    openssl.key("leaf", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    openssl.chain();
    openssl.key("int2", P256);
    openssl.signed("int2", "int", "ca");
    openssl.write("ext.cnf", b"[bare]\nauthorityKeyIdentifier=keyid\n[req]\ndistinguished_name=dn\n[dn]\n");
    openssl.signed("leaf", "int2", "bare");
    let in_chain = ["leaf", "int2", "int", "root"];
    let mut names = in_chain;
    // All orders, by Heap's method.
    let mut counts = [0; 4];
    let mut place = 0;
    loop {
        openssl.write("certs.pem", openssl.concatenated(&names).as_bytes());
        let value = openssl.pfx("-nokeys -in certs.pem");
        assert_eq!(in_order(&value).unwrap(), openssl.concatenated(&in_chain), "{names:?}");
        while place < 4 && counts[place] >= place {
            counts[place] = 0;
            place += 1;
        }
        if place == 4 {
            break;
        }
        names.swap(if place % 2 == 0 { 0 } else { counts[place] }, place);
        counts[place] += 1;
        place = 0;
    }
}

#[test]
fn a_certificate_without_identifiers_stands_alone() {
    let openssl = OpenSsl::new();
    openssl.write("bare.cnf", b"[req]\ndistinguished_name=dn\n[dn]\n");
    openssl.key("one", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    openssl.run("req -x509 -new -key one.key -subj /CN=demo.test.com/O=ingress-tls -days 30 -config bare.cnf -out one.pem");
    let value = openssl.pfx("-inkey one.key -in one.pem -legacy");
    let key = openssl.text("one.key");
    assert_eq!(in_order(&value).unwrap(), format!("{key}{}", openssl.text("one.pem")));
}

#[test]
fn certificates_are_read_only_where_order_matters() {
    let nonsense = BASE64_STANDARD.encode(pfx::plain(&[], &[b"not a certificate"]));
    assert!(
        as_it_is(&nonsense).unwrap().starts_with("-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n")
    );
    assert_eq!(in_order(&nonsense), Err(ConvertError::Chain("x509: malformed certificate".into())));

    let openssl = OpenSsl::new();
    openssl.key("leaf", P256);
    openssl.chain();
    openssl.run("req -x509 -new -key leaf.key -subj /CN=leaf -set_serial -7 -days 30 -config ext.cnf -extensions leaf -out negative.pem");
    let value = openssl.pfx("-nokeys -in negative.pem");
    assert_eq!(in_order(&value), Err(ConvertError::Chain("x509: negative serial number".into())));
    assert_eq!(as_it_is(&value).unwrap(), openssl.text("negative.pem"));
}

/// DER of a key's `PrivateKeyInfo`.
fn info(openssl: &OpenSsl, name: &str) -> Vec<u8> {
    openssl.run(&format!("pkcs8 -topk8 -nocrypt -in {name}.key -outform DER"))
}

#[test]
fn elliptic_keys_are_normalised() {
    use asn1::{BIT_STRING, OCTET_STRING, OID, SEQUENCE, context, unsigned, value};
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let openssl = OpenSsl::new();
    openssl.key("k", P256);
    let expected = info(&openssl, "k");
    let curve = value(OID, &[curve::Curve::P256.oid()]);
    // PrivateKeyInfo { 0, algorithm, OCTET STRING { ECPrivateKey { 1, OCTET STRING private, … } } }
    let mut reader = asn1::Reader::new(&expected).inside(SEQUENCE).unwrap();
    reader.integer().unwrap();
    reader.expect(SEQUENCE).unwrap();
    let inner = reader.expect(OCTET_STRING).unwrap();
    let mut inner = asn1::Reader::new(inner).inside(SEQUENCE).unwrap();
    inner.integer().unwrap();
    let private = inner.expect(OCTET_STRING).unwrap();
    let build = |version: u8, private: &[u8], rest: &[u8], parameters: &[u8], tail: &[u8]| {
        let key = value(SEQUENCE, &[&unsigned(&[1]), &value(OCTET_STRING, &[private]), rest]);
        let algorithm = value(SEQUENCE, &[&value(OID, &[EC]), parameters]);
        value(SEQUENCE, &[&unsigned(&[version]), &algorithm, &value(OCTET_STRING, &[&key]), tail]).to_vec()
    };
    let wrong_public = value(context(1), &[&value(BIT_STRING, &[&[0, 4, 1, 2, 3]])]);
    let attributes = value(context(0), &[&value(0x30, &[])]);
    let padded = [&[0, 0], private].concat();
    for (what, key) in [
        ("no public key", build(0, private, &[], &curve, &[])),
        ("a wrong public key", build(0, private, &wrong_public, &curve, &[])),
        ("attributes", build(0, private, &[], &curve, &attributes)),
        ("version 1", build(1, private, &[], &curve, &[])),
        ("over-long octets", build(0, &padded, &[], &curve, &[])),
        ("the curve inside only", build(0, private, &value(context(0), &[&curve]), &[], &[])),
    ] {
        assert_eq!(pkcs8::canonical(&key).map(|key| key.to_vec()), Ok(expected.clone()), "{what}");
    }
    let short = build(0, &[1], &[], &curve, &[]);
    let canonical = pkcs8::canonical(&short).unwrap();
    openssl.write("short.der", &canonical);
    openssl.run("pkey -inform DER -in short.der -check -noout");
    for (bad, problem) in [
        (build(0, &[0; 32], &[], &curve, &[]), "invalid private key value"),
        (build(0, &[0xff; 32], &[], &curve, &[]), "invalid private key value"),
        (build(0, &[1; 33], &[], &curve, &[]), "invalid private key length"),
        (build(0, private, &[], &[], &[]), "unknown elliptic curve"),
    ] {
        assert!(pkcs8::canonical(&bad).unwrap_err().to_string().ends_with(problem), "{problem}");
    }
}

#[test]
fn inconsistent_rsa_keys_are_refused() {
    use asn1::{INTEGER, NULL, OCTET_STRING, OID, SEQUENCE, unsigned, value};
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    let openssl = OpenSsl::new();
    openssl.key("k", "-algorithm RSA -pkeyopt rsa_keygen_bits:1024");
    let good = info(&openssl, "k");
    let mut reader = asn1::Reader::new(&good).inside(SEQUENCE).unwrap();
    reader.integer().unwrap();
    reader.expect(SEQUENCE).unwrap();
    let mut key = asn1::Reader::new(reader.expect(OCTET_STRING).unwrap()).inside(SEQUENCE).unwrap();
    let mut numbers = Vec::new();
    while !key.is_empty() {
        numbers.push(key.expect(INTEGER).unwrap().to_vec());
    }
    let build = |numbers: &[Vec<u8>]| {
        let numbers: Vec<_> = numbers.iter().map(|number| value(INTEGER, &[number])).collect();
        let numbers: Vec<&[u8]> = numbers.iter().map(|number| number.as_slice()).collect();
        let algorithm = value(SEQUENCE, &[&value(OID, &[RSA]), &value(NULL, &[])]);
        let key = value(OCTET_STRING, &[&value(SEQUENCE, &numbers)]);
        value(SEQUENCE, &[&unsigned(&[]), &algorithm, &key]).to_vec()
    };
    assert_eq!(build(&numbers), good);
    // Without the CRT values they are computed.
    assert_eq!(pkcs8::canonical(&build(&numbers[..6])).map(|key| key.to_vec()), Ok(good.clone()));
    let with = |place: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = numbers.clone();
        change(&mut changed[place]);
        pkcs8::canonical(&build(&changed)).map(|_| ()).map_err(|error| error.to_string())
    };
    let flip = |number: &mut Vec<u8>| *number.last_mut().unwrap() ^= 2;
    let refused = |place, problem: &str| {
        assert!(
            with(place, &flip).is_err_and(|error| error.ends_with(problem)),
            "{place}: {:?}",
            with(place, &flip)
        );
    };
    refused(1, "p * q != n");
    refused(2, "invalid CRT exponent");
    refused(3, "d does not match dP");
    refused(4, "p * q != n");
    refused(6, "invalid CRT exponent");
    refused(8, "invalid CRT coefficient");
    let n = numbers[1].clone();
    assert!(
        with(3, &|d| d.clone_from(&n)).is_err_and(|error| error.ends_with("input overflows the modulus"))
    );
    assert!(
        with(0, &|version| *version = vec![2])
            .is_err_and(|error| error.ends_with("unsupported private key version"))
    );
    assert!(with(4, &|p| *p = vec![0]).is_err_and(|error| error.ends_with("zero or negative value")));
    assert!(with(2, &|e| *e = vec![1]).is_err_and(|error| error.ends_with("too small or negative")));
    assert!(with(2, &|e| *e = vec![1, 0, 0, 0, 1]).is_err_and(|error| error.ends_with("too large")));
}

fn jwk_of(json: &serde_json::Value) -> Result<String, String> {
    let jwk: Jwk = serde_json::from_value(json.clone()).unwrap();
    let pem = public_key(&jwk).map_err(|error| error.to_string())?;
    Ok(String::from_utf8(pem.to_vec()).unwrap())
}

#[test]
fn public_keys_are_as_openssl_writes_them() {
    let openssl = OpenSsl::new();
    for (curve, crv) in [("P-256", "P-256"), ("P-384", "P-384"), ("P-521", "P-521"), ("secp256k1", "P-256K")]
    {
        openssl.key("k", &format!("-algorithm EC -pkeyopt ec_paramgen_curve:{curve}"));
        let expected = String::from_utf8(openssl.run("pkey -in k.key -pubout")).unwrap();
        let der = openssl.run("pkey -in k.key -pubout -outform DER");
        let size = curve::Curve::by_jwk(crv).unwrap().size();
        let point = &der[der.len() - 2 * size..];
        let stripped = |number: &[u8]| {
            let first = number.iter().position(|&octet| octet != 0).unwrap();
            BASE64_URL_SAFE_NO_PAD.encode(&number[first..])
        };
        let long = |number: &[u8]| BASE64_URL_SAFE_NO_PAD.encode([&[0], number].concat());
        let (x, y) = point.split_at(size);
        for kty in ["EC", "EC-HSM"] {
            for (x, y) in [(stripped(x), long(y)), (long(x), stripped(y))] {
                let jwk = serde_json::json!({"kid": "k", "kty": kty, "crv": crv, "x": x, "y": y});
                assert_eq!(jwk_of(&jwk), Ok(expected.clone()), "{crv}");
            }
        }
        let name = crv.replace('-', "");
        let off = serde_json::json!({"kty": "EC", "crv": crv, "x": stripped(y), "y": stripped(x)});
        assert_eq!(jwk_of(&off), Err(format!("{name} point not on curve")));
        let missing = serde_json::json!({"kty": "EC", "crv": crv, "x": stripped(x)});
        assert_eq!(jwk_of(&missing), Err(format!("{name} point not on curve")));
    }
    openssl.key("k", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    let expected = String::from_utf8(openssl.run("pkey -in k.key -pubout")).unwrap();
    let modulus = String::from_utf8(openssl.run("rsa -in k.key -noout -modulus")).unwrap();
    let modulus = hex_of(modulus.trim().strip_prefix("Modulus=").unwrap());
    for kty in ["RSA", "RSA-HSM"] {
        for n in [modulus.clone(), [&[0], &modulus[..]].concat()] {
            let jwk = serde_json::json!({"kty": kty, "n": BASE64_URL_SAFE_NO_PAD.encode(n), "e": "AQAB"});
            assert_eq!(jwk_of(&jwk), Ok(expected.clone()));
        }
    }
}

fn hex_of(text: &str) -> Vec<u8> {
    encoding::hex_decoded(text.as_bytes()).unwrap().to_vec()
}

#[test]
fn keys_that_have_no_pem() {
    for (json, problem) in [
        (r#"{"kty":"oct"}"#, "failed to get key. key type 'oct' currently not supported"),
        (r#"{"kty":"oct-HSM"}"#, "failed to get key. key type 'oct-HSM' currently not supported"),
        ("{}", "failed to get key. key type '' currently not supported"),
        (r#"{"kty":"EC","crv":"P-999","x":"AA","y":"AA"}"#, "curve P-999 is not supported"),
        (r#"{"kty":"RSA","e":"AQAB"}"#, "key value has no usable 'n'"),
        (r#"{"kty":"RSA","n":"AQAB"}"#, "key value has no usable 'e'"),
        (r#"{"kty":"RSA","n":"AQAB","e":"AQAAAAAAAAAB"}"#, "key value has no usable 'e'"),
        (r#"{"kty":"RSA","n":"AQA=","e":"AQAB"}"#, "key value has no usable 'n'"),
        (r#"{"kty":"RSA","n":"A+A/","e":"AQAB"}"#, "key value has no usable 'n'"),
    ] {
        assert_eq!(jwk_of(&serde_json::from_str(json).unwrap()), Err(problem.to_owned()), "{json}");
    }
}

fn files(
    value: &SecretValue<'_>,
    format: SecretFormat,
    encoding: SecretEncoding,
    separate: bool,
) -> Vec<(&'static str, String)> {
    let rendering = Rendering { construct_pem_chain: true, separate_cert_and_key_files: separate };
    secret(value, format, encoding, rendering)
        .unwrap()
        .into_iter()
        .map(|part| (part.suffix, String::from_utf8_lossy(&part.bytes).into_owned()))
        .collect()
}

#[test]
fn secrets_of_each_form() {
    let plain = |value| SecretValue { value, kid: None, content_type: Some("application/x-pkcs12") };
    let utf8 = SecretEncoding::Utf8;
    assert_eq!(files(&plain("test\n"), SecretFormat::Pfx, utf8, true), [("", "test\n".to_owned())]);
    assert_eq!(files(&plain(""), SecretFormat::Pem, utf8, false), [("", String::new())]);
    assert_eq!(
        files(&plain("dGVzdA=="), SecretFormat::Pem, SecretEncoding::Base64, false),
        [("", "test".to_owned())]
    );
    assert_eq!(
        files(&plain("74657374"), SecretFormat::Pem, SecretEncoding::Hex, false),
        [("", "test".to_owned())]
    );

    let cert = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nBBBB\n-----END PRIVATE KEY-----\n";
    let text = format!("{cert}\r\nbetween\n{key}");
    let pem = SecretValue { value: &text, kid: Some("k"), content_type: Some("application/x-pem-file") };
    let expected = [(".crt", cert.to_owned()), (".key", key.to_owned()), ("", text.clone())];
    assert_eq!(files(&pem, SecretFormat::Pem, utf8, true), expected);
    assert_eq!(files(&pem, SecretFormat::Pfx, utf8, false), [("", text.clone())]);

    // As PFX it is the vault's text, and there is no PEM in it to separate.
    let pfx = SecretValue { value: "AAAA", kid: Some("k"), content_type: Some("application/x-pkcs12") };
    let expected = [(".crt", String::new()), (".key", String::new()), ("", "AAAA".to_owned())];
    assert_eq!(files(&pfx, SecretFormat::Pfx, utf8, true), expected);
    assert_eq!(files(&pfx, SecretFormat::Pfx, SecretEncoding::Base64, false), [("", "\0\0\0".to_owned())]);

    let error = |value: &SecretValue<'_>, encoding| {
        secret(value, SecretFormat::Pem, encoding, Rendering::default()).map(|_| ()).unwrap_err().to_string()
    };
    let other = SecretValue { value: "x", kid: Some("k"), content_type: Some("text/plain") };
    assert_eq!(error(&other, utf8), "failed to get certificate. unknown content type 'text/plain'");
    let missing = SecretValue { value: "x", kid: Some("k"), content_type: None };
    assert_eq!(error(&missing, utf8), "failed to get certificate. unknown content type ''");
    // A certificate's PEM is not base64, and says so as it always did.
    assert_eq!(error(&pem, SecretEncoding::Base64), "illegal base64 data at input byte 0");
    let broken = SecretValue { value: "!", kid: Some("k"), content_type: Some("application/x-pkcs12") };
    assert_eq!(error(&broken, utf8), "illegal base64 data at input byte 0");
}

#[test]
fn a_certificate_is_wrapped_unseen() {
    let pem = certificate("dGVzdA==").unwrap();
    assert_eq!(pem.as_slice(), b"-----BEGIN CERTIFICATE-----\ndGVzdA==\n-----END CERTIFICATE-----\n");
    assert!(certificate("*").is_err());
}

/// Bytes near a real PFX, so that parsers get past the first check.
fn damaged(bytes: &[u8], place: usize, with: u8) -> Vec<u8> {
    let mut damaged = bytes.to_vec();
    let place = place % damaged.len();
    damaged[place] = with;
    damaged
}

/// Leaves `openssl` out of the inner loop of the property tests.
fn sample() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let openssl = OpenSsl::new();
    openssl.key("leaf", P256);
    openssl.chain();
    openssl.run("pkcs12 -export -out out.pfx -passout pass: -inkey leaf.key -in leaf.pem -keypbe NONE -certpbe NONE -nomac");
    let certificate = openssl.run("x509 -in leaf.pem -outform DER");
    (openssl.read("out.pfx"), info(&openssl, "leaf"), certificate)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>(), text in any::<String>()) {
        let _ = pfx::open(&bytes);
        let _ = pkcs8::canonical(&bytes);
        let _ = chain::order(&[&bytes]);
        let _ = in_order(&text);
        let _ = certificate(&text);
    }

    #[test]
    fn arbitrary_jwks_never_panic(kty in "(RSA|EC|RSA-HSM|oct)", crv in "(P-256|P-384|P-521|P-256K|P)", n in "[A-Za-z0-9_-]{0,90}", e in "[A-Za-z0-9_-]{0,90}") {
        let _ = jwk_of(&serde_json::json!({"kty": kty, "crv": crv, "n": n, "e": e, "x": n, "y": e}));
    }
}

#[test]
fn damaged_files_never_panic() {
    let (pfx, key, certificate) = sample();
    for place in 0..pfx.len().max(certificate.len()) {
        for with in [0, 1, 0x7f, 0x80, 0x84, 0xff] {
            let _ = pfx::open(&damaged(&pfx, place, with));
            let _ = pkcs8::canonical(&damaged(&key, place, with));
            let _ = chain::order(&[damaged(&certificate, place, with)]);
        }
    }
    for length in 0..pfx.len() {
        assert!(pfx::open(&pfx[..length]).is_err());
    }
}
