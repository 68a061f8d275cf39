//! The status for people.

use super::report::{NodeStatus, VolumeState, VolumeStatus};
use crate::cli::terminal::{Terminal, Tone, shortened, span};
use crate::health::Registration;
use std::time::Duration;

const GAP: &str = "  ";
/// Where columns are too wide for the terminal, names are cut, but not below this.
const SHORTEST_NAME: usize = 12;
/// Objects get a line of their own where less than this is left beside the other columns.
const OBJECTS_NEED: usize = 30;
/// Versions are 32 digits, of which this many tell them apart for the eye.
const VERSION_DIGITS: usize = 8;

/// The whole report.
pub fn render(status: &NodeStatus, terminal: &Terminal) -> String {
    let mut out = heading(status, terminal);
    if status.volumes.is_empty() {
        out.push_str("\nNo such volume is mounted on this node.\n");
        return out;
    }
    out.push('\n');
    let header = ["POD", "CLASS", "IDENTITY", "STATE", "LOOKED", "NEXT LOOK"].map(str::to_owned);
    let mut rows: Vec<[String; 6]> = status.volumes.iter().map(cells).collect();
    let mut widths = header.each_ref().map(|cell| cell.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    if let Some(available) = terminal.width {
        let used = widths.iter().sum::<usize>() + GAP.len() * (widths.len() - 1);
        let surplus = used.saturating_sub(available);
        let most = widths[0].saturating_sub(surplus).max(SHORTEST_NAME);
        let rest = surplus.saturating_sub(widths[0].saturating_sub(most));
        let class = widths[1].saturating_sub(rest).max(SHORTEST_NAME.min(widths[1]));
        for row in &mut rows {
            row[0] = shortened(&row[0], most);
            row[1] = shortened(&row[1], class);
        }
        widths[0] = widths[0].min(most);
        widths[1] = widths[1].min(class);
    }
    let indent = widths.iter().sum::<usize>() + GAP.len() * widths.len();
    let beside = terminal.width.is_none_or(|width| width >= indent + OBJECTS_NEED);
    let title = line(&header, &widths, |_, text| terminal.paint(Tone::Strong, text));
    out.push_str(&title);
    if beside {
        out.push_str(GAP);
        out.push_str(&terminal.paint(Tone::Strong, "OBJECTS"));
    }
    out.push('\n');
    for (row, volume) in rows.iter().zip(&status.volumes) {
        let tone = tone(volume.state);
        let painted =
            line(
                row,
                &widths,
                |column, text| if column == 3 { terminal.paint(tone, text) } else { text.to_owned() },
            );
        out.push_str(&painted);
        let objects = objects(volume);
        if beside {
            out.push_str(GAP);
            out.push_str(&terminal.wrap(&objects, indent, indent));
        } else {
            out.push_str("\n    ");
            out.push_str(&terminal.wrap(&objects, 4, 4));
        }
        while out.ends_with(' ') {
            out.pop();
        }
        out.push('\n');
        for remark in remarks(volume) {
            out.push_str("    ");
            out.push_str(&terminal.wrap(&remark, 4, 4));
            out.push('\n');
        }
    }
    out
}

fn heading(status: &NodeStatus, terminal: &Terminal) -> String {
    let seconds = |seconds| span(Duration::from_secs(seconds));
    let registration = match status.registration {
        Registration::Done => "registered with the kubelet",
        Registration::Awaited => "NOT registered with the kubelet yet",
        Registration::Refused => "REFUSED by the kubelet",
        Registration::NotOurs => "registered by somebody else",
    };
    let rotation = if status.rotation.enabled {
        format!("looks at Key Vault every {}", seconds(status.rotation.interval_seconds))
    } else {
        "rotation is off".to_owned()
    };
    let first = format!(
        "akv-csi {} on node {}: up {}, {registration}, {rotation}",
        status.version,
        status.node,
        seconds(status.uptime_seconds)
    );
    let count = |state: VolumeState| status.volumes.iter().filter(|volume| volume.state == state).count();
    let by_state: Vec<String> = [
        (VolumeState::Ok, "ok"),
        (VolumeState::Kept, "kept"),
        (VolumeState::Failed, "failed"),
        (VolumeState::Mounting, "mounting"),
        (VolumeState::Found, "found"),
    ]
    .into_iter()
    .filter(|(state, _)| count(*state) > 0)
    .map(|(state, name)| format!("{} {name}", count(state)))
    .collect();
    let many = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let mut second = many(status.volumes.len(), "volume");
    if !by_state.is_empty() {
        second = format!("{second}: {}", by_state.join(", "));
    }
    let failures = match status.tokens.failures {
        0 => String::new(),
        failures => format!(", {failures} failed"),
    };
    let requests = usize::try_from(status.tokens.requests).unwrap_or(usize::MAX);
    second = format!(
        "{second}; {} cached; tokens of {}, {}{failures}",
        many(status.cached_values, "value"),
        if status.tokens.identities == 1 {
            "1 identity".to_owned()
        } else {
            format!("{} identities", status.tokens.identities)
        },
        many(requests, "token request"),
    );
    let mut out = format!("{}\n{}\n", terminal.wrap(&first, 0, 2), terminal.wrap(&second, 0, 2));
    for vault in &status.vaults {
        if let Some(left) = vault.paused_seconds {
            let reason = vault.reason.as_deref().unwrap_or_default();
            let text = format!("{} is left alone for {} more: {reason}", vault.vault, seconds(left));
            out.push_str(&terminal.paint(Tone::Warning, &terminal.wrap(&text, 0, 2)));
            out.push('\n');
        }
    }
    out
}

fn line(cells: &[String; 6], widths: &[usize; 6], paint: impl Fn(usize, &str) -> String) -> String {
    let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
        // Padding goes by what is seen, not by what a colour takes.
        let blank = " ".repeat(width.saturating_sub(cell.chars().count()));
        format!("{}{blank}", paint(column, cell))
    });
    padded.collect::<Vec<_>>().join(GAP)
}

fn cells(volume: &VolumeStatus) -> [String; 6] {
    let pod = match (&volume.namespace, &volume.pod) {
        (Some(namespace), Some(pod)) => format!("{namespace}/{pod}"),
        _ => format!("uid {}", volume.pod_uid),
    };
    let dash = || "-".to_owned();
    let span = |seconds: u64| span(Duration::from_secs(seconds));
    [
        pod,
        volume.class.clone().unwrap_or_else(dash),
        // What another provider asks as is its own affair.
        match (volume.identity, &volume.provider) {
            (Some(identity), _) => identity.to_string(),
            (None, Some(provider)) => format!("({provider})"),
            (None, None) => dash(),
        },
        name(volume.state).to_owned(),
        volume.age_seconds.map_or_else(dash, |age| format!("{} ago", span(age))),
        match volume.next_look_seconds {
            None => dash(),
            Some(0) => "due".to_owned(),
            Some(left) => format!("in {}", span(left)),
        },
    ]
}

fn name(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Ok => "ok",
        VolumeState::Kept => "kept",
        VolumeState::Failed => "failed",
        VolumeState::Mounting => "mounting",
        VolumeState::Found => "found",
    }
}

fn tone(state: VolumeState) -> Tone {
    match state {
        VolumeState::Ok => Tone::Good,
        VolumeState::Kept | VolumeState::Mounting => Tone::Warning,
        VolumeState::Failed => Tone::Bad,
        VolumeState::Found => Tone::Quiet,
    }
}

fn objects(volume: &VolumeStatus) -> String {
    if volume.objects.is_empty() {
        return "-".to_owned();
    }
    let each = volume.objects.iter().map(|object| {
        let version: String = object.version.chars().take(VERSION_DIGITS).collect();
        if version.is_empty() { object.id.clone() } else { format!("{}@{version}", object.id) }
    });
    each.collect::<Vec<_>>().join(" ")
}

/// Sentences below a volume's line.
fn remarks(volume: &VolumeStatus) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(seconds) = volume.working_seconds.filter(|seconds| *seconds > 0) {
        remarks.push(format!("a call has been at work for {}", span(Duration::from_secs(seconds))));
    }
    if volume.state == VolumeState::Found {
        remarks.push("mounted before this driver started; the kubelet's next call tells more".to_owned());
    }
    if let Some(error) = &volume.error {
        let ago = span(Duration::from_secs(error.age_seconds));
        let often = if error.times > 1 {
            format!(", {} times since {}", error.times, error.since)
        } else {
            String::new()
        };
        remarks.push(format!("error {ago} ago{often}: {}", error.message));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::super::IdentityKind;
    use super::super::report::{ErrorStatus, ObjectStatus, RotationStatus, TokenStatus, VaultStatus};
    use super::*;

    fn volume(pod: &str, state: VolumeState) -> VolumeStatus {
        VolumeStatus {
            state,
            namespace: Some("default".into()),
            pod: Some(pod.into()),
            pod_uid: "u".into(),
            service_account: Some("web".into()),
            class: Some("kv".into()),
            target: format!("/pods/{pod}"),
            provider: Some("azure".into()),
            identity: Some(IdentityKind::Workload),
            as_whom: None,
            vault: None,
            objects: vec![
                ObjectStatus { id: "secret/secret1".into(), version: "0123456789abcdef".into() },
                ObjectStatus { id: "key/key1".into(), version: "fedcba9876543210".into() },
            ],
            age_seconds: Some(14),
            interval_seconds: Some(120),
            next_look_seconds: Some(106),
            changed_at: None,
            working_seconds: None,
            error: None,
        }
    }

    fn status(volumes: Vec<VolumeStatus>) -> NodeStatus {
        NodeStatus {
            version: "1.2.3".into(),
            chart_version: None,
            node: "node-1".into(),
            driver: "secrets-store.csi.k8s.io".into(),
            started_at: String::new(),
            uptime_seconds: 7_380,
            registration: Registration::Done,
            rotation: RotationStatus { enabled: true, interval_seconds: 120 },
            volumes,
            vaults: Vec::new(),
            cached_values: 2,
            tokens: TokenStatus { identities: 1, requests: 3, failures: 0 },
        }
    }

    const PLAIN: Terminal = Terminal { width: None, colour: false };

    #[test]
    fn one_line_for_each_volume_and_one_for_its_error() {
        let mut kept = volume("api", VolumeState::Kept);
        kept.next_look_seconds = Some(0);
        kept.error = Some(ErrorStatus {
            message: "vault demo says no; cure: ask".into(),
            at: "2026-01-01T00:01:00Z".into(),
            age_seconds: 12,
            since: "2026-01-01T00:00:00Z".into(),
            times: 3,
        });
        let text = render(&status(vec![kept, volume("web", VolumeState::Ok)]), &PLAIN);
        let expected = "\
akv-csi 1.2.3 on node node-1: up 2h3m, registered with the kubelet, looks at Key Vault every 2m
2 volumes: 1 ok, 1 kept; 2 values cached; tokens of 1 identity, 3 token requests

POD          CLASS  IDENTITY  STATE  LOOKED   NEXT LOOK  OBJECTS
default/api  kv     workload  kept   14s ago  due        secret/secret1@01234567 key/key1@fedcba98
    error 12s ago, 3 times since 2026-01-01T00:00:00Z: vault demo says no; cure: ask
default/web  kv     workload  ok     14s ago  in 1m46s   secret/secret1@01234567 key/key1@fedcba98
";
        assert_eq!(text, expected);
    }

    #[test]
    fn it_fits_the_terminal_whatever_the_names() {
        let mut long = volume(&"x".repeat(200), VolumeState::Failed);
        long.class = Some("y".repeat(100));
        long.error = Some(ErrorStatus {
            message: "many words in a long sentence ".repeat(10).trim().into(),
            at: String::new(),
            age_seconds: 1,
            since: String::new(),
            times: 1,
        });
        let mut status = status(vec![long, volume("web", VolumeState::Ok)]);
        status.vaults = vec![VaultStatus {
            vault: "https://kv.vault.azure.net".into(),
            requests: 0,
            paused_seconds: Some(61),
            reason: Some("429 Throttled".into()),
        }];
        for width in [80, 100, 140, 200] {
            let text = render(&status, &Terminal { width: Some(width), colour: false });
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
            }
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(
                words.contains("https://kv.vault.azure.net is left alone for 1m1s more: 429 Throttled"),
                "{text}"
            );
        }
    }

    #[test]
    fn colours_do_not_move_the_columns() {
        let status = status(vec![volume("web", VolumeState::Ok)]);
        let plain = render(&status, &PLAIN);
        let painted = render(&status, &Terminal { width: None, colour: true });
        let mut stripped = painted.clone();
        for code in ["\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[0m"] {
            stripped = stripped.replace(code, "");
        }
        assert!(painted.contains("\x1b[32mok\x1b[0m"));
        assert_eq!(stripped, plain);
    }
}
