//! Flags that are on or off.

use super::go_flags::parse_bool;
use clap::Arg;
use std::any::TypeId;
use std::fmt;
use std::str::FromStr;

/// A flag that is on or off, written as with Go programs: `--flag`, `--flag=true`, `--flag=f`, never `--flag true`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch(bool);

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self.0
    }
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_bool(text).map(Self)
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Lets a flag of this type stand alone. The type alone cannot say so, and attributes would say it at each flag.
pub(super) fn adapt(argument: Arg) -> Arg {
    if argument.get_value_parser().type_id() == TypeId::of::<Switch>() {
        argument.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
    } else {
        argument
    }
}
