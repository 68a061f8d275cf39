//! What `gopkg.in/yaml.v3` 3.0.1 was seen to make of the same texts.

#![allow(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "tests read better so, and need not be fast"
)]

use proptest::prelude::*;

use super::*;

fn fields(text: &str) -> Fields {
    object(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn name(text: &str) -> String {
    fields(&format!("objectName: {text}")).object_name
}

fn problem(text: &str) -> String {
    object(text).map(|fields| format!("{fields:?}")).unwrap_err().to_string()
}

fn history(text: &str) -> Result<i32, String> {
    object(&format!("objectVersionHistory: {text}"))
        .map(|fields| fields.object_version_history)
        .map_err(|error| error.to_string())
}

#[test]
fn text_fields_take_what_is_written() {
    for text in [
        "0755",
        "1e10",
        "true",
        "0x1F",
        "2020-01-01",
        "12345678901234567890123456789012",
        ".5",
        "Yes",
        "<<",
        "a:b",
        "a#b",
    ] {
        assert_eq!(name(text), text);
    }
    for null in ["", "~", "null", "Null", "NULL", "!!null ''", "# comment"] {
        assert_eq!(name(null), "", "{null}");
    }
    for (text, value) in [
        ("'~'", "~"),
        ("\"null\"", "null"),
        ("!!str null", "null"),
        ("!!int 5", "5"),
        ("!foo bar", "bar"),
        ("! 5", "5"),
        ("!<tag:yaml.org,2002:str> x", "x"),
        ("!!binary aGVsbG8=", "hello"),
        ("plain # comment", "plain"),
        ("two\n  lines", "two lines"),
        ("|\n  kept\n  \n", "kept\n"),
        ("|-\n  stripped\n\n", "stripped"),
        ("|+\n  all\n\n", "all\n\n"),
        (">\n  folded\n  text\n\n  more\n", "folded text\nmore\n"),
        ("|2\n   indented\n", " indented\n"),
        ("'it''s'", "it's"),
    ] {
        assert_eq!(name(text), value, "{text:?}");
    }
}

#[test]
fn yaml_is_version_1_1() {
    assert_eq!(name(r#""a\'b""#), "a'b");
    assert_eq!(name(r#""\x41\u00e9\U0001F600\N""#), "Aé😀\u{85}");
    assert_eq!(name("\"a\\\n   b\""), "ab");
    assert!(problem(r#"objectName: "a\/b""#).contains("found unknown escape character"));
    assert!(problem(r#"objectName: "\ud83d\ude00""#).contains("found invalid Unicode character escape code"));
    assert!(problem("%YAML 1.2\n---\nobjectName: x").contains("found incompatible YAML document"));
    assert_eq!(fields("%YAML 1.1\n---\nobjectName: x").object_name, "x");
    // Three more line breaks.
    assert_eq!(fields("objectName: x\u{85}objectType: key").object_type, "key");
    assert_eq!(fields("objectName: x\u{2028}objectType: key").object_type, "key");
    assert_eq!(name("a\u{2029}  b"), "a\u{2029}b");
    // Tabs do not indent.
    assert!(
        problem("objectName: |\n \tx")
            .contains("found a tab character where an indentation space is expected")
    );
    assert!(string_array("array:\n-\tobjectName: x\n").is_err());
    assert!(object("objectName: |\n  x\n\t\n").is_err());
    // Characters nobody can see.
    for c in ['\u{fffe}', '\u{7f}', '\u{80}', '\u{9f}', '\u{1}', '\0'] {
        assert!(
            problem(&format!("objectName: a{c}")).contains("control characters are not allowed"),
            "{c:?}"
        );
    }
    assert_eq!(name("a\u{feff}b"), "a\u{feff}b");
    assert_eq!(fields("\u{feff}objectName: x").object_name, "x");
}

#[test]
fn the_history_is_a_number() {
    for (text, number) in [
        ("5", 5),
        ("-3", -3),
        ("+4", 4),
        ("010", 8),
        ("02", 2),
        ("08", 8),
        ("0b10", 2),
        ("0o17", 15),
        ("0x1F", 31),
        ("0_2", 2),
        ("1_000", 1000),
        ("!!int \"2\"", 2),
        ("!!float 2", 2),
        ("2e0", 2),
        ("2.9", 2),
        ("-1.5", -1),
        (".5", 0),
        ("-0b11", -3),
        ("2147483647", i32::MAX),
        ("~", 0),
        ("", 0),
    ] {
        assert_eq!(history(text), Ok(number), "{text}");
    }
    for (text, found) in [
        ("\"5\"", "line 1: cannot unmarshal !!str `5` into int32"),
        ("five", "line 1: cannot unmarshal !!str `five` into int32"),
        ("true", "line 1: cannot unmarshal !!bool `true` into int32"),
        ("2147483648", "line 1: cannot unmarshal !!int `2147483648` into int32"),
        ("18446744073709551616", "line 1: cannot unmarshal !!float `1844674...` into int32"),
        (".nan", "line 1: cannot unmarshal !!float `.nan` into int32"),
        ("-.inf", "line 1: cannot unmarshal !!float `-.inf` into int32"),
        ("2020-01-01", "line 1: cannot unmarshal !!str `2020-01-01` into int32"),
        ("[1]", "line 1: cannot unmarshal !!seq into int32"),
        ("{}", "line 1: cannot unmarshal !!map into int32"),
    ] {
        assert_eq!(history(text), Err(format!("yaml: unmarshal errors: {found}")), "{text}");
    }
    assert_eq!(history("!!int x"), Err("yaml: cannot decode !!str `x` as a !!int".into()));
    assert_eq!(history("!!bool 1"), Err("yaml: cannot decode !!int `1` as a !!bool".into()));
}

#[test]
fn keys_are_unique_and_unknown_ones_are_scalars() {
    assert_eq!(
        problem("objectName: a\nobjectType: key\nobjectName: b"),
        "yaml: unmarshal errors: line 3: mapping key \"objectName\" already defined at line 1"
    );
    assert!(
        problem("&a objectName: x\n*a : y")
            .contains("field objectName already set in type types.KeyVaultObject")
    );
    assert_eq!(fields("unknown: [1, {2: 3, 2: 4}]\n5: x\n~: y\nobjectName: a").object_name, "a");
    assert!(problem("[a]: b").contains("cannot unmarshal !!seq into string"));
    assert!(problem("{a: b}: c").contains("cannot unmarshal !!map into string"));
    assert!(problem("? [a]\n: b\n? [c]\n: d").contains("already defined"));
    assert_eq!(fields("objectname: x").object_name, "");
    assert!(problem("objectName: [a]").contains("cannot unmarshal !!seq into string"));
    assert!(problem("objectName: {a: b}").contains("cannot unmarshal !!map into string"));
    assert!(problem("just text").contains("cannot unmarshal !!str `just text` into types.KeyVaultObject"));
}

#[test]
fn anchors_and_merges() {
    assert_eq!(fields("objectName: &n foo\nobjectAlias: *n").object_alias, "foo");
    let merged = fields("base: &b {objectName: foo, objectType: key}\n<<: *b\nobjectType: cert");
    assert_eq!((merged.object_name.as_str(), merged.object_type.as_str()), ("foo", "cert"));
    let first = fields("<<: [{objectName: a}, {objectName: b, objectAlias: c}]");
    assert_eq!((first.object_name.as_str(), first.object_alias.as_str()), ("a", "c"));
    // A null of its own is not filled.
    assert_eq!(fields("objectName: ~\n<<: {objectName: a}").object_name, "");
    assert!(problem("<<: text").contains("map merge requires map or sequence of maps as the value"));
    assert!(problem("objectName: *missing").contains("unknown anchor 'missing' referenced"));
    assert!(problem("&a\n<<: *a").contains("anchor 'a' value contains itself"));
}

#[test]
fn the_list() {
    let items = |text: &str| {
        string_array(text).map(|items| items.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let none: Vec<String> = Vec::new();
    for empty in
        ["array:", "array: []", "array: ~", "other: 1", "", "# nothing", "---\n", "null", "array: [~, null]"]
    {
        assert_eq!(items(empty), Ok(none.clone()), "{empty:?}");
    }
    assert_eq!(
        items("array:\n  - |\n    objectName: a\n    # b\n  - ~\n  - 'c'\n  - 5\n"),
        Ok(vec!["objectName: a\n# b\n".into(), "c".into(), "5".into()])
    );
    assert_eq!(items(r#"{"array": ["a\nb"]}"#), Ok(vec!["a\nb".into()]));
    assert_eq!(items("array: [x]\n---\narray: [y]\n"), Ok(vec!["x".into()]), "the first document counts");
    // What the trim leaves of a block: the first line has lost its indentation.
    assert_eq!(items("array:\n        - |\n          objectName: a"), Ok(vec!["objectName: a".into()]));
    for (text, wrong) in [
        ("array:\n  - objectName: x", "line 2: cannot unmarshal !!map into string"),
        ("array:\n  - [x]", "line 2: cannot unmarshal !!seq into string"),
        ("- x", "line 1: cannot unmarshal !!seq into types.StringArray"),
        ("text", "line 1: cannot unmarshal !!str `text` into types.StringArray"),
        ("array: text", "line 1: cannot unmarshal !!str `text` into []string"),
        ("array: {a: b}", "line 1: cannot unmarshal !!map into []string"),
    ] {
        let told = items(text).map_err(|error| error.to_string());
        assert_eq!(told, Err(format!("yaml: unmarshal errors: {wrong}")), "{text:?}");
    }
    let both = items("array:\n- a: b\n- [c]\n").unwrap_err().to_string();
    assert_eq!(
        both,
        "yaml: unmarshal errors: line 2: cannot unmarshal !!map into string, line 3: cannot unmarshal !!seq into string"
    );
    assert_eq!(
        items("array:\n\t- x").unwrap_err().to_string(),
        "yaml: line 2: found character that cannot start any token"
    );
}

#[test]
fn texts_that_grow_when_read_are_refused() {
    let mut bomb = format!("x: &x {}\narray:\n", "y".repeat(100_000));
    for _ in 0..1000 {
        bomb.push_str("- *x\n");
    }
    assert!(string_array(&bomb).is_err_and(|error| error.to_string().contains("excessive aliasing")));
    let mut merges = "a0: &a0 {z: 1}\n".to_owned();
    for level in 1..40 {
        let below = level - 1;
        merges.push_str(&format!("a{level}: &a{level} {{<<: [*a{below}, *a{below}]}}\n"));
    }
    merges.push_str("<<: *a39\n");
    assert!(object(&merges).is_err_and(|error| error.to_string().contains("excessive aliasing")));
    let mut ladder = "a0: &a0 {z: 1}\n".to_owned();
    for level in 1..20_000 {
        ladder.push_str(&format!("a{level}: &a{level} {{<<: *a{}}}\n", level - 1));
    }
    ladder.push_str("<<: *a19999\n");
    assert!(object(&ladder).is_err_and(|error| error.to_string().contains("excessive aliasing")));
    assert!(object(&"[".repeat(100_000)).is_err_and(|error| error.to_string().contains("max depth")));
    assert!(object(&"a: ".repeat(100_000)).is_err());
    let deep: String = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(object(&deep).is_err_and(|error| error.to_string().contains("max depth")));
}

proptest! {
    #[test]
    fn quoted_text_comes_back(text in "[ -~é\u{2028}\n]{0,40}") {
        let quoted: String = text
            .chars()
            .map(|c| match c {
                '"' | '\\' => format!("\\{c}"),
                '\n' => "\\n".to_owned(),
                '\u{2028}' => "\\L".to_owned(),
                c => c.to_string(),
            })
            .collect();
        prop_assert_eq!(name(&format!("\"{quoted}\"")), text);
    }

    #[test]
    fn literal_blocks_come_back(lines in prop::collection::vec("[!-~]([ -~]{0,20}[!-~])?", 1..5)) {
        let block: String = lines.iter().map(|line| format!("    {line}\n")).collect();
        let items = string_array(&format!("array:\n  - |\n{block}")).unwrap();
        prop_assert_eq!(&*items[0], &format!("{}\n", lines.join("\n")));
    }

    #[test]
    fn never_panics(text in any::<String>(), near in "(array:|objectName|: |\n|  |- |\\||>|[\\[\\]{}\"'#&*!%?,]|<<|---|\\.\\.\\.|\t|!!int |&a |\\*a|0|~){0,24}") {
        let _ = string_array(&text);
        let _ = object(&text);
        let _ = string_array(&near);
        let _ = object(&near);
    }
}
