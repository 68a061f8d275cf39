//! What is wrong with a parameter, and how to put it right.

use std::fmt;

/// One mistake in one field of a `SecretProviderClass`.
///
/// `Display` gives one sentence; `problem` keeps the wording people already search for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, as a path from `spec`: `parameters.objects.array[1].objectFormat`.
    pub field: String,
    /// What was written there, when it helps to repeat it.
    pub value: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead; empty when the problem already says it.
    pub cure: String,
    /// Where in the text of `field`, as an index of its characters, when the mistake is in its YAML. White space around
    /// `objects` is not counted.
    pub place: Option<usize>,
}

impl Fault {
    /// A fault without a value to repeat.
    pub fn new(field: impl Into<String>, problem: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { field: field.into(), value: None, problem: problem.into(), cure: cure.into(), place: None }
    }

    /// The same fault, quoting what was written.
    #[must_use]
    pub fn with_value(mut self, value: impl Into<String>) -> Self {
        self.value = Some(value.into());
        self
    }
}

impl Fault {
    /// The same fault, at this place in the text of its field.
    #[must_use]
    pub fn at(mut self, place: Option<usize>) -> Self {
        self.place = place;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field)?;
        if let Some(value) = &self.value {
            write!(f, " (\"{}\")", shortened(value))?;
        }
        write!(f, ": {}", tidied(&self.problem, LONGEST_PROBLEM))?;
        if !self.cure.is_empty() {
            write!(f, "; {}", self.cure)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// Every mistake found in one class: never empty, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// `Ok(())` when nothing was found, so that a validator can end with `Faults::check(found)?`.
    ///
    /// # Errors
    /// All of `found`, unless it is empty.
    pub fn check(found: Vec<Fault>) -> Result<(), Self> {
        if found.is_empty() { Ok(()) } else { Err(Self(found)) }
    }

    /// The faults, at least one.
    pub fn as_slice(&self) -> &[Fault] {
        &self.0
    }

    /// The faults by value, to be joined with those of another part of the class.
    pub fn into_vec(self) -> Vec<Fault> {
        self.0
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(". ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// An object's name has up to 127 characters, and should be seen whole.
const LONGEST_VALUE: usize = 128;
const LONGEST_PROBLEM: usize = 600;

/// A value as it can stand in an event: short, on one line.
pub(crate) fn shortened(value: &str) -> String {
    tidied(value, LONGEST_VALUE)
}

/// A text of somebody else as it can stand in an event.
pub(crate) fn excerpt(text: &str) -> String {
    tidied(text, LONGEST_PROBLEM)
}

fn tidied(text: &str, longest: usize) -> String {
    let mut tidy = String::with_capacity(text.len().min(longest));
    for (place, c) in text.chars().enumerate() {
        if place == longest {
            tidy.push('…');
            break;
        }
        if c.is_control() {
            tidy.extend(c.escape_default());
        } else {
            tidy.push(c);
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_sentence() {
        let fault = Fault::new("parameters.keyvaultName", "keyvaultName is not provided", "name the vault");
        assert_eq!(
            fault.to_string(),
            "parameters.keyvaultName: keyvaultName is not provided; name the vault"
        );
        let fault = fault.with_value("a\nb");
        assert_eq!(
            fault.to_string(),
            "parameters.keyvaultName (\"a\\nb\"): keyvaultName is not provided; name the vault"
        );
    }

    #[test]
    fn faults_keep_their_order_and_are_never_empty() {
        assert_eq!(Faults::check(Vec::new()), Ok(()));
        let both = Faults::check(vec![Fault::new("a", "x", ""), Fault::new("b", "y", "z")]);
        assert_eq!(both.map_err(|f| f.to_string()), Err("a: x. b: y; z".into()));
    }

    #[test]
    fn long_values_are_cut() {
        let cut = shortened(&"x".repeat(500));
        assert_eq!(cut.chars().count(), 129);
        let fault = Fault::new("a", "é\n".repeat(500), "").to_string();
        assert!(fault.starts_with("a: é\\né\\n") && fault.ends_with('…') && !fault.contains('\n'));
    }
}
