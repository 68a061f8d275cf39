//! The file for support, which has no secrets.

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[tokio::test]
async fn the_bundle_has_what_support_needs_and_no_secret() {
    if !can_mount() {
        return;
    }
    let arguments =
        ["--enable-secret-rotation=true", "--custom-user-agent=canary-agent", "--rotation-poll-interval=1s"];
    let arguments = arguments.map(str::to_owned).into();
    let mut stage = Stage::start(StageOptions { arguments, ..StageOptions::default() }).await;
    stage.fill_vault();
    stage.azure.vault(VAULT).set_secret("secret1", "canary-value").unwrap();
    stage.deploy("kv", &class(&stage, "kv", &[SECRET], &[]));
    Call::new(&stage, "web", "kv").publish().await.unwrap();
    Call::new(&stage, "failing", "nope").publish().await.unwrap_err();

    let (file, bundle) = (token_file(&stage, ACCOUNT), stage.path("support.tar.gz"));
    let path = bundle.display().to_string();
    let more =
        ["--class", "default/kv", "--service-account", ACCOUNT, "--token-file", &file, "--bundle", &path];
    // Exempt hosts are reached through the proxy's real address, so that the token is got and could leak.
    let proxy = stage.proxy.url().replace("http://", "http://operator:canary-password@");
    let changes = [("HTTPS_PROXY", proxy.as_str()), ("AZURE_CLIENT_SECRET", "canary-secret")];
    let examined = examine(&stage, &more, &changes).await;
    examined.assert_ok("token", 1);
    examined.assert_ok("objects", 1);
    assert_eq!(std::fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o600);

    let folder = stage.path("unpacked");
    std::fs::create_dir(&folder).unwrap();
    let unpacked = Command::new("tar").arg("-xzf").arg(&bundle).arg("-C").arg(&folder).status().unwrap();
    assert!(unpacked.success());
    let read = |name: &str| std::fs::read_to_string(folder.join("akv-csi-doctor").join(name)).unwrap();
    let mut all = String::new();
    for (name, part) in [
        ("doctor.json", "\"healthy\""),
        ("status.json", "\\\"nope\\\" not found"),
        ("versions.txt", "kernel Linux"),
        ("flags.txt", "--rotation-poll-interval=1s"),
        ("environment.txt", "SSL_CERT_FILE="),
        ("mounts.txt", "/volumes/kubernetes.io~csi/secrets/mount"),
    ] {
        let text = read(name);
        assert!(text.contains(part), "{name} has no {part:?}: {text}");
        all.push_str(&text);
    }
    assert!(all.contains("--custom-user-agent=[redacted]"), "{all}");
    let token = std::fs::read_to_string(&file).unwrap();
    let signature = token.rsplit('.').next().unwrap();
    for canary in ["canary-", "eyJ", signature, "operator:"] {
        assert!(!all.contains(canary), "{canary} shows in {all}");
    }

    // An image without a shell has nothing to carry a file out with.
    let mut command = Command::new(DriverProcess::binary());
    let endpoint = format!("unix://{}", stage.socket().display());
    command.args(["doctor", "--only", "driver,kernel", "--bundle", "-", "--endpoint", &endpoint]);
    let output = command.env_clear().envs(stage.environment()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let piped = stage.path("piped.tar.gz");
    std::fs::write(&piped, output.stdout).unwrap();
    let listed = Command::new("tar").arg("-tzf").arg(&piped).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().count() == 6 && listed.contains("akv-csi-doctor/doctor.json"), "{listed}");

    // What is there already is not written over.
    let again = examine(&stage, &["--only", "kernel", "--bundle", &path], &[]).await;
    assert_eq!(again.code, 1);
    stage.driver.take().unwrap().terminate().await;
}
