//! A provider behind a socket of its own, with answers that tests choose.

use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use proto::provider::csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer};
use proto::provider::{MountRequest, MountResponse, VersionRequest, VersionResponse};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tonic::codegen::Service;
use tonic::{Request, Response, Status};

/// A mount request, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The request's `:authority`.
    pub authority: String,
    /// What the class and the pod say.
    pub attributes: BTreeMap<String, String>,
    /// The pod's secrets; `None` for `null`.
    pub secrets: Option<BTreeMap<String, String>>,
    /// The volume's path.
    pub target: String,
    /// The default mode.
    pub permission: String,
    /// How many versions the driver says are mounted.
    pub versions: usize,
}

type Answer = Result<MountResponse, Status>;

#[derive(Default)]
struct Script {
    authority: String,
    asked: Vec<Asked>,
    /// Each is given once; the last one for ever.
    answers: VecDeque<Answer>,
}

/// A provider that serves until it is dropped.
pub struct Provider {
    socket: PathBuf,
    script: Arc<Mutex<Script>>,
    /// Ends the server and all its connections when dropped.
    _server: JoinSet<()>,
}

impl Provider {
    /// Serves on this socket.
    pub fn start(socket: &Path) -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let listener = UnixListener::bind(socket).expect("a fresh socket");
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::clone(&script)));
        Self { socket: socket.to_owned(), script, _server: server }
    }

    /// Gives these answers to the next requests, and the last one to all that follow.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().answers = answers.into_iter().collect();
    }

    /// The mount requests since the last call of this function.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.script.lock().asked)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // As a provider that ends leaves it or not; a test that wants it there makes it again.
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn serve(listener: UnixListener, script: Arc<Mutex<Script>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let script = Arc::clone(&script);
        connections.spawn(async move {
            let provider = CsiDriverProviderServer::new(Scripted(Arc::clone(&script)));
            let service =
                hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    script.lock().authority =
                        request.uri().authority().map(ToString::to_string).unwrap_or_default();
                    provider.clone().call(request)
                });
            // A client that hangs up is no fault.
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

struct Scripted(Arc<Mutex<Script>>);

#[tonic::async_trait]
impl CsiDriverProvider for Scripted {
    async fn version(&self, request: Request<VersionRequest>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: request.into_inner().version,
            runtime_name: "scripted".to_owned(),
            runtime_version: "1".to_owned(),
        }))
    }

    async fn mount(&self, request: Request<MountRequest>) -> Result<Response<MountResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.0.lock();
        let asked = Asked {
            authority: script.authority.clone(),
            attributes: serde_json::from_str(&request.attributes).expect("a JSON object of strings"),
            secrets: serde_json::from_str(&request.secrets).expect("a JSON object of strings or null"),
            target: request.target_path,
            permission: request.permission,
            versions: request.current_object_version.len(),
        };
        script.asked.push(asked);
        let answer = if script.answers.len() > 1 {
            script.answers.pop_front()
        } else {
            script.answers.front().cloned()
        };
        answer.unwrap_or_else(|| Err(Status::unimplemented("no answer was chosen"))).map(Response::new)
    }
}
