//! What `--help` teaches beyond one line for each flag: headings, examples, exit codes.

use clap::{Arg, Command};

const HEADINGS: &[(&str, &[&str])] = &[
    (
        "Kubelet and Kubernetes",
        &[
            "endpoint",
            "node_id",
            "driver_name",
            "registration_dir",
            "kubelet_registration_path",
            "secret_provider_classes",
            "startup_taint",
            "kubeconfig",
        ],
    ),
    (
        "Rotation and freshness",
        &[
            "enable_secret_rotation",
            "rotation_poll_interval",
            "mount_freshness",
            "stale_if_error",
            "publish_timeout",
        ],
    ),
    (
        "Files",
        &["volume_size", "volume_noexec", "construct_pem_chain", "write_cert_and_key_in_separate_files"],
    ),
    ("Azure", &["cloud_name", "custom_user_agent", "token_proxy_url", "sni_name"]),
    ("Policy", &["vm_identity_namespaces", "allowed_tenants", "allowed_clouds"]),
    ("Other providers", &["provider_volume", "additional_provider_volume_paths", "max_call_recv_msg_size"]),
    (
        "Operation",
        &["admin_socket", "health_addr", "metrics_addr", "prometheus_port", "log_format_json", "verbosity"],
    ),
];

/// Puts a flag of `akv-csi node` under its heading.
pub(super) fn under_heading(argument: Arg) -> Arg {
    let id = argument.get_id().as_str();
    match HEADINGS.iter().find(|(_, ids)| ids.contains(&id)) {
        Some((heading, _)) => argument.help_heading(*heading),
        None => argument,
    }
}

/// Examples and exit codes of a subcommand; of the program itself for an empty name.
pub(super) fn examples(command: Command) -> Command {
    let text = match command.get_name() {
        "akv-csi" => {
            "Examples:
  akv-csi node --endpoint=unix:///csi/csi.sock --registration-dir=/registration --enable-secret-rotation
  akv-csi validate deploy/
  akv-csi refresh --namespace shop

Exit codes: 0 done; 1 it failed; 64 the command line or a flag's value cannot be used. `akv-csi validate --help` has its own.
The guide: docs/index.md. Every flag: docs/flags.md. Every parameter of a class: docs/parameters.md."
        }
        "node" => {
            "Examples:
  akv-csi node --node-id=$NODE --endpoint=unix:///csi/csi.sock \\
      --registration-dir=/registration --kubelet-registration-path=/var/lib/kubelet/plugins/csi-secrets-store/csi.sock
  akv-csi node --secret-provider-classes=classes/     without an API server

Flags of the Secrets Store CSI Driver and its Azure provider work here, also in Go's spelling (-endpoint=…). Those that have no
meaning any more are accepted with a warning: docs/flags.md."
        }
        "refresh" => {
            "Examples:
  akv-csi refresh                                      all volumes of this node
  akv-csi refresh --namespace shop --class database    those of one class

Exit codes: 0 all volumes were looked after; 1 one could not be, or none was found; 64 the command line cannot be used."
        }
        "validate" => {
            "Examples:
  akv-csi validate deploy/                        all manifests of a folder
  helm template . | akv-csi validate -            what a chart makes
  akv-csi validate deploy/ --strict -o sarif      for a pipeline

Exit codes: 0 nothing is wrong; 1 errors, or warnings with --strict; 2 the command line is wrong or a file cannot be read.
What is looked at: docs/validate.md."
        }
        "completions" => {
            "Examples:
  source <(akv-csi completions bash)
  akv-csi completions fish > ~/.config/fish/completions/akv-csi.fish"
        }
        "man" => {
            "Examples:
  akv-csi man | man -l -
  akv-csi man validate > akv-csi-validate.1"
        }
        _ => return command,
    };
    command.after_help(text)
}
