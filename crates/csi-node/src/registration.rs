//! Registration with the kubelet, by the plugin registration v1 protocol: the driver serves a small gRPC service on a socket
//! in the kubelet's `plugins_registry` folder; the kubelet finds the socket, asks who is there, calls the driver and says
//! whether it was taken in. No sidecar is needed for that.

use crate::authority::ForLocalhost;
use crate::endpoint::BoundSocket;
use crate::health::Health;
use proto::registration::registration_server::{Registration, RegistrationServer};
use proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// What the kubelet is told about this driver.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// The driver's name.
    pub driver_name: String,
    /// The CSI socket's path as the kubelet sees it.
    pub endpoint: PathBuf,
}

struct Service {
    announcement: Announcement,
    health: Arc<Health>,
}

#[tonic::async_trait]
impl Registration for Service {
    async fn get_info(&self, _request: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: self.announcement.driver_name.clone(),
            endpoint: self.announcement.endpoint.to_string_lossy().into_owned(),
            // The version of the registration handshake's CSI handler, not of this driver: the kubelet refuses 2.x.
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!(driver = %self.announcement.driver_name, "the kubelet registered the driver");
        } else {
            // The kubelet tries again by itself; ending the process would only take the mounted volumes' rotation away.
            tracing::error!(driver = %self.announcement.driver_name, error = %status.error, "the kubelet refused the driver");
        }
        self.health.registered(status.plugin_registered);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

/// The registration socket's path. One fixed name for each driver: the kubelet refuses a second socket of the same driver.
pub fn socket_path(folder: &Path, driver_name: &str) -> PathBuf {
    folder.join(format!("{driver_name}-reg.sock"))
}

/// Makes the driver known to the kubelet until `stop` resolves; then takes the socket away, which deregisters it.
///
/// Call this only when the CSI socket is being served: the kubelet calls it as soon as it sees the registration socket.
///
/// # Errors
/// When the socket cannot be bound in `folder`, or serving it fails.
pub async fn serve(
    folder: &Path,
    announcement: Announcement,
    health: Arc<Health>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let path = socket_path(folder, &announcement.driver_name);
    let (_socket, listener) = BoundSocket::bind(&path)?;
    tracing::info!(socket = %path.display(), "waiting for the kubelet to register the driver");
    let connections = UnixListenerStream::new(listener).map(|connection| connection.map(ForLocalhost::new));
    tonic::transport::Server::builder()
        .add_service(RegistrationServer::new(Service { announcement, health }))
        .serve_with_incoming_shutdown(connections, stop)
        .await
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// The kubelet's client names the socket's path as the authority of its requests, which no Rust client can be made to do.
    #[tokio::test]
    async fn a_request_for_the_sockets_path_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let announcement =
            Announcement { driver_name: "test.csi".to_owned(), endpoint: "/plugins/csi.sock".into() };
        let path = socket_path(folder.path(), "test.csi");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn({
            let folder = folder.path().to_owned();
            async move {
                let stopped = async { drop(stopped.await) };
                serve(&folder, announcement, Arc::new(Health::new(true)), stopped).await
            }
        });
        let mut kubelet = loop {
            match tokio::net::UnixStream::connect(&path).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let request =
            crate::authority::get_info("%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Ftest.csi-reg.sock");
        kubelet.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(9).any(|bytes| bytes == b"CSIPlugin") {
            let read = kubelet.read_buf(&mut answer).await.unwrap();
            // RST_STREAM is what a strict server answers.
            assert!(read > 0 && !answer.windows(5).any(|bytes| bytes == [0, 0, 4, 3, 0]), "{answer:?}");
        }
        drop(kubelet);
        drop(stop);
        served.await.unwrap().unwrap();
    }
}
