#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "tests read better so, and need not be fast"
)]

use proptest::prelude::*;

use super::*;

const SECRET: ObjectKind = ObjectKind::Secret { format: SecretFormat::Pem, encoding: SecretEncoding::Utf8 };

/// One object of these fields, in the usual shape.
fn one(fields: &str) -> Result<ObjectRequest, Vec<String>> {
    let block: String = fields.lines().map(|line| format!("    {line}\n")).collect();
    match parse_objects(&format!("array:\n  - |\n{block}")) {
        Ok(mut requests) => Ok(requests.remove(0)),
        Err(faults) => {
            Err(faults.into_iter().map(|fault| format!("{} {}", fault.field, fault.problem)).collect())
        }
    }
}

fn faults(fields: &str) -> Vec<String> {
    one(fields).unwrap_err()
}

#[test]
fn the_usual_manifest() {
    let text = "
      array:
        - |
          objectName: secret1   # the first
          objectType: secret
          objectVersion: \"\"
        - |
          objectName: key1
          objectAlias: dir/KEY_1
          objectType: key
          objectVersion: 0123
          filePermission: 0600
        - |
          objectName: cert1
          objectType: cert
          objectVersionHistory: 0
          objectFormat: ''
          objectEncoding: ''
          filePermission: ''
    ";
    let request = |kind, name: &str, path: &str, versions, mode: Option<&str>| ObjectRequest {
        kind,
        name: name.into(),
        path: path.into(),
        versions,
        mode: mode.and_then(FileMode::parse),
    };
    assert_eq!(
        parse_objects(text),
        Ok(vec![
            request(SECRET, "secret1", "secret1", Versions::Latest, None),
            request(ObjectKind::Key, "key1", "dir/KEY_1", Versions::Pinned("0123".into()), Some("0600")),
            request(ObjectKind::Certificate, "cert1", "cert1", Versions::Latest, None),
        ])
    );
    assert_eq!(parse_objects("array: []"), Ok(Vec::new()));
    let missing = parse_objects(" \n ").unwrap_err();
    assert_eq!(missing.as_slice()[0].problem, "objects is not set");
}

#[test]
fn formats_and_encodings() {
    let kind = |fields: &str| one(&format!("objectName: n\n{fields}")).map(|request| request.kind);
    let secret = |format, encoding| Ok(ObjectKind::Secret { format, encoding });
    for (format, expected) in [
        ("pem", SecretFormat::Pem),
        ("PEM", SecretFormat::Pem),
        (" pfx ", SecretFormat::Pfx),
        ("PfX", SecretFormat::Pfx),
    ] {
        assert_eq!(
            kind(&format!("objectType: secret\nobjectFormat: \"{format}\"")),
            secret(expected, SecretEncoding::Utf8)
        );
    }
    for (encoding, expected) in [
        ("utf-8", SecretEncoding::Utf8),
        ("UTF-8", SecretEncoding::Utf8),
        ("Base64", SecretEncoding::Base64),
        ("hex", SecretEncoding::Hex),
    ] {
        assert_eq!(
            kind(&format!("objectType: secret\nobjectEncoding: {encoding}")),
            secret(SecretFormat::Pem, expected)
        );
    }
    // In capitals the check of the type has always been passed by.
    assert_eq!(kind("objectType: key\nobjectFormat: PFX"), Ok(ObjectKind::Key));
    let prefix = "failed to get objectType:";
    for (fields, field, problem) in [
        (
            "objectType: secret\nobjectFormat: der",
            "objectFormat",
            "secret, objectName:n, objectVersion:: invalid objectFormat: der, should be PEM or PFX",
        ),
        (
            "objectType: cert\nobjectFormat: pfx",
            "objectFormat",
            "cert, objectName:n, objectVersion:: PFX format only supported for objectType: secret",
        ),
        (
            "objectType: secret\nobjectEncoding: utf8",
            "objectEncoding",
            "secret, objectName:n, objectVersion:: invalid objectEncoding: utf8, should be hex, base64 or utf-8",
        ),
        (
            "objectType: key\nobjectEncoding: hex",
            "objectEncoding",
            "key, objectName:n, objectVersion:: objectEncoding only supported for objectType: secret",
        ),
        (
            "objectType: certificate\nobjectVersion: v",
            "objectType",
            "certificate, objectName:n, objectVersion:v: Invalid vaultObjectTypes. Should be secret, key, or cert",
        ),
        (
            "objectType: Secret",
            "objectType",
            "Secret, objectName:n, objectVersion:: Invalid vaultObjectTypes. Should be secret, key, or cert",
        ),
        (
            "objectType: secret\nfilePermission: 0900",
            "filePermission",
            "secret, objectName:n, objectVersion:: invalid filePermission: 0900, should be octal digits",
        ),
        (
            "objectType: secret\nobjectVersion: '..'",
            "objectVersion",
            "secret, objectName:n, objectVersion:..: .. would address something else in the vault",
        ),
    ] {
        assert_eq!(
            faults(&format!("objectName: n\n{fields}")),
            [format!("parameters.objects.array[0].{field} {prefix}{problem}")]
        );
    }
}

#[test]
fn names_and_aliases() {
    let path = |fields: &str| one(&format!("objectType: secret\n{fields}")).map(|request| request.path);
    assert_eq!(path("objectName: n"), Ok("n".into()));
    assert_eq!(path("objectName: n\nobjectAlias: a/b"), Ok("a/b".into()));
    assert_eq!(path("objectName: n\nobjectAlias: '  '"), Ok("n".into()));
    for (fields, problem) in [
        ("objectAlias: ''", "file name must not be empty"),
        ("objectName: n\nobjectAlias: /a", "file name must be a relative path"),
        ("objectName: n\nobjectAlias: a..b", "file name must not contain '..'"),
        ("objectName: n\nobjectAlias: ./a", "invalid filepath: \"./a\""),
        ("objectName: n\nobjectAlias: .", "invalid filepath: \".\""),
        ("objectAlias: a", "parameter name cannot be empty"),
    ] {
        let found = path(fields).unwrap_err();
        assert!(found.len() == 1 && found[0].ends_with(problem), "{fields}: {found:?}");
    }
    // With a history the files lie below, and the way there is tidied.
    assert_eq!(path("objectName: n\nobjectAlias: ./a//b/\nobjectVersionHistory: 2"), Ok("./a//b/".into()));
}

#[test]
fn histories() {
    let versions =
        |fields: &str| one(&format!("objectName: n\nobjectType: secret\n{fields}")).unwrap().versions;
    let history = |start: Option<&str>, most| Versions::History { start: start.map(Into::into), most };
    // One more than asked for.
    assert_eq!(versions("objectVersionHistory: 2"), history(None, 3));
    assert_eq!(versions("objectVersionHistory: 5\nobjectVersion: latest"), history(None, 6));
    assert_eq!(versions("objectVersionHistory: 5\nobjectVersion: v1"), history(Some("v1"), 6));
    for single in ["0", "1", "-7", "~", "-1.5", "1.9"] {
        assert_eq!(versions(&format!("objectVersionHistory: {single}")), Versions::Latest);
    }
    // Without a history it is a version like any other.
    assert_eq!(versions("objectVersion: latest"), Versions::Pinned("latest".into()));
}

#[test]
fn every_fault_is_told_at_once() {
    let text = "array:\n- 'objectName: [x]'\n- |\n  objectName: n\n  objectType: nope\n  filePermission: rw\n- |\n  objectName: fine\n  objectType: key\n";
    let found = parse_objects(text).unwrap_err();
    let fields: Vec<&str> = found.as_slice().iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "parameters.objects.array[0]",
            "parameters.objects.array[1].objectType",
            "parameters.objects.array[1].filePermission",
        ]
    );
    assert!(found.to_string().contains("unmarshal failed for keyVaultObjects at index 0, error: yaml: unmarshal errors: line 1: cannot unmarshal !!seq into string"));
    let outer = parse_objects("array:\n  - objectName: x\n").unwrap_err().to_string();
    assert!(outer.starts_with("parameters.objects: failed to yaml unmarshal objects, error: yaml: unmarshal errors: line 2: cannot unmarshal !!map into string; "), "{outer}");
}

/// A request as a manifest's text.
fn printed(request: &ObjectRequest) -> String {
    let mut text = format!("  objectName: {:?}\n  objectType: {}\n", request.name, request.kind.as_str());
    let mut field = |name: &str, value: &str| text.push_str(&format!("  {name}: {value:?}\n"));
    if request.path != request.name {
        field("objectAlias", &request.path);
    }
    if let ObjectKind::Secret { format, encoding } = request.kind {
        field("objectFormat", if format == SecretFormat::Pfx { "pfx" } else { "pem" });
        field(
            "objectEncoding",
            match encoding {
                SecretEncoding::Utf8 => "utf-8",
                SecretEncoding::Base64 => "base64",
                SecretEncoding::Hex => "hex",
            },
        );
    }
    if let Some(mode) = request.mode {
        field("filePermission", &mode.to_string());
    }
    match &request.versions {
        Versions::Latest => {}
        Versions::Pinned(version) => field("objectVersion", version),
        Versions::History { start, most } => {
            field("objectVersion", start.as_deref().unwrap_or_default());
            text.push_str(&format!("  objectVersionHistory: {}\n", most - 1));
        }
    }
    text
}

fn any_request() -> impl Strategy<Value = ObjectRequest> {
    let kind = prop_oneof![
        Just(ObjectKind::Key),
        Just(ObjectKind::Certificate),
        (
            prop_oneof![Just(SecretFormat::Pem), Just(SecretFormat::Pfx)],
            prop_oneof![Just(SecretEncoding::Utf8), Just(SecretEncoding::Base64), Just(SecretEncoding::Hex)]
        )
            .prop_map(|(format, encoding)| ObjectKind::Secret { format, encoding }),
    ];
    let versions = prop_oneof![
        Just(Versions::Latest),
        "[0-9a-f]{32}".prop_map(Versions::Pinned),
        (prop::option::of("[0-9a-f]{32}"), 3u32..100)
            .prop_map(|(start, most)| Versions::History { start, most }),
    ];
    let mode =
        prop::option::of((0u32..=0o777).prop_map(|mode| FileMode::parse(&format!("{mode:o}")).unwrap()));
    ("[0-9A-Za-z-]{1,127}", prop::option::of("[a-z]{1,9}(/[a-z0-9-]{1,9}){0,2}"), kind, versions, mode)
        .prop_map(|(name, alias, kind, versions, mode)| ObjectRequest {
            kind,
            path: alias.unwrap_or_else(|| name.clone()),
            name,
            versions,
            mode,
        })
}

proptest! {
    #[test]
    fn what_is_printed_parses_back(requests in prop::collection::vec(any_request(), 0..4)) {
        let mut text = "array:\n".to_owned();
        for request in &requests {
            text.push_str("- |\n");
            text.push_str(&printed(request));
        }
        prop_assert_eq!(parse_objects(&text), Ok(requests));
    }

    #[test]
    fn never_panics(text in any::<String>()) {
        let _ = parse_objects(&text);
    }
}

#[test]
fn the_reader_knows_the_listed_fields_and_no_others() {
    // A list where a text or number should be is only noticed in a field that is read.
    let is_read = |name: &str| {
        parse_objects(&format!("array:\n- |\n  {name}: [x]\n")).unwrap_err().to_string().contains("!!seq")
    };
    for field in OBJECT_FIELDS {
        assert!(is_read(field.name), "{}", field.name);
    }
    for other in ["objectname", "ObjectType", "keyvaultName", "objectSort"] {
        assert!(!is_read(other), "{other}");
    }
    // Whatever the reader has a place for is in the list.
    let places = format!("{:?}", yaml::Fields::default()).matches(": ").count();
    assert_eq!(places, OBJECT_FIELDS.len());
}
