//! What `--help` teaches beyond one line for each flag: headings, examples, exit codes.

use clap::{Arg, Command};
use std::fmt::Write as _;

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
        &[
            "admin_socket",
            "health_addr",
            "metrics_addr",
            "prometheus_port",
            "log_format_json",
            "verbosity",
            "otlp_endpoint",
        ],
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

/// What the end of a command's `--help` teaches.
#[derive(Debug)]
pub struct Lesson {
    /// The command; `akv-csi` is the program itself.
    pub command: &'static str,
    /// Command lines, with words on what they do.
    pub examples: &'static str,
    /// Exit codes and when they come.
    pub exit_codes: &'static [(u8, &'static str)],
    /// What else to know.
    further: &'static str,
}

const UNUSABLE_LINE: (u8, &str) = (64, "the command line, or the value of a flag, cannot be used");

/// A lesson for each command.
pub const LESSONS: &[Lesson] = &[
    Lesson {
        command: "akv-csi",
        examples: "
  akv-csi status                                  what is mounted on this node
  akv-csi doctor --pod shop/web                   why this pod does not mount
  akv-csi validate deploy/                        what is wrong with these manifests",
        exit_codes: &[
            (0, "done"),
            (1, "it failed; the reason is on the standard error"),
            UNUSABLE_LINE,
        ],
        further: "`akv-csi COMMAND --help` has the exit codes of a command.
The guide: docs/index.md. Every flag: docs/flags.md. Every parameter of a class: docs/parameters.md.",
    },
    Lesson {
        command: "node",
        examples: "
  akv-csi node --node-id=$NODE --endpoint=unix:///csi/csi.sock \\
      --registration-dir=/registration \\
      --kubelet-registration-path=/var/lib/kubelet/plugins/csi-secrets-store/csi.sock
  akv-csi node --secret-provider-classes=classes/      without an API server",
        exit_codes: &[
            (0, "it was told to stop: SIGTERM or SIGINT"),
            (1, "it cannot start, or a server of it ended; the reason is on the standard error"),
            UNUSABLE_LINE,
        ],
        further: "Flags of the Secrets Store CSI Driver and its Azure provider work here, also in Go's spelling (-endpoint=…). Those that have no
meaning any more are accepted with a warning: docs/flags.md.",
    },
    Lesson {
        command: "status",
        examples: "
  akv-csi status                                       all volumes of this node
  akv-csi status --namespace shop --watch=5s           those of a namespace, again and again
  akv-csi status --output json                         for a program: more fields, RFC 3339 times",
        exit_codes: &[(0, "the driver answered, whatever it said"), (1, "the driver does not answer"), UNUSABLE_LINE],
        further: "It asks the driver of this node, as root; in a cluster: kubectl exec … -c secrets-store -- /akv-csi status.
What the states mean: docs/operations.md.",
    },
    Lesson {
        command: "doctor",
        examples: "
  akv-csi doctor                                       this node, and its way to the cluster
  akv-csi doctor --pod shop/web                        and all that this pod's volumes need
  akv-csi doctor --class shop/database --service-account web --token-file /tmp/web.token
  akv-csi doctor --only dns,tls,clock                  in any pod, to look at the network alone
  akv-csi doctor --bundle - > support.tar.gz           a file for support",
        exit_codes: &[
            (0, "nothing failed; there may be something to look at"),
            (1, "something failed, or the bundle could not be written"),
            UNUSABLE_LINE,
        ],
        further: "Each line that failed has its cure below it. Nothing on the node or in the cluster changes.",
    },
    Lesson {
        command: "refresh",
        examples: "
  akv-csi refresh                                      all volumes of this node
  akv-csi refresh --namespace shop --class database    those of one class",
        exit_codes: &[
            (0, "all volumes were looked after"),
            (1, "one could not be, none was found, or the driver does not answer"),
            UNUSABLE_LINE,
        ],
        further: "",
    },
    Lesson {
        command: "log-level",
        examples: "
  akv-csi log-level                                    how much it logs
  akv-csi log-level 5                                  every step, until it is set back or the driver ends
  akv-csi log-level 0                                  back to normal",
        exit_codes: &[(0, "the level that holds now is printed"), (1, "the driver does not answer"), UNUSABLE_LINE],
        further: "",
    },
    Lesson {
        command: "validate",
        examples: "
  akv-csi validate deploy/                             all manifests of a folder
  helm template . | akv-csi validate -                 what a chart makes
  akv-csi validate deploy/ --strict -o sarif           for a pipeline",
        exit_codes: &[
            (0, "nothing is wrong"),
            (1, "errors, or warnings with --strict"),
            (2, "the command line is wrong, or a file cannot be read"),
        ],
        further: "What is looked at: docs/validate.md.",
    },
    Lesson {
        command: "cluster",
        examples: "
  akv-csi cluster apply-crds --kubeconfig ~/.kube/config     before the manifests are applied by hand
  akv-csi cluster check-unused                               before the driver is removed",
        exit_codes: &[
            (0, "the CRDs are served; no pod mounts volumes of the driver"),
            (1, "they are not; pods do; or the API server said no"),
            UNUSABLE_LINE,
        ],
        further: "Each error names the rights that the caller lacks.",
    },
    Lesson {
        command: "completions",
        examples: "
  source <(akv-csi completions bash)
  akv-csi completions fish > ~/.config/fish/completions/akv-csi.fish",
        exit_codes: &[(0, "done"), UNUSABLE_LINE],
        further: "",
    },
    Lesson {
        command: "man",
        examples: "
  akv-csi man | man -l -
  akv-csi man validate > akv-csi-validate.1",
        exit_codes: &[(0, "done"), UNUSABLE_LINE],
        further: "",
    },
];

/// Puts the lesson of a command at the end of its help.
pub(super) fn teach(command: Command) -> Command {
    let Some(lesson) = LESSONS.iter().find(|lesson| lesson.command == command.get_name()) else {
        return command;
    };
    let mut text = format!("Examples:{}\n\nExit codes:", lesson.examples);
    for (code, meaning) in lesson.exit_codes {
        let _ = write!(text, "\n  {code:<3} {meaning}");
    }
    if !lesson.further.is_empty() {
        let _ = write!(text, "\n\n{}", lesson.further);
    }
    command.after_help(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use std::ffi::OsString;

    #[test]
    fn every_command_has_examples_that_the_program_takes() {
        let command = Cli::complete_command();
        for subcommand in command.get_subcommands() {
            let name = subcommand.get_name();
            let lesson = LESSONS.iter().find(|lesson| lesson.command == name);
            let lesson = lesson.unwrap_or_else(|| panic!("{name} teaches nothing"));
            assert!(
                lesson.examples.contains(&format!("akv-csi {name}")),
                "{name} is in none of its examples"
            );
        }
        for lesson in LESSONS {
            let lines = lesson.examples.replace("\\\n", " ");
            for line in lines.lines().filter_map(|line| line.split_once("akv-csi ")) {
                // Words on the line come after more than one space; a line that goes on has them inside.
                let line = line.1.replace("       --", " --");
                let end = line.find("  ").unwrap_or(line.len()).min(line.find(" >").unwrap_or(line.len()));
                let words =
                    line[..end].trim_end_matches(')').split(['|', '>']).next().unwrap().split_whitespace();
                let words = ["akv-csi"].into_iter().chain(words).map(OsString::from).collect::<Vec<_>>();
                Cli::read(words.clone()).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            }
        }
    }
}
