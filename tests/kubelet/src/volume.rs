//! One inline volume: its ids and paths on the node, and the requests that publish and unpublish it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proto::csi::volume_capability::access_mode::Mode;
use proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use ring::digest::{SHA256, digest};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::csi_client::NodeCapabilities;
use crate::csi_driver::CsiDriver;
use crate::manifest::{CsiVolume, Pod};

/// Key of the tokens in the secrets or the volume context of a publish request.
pub const TOKENS_KEY: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Where a volume lives below the kubelet's root folder, and what it is called towards its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumePlace {
    /// `csi-` and the SHA-256 of pod uid and volume name.
    pub id: String,
    /// `<root>/pods/<uid>`.
    pub pod_dir: PathBuf,
    /// `<pod_dir>/volumes/kubernetes.io~csi/<volume>`.
    pub volume_dir: PathBuf,
    /// `<volume_dir>/mount`: the target path.
    pub target: PathBuf,
    /// `<volume_dir>/vol_data.json`.
    pub data_file: PathBuf,
}

impl VolumePlace {
    pub(crate) fn new(root: &Path, pod_uid: &str, volume: &str) -> Self {
        let pod_dir = root.join("pods").join(pod_uid);
        let volume_dir = pod_dir.join("volumes/kubernetes.io~csi").join(volume);
        Self {
            id: format!("csi-{}", sha256_hex(&format!("{pod_uid}{volume}"))),
            target: volume_dir.join("mount"),
            data_file: volume_dir.join("vol_data.json"),
            volume_dir,
            pod_dir,
        }
    }

    /// What the kubelet notes in `vol_data.json` to find the driver again at the unmount.
    pub(crate) fn volume_data(&self, volume: &CsiVolume, node: &str) -> Value {
        let driver = volume.driver.as_str();
        json!({
            "attachmentID": format!("csi-{}", sha256_hex(&format!("{}{driver}{node}", self.id))),
            "driverName": driver,
            "nodeName": node,
            "specVolID": volume.name,
            "volumeHandle": self.id,
            "volumeLifecycleMode": "Ephemeral",
        })
    }

    pub(crate) fn unpublish_request(&self) -> NodeUnpublishVolumeRequest {
        NodeUnpublishVolumeRequest {
            volume_id: self.id.clone(),
            target_path: self.target.to_string_lossy().into_owned(),
        }
    }
}

/// What goes into a publish request besides the volume's place.
pub(crate) struct Publication<'a> {
    pub pod: &'a Pod,
    pub pod_uid: &'a str,
    pub volume: &'a CsiVolume,
    pub driver: &'a CsiDriver,
    pub capabilities: NodeCapabilities,
    /// The data of `nodePublishSecretRef`.
    pub secrets: &'a BTreeMap<String, SecretString>,
    /// The tokens the driver asked for, as JSON.
    pub tokens: Option<&'a SecretString>,
}

impl Publication<'_> {
    /// The request that publishes the volume.
    ///
    /// Later sources win: the pod's own attributes, then what the kubelet says of the pod, then the tokens. A key that the
    /// kubelet sets can thus not be forged, but one that it does not set in this place can.
    pub(crate) fn request(self, place: &VolumePlace) -> NodePublishVolumeRequest {
        let Self { pod, pod_uid, volume, driver, capabilities, secrets, tokens } = self;
        let mut volume_context = volume.attributes.clone();
        if driver.pod_info_on_mount {
            let pod_info = [
                ("pod.name", pod.name.name.as_str()),
                ("pod.namespace", &pod.name.namespace),
                ("pod.uid", pod_uid),
                ("serviceAccount.name", &pod.service_account),
                ("ephemeral", "true"),
            ];
            volume_context
                .extend(pod_info.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.to_owned())));
        }
        let mut secrets: BTreeMap<String, String> =
            secrets.iter().map(|(key, value)| (key.clone(), value.expose_secret().to_owned())).collect();
        if let Some(tokens) = tokens {
            let holder =
                if driver.service_account_token_in_secrets { &mut secrets } else { &mut volume_context };
            holder.insert(TOKENS_KEY.to_owned(), tokens.expose_secret().to_owned());
        }
        // An inline volume counts as ReadWriteOnce, read-only or not.
        let mode = if capabilities.single_node_multi_writer {
            Mode::SingleNodeMultiWriter
        } else {
            Mode::SingleNodeWriter
        };
        let mount_group = pod.fs_group.filter(|_| capabilities.volume_mount_group);
        NodePublishVolumeRequest {
            volume_id: place.id.clone(),
            target_path: place.target.to_string_lossy().into_owned(),
            volume_capability: Some(VolumeCapability {
                access_mode: Some(AccessMode { mode: mode.into() }),
                access_type: Some(AccessType::Mount(MountVolume {
                    fs_type: volume.fs_type.clone(),
                    mount_flags: Vec::new(),
                    volume_mount_group: mount_group.map(|group| group.to_string()).unwrap_or_default(),
                })),
            }),
            readonly: volume.read_only,
            secrets: secrets.into_iter().collect(),
            volume_context: volume_context.into_iter().collect(),
            ..NodePublishVolumeRequest::default()
        }
    }
}

fn sha256_hex(text: &str) -> String {
    data_encoding::HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref())
}

/// A UUID drawn from `seed` (version 8 of RFC 9562: vendor's own making), the same for the same seed.
pub(crate) fn uuid_of(seed: &[u8]) -> String {
    let hash = digest(&SHA256, seed);
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
