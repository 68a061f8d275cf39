//! A tiny CSI driver that does as it is told and tells what it was asked.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kubelet::{Builder, CsiDriver, Event, EventStream, Kubelet, Timings, TokenRequest};
use proto::csi::node_server::{Node, NodeServer};
use proto::csi::node_service_capability::{Rpc, Type, rpc::Type as RpcType};
use proto::csi::*;
use proto::registration::registration_server::{Registration, RegistrationServer};
use proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

pub const NAME: &str = "fake.csi.example";
/// Longer than any test takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A call that the driver got.
pub enum Call {
    GetInfo,
    NodeGetInfo,
    Notify(RegistrationStatus),
    Capabilities,
    Publish(Box<NodePublishVolumeRequest>, Instant),
    Unpublish(NodeUnpublishVolumeRequest),
}

impl Call {
    pub fn name(&self) -> &'static str {
        match self {
            Self::GetInfo => "GetInfo",
            Self::NodeGetInfo => "NodeGetInfo",
            Self::Notify(status) if status.plugin_registered => "Notify(true)",
            Self::Notify(_) => "Notify(false)",
            Self::Capabilities => "NodeGetCapabilities",
            Self::Publish(..) => "NodePublishVolume",
            Self::Unpublish(_) => "NodeUnpublishVolume",
        }
    }
}

/// What the driver says and does.
pub struct Behaviour {
    pub info: PluginInfo,
    pub node_id: String,
    pub capabilities: Vec<RpcType>,
    /// Answers to the next publishes, unpublishes and notifications; OK when there is none left.
    pub publish: VecDeque<Answer>,
    pub unpublish: VecDeque<Status>,
    pub notify: VecDeque<Status>,
    /// Never answer `GetInfo`.
    pub mute: bool,
    /// Leave a file in the target at the unpublish.
    pub leave_content: bool,
}

pub enum Answer {
    Fail(Status),
    /// Make the target, then fail.
    MountAndFail(Status),
    /// Answer never.
    Hang,
    /// Answer OK once notified.
    After(Arc<Notify>),
}

pub struct FakeDriver {
    pub behaviour: Arc<Mutex<Behaviour>>,
    pub calls: mpsc::UnboundedReceiver<Call>,
    pub csi_socket: PathBuf,
    pub registration_socket: PathBuf,
    servers: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Service {
    behaviour: Arc<Mutex<Behaviour>>,
    calls: mpsc::UnboundedSender<Call>,
}

/// A kubelet's folders.
pub struct House(pub tempfile::TempDir);

impl House {
    pub fn new() -> Self {
        let house = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(house.registration_dir()).unwrap();
        house
    }

    pub fn root(&self) -> PathBuf {
        self.0.path().join("kubelet")
    }

    pub fn registration_dir(&self) -> PathBuf {
        self.0.path().join("registry")
    }

    pub fn kubelet(&self) -> Builder {
        Kubelet::builder(self.root(), self.registration_dir()).driver(settings()).timings(Timings::fast())
    }

    pub fn driver(&self) -> FakeDriver {
        self.driver_with("fake", |_| {})
    }

    /// Starts a driver whose sockets are named after `file`.
    pub fn driver_with(&self, file: &str, change: impl FnOnce(&mut Behaviour)) -> FakeDriver {
        let csi_socket = self.0.path().join(format!("{file}-csi.sock"));
        let mut behaviour = Behaviour {
            info: PluginInfo {
                r#type: "CSIPlugin".into(),
                name: NAME.into(),
                endpoint: csi_socket.to_str().unwrap().into(),
                supported_versions: vec!["1.0.0".into()],
            },
            node_id: "node-1".into(),
            capabilities: Vec::new(),
            publish: VecDeque::new(),
            unpublish: VecDeque::new(),
            notify: VecDeque::new(),
            mute: false,
            leave_content: false,
        };
        change(&mut behaviour);
        let (sender, calls) = mpsc::unbounded_channel();
        let mut driver = FakeDriver {
            behaviour: Arc::new(Mutex::new(behaviour)),
            calls,
            csi_socket,
            registration_socket: self.registration_dir().join(format!("{file}-reg.sock")),
            servers: Vec::new(),
        };
        driver.serve(sender);
        driver
    }
}

/// The CSIDriver object of the fake driver: everything the Secrets Store driver asks for.
pub fn settings() -> CsiDriver {
    CsiDriver {
        pod_info_on_mount: true,
        requires_republish: true,
        token_requests: vec![TokenRequest::new("api://AzureADTokenExchange")],
        ..CsiDriver::inline(NAME).unwrap()
    }
}

/// A pod with one volume `store`.
pub fn pod(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  volumes:
    - name: store
      csi: {{driver: {NAME}, readOnly: true, volumeAttributes: {{secretProviderClass: spc}}}}
"
    )
}

/// Keeps paused time from moving on by itself while everything waits for sockets: it moves by `advance` alone, as long as
/// the returned guard lives.
pub fn freeze() -> std::sync::mpsc::Sender<()> {
    let (guard, dropped) = std::sync::mpsc::channel();
    // tokio holds paused time while a blocking task runs.
    // Should the test hang, time moves again, and what waits with a limit fails.
    tokio::task::spawn_blocking(move || dropped.recv_timeout(PATIENCE));
    guard
}

/// Passes over events until one satisfies `wanted`.
pub async fn find(events: &mut EventStream, wanted: impl FnMut(&Event) -> bool) -> Event {
    timeout(PATIENCE, events.find(wanted)).await.expect("an event").unwrap()
}

impl FakeDriver {
    fn serve(&mut self, calls: mpsc::UnboundedSender<Call>) {
        let service = Service { behaviour: Arc::clone(&self.behaviour), calls };
        // The CSI socket first: registration leads straight to it.
        for socket in [&self.csi_socket, &self.registration_socket] {
            let _ = std::fs::remove_file(socket);
            let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
            let server = Server::builder()
                .add_service(NodeServer::new(service.clone()))
                .add_service(RegistrationServer::new(service.clone()));
            self.servers
                .push(tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() }));
        }
    }

    /// As a crash: the sockets stay, nobody answers.
    pub async fn crash(&mut self) {
        for server in self.servers.drain(..) {
            server.abort();
            let _ = server.await;
        }
    }

    /// Starts again on the same paths, as after a crash or a stop.
    pub fn restart(&mut self) {
        let (sender, calls) = mpsc::unbounded_channel();
        self.calls = calls;
        self.serve(sender);
    }

    /// As an orderly stop: the registration socket goes too.
    pub async fn stop(&mut self) {
        self.crash().await;
        std::fs::remove_file(&self.registration_socket).unwrap();
    }

    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    pub fn fail_publishes(&self, statuses: impl IntoIterator<Item = Status>) {
        self.set(|behaviour| behaviour.publish.extend(statuses.into_iter().map(Answer::Fail)));
    }

    pub async fn next_call(&mut self) -> Call {
        timeout(PATIENCE, self.calls.recv()).await.expect("a call").unwrap()
    }

    /// Passes over other calls until a publish comes.
    pub async fn next_publish(&mut self) -> (NodePublishVolumeRequest, Instant) {
        loop {
            if let Call::Publish(request, at) = self.next_call().await {
                return (*request, at);
            }
        }
    }

    /// Passes over other calls until an unpublish comes.
    pub async fn next_unpublish(&mut self) -> NodeUnpublishVolumeRequest {
        loop {
            if let Call::Unpublish(request) = self.next_call().await {
                return request;
            }
        }
    }

    /// Passes over other calls until a registration status comes.
    pub async fn next_notification(&mut self) -> RegistrationStatus {
        loop {
            if let Call::Notify(status) = self.next_call().await {
                return status;
            }
        }
    }

    /// The names of the calls that came so far and were not looked at.
    pub fn pending(&mut self) -> Vec<&'static str> {
        let mut names = Vec::new();
        while let Ok(call) = self.calls.try_recv() {
            names.push(call.name());
        }
        names
    }
}

impl Drop for FakeDriver {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

impl Service {
    fn note(&self, call: Call) {
        let _ = self.calls.send(call);
    }
}

fn make_target(path: &str) {
    if !Path::new(path).exists() {
        std::fs::create_dir(path).unwrap();
    }
}

#[tonic::async_trait]
impl Registration for Service {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        self.note(Call::GetInfo);
        let (mute, info) = {
            let behaviour = self.behaviour.lock().unwrap();
            (behaviour.mute, behaviour.info.clone())
        };
        if mute {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(info))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        self.note(Call::Notify(request.into_inner()));
        let failure = self.behaviour.lock().unwrap().notify.pop_front();
        failure.map_or_else(|| Ok(Response::new(RegistrationStatusResponse {})), Err)
    }
}

#[tonic::async_trait]
impl Node for Service {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let target = request.target_path.clone();
        self.note(Call::Publish(Box::new(request), Instant::now()));
        let answer = self.behaviour.lock().unwrap().publish.pop_front();
        match answer {
            Some(Answer::Fail(status)) => return Err(status),
            Some(Answer::MountAndFail(status)) => {
                make_target(&target);
                return Err(status);
            }
            Some(Answer::Hang) => std::future::pending().await,
            Some(Answer::After(signal)) => signal.notified().await,
            None => {}
        }
        make_target(&target);
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let target = PathBuf::from(&request.target_path);
        self.note(Call::Unpublish(request));
        let (failure, leave) = {
            let mut behaviour = self.behaviour.lock().unwrap();
            (behaviour.unpublish.pop_front(), behaviour.leave_content)
        };
        if let Some(status) = failure {
            return Err(status);
        }
        if leave {
            std::fs::write(target.join("secret"), "x").unwrap();
        } else if target.exists() {
            std::fs::remove_dir(target).unwrap();
        }
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        self.note(Call::Capabilities);
        let capabilities = self.behaviour.lock().unwrap().capabilities.clone();
        let capability =
            |rpc: RpcType| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: rpc.into() })) };
        let capabilities = capabilities.into_iter().map(capability).collect();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        self.note(Call::NodeGetInfo);
        let node_id = self.behaviour.lock().unwrap().node_id.clone();
        Ok(Response::new(NodeGetInfoResponse { node_id, ..NodeGetInfoResponse::default() }))
    }

    async fn node_stage_volume(
        &self,
        _: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        Err(Status::unimplemented("stage"))
    }

    async fn node_unstage_volume(
        &self,
        _: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        Err(Status::unimplemented("unstage"))
    }

    async fn node_get_volume_stats(
        &self,
        _: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        Err(Status::unimplemented("stats"))
    }

    async fn node_expand_volume(
        &self,
        _: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("expand"))
    }
}
