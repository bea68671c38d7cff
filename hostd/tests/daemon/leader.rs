//! A controller that leads: welcomes a host, gives it its set, answers its heartbeats and commits its reports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_model::session::{DesiredEntry, Hello, Report, ToController, ToHost, VmReport, Welcome};
use berth_model::{ClusterId, HostUid, Incarnation, Millis, Revision, Term, VmUid};
use berth_pki::{Allow, Credentials, Limits, Role};
use berth_proto::v1;
use berth_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What the leader knows of its host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) hello: Option<Hello>,
    /// Who ever said Hello: name and identity.
    pub(crate) hosts: BTreeSet<(String, HostUid)>,
    pub(crate) reports: Vec<Report>,
    pub(crate) vms: BTreeMap<VmUid, VmReport>,
}

pub(crate) struct Leader {
    pub(crate) address: String,
    shared: Arc<Shared>,
    known: watch::Receiver<Known>,
    stop: CancellationToken,
}

struct Shared {
    set: Mutex<Vec<DesiredEntry>>,
    may_start_for: Mutex<Millis>,
    session: Mutex<Option<mpsc::Sender<Result<v1::ToHost, Status>>>>,
    known: watch::Sender<Known>,
}

impl Leader {
    pub(crate) async fn new(credentials: &Credentials, set: Vec<DesiredEntry>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = credentials.server_config(Allow::only([Role::Host]));
        let incoming = berth_pki::accept(listener, config, Limits::default()).map(|peer| peer.map(|peer| peer.io));
        let (sender, known) = watch::channel(Known::default());
        let shared = Arc::new(Shared {
            set: Mutex::new(set),
            may_start_for: Mutex::new(Millis(10_000)),
            session: Mutex::new(None),
            known: sender,
        });
        let stop = CancellationToken::new();
        let service = AgentServiceServer::new(Service(Arc::clone(&shared), stop.clone()));
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        tokio::spawn(served);
        Self { address, shared, known, stop }
    }

    pub(crate) fn permit(&self, span: Millis) {
        *self.shared.may_start_for.lock().unwrap() = span;
    }

    /// Changes the set, and says so if there is a session.
    pub(crate) async fn want(&self, entry: DesiredEntry) {
        {
            let mut set = self.shared.set.lock().unwrap();
            set.retain(|held| held.vm() != entry.vm());
            set.push(entry.clone());
        }
        let session = self.shared.session.lock().unwrap().clone();
        if let Some(session) = session {
            let delta = ToHost::DesiredDelta { revision: Revision(2), entries: vec![entry], forgotten: vec![] };
            session.send(Ok((&delta).into())).await.unwrap();
        }
    }

    /// Says where the controllers are, in the session that stands.
    pub(crate) async fn tell_controllers(&self, addresses: &[&str]) {
        let word = ToHost::Controllers { addresses: addresses.iter().map(|address| (*address).to_owned()).collect() };
        let session = self.shared.session.lock().unwrap().clone().unwrap();
        session.send(Ok((&word).into())).await.unwrap();
    }

    /// Waits until what it knows is so.
    pub(crate) async fn until(&self, what: &str, holds: impl FnMut(&Known) -> bool) -> Known {
        let mut known = self.known.clone();
        let waited = tokio::time::timeout(Duration::from_secs(60), known.wait_for(holds)).await;
        let last = self.known.borrow().clone();
        waited.unwrap_or_else(|_| panic!("never: {what}; known: {last:#?}")).unwrap().clone()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        *self.shared.session.lock().unwrap() = None;
        self.stop.cancel();
    }
}

struct Service(Arc<Shared>, CancellationToken);

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = ReceiverStream<Result<v1::ToHost, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ToController>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (sender, receiver) = mpsc::channel(64);
        let (shared, stop) = (Arc::clone(&self.0), self.1.clone());
        let mut words = request.into_inner();
        tokio::spawn(async move {
            let converse = async {
                while let Ok(Some(word)) = words.message().await {
                    for answer in shared.answer(ToController::try_from(word).unwrap(), &sender) {
                        if sender.send(Ok((&answer).into())).await.is_err() {
                            return;
                        }
                    }
                }
            };
            tokio::select! {
                () = converse => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Shared {
    fn answer(&self, word: ToController, session: &mpsc::Sender<Result<v1::ToHost, Status>>) -> Vec<ToHost> {
        match word {
            ToController::Hello(hello) => {
                self.known.send_modify(|known| {
                    known.hosts.insert((hello.name.to_string(), hello.host));
                    known.hello = Some(hello);
                });
                *self.session.lock().unwrap() = Some(session.clone());
                let cluster: ClusterId = "lab".parse().unwrap();
                let welcome = Welcome {
                    cluster,
                    incarnation: Incarnation(1),
                    term: Term(1),
                    protocol: 1,
                    // The patience of three of these must outlast a machine that is busy with other tests.
                    heartbeat_every: Millis(1000),
                    overrides: None,
                };
                let entries = self.set.lock().unwrap().clone();
                vec![ToHost::Welcome(welcome), ToHost::DesiredSet { revision: Revision(1), entries }]
            }
            ToController::Heartbeat { number } => {
                let may_start_for = *self.may_start_for.lock().unwrap();
                vec![ToHost::HeartbeatAck { number, may_start_for }]
            }
            ToController::Report(report) => {
                let number = report.number;
                self.known.send_modify(|known| {
                    if report.full {
                        known.vms.clear();
                    }
                    known.vms.extend(report.vms.iter().cloned());
                    known.reports.push(*report);
                });
                vec![ToHost::ReportAck { number }]
            }
        }
    }
}
