//! Pods and pod templates: their volumes, and what they make of mounted files and synced Secrets.

use super::finding::{Finding, Rule};
use super::input::{Input, PodTemplate, Volume};
use super::objects::files_of;
use super::spelling;
use super::sync::Synced;
use super::view::View;
use vault::ObjectRequest;

/// Looks at a pod.
pub fn check(pod: &PodTemplate, input: &Input, synced: &[Synced<'_>], findings: &mut Vec<Finding>) {
    for volume in &pod.volumes {
        one_volume(pod, volume, input, findings);
    }
    for (path, container) in pod.containers() {
        sub_paths(pod, &path, &container, input, findings);
        variables(pod, &path, &container, input, synced, findings);
    }
}

fn one_volume(pod: &PodTemplate, volume: &Volume, input: &Input, findings: &mut Vec<Finding>) {
    let manifest = &pod.manifest;
    let path = |below: &str| format!("{}.{below}", volume.path);
    if !volume.read_only {
        let cure = "set readOnly: true on the csi volume";
        findings.push(manifest.finding(
            Rule::BadVolume,
            &path("readOnly"),
            "Readonly is not true in request",
            cure,
        ));
    }
    let spec = manifest.root.spot(&path("volumeAttributes")).found;
    for (key, value) in spec.iter().flat_map(View::entries) {
        let Some(name) = key.text() else { continue };
        let path = super::view::below(&path("volumeAttributes"), name);
        if let Some(kind) = value.other_than_string() {
            let problem = format!(
                "{name} is a {kind}, and volume attributes have to be strings: the API server refuses the pod"
            );
            findings.push(manifest.finding(Rule::NotString, &path, problem, "quote it"));
        }
        if name.starts_with("csi.storage.k8s.io/") {
            let problem = format!("{name} is the kubelet's own: what is written here is overwritten");
            findings.push(manifest.finding(Rule::ReservedAttribute, &path, problem, "remove it"));
        }
        if name != "secretProviderClass"
            && let Some("secretProviderClass") = spelling::nearest(name, ["secretProviderClass"])
        {
            let problem = format!("{name} is not read: letter case matters");
            findings.push(manifest.finding(
                Rule::UnreadParameter,
                &path,
                problem,
                "write secretProviderClass",
            ));
        }
    }
    if volume.class.is_empty() {
        let cure = "name a SecretProviderClass in volumeAttributes.secretProviderClass";
        findings.push(manifest.finding(
            Rule::BadVolume,
            &path("volumeAttributes"),
            "secretProviderClass is not set",
            cure,
        ));
        return;
    }
    if input.class_of(pod, volume).is_some() {
        return;
    }
    let class_path = path("volumeAttributes.secretProviderClass");
    let elsewhere = input.classes.iter().find(|class| class.name == volume.class);
    if let Some(class) = elsewhere {
        let own = manifest.namespace.as_deref().unwrap_or("default");
        let problem = format!("{class} is in another namespace than the pod, which looks for it in {own}");
        let cure = "put the class into the pod's namespace: classes are not shared between namespaces";
        findings.push(manifest.finding(Rule::OtherNamespace, &class_path, problem, cure));
    } else {
        let names = input.classes.iter().map(|class| class.name.as_str());
        let (problem, cure) = match spelling::nearest(&volume.class, names) {
            Some(near) => (
                format!("there is no class {} among the files, but {near}", volume.class),
                format!("did you mean {near}?"),
            ),
            None => (
                format!("class {} is not among the files, so it is not checked", volume.class),
                "give its file, too".to_owned(),
            ),
        };
        findings.push(manifest.finding(Rule::ClassNotGiven, &class_path, problem, cure));
    }
}

/// Mounts of single files: they keep what they first saw.
fn sub_paths(pod: &PodTemplate, path: &str, container: &View, input: &Input, findings: &mut Vec<Finding>) {
    let mounts = container.get("volumeMounts");
    for (index, mount) in mounts.iter().flat_map(View::items).enumerate() {
        let Some(volume) = pod.volumes.iter().find(|volume| volume.name == mount.text_of("name")) else {
            continue;
        };
        for key in ["subPath", "subPathExpr"] {
            let sub_path = mount.text_of(key);
            if sub_path.is_empty() {
                continue;
            }
            let path = format!("{path}.volumeMounts[{index}].{key}");
            let problem = format!(
                "the container keeps the first content of {sub_path:?} for ever: a {key} mount is never rotated"
            );
            let cure = "mount the whole volume in a folder of its own";
            findings.push(pod.manifest.finding(Rule::SubPath, &path, problem, cure));

            let objects = objects_of(pod, volume, input);
            let files: Vec<String> = objects.iter().flat_map(files_of).collect();
            let wanted = sub_path.trim_end_matches('/');
            let there = files.iter().any(|file| file == wanted || file.starts_with(&format!("{wanted}/")));
            let separate = [".crt", ".key"]
                .iter()
                .filter_map(|end| wanted.strip_suffix(end))
                .any(|file| files.iter().any(|other| other == file));
            if key == "subPath" && !files.is_empty() && !there && !separate {
                let problem = format!(
                    "no object of class {} makes {sub_path:?}: the container gets an empty folder",
                    volume.class
                );
                let cure = match spelling::nearest(wanted, files.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("files are {}", files.join(", ")),
                };
                findings.push(pod.manifest.finding(Rule::SubPathFile, &path, problem, cure));
            }
        }
    }
}

fn objects_of(pod: &PodTemplate, volume: &Volume, input: &Input) -> Vec<ObjectRequest> {
    let of_class =
        || input.class_of(pod, volume)?.root.spot("spec.parameters.objects").found?.text().map(str::to_owned);
    let text = volume.attributes.get("objects").cloned().or_else(of_class);
    text.and_then(|text| vault::parse_objects(&text).ok()).unwrap_or_default()
}

/// Variables from Secrets that classes make.
fn variables(
    pod: &PodTemplate,
    path: &str,
    container: &View,
    input: &Input,
    synced: &[Synced<'_>],
    findings: &mut Vec<Finding>,
) {
    let mut references = Vec::new();
    for (index, variable) in container.get("env").iter().flat_map(View::items).enumerate() {
        if let Some(reference) = variable.get("valueFrom").and_then(|from| from.get("secretKeyRef")) {
            references.push((format!("{path}.env[{index}].valueFrom.secretKeyRef"), reference));
        }
    }
    for (index, source) in container.get("envFrom").iter().flat_map(View::items).enumerate() {
        if let Some(reference) = source.get("secretRef") {
            references.push((format!("{path}.envFrom[{index}].secretRef"), reference));
        }
    }
    for (path, reference) in references {
        let (name, key) = (reference.text_of("name"), reference.text_of("key"));
        if name.is_empty() || reference.is_true("optional") || input.secret_of(pod, name).is_some() {
            continue;
        }
        let in_reach = || synced.iter().filter(|secret| secret.class.shares_namespace(&pod.manifest));
        let mut found = |rule: Rule, field: &str, problem: String, cure: String| {
            findings.push(pod.manifest.finding(rule, &format!("{path}.{field}"), problem, cure));
        };
        let Some(secret) = in_reach().find(|secret| secret.name == name) else {
            if let Some(near) = spelling::nearest(name, in_reach().map(|secret| secret.name.as_str())) {
                let problem = format!("no class syncs Secret {name}, but {near}");
                found(Rule::EnvNearMiss, "name", problem, format!("did you mean {near}?"));
            }
            continue;
        };
        if !key.is_empty() && !secret.keys.iter().any(|known| known == key) {
            let problem = format!(
                "{} syncs Secret {name} without the key {key}: the container will not start",
                secret.class
            );
            let cure = format!("its keys are {}", secret.keys.join(", "));
            found(Rule::EnvKey, "key", problem, cure);
        }
        if !pod.volumes.iter().any(|volume| volume.class == secret.class.name) {
            let problem = format!(
                "Secret {name} is there only while a pod mounts {}, and this one does not: the container may never start",
                secret.class
            );
            found(
                Rule::EnvWithoutVolume,
                "name",
                problem,
                "mount a volume of the class in this pod, too".to_owned(),
            );
        }
    }
}
