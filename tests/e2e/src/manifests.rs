//! The manifests in `manifests/`, which are what people deploy, with their placeholders filled.

/// Service Connector's sample: the add-on's managed identity.
pub const SERVICE_CONNECTOR: &str = include_str!("../manifests/service-connector.yaml");
/// Workload identity.
pub const WORKLOAD_IDENTITY: &str = include_str!("../manifests/workload-identity.yaml");
/// User-assigned managed identity.
pub const MANAGED_IDENTITY: &str = include_str!("../manifests/managed-identity.yaml");
/// One certificate as secret, key and cert.
pub const CERTIFICATE_TYPES: &str = include_str!("../manifests/certificate-types.yaml");

/// Puts values in the place of `<NAME>`s. A placeholder that is left over, or a value without a place, is a mistake.
pub fn fill(manifest: &str, values: &[(&str, &str)]) -> String {
    let mut text = manifest.to_owned();
    for (name, value) in values {
        let placeholder = format!("<{name}>");
        assert!(text.contains(&placeholder), "the manifest has no {placeholder}");
        text = text.replace(&placeholder, value);
    }
    assert!(!text.contains('<'), "a placeholder is left over in:\n{text}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_shows_the_manifests_that_are_tested() {
        let guide = include_str!("../../../docs/getting-started.md");
        for manifest in [WORKLOAD_IDENTITY, MANAGED_IDENTITY, SERVICE_CONNECTOR] {
            assert!(
                guide.contains(&format!("```yaml\n{manifest}```")),
                "docs/getting-started.md lacks:\n{manifest}"
            );
        }
    }
}
