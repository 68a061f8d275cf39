//! Flags of `akv-csi validate`.

use crate::validate::report::Format;
use clap::Args;
use std::path::PathBuf;

/// What to validate, and how to tell.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Files, folders with all their YAML and JSON files, or - for the standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// How to write the report.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Format,

    /// Let warnings count as errors do.
    #[arg(long)]
    pub strict: bool,

    /// Name of the driver, by which pods' volumes are recognised.
    #[arg(
        long,
        env = "AKV_CSI_DRIVER_NAME",
        value_name = "NAME",
        default_value = "secrets-store.csi.k8s.io"
    )]
    pub driver_name: String,
}
