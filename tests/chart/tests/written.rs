//! Files that are made from others are up to date. `make manifests` makes them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use chart::{chart, helm, root, run};
use std::fs;
use std::path::Path;

const HEADER: &str = "\
# akv-csi on every Linux node, with rotation; made from deploy/charts/akv-csi by `make manifests`. Apply deploy/crds first; remove
# the Secrets Store CSI Driver and its Azure provider, because two drivers of one name cannot be registered on one node. Mounted
# volumes stay and are taken over.
";

/// Compares, or writes where `AKV_CSI_WRITE` is set.
fn is_written(file: &Path, content: &str) {
    if std::env::var_os("AKV_CSI_WRITE").is_some() {
        fs::write(file, content).unwrap();
    }
    let written = fs::read_to_string(file).unwrap_or_default();
    assert!(written == content, "{} is not up to date: run `make manifests`", file.display());
}

#[test]
fn the_manifest_is_what_the_chart_renders() {
    let Some(mut helm) = helm() else { return };
    let rendered = run(helm
        .args(["template", "akv-csi"])
        .arg(chart())
        .args(["--namespace", "kube-system", "--no-hooks", "--kube-version", "1.34.4"])
        .args(["--set", "enableSecretRotation=true"]))
    .unwrap();
    // Labels that tell Helm whose an object is are not true of what kubectl applies.
    let helms =
        ["# Source:", "app.kubernetes.io/managed-by:", "app.kubernetes.io/instance:", "helm.sh/chart:"];
    let lines = rendered.lines().filter(|line| !helms.iter().any(|own| line.trim_start().starts_with(own)));
    let body = lines.skip_while(|line| *line == "---").fold(String::new(), |text, line| text + line + "\n");
    is_written(&root().join("deploy/manifests/akv-csi.yaml"), &format!("{HEADER}{body}"));
}

#[test]
fn the_readme_has_every_value() {
    let file = chart().join("README.md");
    let readme = fs::read_to_string(&file).unwrap();
    let (begin, end) = ("<!-- values -->\n", "<!-- end of values -->");
    let (before, rest) = readme.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let table = chart::table(&fs::read_to_string(chart().join("values.yaml")).unwrap()).unwrap();
    let (ignored_begin, ignored_end) = ("<!-- retired -->\n", "<!-- end of retired -->");
    let (between, rest) = after.split_once(ignored_begin).unwrap();
    let (_, last) = rest.split_once(ignored_end).unwrap();
    let retired = chart::yaml(&fs::read_to_string(chart().join("files/retired.yaml")).unwrap()).unwrap();
    let rows = retired.as_array().unwrap().iter().map(|value| {
        format!("| `{}` | {} |\n", value["path"].as_str().unwrap(), value["why"].as_str().unwrap())
    });
    let ignored = "| value | why |\n|---|---|\n".to_owned() + &rows.collect::<Vec<_>>().concat();
    is_written(
        &file,
        &format!("{before}{begin}{table}{end}{between}{ignored_begin}{ignored}{ignored_end}{last}"),
    );
}

#[test]
fn what_the_schema_takes_is_explained() {
    let read = |name: &str| chart::yaml(&fs::read_to_string(chart().join(name)).unwrap()).unwrap();
    let (schema, values) = (read("values.schema.json"), read("values.yaml"));
    // The README tells about these in sentences.
    let elsewhere = ["global", "windows", "secrets-store-csi-driver", "Azure"];
    let retired = serde_json::json!({"$ref": "#/definitions/retired"});
    for (properties, defaults) in
        [(&schema["properties"], &values), (&schema["definitions"]["linux"]["properties"], &values["linux"])]
    {
        for (name, property) in properties.as_object().unwrap() {
            let told = *property == retired || elsewhere.contains(&name.as_str());
            assert_ne!(told, defaults.get(name).is_some(), "{name}: in values.yaml, or retired");
        }
    }
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let text = fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    let chart = chart::yaml(&text).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}
