//! The transcripts in docs/operations.md are what the program prints. Numbers, versions and widths of columns may differ;
//! words may not. `UPDATE_DOCS=1` writes the blocks anew.

use super::*;
use std::fmt::Write;
use std::path::Path;

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
const OPEN: &str = "```console\n";
const CLOSE: &str = "```\n";

/// The token's file in the guide.
const TOKEN: &str = "/tmp/web.token";
/// How wide the guide's blocks are.
const COLUMNS: &str = "120";

/// The words of a text: runs of digits, and of four and more hexadecimal ones, become `#`. Where lines are broken depends on
/// their lengths, so it does not count.
fn masked(text: &str) -> String {
    let word = |word: &str| {
        let parts = word.split_inclusive(|c: char| !c.is_ascii_alphanumeric()).map(|part| {
            let core = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let hex = core.len() >= 4 && core.bytes().all(|byte| byte.is_ascii_hexdigit());
            if hex { part.replace(core, "#") } else { part.to_owned() }
        });
        let mut plain = String::new();
        for c in parts.collect::<String>().chars() {
            let c = if c.is_ascii_digit() { '#' } else { c };
            if !(c == '#' && plain.ends_with('#')) {
                plain.push(c);
            }
        }
        // Spans have one unit or two: 14s, 1m46s.
        for unit in ["#m#s", "#h#m", "#d#h", "#m", "#h", "#d"] {
            plain = plain.replace(unit, "#s");
        }
        plain
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// What the command of a block prints in this stage, in the words of a cluster.
async fn play(stage: &Stage, command: &str) -> String {
    let token = token_file(stage, ACCOUNT);
    let words = command.strip_prefix("akv-csi ").expect("a transcript of akv-csi").split(' ');
    let line: Vec<&str> = words.map(|word| if word == TOKEN { token.as_str() } else { word }).collect();
    let mut environment = stage.environment();
    environment.push(("CSI_ENDPOINT".to_owned(), format!("unix://{}", stage.socket().display())));
    environment.push(("COLUMNS".to_owned(), COLUMNS.to_owned()));
    let (code, out, err) = DriverProcess::command_in(&line, &environment).await;
    let mut text = format!("{out}{err}");
    for (own, shown) in [
        (token, TOKEN),
        (stage.socket().with_file_name("admin.sock").display().to_string(), "/csi/admin.sock"),
        (stage.path("ca.pem").display().to_string(), "/etc/akv-csi/proxy/proxy-cert.crt"),
        (stage.proxy.url(), "http://proxy.example:3128"),
        (stage.azure.imds_url().unwrap(), "http://169.254.169.254"),
        (stage.kubelet.issuer().url().to_owned(), "https://eastus.oic.prod-aks.azure.com/TENANT/CLUSTER/"),
        ("CN=Azure emulator test authority".to_owned(), "CN=Microsoft Azure RSA TLS Issuing CA 08"),
    ] {
        text = text.replace(&own, shown);
    }
    if code != 0 {
        writeln!(text, "(exit code {code})").unwrap();
    }
    text
}

#[tokio::test]
async fn the_guide_shows_what_the_program_prints() {
    if !can_mount() {
        return;
    }
    let arguments =
        ["--enable-secret-rotation=true", "--rotation-poll-interval=2m", "--cloud-name=AzurePublicCloud"];
    let stage = Stage::start(StageOptions {
        arguments: arguments.map(str::to_owned).into(),
        ..StageOptions::default()
    })
    .await;
    stage.fill_vault();
    let stranger = stage.azure.entra().add_identity("stranger").client_id;
    stage.deploy("shop", &class(&stage, "shop", &[SECRET, KEY], &[]));
    stage.deploy("audit", &class(&stage, "audit", &[SECRET], &[("clientID", &stranger)]));
    Call::new(&stage, "web", "shop").publish().await.unwrap();
    Call::new(&stage, "api", "shop").publish().await.unwrap();
    Call::new(&stage, "audit", "audit").publish().await.unwrap_err();

    let guide = std::fs::read_to_string(GUIDE).unwrap();
    let mut renewed = String::new();
    let (mut rest, mut blocks, mut wrong) = (guide.as_str(), 0, Vec::new());
    while let Some(start) = rest.find(OPEN) {
        let (before, block) = rest.split_at(start + OPEN.len());
        let end = block.find(CLOSE).expect("the block is closed");
        let (block, after) = block.split_at(end);
        let (prompt, shown) = block.split_once('\n').expect("a command and its output");
        let command = prompt.strip_prefix("$ ").expect("a block begins with a command");
        let printed = play(&stage, command).await;
        if masked(&printed) != masked(shown) {
            wrong.push(format!("$ {command}\nprints\n{printed}\nand the guide says\n{shown}"));
        }
        write!(renewed, "{before}{prompt}\n{printed}").unwrap();
        (rest, blocks) = (after, blocks + 1);
    }
    renewed.push_str(rest);
    assert!(blocks > 0, "{GUIDE} has no transcript");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(Path::new(GUIDE), renewed).unwrap();
    } else {
        assert!(wrong.is_empty(), "UPDATE_DOCS=1 writes them anew:\n{}", wrong.join("\n"));
    }
}

#[test]
fn masking_keeps_words() {
    assert_eq!(masked("up  1m46s, 12 s ago\nx@0123abcd"), masked("up 3s, 1 s ago\nx@fedcba98"));
    assert_ne!(masked("2 volumes: 1 ok"), masked("2 volumes: 1 kept"));
}
