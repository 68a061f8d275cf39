//! `akv-csi validate`: manifests checked without a cluster.
//!
//! What is said of a class is what the driver would say: [`class`] runs the driver's own parser on it, once for each pod that
//! uses it, and finds the places of its faults in the files. Around it are the traps that no parser can see: what mounts and
//! means something else, what pods make of mounted files, what the cluster's own objects lack.
//!
//! * [`source`] reads files, folders and the standard input, [`manifest`] finds the objects in them, [`input`] who refers to whom.
//! * [`view`] knows where in a file a node is, also when it is YAML inside a string.
//! * [`class`], [`objects`], [`sync`], [`credentials`], [`pods`] and [`drivers`] look at one kind of thing each.
//! * [`finding`] has the rules, [`report`] the forms in which findings are told.

pub mod class;
pub mod credentials;
pub mod drivers;
pub mod finding;
pub mod input;
pub mod manifest;
pub mod objects;
pub mod pods;
pub mod report;
pub mod source;
pub mod spelling;
pub mod sync;
pub mod view;

use crate::cli::ValidateArgs;
use finding::{Finding, Severity};
use input::Input;
use report::Format;
use source::Source;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Exit code where something is wrong with the manifests.
const FAULTS: u8 = 1;
/// Exit code where the manifests could not be looked at.
pub const UNUSABLE: u8 = 2;

/// What there was to look at, and what was found.
#[derive(Debug)]
pub struct Outcome {
    /// All findings, in the order of the files.
    pub findings: Vec<Finding>,
    /// How many SecretProviderClasses there were.
    pub classes: usize,
    /// How many pods and pod templates there were that use the driver.
    pub pods: usize,
}

impl Outcome {
    /// How many findings are this bad.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Looks at the texts. Volumes are recognised by the driver's name.
pub fn check(sources: &[Source], driver_name: &str) -> Outcome {
    let (manifests, mut findings) = manifest::read(sources);
    let input = Input::new(manifests, driver_name);
    class::twice(&input, &mut findings);
    for class in &input.classes {
        class::check(class, &input, &mut findings);
    }
    let synced = sync::synced(&input);
    for pod in &input.pods {
        pods::check(pod, &input, &synced, &mut findings);
    }
    drivers::check(&input, &mut findings);
    finding::settle(&mut findings);
    let pods = input.pods.iter().filter(|pod| !pod.volumes.is_empty()).count();
    Outcome { findings, classes: input.classes.len(), pods }
}

/// The command: reads, checks, reports.
pub fn run(arguments: &ValidateArgs) -> ExitCode {
    let sources = match source::read_all(&arguments.files) {
        Ok(sources) => sources,
        Err(error) => {
            eprintln!("akv-csi: {error}");
            return ExitCode::from(UNUSABLE);
        }
    };
    let outcome = check(&sources, &arguments.driver_name);
    let colours =
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let text = match arguments.output {
        Format::Text => report::text::render(&sources, &outcome, colours),
        Format::Json => report::json::render(&sources, &outcome),
        Format::Sarif => report::sarif::render(&sources, &outcome),
    };
    if let Err(error) = std::io::stdout().lock().write_all(text.as_bytes())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("akv-csi: cannot write the report: {error}");
        return ExitCode::from(UNUSABLE);
    }
    let worst = if arguments.strict { Severity::Warning } else { Severity::Error };
    if outcome.findings.iter().any(|finding| finding.severity >= worst) {
        ExitCode::from(FAULTS)
    } else {
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests;
