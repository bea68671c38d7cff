//! How the consensus reaches the other members.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::convert::Appended;
use super::peers::{Lane, Peers};
use super::service::FORGOTTEN;
use super::{convert, proto, transfer};
use crate::snapshot::SnapshotFile;
use crate::types::{Address, Snapshot, Types, Vote};

/// How long a member may take to answer an append before its stream is given up and started anew. Longer than a slow disk
/// needs for a barrier, and shorter than an operator's patience: the leader's lease does not depend on it.
const APPEND_PATIENCE: Duration = Duration::from_secs(2);

/// Makes a [`Network`] for each member.
pub(crate) struct Factory {
    pub(crate) peers: Arc<Peers>,
}

/// The way to one member.
pub(crate) struct Network {
    peers: Arc<Peers>,
    target: u64,
    /// As it was when the consensus first called.
    address: Address,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &Address) -> Network {
        Network { peers: Arc::clone(&self.peers), target, address: node.clone() }
    }
}

impl Network {
    fn address(&self) -> Address {
        self.peers.address(self.target).unwrap_or_else(|| self.address.clone())
    }

    fn client(&self, lane: Lane) -> proto::raft_client::RaftClient<tonic::transport::Channel> {
        self.peers.client(&self.address().member(self.target), lane)
    }

    fn belief(&self) -> proto::Belief {
        let address = self.address();
        proto::Belief { lineage: address.lineage, receiver_is_seated: address.is_seated }
    }

    fn learnt(&self) -> Learnt {
        Learnt { peers: Arc::clone(&self.peers), target: self.target }
    }
}

/// Keeps what answers tell about the member at the other end.
#[derive(Clone)]
struct Learnt {
    peers: Arc<Peers>,
    target: u64,
}

impl Learnt {
    /// The consensus' error for a call that failed.
    fn failed(&self, status: &Status) -> RpcError {
        if status.code() == FORGOTTEN {
            self.peers.set_forgotten(self.target);
        }
        rpc_error(status)
    }

    /// Notes what an append came to. A member that lost what it had acknowledged is not let back in.
    #[expect(clippy::result_large_err, reason = "the error is the consensus' own, and as large as that makes it")]
    fn appended(&self, ballot: Vote, appended: Appended) -> Result<StreamAppendResult<Types>, RpcError> {
        match &appended {
            Ok(Some(last)) => self.peers.acknowledged(self.target, ballot, last.index),
            Err(StreamAppendError::Conflict(at)) if self.peers.conflicts(self.target, ballot, at.index) => {
                let reason = format!("member {} has lost entry {}, which it had acknowledged", self.target, at.index);
                return Err(RPCError::Unreachable(Unreachable::from_string(reason)));
            }
            Ok(None) | Err(_) => {}
        }
        Ok(appended)
    }
}

type RpcError = RPCError<Types>;

/// No connection: wait before the next attempt. Anything else may be tried again at once.
fn rpc_error(status: &Status) -> RpcError {
    if super::peers::was_never_sent(status) || status.code() == tonic::Code::Unavailable {
        RPCError::Unreachable(Unreachable::from_string(describe(status)))
    } else if [tonic::Code::PermissionDenied, FORGOTTEN].contains(&status.code()) {
        // It will say the same until the membership changes there.
        RPCError::Unreachable(Unreachable::from_string(describe(status)))
    } else {
        RPCError::Network(NetworkError::from_string(describe(status)))
    }
}

fn describe(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

/// Bounds a call by the time that the consensus gives it.
async fn bounded<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    option: &RPCOption,
    learnt: &Learnt,
) -> Result<T, RpcError> {
    match timeout(option.hard_ttl(), call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(learnt.failed(&status)),
        Err(_) => Err(RPCError::Network(NetworkError::from_string("no answer in time"))),
    }
}

impl RaftNetworkV2<Types> for Network {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RpcError> {
        let mut responses = self.stream_append(stream::iter([request]), option).await?;
        match responses.next().await {
            Some(result) => Ok(result?.into()),
            None => Err(RPCError::Network(NetworkError::from_string("an append was not answered"))),
        }
    }

    fn stream_append<S>(
        &mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'_, Result<BoxStream<'_, Result<StreamAppendResult<Types>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let mut client = self.client(Lane::Calls);
        let (belief, learnt) = (self.belief(), self.learnt());
        Box::pin(async move {
            // The pause after an error lies before the first request. Connecting before asking for that would skip it, and a
            // member that is down would be called as fast as its machine can refuse.
            let mut input = input;
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            // One stream, one leader, one ballot.
            let ballot = first.vote;
            let input = stream::iter([first]).chain(input);
            let pending = Pending::default();
            let sent = pending.clone();
            // An entry that cannot be put on the wire ends the stream, and the error is told in the place of its answer.
            let requests = input.map(move |request| {
                sent.push();
                convert::append_to_wire(&request, belief)
            });
            let failure = Arc::new(Mutex::new(None));
            let told = Arc::clone(&failure);
            let requests = requests.scan((), move |(), request| {
                let request = request.map_err(|status| *lock(&told) = Some(status)).ok();
                async move { request }
            });
            let responses = match timeout(APPEND_PATIENCE, client.append(requests)).await {
                Ok(Ok(response)) => response.into_inner(),
                Ok(Err(status)) => return Err(learnt.failed(&status)),
                Err(_) => return Err(RPCError::Network(NetworkError::from_string("no answer in time"))),
            };
            let responses = stream::unfold(Some((responses, pending)), move |state| {
                let failure = Arc::clone(&failure);
                let learnt = learnt.clone();
                async move {
                    let (mut responses, pending) = state?;
                    let answer = next_response(&mut responses, &pending, &learnt).await;
                    let answer = lock(&failure).take().map_or(answer, |status| Some(Err(rpc_error(&status))))?;
                    let answer = match answer {
                        Ok(appended) => learnt.appended(ballot, appended),
                        Err(error) => Err(error),
                    };
                    // Whatever is not plain success ends the stream: what was sent after it is void.
                    let goes_on = matches!(answer, Ok(Ok(_)));
                    Some((answer, goes_on.then_some((responses, pending))))
                }
            });
            Ok(responses.boxed())
        })
    }

    async fn vote(&mut self, request: VoteRequest<Types>, option: RPCOption) -> Result<VoteResponse<Types>, RpcError> {
        let mut client = self.client(Lane::Calls);
        let response =
            bounded(client.vote(convert::vote_to_wire(&request, self.belief())), &option, &self.learnt()).await?;
        convert::voted_from_wire(response).map_err(|status| rpc_error(&status))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RpcError> {
        let mut client = self.client(Lane::Calls);
        let response =
            bounded(client.pre_vote(convert::vote_to_wire(&request, self.belief())), &option, &self.learnt()).await?;
        convert::voted_from_wire(response).map_err(|status| rpc_error(&status))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        // It may take as long as it takes; what is bounded is how long nothing may happen.
        let outgoing = transfer::Outgoing {
            peers: Arc::clone(&self.peers),
            target: self.target,
            belief: self.belief(),
            vote,
            snapshot,
            patience: option.hard_ttl(),
            is_there: false,
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            result = outgoing.send(self.client(Lane::Bulk)) => match result {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(status) => Err(self.learnt().failed(&status).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let mut client = self.client(Lane::Calls);
        let response = bounded(
            client.transfer_leader(convert::transfer_to_wire(&request, self.belief())),
            &option,
            &self.learnt(),
        )
        .await?;
        if response.refusal.is_empty() {
            Ok(Ok(()))
        } else {
            Err(RPCError::Network(NetworkError::from_string(response.refusal)))
        }
    }
}

/// When the requests were sent that are not answered yet.
#[derive(Clone, Default)]
struct Pending(Arc<Mutex<VecDeque<Instant>>>);

impl Pending {
    fn push(&self) {
        lock(&self.0).push_back(Instant::now());
    }

    fn pop(&self) {
        lock(&self.0).pop_front();
    }

    fn oldest(&self) -> Option<Instant> {
        lock(&self.0).front().copied()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next answer; an error if the oldest unanswered request has waited too long. `None` when the stream has ended.
async fn next_response(
    responses: &mut tonic::Streaming<proto::AppendResponse>,
    pending: &Pending,
    learnt: &Learnt,
) -> Option<Result<StreamAppendResult<Types>, RpcError>> {
    loop {
        // While nothing is under way there is nothing to wait for in vain: look again after a while.
        let patience = pending.oldest().map_or(APPEND_PATIENCE, |sent| (sent + APPEND_PATIENCE) - Instant::now());
        if patience.is_zero() {
            return Some(Err(RPCError::Network(NetworkError::from_string("an append was not answered in time"))));
        }
        return match timeout(patience, responses.message()).await {
            Err(_) => continue,
            Ok(Ok(None)) => None,
            Ok(Err(status)) => Some(Err(learnt.failed(&status))),
            Ok(Ok(Some(response))) => {
                pending.pop();
                Some(convert::appended_from_wire(response).map_err(|status| rpc_error(&status)))
            }
        };
    }
}
