//! The transcripts in docs/operations.md are what the program prints. Numbers, versions and widths of columns may differ;
//! words may not. `UPDATE_DOCS=1` writes the blocks anew.

use super::*;
use crate::cluster::{forget_fields, server_or_notice};
use e2e::transcript::{self, Session};
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::api::{Api, PostParams};
use serde_json::json;
use std::path::Path;

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

    let mut session = Session::in_folder(stage.folder())
        .with_environment(stage.environment())
        .with_environment([("CSI_ENDPOINT".to_owned(), format!("unix://{}", stage.socket().display()))])
        .words_alone()
        .showing(token_file(&stage, ACCOUNT), "/tmp/web.token")
        .showing(stage.socket().with_file_name("admin.sock").display().to_string(), "/csi/admin.sock")
        .showing(stage.path("ca.pem").display().to_string(), "/etc/akv-csi/proxy/proxy-cert.crt")
        .showing(stage.proxy.url(), "http://proxy.example:3128")
        .showing(stage.azure.imds_url().unwrap(), "http://169.254.169.254")
        .showing(stage.kubelet.issuer().url(), "https://eastus.oic.prod-aks.azure.com/TENANT/CLUSTER/")
        .showing("CN=Azure emulator test authority", "CN=Microsoft Azure RSA TLS Issuing CA 08");
    // A cluster that an older tool has set up.
    let server = server_or_notice().await;
    match &server {
        Some(server) => {
            let drivers: Api<CSIDriver> = Api::all(server.client().await.unwrap());
            let driver = json!({
                "metadata": {"name": "secrets-store.csi.k8s.io", "labels": {"helm.sh/chart": "secrets-store-csi-driver-1.5.4"}},
                "spec": {
                    "podInfoOnMount": true, "attachRequired": false, "requiresRepublish": true, "fsGroupPolicy": "File",
                    "volumeLifecycleModes": ["Ephemeral"],
                },
            });
            let driver = serde_json::from_value(driver).unwrap();
            drivers.create(&PostParams::default(), &driver).await.unwrap();
            let kubeconfig = server.kubeconfig().display().to_string();
            forget_fields(&stage, server).await;
            session = session.showing(kubeconfig, "~/.kube/config");
        }
        None => session = session.without("~/.kube/config"),
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    transcript::check(&page, &session).await;
}
