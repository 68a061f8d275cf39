//! The reference pages of the guide: made from the code, and checked against it. `UPDATE_DOCS=1` rewrites them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use csi_node::cli::{Cli, LESSONS};
use csi_node::parameters::PARAMETERS;
use csi_node::validate::finding::Rule;
use e2e::transcript::settle;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn page(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// The part of a page between `<!-- NAME -->` and `<!-- /NAME -->` has to be this table.
fn check(page_name: &str, parts: &[(&str, String)]) {
    let path = page(page_name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut fresh = text.clone();
    for (name, part) in parts {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let (before, rest) = fresh.split_once(&begin).unwrap_or_else(|| panic!("{page_name} has no {begin}"));
        let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{page_name} has no {end}"));
        fresh = format!("{before}{begin}{part}{end}{after}");
    }
    settle(&path, &text, &fresh);
}

/// A cell of a table: on one line, and no bar ends it.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}

#[test]
fn flags() {
    let command = Cli::complete_command();
    let mut parts = Vec::new();
    for subcommand in ["node", "status", "doctor", "refresh", "log-level", "validate"] {
        let command = command.find_subcommand(subcommand).expect("a command of this name");
        let mut headings: Vec<Option<&str>> = Vec::new();
        let shown = || {
            command.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_id() != "help")
        };
        for argument in shown() {
            if !headings.contains(&argument.get_help_heading()) {
                headings.push(argument.get_help_heading());
            }
        }
        let mut text = String::new();
        for heading in headings {
            match heading {
                Some(heading) => {
                    let _ = writeln!(text, "\n### {heading}\n");
                }
                None if text.is_empty() => {}
                None => text.push('\n'),
            }
            text.push_str("| flag | variable | default | meaning |\n|---|---|---|---|\n");
            for argument in shown().filter(|argument| argument.get_help_heading() == heading) {
                let mut names: Vec<String> = Vec::new();
                names.extend(argument.get_short().map(|short| format!("`-{short}`")));
                names.extend(argument.get_long().map(|long| format!("`--{long}`")));
                names.extend(
                    argument.get_all_aliases().unwrap_or_default().iter().map(|alias| format!("`--{alias}`")),
                );
                if names.is_empty() {
                    names.push(format!(
                        "`{}`",
                        argument.get_value_names().map_or("", |names| names[0].as_str())
                    ));
                }
                let variable = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
                let defaults: Vec<_> =
                    argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
                let default = defaults.join(",");
                let default =
                    if default.is_empty() || default == "false" && !argument.get_action().takes_values() {
                        String::new()
                    } else {
                        format!("`{default}`")
                    };
                let help = argument
                    .get_long_help()
                    .or(argument.get_help())
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let _ = writeln!(
                    text,
                    "| {} | {} | {default} | {} |",
                    names.join(" "),
                    variable.unwrap_or_default(),
                    cell(&help)
                );
            }
        }
        parts.push((subcommand, text));
    }
    let node = command.find_subcommand("node").expect("a command of this name");
    let retired = node.get_arguments().filter(|argument| argument.is_hide_set());
    let retired: Vec<String> =
        retired.filter_map(|argument| argument.get_long()).map(|long| format!("`--{long}`")).collect();
    parts.push(("retired", format!("{}\n", retired.join(", "))));
    let mut codes = String::from("| command | code | meaning |\n|---|---|---|\n");
    for lesson in LESSONS {
        for (index, (code, meaning)) in lesson.exit_codes.iter().enumerate() {
            let name =
                if lesson.command == "akv-csi" { "any, unless it says more below" } else { lesson.command };
            let name = if index > 0 {
                String::new()
            } else if lesson.command == "akv-csi" {
                name.to_owned()
            } else {
                format!("`{name}`")
            };
            let _ = writeln!(codes, "| {name} | {code} | {} |", cell(meaning));
        }
    }
    parts.push(("exit-codes", codes));
    check("flags.md", &parts);
}

#[test]
fn parameters() {
    let mut class = String::from("| parameter | value | default | meaning |\n|---|---|---|---|\n");
    for parameter in PARAMETERS {
        let ours = if parameter.reference { "" } else { " *Not a parameter of the reference.*" };
        let _ = writeln!(
            class,
            "| `{}` | {} | {} | {}{ours} |",
            parameter.key,
            cell(parameter.form),
            cell(parameter.default),
            cell(parameter.about)
        );
    }
    let mut object = String::from("| field | value | default | meaning |\n|---|---|---|---|\n");
    for field in vault::OBJECT_FIELDS {
        let _ = writeln!(
            object,
            "| `{}` | {} | {} | {} |",
            field.name,
            cell(field.form),
            cell(field.default),
            cell(field.about)
        );
    }
    check("parameters.md", &[("parameters", class), ("objects", object)]);
}

#[test]
fn rules_of_validation() {
    let mut text = String::from("| rule | | finds |\n|---|---|---|\n");
    for rule in Rule::ALL {
        let _ = writeln!(text, "| `{}` | {} | {} |", rule.id(), rule.severity().word(), cell(rule.about()));
    }
    check("validate.md", &[("rules", text)]);
}

#[test]
fn completions_and_manual_pages_know_all_commands() {
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(e2e::DriverProcess::binary());
        let output = command.args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let commands = ["node", "refresh", "validate", "completions", "man"];
    for shell in ["bash", "zsh", "fish"] {
        let text = run(&["completions", shell]);
        assert!(commands.iter().all(|command| text.contains(command)), "{shell}");
        assert!(text.contains("rotation-poll-interval"), "{shell}");
    }
    let page = run(&["man"]);
    assert!(commands.iter().all(|command| page.contains(command)), "{page}");
    assert!(run(&["man", "validate"]).contains("Exit codes"));
    let version: serde_json::Value = serde_json::from_str(&run(&["node", "--version"])).unwrap();
    assert_eq!(version["BuildVersion"], env!("CARGO_PKG_VERSION"));
    assert!(run(&["--version"]).starts_with(&format!("akv-csi {} (", env!("CARGO_PKG_VERSION"))));
}

/// The sources of the three crates as one text, with strings that go over several lines put together.
fn sources() -> String {
    fn collect(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut text = String::new();
    for name in ["csi-node", "identity", "vault"] {
        collect(&page("../crates").join(name).join("src"), &mut text);
    }
    joined(&text)
}

/// A string literal that is continued on the next line ends with a backslash.
fn joined(text: &str) -> String {
    let mut joined = String::new();
    for (number, part) in text.split("\\\n").enumerate() {
        joined.push_str(if number == 0 { part } else { part.trim_start() });
    }
    joined.replace("\\\"", "\"")
}

#[test]
fn every_message_on_the_page_is_one_of_the_driver() {
    let (sources, page) = (sources(), std::fs::read_to_string(page("troubleshooting.md")).unwrap());
    let mut checked = 0;
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let message = row.split(" | ").next().unwrap();
        if message.contains("(the kubelet's)")
            || message.contains("(Key Vault's)")
            || message.contains("AADSTS")
        {
            continue;
        }
        for quoted in message.split('`').skip(1).step_by(2) {
            for fragment in quoted.split('…').filter(|fragment| fragment.trim().len() > 2) {
                assert!(
                    sources.contains(&fragment.replace("\\|", "|")),
                    "the driver never says {fragment:?}: {row}"
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 80, "{checked}");
}

#[test]
fn every_error_of_a_mount_is_on_the_page() {
    let page_text = std::fs::read_to_string(page("troubleshooting.md")).unwrap();
    let mut missing = Vec::new();
    for file in [
        "csi-node/src/error.rs",
        "csi-node/src/class/mod.rs",
        "csi-node/src/csi/request.rs",
        "csi-node/src/provider.rs",
        "csi-node/src/volume/error.rs",
        "identity/src/error.rs",
        "vault/src/client/error.rs",
        "vault/src/endpoint.rs",
        "vault/src/convert/jwk.rs",
        "vault/src/convert/chain.rs",
        "vault/src/convert/encoding.rs",
    ] {
        let source = joined(&std::fs::read_to_string(page("../crates").join(file)).unwrap());
        for attribute in source.split("#[error(").skip(1) {
            let Some(message) = attribute.trim_start().strip_prefix('"') else { continue };
            // Up to the quote that ends the line; quotes inside are followed by something else.
            let message = message.split(['\n']).next().unwrap_or_default();
            let message = message.rsplit_once('"').map_or(message, |(message, _)| message);
            let mut depth = 0;
            let mut clauses = vec![String::new()];
            for c in message.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => {
                        depth -= 1;
                        clauses.push(String::new());
                    }
                    ':' | ';' | '"' | '\'' if depth == 0 => clauses.push(String::new()),
                    c if depth == 0 => clauses.last_mut().unwrap().push(c),
                    _ => {}
                }
            }
            let telling: Vec<&str> = clauses
                .iter()
                .map(|clause| clause.trim_matches(|c: char| !c.is_alphanumeric()))
                .filter(|clause| clause.len() >= 10)
                .collect();
            let shown = |clause: &&str| page_text.contains(&clause.chars().take(30).collect::<String>());
            if !telling.is_empty() && !telling.iter().any(shown) {
                missing.push(format!("{file}: {message}"));
            }
        }
    }
    assert!(missing.is_empty(), "docs/troubleshooting.md lacks:\n{}", missing.join("\n"));
}

#[test]
fn codes_of_entra() {
    let mut text = String::from("| code | cause | cure |\n|---|---|---|\n");
    for refusal in identity::known_refusals() {
        let codes: Vec<_> = refusal.codes.iter().map(|code| format!("`AADSTS{code}`")).collect();
        let command = if refusal.with_command {
            "Create or correct the federated credential: the message spells out the command. "
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "| {} | {} | {command}{} |",
            codes.join(", "),
            cell(refusal.cause),
            cell(refusal.cure)
        );
    }
    check("troubleshooting.md", &[("entra", text)]);
}
