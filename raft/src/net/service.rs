//! Answers the other members.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{BoxStream, Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::proto::raft_server::{Raft as RaftService, RaftServer};
use super::{MESSAGE_BYTES, convert, proto};
use crate::error::{ProposeError, ReadError, ServeError};
use crate::handle::{Local, ReadMode};
use crate::options::{Io, PeerIo};
use crate::snapshot::Incoming;
use crate::store::log::blocking;
use crate::types::{Raft, Vote};

/// How long calls may go on after the shutdown was asked for.
const GRACE: Duration = Duration::from_secs(2);

/// A peer that says nothing for this long is asked whether it still lives, and dropped if it does not answer in time.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// The serving half of an opened member.
pub struct Service {
    pub(crate) local: Arc<Local>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Service").finish_non_exhaustive()
    }
}

impl Service {
    /// Answers the members whose streams come in, until `shutdown` is ready; calls under way then get two seconds.
    ///
    /// An error in `incoming` is logged and passed over; its end ends the service.
    ///
    /// # Errors
    /// If the transport itself fails, which it does for no peer's sake.
    pub async fn run(
        self,
        incoming: impl Stream<Item = io::Result<PeerIo>> + Send + 'static,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let ended = CancellationToken::new();
        let answers = Answers { local: self.local, ended: ended.clone() };
        let service =
            RaftServer::new(answers).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
        let incoming = incoming.filter_map(async |peer| match peer {
            Ok(PeerIo { io, peer }) => Some(Ok::<_, io::Error>(Identified { io, peer })),
            Err(error) => {
                tracing::warn!(%error, "a member's connection did not come about");
                None
            }
        });
        let serving = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, ended.clone().cancelled_owned());
        tokio::pin!(serving);
        tokio::select! {
            result = &mut serving => return result.map_err(|error| ServeError(error.into())),
            () = shutdown => ended.cancel(),
        }
        match tokio::time::timeout(GRACE, serving).await {
            Ok(result) => result.map_err(|error| ServeError(error.into())),
            // A peer that holds its end open must not keep us from ending.
            Err(_) => Ok(()),
        }
    }
}

/// A stream with the proven name of who is at its other end.
struct Identified {
    io: Box<dyn Io>,
    peer: String,
}

/// The proven name of a peer, as the calls see it.
#[derive(Clone)]
struct Peer(String);

impl Connected for Identified {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer(self.peer.clone())
    }
}

impl AsyncRead for Identified {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl AsyncWrite for Identified {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Answers calls.
struct Answers {
    local: Arc<Local>,
    /// Cancelled when the service is to end.
    ended: CancellationToken,
}

impl Answers {
    fn raft(&self) -> &Raft {
        &self.local.raft
    }
}

/// The proven name of the caller.
fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>().cloned();
    peer.ok_or_else(|| Status::unauthenticated("the connection names no member"))
}

/// Refuses a caller that is no member, and one that speaks for another member. While there is no membership at all, this
/// member is still to be taken up by some cluster, and hears whoever has been authenticated.
fn admit(raft: &Raft, Peer(name): &Peer, speaks_for: Option<&Vote>) -> Result<(), Status> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let mut members = membership.nodes().peekable();
    if members.peek().is_none() {
        return Ok(());
    }
    let Some((id, _)) = members.find(|(_, address)| address.name == *name) else {
        return Err(Status::permission_denied(format!("{name:?} is not a member of this cluster")));
    };
    match speaks_for {
        Some(vote) if vote.leader_id.voted_for != *id => {
            let other = vote.leader_id.voted_for;
            Err(Status::permission_denied(format!("{name:?} is member {id} and must not speak for member {other}")))
        }
        Some(_) | None => Ok(()),
    }
}

fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this member has stopped: {error}"))
}

#[tonic::async_trait]
impl RaftService for Answers {
    type AppendStream = BoxStream<'static, Result<proto::AppendResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let peer = peer(&request)?;
        admit(self.raft(), &peer, None)?;
        let raft = self.raft().clone();
        let ended = self.ended.clone();
        let refusal = Arc::new(std::sync::Mutex::new(None));
        let refused = Arc::clone(&refusal);
        // The first request that cannot be taken ends the stream, after the answers to those before it.
        let requests = request.into_inner().take_until(ended.cancelled_owned()).scan((), move |(), request| {
            let taken = request.and_then(convert::append_from_wire).and_then(|request| {
                admit(&raft, &peer, Some(&request.vote))?;
                Ok(request)
            });
            let taken = taken.map_err(|status| *set(&refused) = Some(status)).ok();
            async move { taken }
        });
        let responses = self.raft().stream_append(requests);
        let responses = responses.map(|result| match result {
            Ok(appended) => Ok(convert::appended_to_wire(&appended)),
            Err(fatal) => Err(unavailable(fatal)),
        });
        let last = futures::stream::once(async move { set(&refusal).take().map(Err) });
        Ok(Response::new(responses.chain(last.filter_map(async |refusal| refusal)).boxed()))
    }

    async fn vote(&self, request: Request<proto::VoteRequest>) -> Result<Response<proto::VoteResponse>, Status> {
        let peer = peer(&request)?;
        let request = convert::vote_from_wire(request.into_inner())?;
        admit(self.raft(), &peer, Some(&request.vote))?;
        let response = self.raft().vote(request).await.map_err(unavailable)?;
        Ok(Response::new(convert::voted_to_wire(&response)))
    }

    async fn pre_vote(&self, request: Request<proto::VoteRequest>) -> Result<Response<proto::VoteResponse>, Status> {
        let peer = peer(&request)?;
        let request = convert::vote_from_wire(request.into_inner())?;
        admit(self.raft(), &peer, Some(&request.vote))?;
        let response = self.raft().pre_vote(request).await.map_err(unavailable)?;
        Ok(Response::new(convert::voted_to_wire(&response)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        let peer = peer(&request)?;
        admit(self.raft(), &peer, None)?;
        let mut chunks = request.into_inner();
        let mut vote: Option<Vote> = None;
        let snapshots = Arc::clone(&self.local.snapshots);
        let storing = |error: io::Error| Status::internal(format!("the snapshot cannot be stored: {error}"));
        let mut incoming: Incoming = blocking(move || snapshots.receive()).await.map_err(storing)?;
        while let Some(proto::SnapshotChunk { ballot, data }) = chunks.message().await? {
            if vote.is_none() {
                let announced = convert::ballot(ballot)?;
                admit(self.raft(), &peer, Some(&announced))?;
                vote = Some(announced);
            }
            incoming = blocking(move || incoming.push(&data).map(|()| incoming)).await.map_err(storing)?;
        }
        let vote = vote.ok_or_else(|| Status::invalid_argument("the snapshot is empty"))?;
        let snapshot =
            blocking(move || incoming.finish()).await.map_err(|error| Status::data_loss(error.to_string()))?;
        let response = self.raft().install_full_snapshot(vote, snapshot).await.map_err(unavailable)?;
        Ok(Response::new(proto::SnapshotResponse { ballot: Some(convert::ballot_to_wire(response.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        let peer = peer(&request)?;
        let request = convert::transfer_from_wire(request.into_inner())?;
        admit(self.raft(), &peer, Some(request.from_leader()))?;
        let response = self.raft().handle_transfer_leader(request).await.map_err(unavailable)?;
        let refusal = response.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(proto::TransferLeaderResponse { refusal }))
    }

    async fn propose(
        &self,
        request: Request<proto::ProposeRequest>,
    ) -> Result<Response<proto::ProposeResponse>, Status> {
        use proto::propose_response::Outcome;
        admit(self.raft(), &peer(&request)?, None)?;
        let proto::ProposeRequest { payload, timeout_ms } = request.into_inner();
        let outcome = match self.local.propose_here(payload, Duration::from_millis(timeout_ms)).await {
            Ok(response) => Outcome::Response(response),
            Err(ProposeError::NoLeader) => Outcome::NotLeader(proto::NotLeader {}),
            Err(ProposeError::Unknown { reason }) => Outcome::Unknown(reason),
            Err(ProposeError::Stopped { reason }) => Outcome::Stopped(reason),
            Err(ProposeError::TooLarge { size: _, limit }) => {
                Outcome::TooLarge(u64::try_from(limit).unwrap_or(u64::MAX))
            }
        };
        Ok(Response::new(proto::ProposeResponse { outcome: Some(outcome) }))
    }

    async fn read_index(
        &self,
        request: Request<proto::ReadIndexRequest>,
    ) -> Result<Response<proto::ReadIndexResponse>, Status> {
        use proto::read_index_response::Outcome;
        admit(self.raft(), &peer(&request)?, None)?;
        let proto::ReadIndexRequest { timeout_ms, lease } = request.into_inner();
        let mode = if lease { ReadMode::Lease } else { ReadMode::Index };
        let outcome = match self.local.read_index_here(mode, Duration::from_millis(timeout_ms)).await {
            Ok(index) => Outcome::Index(index),
            Err(ReadError::NoLeader | ReadError::Behind { .. }) => Outcome::NotLeader(proto::NotLeader {}),
            Err(ReadError::Stopped { reason }) => Outcome::Stopped(reason),
        };
        Ok(Response::new(proto::ReadIndexResponse { outcome: Some(outcome) }))
    }
}

fn set<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
