//! The node: the running driver, its registration, the kernel, mounts.

use super::context::Context;
use super::finding::{Check, Finding};
use super::versions;
use crate::build_info::CHART_VERSION;
use crate::cli::terminal::span;
use crate::health::Registration;
use crate::registration;
use crate::volume::{Features, Propagation, Way, try_way};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Secrets must not reach a disk: since this version a tmpfs can say so.
const NOSWAP_SINCE: &str = "Linux 6.4";

/// Whether the driver runs and the kubelet knows it.
pub(super) fn driver(context: &Context) -> Vec<Finding> {
    let name = match &context.node {
        Ok(node) => node.driver_name.clone(),
        Err(error) => {
            return vec![Finding::failed(
                Check::Driver,
                format!("flags: {error}"),
                "correct the flags behind --",
            )];
        }
    };
    let status = match &context.status {
        Ok(status) => status,
        Err(error) => {
            let cure = "see whether its container runs: kubectl -n kube-system get pods -l app=secrets-store-csi-driver -o wide; \
                        inside another pod, look at single things with --only";
            let unknown =
                "the driver does not answer, so it does not say whether the kubelet has registered it";
            let mut findings = vec![
                Finding::failed(Check::Driver, error, cure),
                socket(context, &name)
                    .unwrap_or_else(|| Finding::skipped(Check::Registration, unknown, None)),
            ];
            // In its container, the environment says what the driver would.
            let chart = crate::node::environment(CHART_VERSION);
            findings.extend(chart.iter().flat_map(|chart| versions::compare(None, Some(chart))));
            return findings;
        }
    };
    let uptime = span(Duration::from_secs(status.uptime_seconds));
    let mut findings = vec![Finding::ok(
        Check::Driver,
        format!(
            "akv-csi {} answers on {}, up {uptime}, {} volumes",
            status.version,
            context.socket.display(),
            status.volumes.len()
        ),
    )];
    findings.push(match status.registration {
        Registration::Done => Finding::ok(Check::Registration, format!("the kubelet has registered {name}")),
        Registration::NotOurs => Finding::warning(
            Check::Registration,
            "the driver does not register itself, so somebody else has to",
            "give the driver --registration-dir, or see that a node-driver-registrar runs beside it",
        ),
        Registration::Refused => Finding::failed(
            Check::Registration,
            format!("the kubelet has refused {name}"),
            "the driver's log has the kubelet's reason; often another driver of this name is registered already: remove the \
             Secrets Store CSI Driver from this node",
        ),
        Registration::Awaited => socket(context, &name).unwrap_or_else(|| {
            Finding::failed(
                Check::Registration,
                format!("the kubelet has not asked for {name} yet, though its registration socket is there"),
                "see that --registration-dir is the kubelet's own plugins_registry folder (its root folder may be another one \
                 than /var/lib/kubelet) and that --kubelet-registration-path is the CSI socket's path on the node",
            )
        }),
    });
    findings.extend(versions::compare(Some(&status.version), status.chart_version.as_deref()));
    findings
}

/// What is wrong with the registration socket, if something is.
fn socket(context: &Context, name: &str) -> Option<Finding> {
    let folder = match context.node.as_ref().ok().and_then(|node| node.registration_dir.clone()) {
        Some(folder) => folder,
        None => context.kubelet_root().join("plugins_registry"),
    };
    let path = registration::socket_path(&folder, name);
    let cure = "see that the driver runs with --registration-dir, and that this is the kubelet's own folder: below another root \
                folder than /var/lib/kubelet, the manifests have to name it";
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.file_type().is_socket() => None,
        Ok(_) => Some(Finding::failed(
            Check::Registration,
            format!("{} is no socket", path.display()),
            "remove it",
        )),
        Err(error) => {
            Some(Finding::failed(Check::Registration, format!("{}: {error}", path.display()), cure))
        }
    }
}

/// What the kernel can do, tried out.
pub(super) async fn mounts(context: &Context) -> Vec<Finding> {
    let folder =
        context.node.as_ref().ok().and_then(|node| node.endpoint.path().parent().map(Path::to_owned));
    let pods = context.kubelet_root().join("pods");
    tokio::task::spawn_blocking(move || look(folder.as_deref(), &pods)).await.unwrap_or_else(|failure| {
        vec![Finding::failed(
            Check::Mount,
            failure.to_string(),
            "this is a defect of akv-csi: please report it",
        )]
    })
}

fn look(sockets: Option<&Path>, pods: &Path) -> Vec<Finding> {
    let mut findings = vec![kernel(Features::of_kernel())];
    match private_folder(sockets) {
        Err(error) => findings.push(Finding::failed(
            Check::Mount,
            format!("there is no folder to try mounts in: {error}"),
            "run it as root on the node, or in the driver's container",
        )),
        Ok(folder) => {
            let ways: Vec<_> = [Way::Detached, Way::Mount2].map(|way| (way, try_way(&folder, way))).into();
            findings.extend(ways.into_iter().map(|(way, result)| mount(way, result)));
            let _ = std::fs::remove_dir(&folder);
        }
    }
    findings.push(propagation(pods));
    findings
}

fn kernel(features: Features) -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let lacking: Vec<&str> = [("openat2", features.openat2), ("statx mount root", features.mount_root)]
        .into_iter()
        .filter_map(|(name, there)| (!there).then_some(name))
        .collect();
    if lacking.is_empty() {
        Finding::ok(Check::Kernel, format!("Linux {release} has openat2 and tells mount points"))
    } else {
        let text = format!("Linux {release} does not offer {}", lacking.join(" and "));
        Finding::warning(
            Check::Kernel,
            text,
            "the driver goes a slower way; Linux 5.8 has all it asks for, unless a seccomp filter takes it away",
        )
    }
}

fn mount(way: Way, result: Result<crate::volume::Tried, crate::volume::VolumeError>) -> Finding {
    let name = match way {
        Way::Detached => "a tmpfs filled before it is mounted",
        Way::Mount2 => "a tmpfs by mount(2)",
    };
    match result {
        Err(error) => Finding::failed(
            Check::Mount,
            format!("{name}: {error}"),
            "the driver has to be root with CAP_SYS_ADMIN, which for mounts that reach pods means a privileged container",
        ),
        Ok(tried) if tried.way != way => Finding::warning(
            Check::Mount,
            format!("{name}: not offered here, so volumes are mounted empty and filled afterwards"),
            "Linux 5.2 has it; a seccomp filter may take it away (fsopen, fsconfig, fsmount, move_mount)",
        ),
        Ok(tried) if !tried.noswap && swap_is_on() => Finding::warning(
            Check::Mount,
            format!("{name}: works, but without noswap, and this node swaps: secrets can reach its disk"),
            format!("{NOSWAP_SINCE} has noswap; or switch swap off"),
        ),
        Ok(tried) => {
            let noswap =
                if tried.noswap { ", with noswap" } else { ", without noswap; this node has no swap" };
            Finding::ok(Check::Mount, format!("{name}: mounted, filled, read and unmounted{noswap}"))
        }
    }
}

fn swap_is_on() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

fn propagation(pods: &Path) -> Finding {
    match Propagation::of(pods) {
        Ok(Propagation { shared: true, mount }) => Finding::ok(
            Check::Propagation,
            format!(
                "what is mounted below {} reaches the pods: {} is shared",
                pods.display(),
                mount.display()
            ),
        ),
        Ok(Propagation { shared: false, mount }) => Finding::failed(
            Check::Propagation,
            format!(
                "what is mounted below {} stays in this container: {} is not shared",
                pods.display(),
                mount.display()
            ),
            "mount the kubelet's pods folder into the container with mountPropagation: Bidirectional; on the node itself: mount \
             --make-rshared /",
        ),
        Err(error) => Finding::failed(
            Check::Propagation,
            format!("{}: {error}", pods.display()),
            "name the kubelet's root folder with --kubelet-root, and mount its pods folder into the driver's container at the \
             same path",
        ),
    }
}

/// A new folder that nobody else looks into: beside the driver's socket, where a container with a read-only root can write.
fn private_folder(sockets: Option<&Path>) -> std::io::Result<PathBuf> {
    let mut last = std::io::Error::other("none was tried");
    let places = [sockets.map(Path::to_owned), Some(std::env::temp_dir()), Some(PathBuf::from("/run"))];
    for place in places.into_iter().flatten() {
        let folder = place.join(format!(".akv-csi-doctor-{}", std::process::id()));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) => last = std::io::Error::new(error.kind(), format!("{}: {error}", folder.display())),
        }
    }
    Err(last)
}
