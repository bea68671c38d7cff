//! The gRPC door: wire to model, [`berth_control::Control`], model to wire; nothing else.
//!
//! Every connection is mutual TLS; who is there comes from the certificate, and each service asks for the role it
//! serves on every call.

mod agent;
mod backup;
mod caller;
mod cluster;
mod console;
mod error;
mod history;
mod host;
mod image;
mod instancetype;
mod peer;
mod preference;
mod room;
mod vm;
mod watch;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_control::Control;
use berth_pki::{Accepted, Identity, Role};
use berth_proto::v1::agent_service_server::AgentServiceServer;
use berth_proto::v1::backup_service_server::BackupServiceServer;
use berth_proto::v1::cluster_service_server::ClusterServiceServer;
use berth_proto::v1::console_service_server::ConsoleServiceServer;
use berth_proto::v1::history_service_server::HistoryServiceServer;
use berth_proto::v1::host_service_server::HostServiceServer;
use berth_proto::v1::image_service_server::ImageServiceServer;
use berth_proto::v1::instance_type_service_server::InstanceTypeServiceServer;
use berth_proto::v1::peer_service_server::PeerServiceServer;
use berth_proto::v1::placement_service_server::PlacementServiceServer;
use berth_proto::v1::preference_service_server::PreferenceServiceServer;
use berth_proto::v1::vm_service_server::VmServiceServer;
use berth_raft::{Handle, Member};
use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use crate::metrics::Counting;
use crate::peers::Peers;
use crate::trouble::Trouble;

/// What the services share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) control: Control,
    pub(crate) log: Handle,
    pub(crate) peers: Peers,
    /// This member as its configuration says; where it is reached now, the membership says.
    pub(crate) seat: Member,
    pub(crate) counting: Counting,
    /// Bytes that the log's store may take.
    pub(crate) store_limit: u64,
    /// Why this member takes no part, while it takes none.
    pub(crate) trouble: Trouble,
    pub(crate) shutdown: CancellationToken,
}

/// The largest request of an operator: user data of 1 MiB, labels and annotations, and room.
const ADMIN_REQUEST_LIMIT: usize = 2 << 20;
/// The largest message of a host: a full report of some hundred VMs.
const AGENT_MESSAGE_LIMIT: usize = 8 << 20;

/// A connection and who is at its other end, known to every call on it.
struct Connection(Accepted);

impl Connected for Connection {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        Peer(self.0.peer.clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Who is at the other end of a call's connection, as the certificate proved.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) Identity);

/// Lets a service serve only these roles, on every call.
fn only(roles: &'static [Role]) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        let peer = request.extensions().get::<Peer>().ok_or_else(error::no_certificate)?;
        if roles.contains(&peer.0.role()) { Ok(request) } else { Err(error::role_not_allowed(&peer.0, roles)) }
    }
}

/// Who may use the admin services. Controllers ask each other on behalf of their callers.
const ADMIN: &[Role] = &[Role::Operator, Role::Controller];

/// Serves until shut down.
pub(crate) async fn serve(
    context: Shared,
    incoming: impl Stream<Item = io::Result<Accepted>> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let shutdown = context.shutdown.clone();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<VmServiceServer<vm::Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(berth_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were compiled together with this program");
    tokio::spawn(report_health(health, context.trouble.clone(), shutdown.clone()));

    macro_rules! guarded {
        ($server:ident, $service:expr, $roles:expr, $limit:expr) => {
            InterceptedService::new($server::new($service).max_decoding_message_size($limit), only($roles))
        };
    }
    let limit = ADMIN_REQUEST_LIMIT;
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(Some(256))
        .layer(context.counting.clone())
        .layer(tower::util::MapResponseLayer::new(error::name_the_limit))
        .add_service(guarded!(VmServiceServer, vm::Service(context.clone()), ADMIN, limit))
        .add_service(guarded!(HostServiceServer, host::Service(context.clone()), ADMIN, limit))
        .add_service(guarded!(ImageServiceServer, image::Service(context.clone()), ADMIN, limit))
        .add_service(guarded!(InstanceTypeServiceServer, instancetype::Service(context.clone()), ADMIN, limit))
        .add_service(guarded!(PlacementServiceServer, room::Service::new(context.clone()), ADMIN, limit))
        .add_service(guarded!(PreferenceServiceServer, preference::Service(context.clone()), ADMIN, limit))
        .add_service(guarded!(ClusterServiceServer, cluster::Service(context.clone()), ADMIN, limit))
        .add_service(guarded!(HistoryServiceServer, history::Service(context.clone()), ADMIN, limit))
        .add_service(guarded!(BackupServiceServer, backup::Service(context.clone()), &[Role::Operator], limit))
        .add_service(guarded!(ConsoleServiceServer, console::Service(context.clone()), ADMIN, limit))
        .add_service(guarded!(PeerServiceServer, peer::Service(context.clone()), &[Role::Controller], limit))
        .add_service(guarded!(AgentServiceServer, agent::Service(context.clone()), &[Role::Host], AGENT_MESSAGE_LIMIT))
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(incoming.map(|accepted| accepted.map(Connection)), shutdown.cancelled_owned())
        .await
}

/// Health follows the log: a member whose store failed does not serve.
async fn report_health(
    health: tonic_health::server::HealthReporter,
    mut trouble: Trouble,
    shutdown: CancellationToken,
) {
    loop {
        let status = match &*trouble.borrow_and_update() {
            None => tonic_health::ServingStatus::Serving,
            Some(_) => tonic_health::ServingStatus::NotServing,
        };
        for service in ["", berth_proto::v1::vm_service_server::SERVICE_NAME] {
            health.set_service_status(service, status).await;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = trouble.changed() => if changed.is_err() { return },
        }
    }
}
