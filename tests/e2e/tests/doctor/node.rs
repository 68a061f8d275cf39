//! The node: the driver, its registration, mounts.

use super::*;
use nix::mount::{MsFlags, mount};

#[tokio::test]
async fn where_all_is_well_nothing_fails_and_nothing_is_left_behind() {
    if !can_mount() {
        return;
    }
    let stage = stage().await;
    // The kubelet's folder as systemd leaves it on a node.
    let pods = stage.path("kubelet/pods");
    std::fs::create_dir_all(&pods).unwrap();
    let none: Option<&str> = None;
    mount(Some(&pods), &pods, none, MsFlags::MS_BIND, none).unwrap();
    mount(none, &pods, none, MsFlags::MS_SHARED, none).unwrap();
    Call::new(&stage, "web", "kv").publish().await.unwrap();
    let before = stage.mounts();

    let well = examine_class(&stage, "kv", &[]).await;
    assert_eq!(well.code, 0, "{}", well.out);
    assert_eq!(well.report["healthy"], true);
    for (check, number) in [
        ("driver", 1),
        ("registration", 1),
        ("version", 1),
        ("kernel", 1),
        ("propagation", 1),
        ("imds", 1),
        ("class", 1),
        ("dns", 2),
        ("tls", 2),
        ("clock", 2),
        ("token", 1),
        ("objects", 2),
    ] {
        well.assert_ok(check, number);
    }
    // In a user namespace there is no noswap, which is worth a look where the machine swaps.
    assert!(
        well.of("mount").len() == 2 && well.of("mount").iter().all(|finding| finding.0 != "failed"),
        "{}",
        well.out
    );
    // In standalone mode there is no cluster to look at.
    assert_eq!(well.of("rbac")[0].0, "skipped");
    assert!(well.of("tls")[0].1.contains("through the proxy http://127.0.0.1"), "{}", well.out);
    assert!(well.of("token")[0].1.contains("service account default/workload-identity-sa"), "{}", well.out);
    assert!(well.of("objects")[0].1.contains("thrown away"), "{}", well.out);
    assert_eq!(stage.mounts(), before);
    let beside: Vec<PathBuf> = std::fs::read_dir(stage.socket().parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(beside.iter().all(|path| !path.to_string_lossy().contains("doctor")), "{beside:?}");

    // For people.
    let endpoint = format!("unix://{}", stage.socket().display());
    let line = ["doctor", "--only", "driver,kernel", "--endpoint", &endpoint];
    let (code, out, err) = DriverProcess::command_in(&line, &stage.environment()).await;
    assert_eq!((code, err.as_str()), (0, ""), "no progress where nobody looks at a terminal");
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].starts_with("ok       driver         akv-csi ") && lines[1].starts_with("ok       kernel "),
        "{out}"
    );
    assert_eq!(lines.last(), Some(&"2 findings: 2 ok"));
}

#[tokio::test]
async fn a_driver_that_is_gone_and_a_folder_that_is_not_shared_are_told() {
    if !can_mount() {
        return;
    }
    let mut stage = stage().await;
    stage.driver.take().unwrap().terminate().await;
    let pods = stage.path("kubelet/pods");
    std::fs::create_dir_all(&pods).unwrap();
    let none: Option<&str> = None;
    mount(Some(&pods), &pods, none, MsFlags::MS_BIND, none).unwrap();
    mount(none, &pods, none, MsFlags::MS_PRIVATE, none).unwrap();
    let examined = examine(&stage, &["--only", "driver,registration,propagation"], &[]).await;
    examined.assert_failed("driver", &["admin.sock", "does it run"], &["kubectl -n kube-system get pods"]);
    examined.assert_failed(
        "registration",
        &["secrets-store.csi.k8s.io-reg.sock", "No such file"],
        &["--registration-dir"],
    );
    examined.assert_failed("propagation", &["is not shared"], &["mountPropagation: Bidirectional"]);
}

#[tokio::test]
async fn a_chart_of_another_version_is_told() {
    if !can_mount() {
        return;
    }
    let stage = Stage::set(StageOptions::default()).await;
    let chart = |version: &str| [("AKV_CSI_CHART_VERSION".to_owned(), version.to_owned())];
    let driver = stage.start_unregistered(&DriverProcess::binary(), chart("9.9.9")).await;
    let examined = examine(&stage, &["--only", "version"], &[]).await;
    let told = examined.of("version");
    assert_eq!((examined.code, told.len(), told[0].0), (0, 1, "warning"), "{told:?}");
    let own = env!("CARGO_PKG_VERSION");
    assert!(
        told[0].1.contains(&format!("the chart is 9.9.9, and the image that it runs is {own}")),
        "{told:?}"
    );
    assert!(told[0].2.contains(&format!("helm upgrade to chart {own}")), "{told:?}");
    driver.terminate().await;

    // Manifests of somebody else's say nothing.
    let driver = stage.start_unregistered(&DriverProcess::binary(), chart("")).await;
    let examined = examine(&stage, &["--only", "version"], &[]).await;
    assert_eq!(
        examined.of("version").into_iter().map(|found| found.0).collect::<Vec<_>>(),
        ["ok", "skipped"]
    );
    driver.terminate().await;
}
