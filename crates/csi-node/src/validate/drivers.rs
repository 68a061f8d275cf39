//! The CSIDriver object: what it has to say for volumes to be mounted.

use super::finding::{Finding, Rule};
use super::input::Input;
use super::view::View;

/// Looks at the CSIDriver objects.
pub fn check(input: &Input, findings: &mut Vec<Finding>) {
    for driver in &input.drivers {
        let spec = driver.root.get("spec");
        let is = |key: &str, value: &str| spec.as_ref().is_some_and(|spec| spec.text_of(key) == value);
        if !is("podInfoOnMount", "true") {
            let problem = "the kubelet does not say whose volume it is: pod name is not provided";
            findings.push(driver.finding(
                Rule::BadDriver,
                "spec.podInfoOnMount",
                problem,
                "set podInfoOnMount: true",
            ));
        }
        // The API server's default is true.
        if !is("attachRequired", "false") {
            let problem = "the kubelet waits for an attachment that never comes";
            findings.push(driver.finding(
                Rule::BadDriver,
                "spec.attachRequired",
                problem,
                "set attachRequired: false",
            ));
        }
        let modes = spec.as_ref().and_then(|spec| spec.get("volumeLifecycleModes"));
        if !modes.iter().flat_map(View::items).any(|mode| mode.text() == Some("Ephemeral")) {
            let problem = "pods cannot have volumes of this driver inline";
            let cure = "set volumeLifecycleModes: [Ephemeral]";
            findings.push(driver.finding(Rule::BadDriver, "spec.volumeLifecycleModes", problem, cure));
        }
        if !is("requiresRepublish", "true") {
            let problem = "the kubelet does not repeat its calls, so mounted content is never rotated";
            let cure = "set requiresRepublish: true";
            findings.push(driver.finding(Rule::DriverOption, "spec.requiresRepublish", problem, cure));
        }
    }
}
