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

use super::convert::Asked;
use super::proto::raft_server::{Raft as RaftService, RaftServer};
use super::{MESSAGE_BYTES, convert, proto, transfer};
use crate::error::{MembershipError, ProposeError, ReadError, ServeError, TransferError};
use crate::handle::ReadMode;
use crate::local::{Local, is_young};
use crate::membership::forgotten;
use crate::options::{Io, PeerIo};
use crate::slot::Slot;
use crate::types::Vote;

/// How long calls may go on after the shutdown was asked for.
const GRACE: Duration = Duration::from_secs(2);

/// A peer that says nothing for this long is asked whether it still lives, and dropped if it does not answer in time.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// The serving half of an opened member.
pub struct Service {
    pub(crate) slot: Arc<Slot>,
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
        let answers = Answers { slot: self.slot, ended: ended.clone() };
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
    slot: Arc<Slot>,
    /// Cancelled when the service is to end.
    ended: CancellationToken,
}

impl Answers {
    fn local(&self) -> Arc<Local> {
        self.slot.local()
    }
}

/// The proven name of the caller.
fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>().cloned();
    peer.ok_or_else(|| Status::unauthenticated("the connection names no member"))
}

/// What a member that lost its memory answers with.
pub(super) const FORGOTTEN: tonic::Code = tonic::Code::FailedPrecondition;

/// What a message says about its sender.
#[derive(Clone, Copy)]
struct Claim<'a> {
    /// For whom it speaks.
    ballot: Option<&'a Vote>,
    /// What the sender believes.
    belief: Option<&'a proto::Belief>,
    /// Whether the ballot is one of a leader, who is to be heard even if this member was away when it was added.
    leads: bool,
}

impl Claim<'_> {
    const NONE: Self = Self { ballot: None, belief: None, leads: false };
}

/// Refuses a caller that is no member, one that speaks for another member, and one of another life of the cluster. While
/// there is no membership at all, this member is still to be taken up by some cluster, and hears whoever was authenticated.
///
/// A leader that this member does not know is heard if a majority elected it: the members may have been replaced one by one
/// while this one was away. A removed member never gets that far, because those that were not removed do not hear it.
///
/// A member with an empty directory that the sender knows as one that has acknowledged something must not take part.
fn admit(local: &Local, Peer(name): &Peer, claim: Claim<'_>) -> Result<(), Status> {
    let metrics = local.raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let own_lineage = membership.nodes().next().map(|(_, address)| address.lineage);
    if let (Some(own), Some(belief)) = (own_lineage, claim.belief)
        && own != belief.lineage
    {
        return Err(Status::permission_denied(
            "the cluster was restored meanwhile, and the caller belongs to what it was before; add it anew with an empty directory",
        ));
    }
    if claim.belief.is_some_and(|belief| belief.receiver_is_seated) && is_young(&metrics) {
        let address = membership.get_node(&local.id);
        let reason = forgotten(address.map_or("this member", |address| &address.name));
        drop(metrics);
        local.exclude(reason.clone());
        return Err(Status::new(FORGOTTEN, reason));
    }
    if local.is_excluded() {
        return Err(Status::permission_denied("this member is excluded from the cluster"));
    }
    if own_lineage.is_none() {
        return Ok(());
    }
    let id = membership.nodes().find(|(_, address)| address.name == *name).map(|(id, _)| *id);
    match (id, claim.ballot.map(|vote| vote.leader_id.voted_for)) {
        (Some(id), Some(other)) if other != id => {
            Err(Status::permission_denied(format!("{name:?} is member {id} and must not speak for member {other}")))
        }
        (Some(_), _) => Ok(()),
        (None, Some(other))
            if claim.leads
                && claim.ballot.is_some_and(|vote| vote.is_committed() && *vote >= metrics.vote)
                && membership.get_node(&other).is_none() =>
        {
            Ok(())
        }
        (None, _) => Err(Status::permission_denied(format!("{name:?} is not a member of this cluster"))),
    }
}

fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this member has stopped: {error}"))
}

#[tonic::async_trait]
impl RaftService for Answers {
    type AppendStream = BoxStream<'static, Result<proto::AppendResponse, Status>>;
    type InstallSnapshotStream = BoxStream<'static, Result<proto::SnapshotProgress, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let peer = peer(&request)?;
        let local = self.local();
        let raft = local.raft.clone();
        let ended = self.ended.clone();
        let refusal = Arc::new(std::sync::Mutex::new(None));
        let refused = Arc::clone(&refusal);
        // The first request that cannot be taken ends the stream, after the answers to those before it.
        let requests = request.into_inner().take_until(ended.cancelled_owned()).scan((), move |(), request| {
            let taken = request.and_then(|request| {
                let belief = request.belief;
                let request = convert::append_from_wire(request)?;
                let claim = Claim { ballot: Some(&request.vote), belief: belief.as_ref(), leads: true };
                admit(&local, &peer, claim)?;
                local.hear();
                Ok(request)
            });
            let taken = taken.map_err(|status| *set(&refused) = Some(status)).ok();
            async move { taken }
        });
        let responses = raft.stream_append(requests);
        let responses = responses.map(|result| match result {
            Ok(appended) => Ok(convert::appended_to_wire(&appended)),
            Err(fatal) => Err(unavailable(fatal)),
        });
        let last = futures::stream::once(async move { set(&refusal).take().map(Err) });
        Ok(Response::new(responses.chain(last.filter_map(async |refusal| refusal)).boxed()))
    }

    async fn vote(&self, request: Request<proto::VoteRequest>) -> Result<Response<proto::VoteResponse>, Status> {
        let local = self.local();
        let peer = peer(&request)?;
        let request = request.into_inner();
        let belief = request.belief;
        let request = convert::vote_from_wire(request)?;
        admit(&local, &peer, Claim { ballot: Some(&request.vote), belief: belief.as_ref(), leads: false })?;
        let response = local.raft.vote(request).await.map_err(unavailable)?;
        Ok(Response::new(convert::voted_to_wire(&response)))
    }

    async fn pre_vote(&self, request: Request<proto::VoteRequest>) -> Result<Response<proto::VoteResponse>, Status> {
        let local = self.local();
        let peer = peer(&request)?;
        let request = request.into_inner();
        let belief = request.belief;
        let request = convert::vote_from_wire(request)?;
        admit(&local, &peer, Claim { ballot: Some(&request.vote), belief: belief.as_ref(), leads: false })?;
        let response = local.raft.pre_vote(request).await.map_err(unavailable)?;
        Ok(Response::new(convert::voted_to_wire(&response)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotChunk>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        let local = self.local();
        let peer = peer(&request)?;
        let mut chunks = request.into_inner();
        let offer = chunks.message().await?.and_then(|first| first.offer);
        let offer = offer.ok_or_else(|| Status::invalid_argument("the first message offers no snapshot"))?;
        let vote = convert::ballot(offer.ballot)?;
        admit(&local, &peer, Claim { ballot: Some(&vote), belief: offer.belief.as_ref(), leads: true })?;
        let chunks = chunks.take_until(self.ended.clone().cancelled_owned()).boxed();
        Ok(Response::new(transfer::receive(local, offer, vote, chunks)))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        let local = self.local();
        let peer = peer(&request)?;
        let request = request.into_inner();
        let belief = request.belief;
        let request = convert::transfer_from_wire(request)?;
        let claim = Claim { ballot: Some(request.from_leader()), belief: belief.as_ref(), leads: false };
        admit(&local, &peer, claim)?;
        let response = local.raft.handle_transfer_leader(request).await.map_err(unavailable)?;
        let refusal = response.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(proto::TransferLeaderResponse { refusal }))
    }

    async fn propose(
        &self,
        request: Request<proto::ProposeRequest>,
    ) -> Result<Response<proto::ProposeResponse>, Status> {
        use proto::propose_response::Outcome;
        let local = self.local();
        admit(&local, &peer(&request)?, Claim::NONE)?;
        let proto::ProposeRequest { payload, timeout_ms } = request.into_inner();
        let outcome = match local.propose_here(payload, Duration::from_millis(timeout_ms)).await {
            Ok(response) => Outcome::Response(response),
            Err(ProposeError::NoLeader) => Outcome::NotLeader(proto::NotLeader {}),
            Err(ProposeError::Unknown { reason }) => Outcome::Unknown(reason),
            Err(ProposeError::Stopped { reason }) => Outcome::Stopped(reason),
            Err(ProposeError::Full { reason }) => Outcome::Full(reason),
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
        let local = self.local();
        admit(&local, &peer(&request)?, Claim::NONE)?;
        let proto::ReadIndexRequest { timeout_ms, lease } = request.into_inner();
        let mode = if lease { ReadMode::Lease } else { ReadMode::Index };
        let outcome = match local.read_index_here(mode, Duration::from_millis(timeout_ms)).await {
            Ok(index) => Outcome::Index(index),
            Err(ReadError::NoLeader | ReadError::Behind { .. }) => Outcome::NotLeader(proto::NotLeader {}),
            Err(ReadError::Stopped { reason }) => Outcome::Stopped(reason),
        };
        Ok(Response::new(proto::ReadIndexResponse { outcome: Some(outcome) }))
    }

    async fn change(&self, request: Request<proto::ChangeRequest>) -> Result<Response<proto::ChangeResponse>, Status> {
        use proto::change_response::Outcome;
        let local = self.local();
        admit(&local, &peer(&request)?, Claim::NONE)?;
        let proto::ChangeRequest { timeout_ms, change } = request.into_inner();
        let patience = Duration::from_millis(timeout_ms);
        let outcome = match convert::change_from_wire(change)? {
            Asked::Change(change) => match local.change_here(&change, patience).await {
                Ok(member) => Outcome::Done(convert::member_to_wire(member)),
                Err(MembershipError::NoLeader) => Outcome::NotLeader(proto::NotLeader {}),
                Err(MembershipError::Refused(refusal)) => Outcome::Refused(convert::refusal_to_wire(refusal)),
                Err(MembershipError::Unknown { reason }) => Outcome::Unknown(reason),
                Err(MembershipError::Stopped { reason }) => Outcome::Stopped(reason),
            },
            Asked::MoveLead(to) => match local.transfer_here(to, patience).await {
                Ok(member) => Outcome::Done(convert::member_to_wire(member)),
                Err(TransferError::NotLeader { .. }) => Outcome::NotLeader(proto::NotLeader {}),
                Err(TransferError::NoCandidate { .. }) => Outcome::NoCandidate(proto::NoCandidate {}),
                Err(TransferError::NotReady { name, reason }) => Outcome::NotReady(proto::NotReady { name, reason }),
                Err(error @ TransferError::TimedOut) => Outcome::Unknown(error.to_string()),
                Err(TransferError::Stopped { reason }) => Outcome::Stopped(reason),
            },
        };
        Ok(Response::new(proto::ChangeResponse { outcome: Some(outcome) }))
    }

    async fn standing(
        &self,
        request: Request<proto::StandingRequest>,
    ) -> Result<Response<proto::StandingResponse>, Status> {
        let local = self.local();
        peer(&request)?;
        let excluded = local.judge(request.into_inner());
        Ok(Response::new(proto::StandingResponse { excluded }))
    }
}

fn set<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
