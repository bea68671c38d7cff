//! What the rest of a program does with the log: propose, read, watch, hand over, stop.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::metrics::WaitError;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{Instant as _, ReadPolicy};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::error::{ProposeError, ReadError, TransferError};
use crate::net::peers::{Lane, Peers, was_never_sent};
use crate::net::proto;
use crate::options::Member;
use crate::snapshot::SnapshotStore;
use crate::status::{Leadership, MemberStatus, Role, State, Status};
use crate::store::log::Closer;
use crate::types::{Metrics, Payload, Raft};

/// How long to wait before asking for the leader again when nothing has been heard of a change.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A voter that was silent for longer than this is asked last to take over the lead, in milliseconds.
const SILENT_MS: u64 = 1000;

/// How the leader makes sure that it still leads before a read is answered. Both reads are linearizable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ReadMode {
    /// It asks a majority, at the cost of one round to the members. Needs no clock.
    #[default]
    Index,
    /// It relies on a majority having answered a moment ago: within half the time for which the members grant nobody else
    /// their vote. That costs no round, and is right as long as no member's clock runs twice as fast as another's; the
    /// leader's must not stand still either, as it does while a virtual machine is suspended. An older answer makes it ask
    /// as for [`Self::Index`].
    Lease,
}

/// An opened member. Cheap to clone; all clones mean the same member.
#[derive(Clone)]
pub struct Handle {
    local: Arc<Local>,
    leadership: watch::Receiver<Leadership>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Handle").field("id", &self.local.id).finish_non_exhaustive()
    }
}

/// This member, as handle and service share it.
pub(crate) struct Local {
    pub(crate) id: u64,
    pub(crate) raft: Raft,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) max_payload_bytes: usize,
    /// How old a majority's word may be for a lease read.
    pub(crate) read_lease: Duration,
    /// Whether the consensus has ended without saying why.
    pub(crate) has_vanished: AtomicBool,
    pub(crate) closer: Mutex<Option<Closer>>,
}

/// Where the leader is.
enum Leader {
    Here,
    There(Member),
    Nowhere,
}

impl Local {
    fn metrics(&self) -> Metrics {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.clone()
    }

    fn state(&self, metrics: &Metrics) -> State {
        match &metrics.running_state {
            Ok(()) if self.has_vanished.load(Ordering::Acquire) => {
                State::Failed("the consensus ended unexpectedly".to_owned())
            }
            Ok(()) => State::Running,
            Err(Fatal::Stopped) => State::Stopped,
            Err(fatal) => State::Failed(fatal.to_string()),
        }
    }

    /// Why this member takes no part, if it does not.
    fn stopped(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match self.state(&metrics) {
            State::Running => None,
            State::Stopped => Some("it was shut down".to_owned()),
            State::Failed(reason) => Some(reason),
        }
    }

    fn leader(&self) -> Leader {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match current_leader(&metrics) {
            Some(member) if member.id == self.id => Leader::Here,
            Some(member) => Leader::There(member),
            None => Leader::Nowhere,
        }
    }

    /// Proposes on this member, which must lead: otherwise [`ProposeError::NoLeader`].
    pub(crate) async fn propose_here(&self, payload: Bytes, patience: Duration) -> Result<Bytes, ProposeError> {
        if let Some(reason) = self.stopped() {
            return Err(ProposeError::Stopped { reason });
        }
        let (size, limit) = (payload.len(), self.max_payload_bytes);
        if size > limit {
            return Err(ProposeError::TooLarge { size, limit });
        }
        let unknown = |reason: String| Err(ProposeError::Unknown { reason });
        match timeout(patience, self.raft.client_write(Payload(payload))).await {
            Ok(Ok(response)) => Ok(response.data),
            Ok(Err(RaftError::APIError(error))) => match error {
                ClientWriteError::ForwardToLeader(_) => Err(ProposeError::NoLeader),
                ClientWriteError::LogEntryDiscarded(_) => unknown("another leader took over meanwhile".to_owned()),
                ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
                    unknown(error.to_string())
                }
            },
            Ok(Err(RaftError::Fatal(fatal))) => unknown(format!("the leader stopped meanwhile: {fatal}")),
            Err(_) => unknown("no majority of the members confirmed it in time".to_owned()),
        }
    }

    /// Asks the leader to propose.
    async fn forward(&self, leader: &Member, payload: Bytes, patience: Duration) -> Result<Bytes, ProposeError> {
        use proto::propose_response::Outcome;
        let unknown = |reason: String| Err(ProposeError::Unknown { reason });
        let mut client = self.peers.client(leader, Lane::Calls);
        let size = payload.len();
        let request = proto::ProposeRequest { payload, timeout_ms: millis(patience) };
        match timeout(patience, client.propose(request)).await {
            Err(_) => unknown(format!("the leader {} did not answer in time", leader.name)),
            Ok(Err(status)) if was_never_sent(&status) || status.code() == tonic::Code::PermissionDenied => {
                Err(ProposeError::NoLeader)
            }
            Ok(Err(status)) => {
                unknown(format!("the connection to the leader {} broke: {}", leader.name, status.message()))
            }
            Ok(Ok(response)) => match response.into_inner().outcome {
                Some(Outcome::Response(response)) => Ok(response),
                // A leader that has stopped leads no more; another one may be found.
                Some(Outcome::NotLeader(proto::NotLeader {}) | Outcome::Stopped(_)) => Err(ProposeError::NoLeader),
                Some(Outcome::Unknown(reason)) => unknown(reason),
                Some(Outcome::TooLarge(limit)) => {
                    Err(ProposeError::TooLarge { size, limit: usize::try_from(limit).unwrap_or(usize::MAX) })
                }
                None => unknown(format!("the leader {} answered without an outcome", leader.name)),
            },
        }
    }

    /// The index up to which a reader must have applied; this member must lead: otherwise [`ReadError::NoLeader`].
    pub(crate) async fn read_index_here(&self, mode: ReadMode, patience: Duration) -> Result<u64, ReadError> {
        if let Some(reason) = self.stopped() {
            return Err(ReadError::Stopped { reason });
        }
        let option = match mode {
            ReadMode::Index => LinearizerOption::from(ReadPolicy::ReadIndex),
            ReadMode::Lease => LinearizerOption::new(Some(self.read_lease), true),
        };
        match timeout(patience, self.raft.get_read_linearizer(option)).await {
            Ok(Ok(read)) => Ok(read.read_log_id().index()),
            Ok(Err(RaftError::APIError(
                LinearizableReadError::ForwardToLeader(_) | LinearizableReadError::QuorumNotEnough(_),
            )))
            | Err(_) => Err(ReadError::NoLeader),
            Ok(Err(RaftError::Fatal(fatal))) => Err(ReadError::Stopped { reason: fatal.to_string() }),
        }
    }

    /// Asks the leader up to which index a reader must have applied.
    async fn ask_read_index(&self, leader: &Member, mode: ReadMode, patience: Duration) -> Result<u64, ReadError> {
        use proto::read_index_response::Outcome;
        let mut client = self.peers.client(leader, Lane::Calls);
        let request = proto::ReadIndexRequest { timeout_ms: millis(patience), lease: mode == ReadMode::Lease };
        let Ok(Ok(response)) = timeout(patience, client.read_index(request)).await else {
            // Asking twice does no harm, so every failure is the same.
            return Err(ReadError::NoLeader);
        };
        match response.into_inner().outcome {
            Some(Outcome::Index(index)) => Ok(index),
            Some(Outcome::NotLeader(proto::NotLeader {}) | Outcome::Stopped(_)) | None => Err(ReadError::NoLeader),
        }
    }
}

impl Handle {
    pub(crate) fn new(local: Arc<Local>) -> Self {
        let (sender, leadership) = watch::channel(leadership_of(&local.metrics(), &local));
        tokio::spawn(watch_leadership(Arc::clone(&local), sender));
        Self { local, leadership }
    }

    /// Proposes a change, wherever the leader is, and returns the state machine's answer once the change is applied there.
    ///
    /// While no leader can be reached this waits for one, up to `timeout`.
    ///
    /// # Errors
    /// See [`ProposeError`]: only [`ProposeError::Unknown`] leaves open whether the change was made.
    pub async fn propose(&self, payload: Bytes, timeout: Duration) -> Result<Bytes, ProposeError> {
        let local = &self.local;
        if let Some(reason) = local.stopped() {
            return Err(ProposeError::Stopped { reason });
        }
        let (size, limit) = (payload.len(), local.max_payload_bytes);
        if size > limit {
            return Err(ProposeError::TooLarge { size, limit });
        }
        let attempt = async |leader: Leader, patience| match leader {
            Leader::Here => local.propose_here(payload.clone(), patience).await,
            Leader::There(member) => local.forward(&member, payload.clone(), patience).await,
            Leader::Nowhere => Err(ProposeError::NoLeader),
        };
        self.until_led(
            timeout,
            attempt,
            |error| *error == ProposeError::NoLeader,
            |reason| ProposeError::Stopped { reason },
        )
        .await
    }

    /// Proposes a change on this member alone: if it does not lead at this moment, nothing is proposed. For what a leader
    /// says as the leader, which must not be said in its name after another one took over.
    ///
    /// # Errors
    /// See [`ProposeError`]; [`ProposeError::NoLeader`] if this member does not lead.
    pub async fn propose_leading(&self, payload: Bytes, timeout: Duration) -> Result<Bytes, ProposeError> {
        self.local.propose_here(payload, timeout).await
    }

    /// Waits until what this member has applied reflects every change that was acknowledged anywhere before this call, and
    /// returns the index up to which that is so. A read of the state machine after it is linearizable.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_barrier(&self, mode: ReadMode, timeout: Duration) -> Result<u64, ReadError> {
        let local = &self.local;
        let deadline = Instant::now() + timeout;
        let attempt = async |leader: Leader, patience| match leader {
            Leader::Here => local.read_index_here(mode, patience).await,
            Leader::There(member) => local.ask_read_index(&member, mode, patience).await,
            Leader::Nowhere => Err(ReadError::NoLeader),
        };
        let stopped = |reason| ReadError::Stopped { reason };
        let wanted = self.until_led(timeout, attempt, |error| *error == ReadError::NoLeader, stopped).await?;
        let remaining = deadline.saturating_duration_since(Instant::now());
        match local.raft.wait(Some(remaining)).applied_index_at_least(Some(wanted), "read barrier").await {
            Ok(_) => Ok(wanted),
            Err(WaitError::Timeout(..)) => {
                let applied = local.metrics().last_applied.map(|id| id.index);
                Err(ReadError::Behind { wanted, applied })
            }
            Err(WaitError::ShuttingDown) => {
                Err(stopped(local.stopped().unwrap_or_else(|| "it is shutting down".to_owned())))
            }
        }
    }

    /// Who leads, now and at each change.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// This member's picture of the cluster.
    pub fn status(&self) -> Status {
        let metrics = self.local.metrics();
        let state = self.local.state(&metrics);
        let leader = (state == State::Running).then(|| current_leader(&metrics)).flatten();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let leads = leader.as_ref().is_some_and(|leader| leader.id == self.local.id);
        let members = membership
            .nodes()
            .map(|(&id, address)| {
                let is_self = id == self.local.id;
                let replicated = match &metrics.replication {
                    Some(_) if leads && is_self => metrics.last_log_index,
                    Some(progress) if leads => progress.get(&id).copied().flatten().map(|log| log.index),
                    Some(_) | None => None,
                };
                let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&id)).copied().flatten();
                MemberStatus {
                    member: address.member(id),
                    role: if voters.contains(&id) { Role::Voter } else { Role::Learner },
                    is_leader: leader.as_ref().is_some_and(|leader| leader.id == id),
                    replicated,
                    silent_ms: if !leads {
                        None
                    } else if is_self {
                        Some(0)
                    } else {
                        heard.map(|at| millis(at.elapsed()))
                    },
                }
            })
            .collect();
        Status {
            id: self.local.id,
            state,
            term: metrics.current_term,
            leader,
            members,
            last_log: metrics.last_log_index,
            committed: metrics.local_committed.map(|id| id.index),
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
        }
    }

    /// Hands the lead over to `to`, or to the voter that is furthest, and waits until it has taken it: for a planned stop
    /// without the wait for an election.
    ///
    /// # Errors
    /// See [`TransferError`]; after any of them this member may still lead.
    pub async fn transfer_leadership(&self, to: Option<u64>, timeout: Duration) -> Result<Member, TransferError> {
        let status = self.status();
        let stopped = |reason: String| TransferError::Stopped { reason };
        match status.state {
            State::Running => {}
            State::Stopped => return Err(stopped("it was shut down".to_owned())),
            State::Failed(reason) => return Err(stopped(reason)),
        }
        if status.leader.as_ref().is_none_or(|leader| leader.id != self.local.id) {
            return Err(TransferError::NotLeader { leader: status.leader.map(|leader| leader.name) });
        }
        let candidate = status
            .members
            .iter()
            .filter(|member| member.role == Role::Voter && !member.is_leader)
            .filter(|member| to.is_none_or(|to| member.member.id == to))
            .max_by_key(|member| (member.silent_ms.is_some_and(|silent| silent < SILENT_MS), member.replicated))
            .ok_or(TransferError::NoCandidate { to })?
            .member
            .id;
        let mut leadership = self.leadership();
        self.local.raft.trigger().transfer_leader(candidate).await.map_err(|fatal| stopped(fatal.to_string()))?;
        let own = self.local.id;
        let taken = |now: &Leadership| now.leader.as_ref().is_some_and(|leader| leader.id != own);
        match tokio::time::timeout(timeout, leadership.wait_for(taken)).await {
            Ok(Ok(now)) => now.leader.clone().ok_or(TransferError::TimedOut),
            Ok(Err(_)) => Err(stopped("it is shutting down".to_owned())),
            Err(_) => Err(TransferError::TimedOut),
        }
    }

    /// Stops this member: it takes no further part, everything it stored is on the disk, and its directory may be opened
    /// again. The service must be ended by its own shutdown.
    pub async fn shutdown(&self) {
        if let Err(error) = self.local.raft.shutdown().await {
            tracing::warn!(%error, "the consensus did not end cleanly");
        }
        let closer = self.local.closer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(closer) = closer {
            closer.close().await;
        }
    }

    /// Repeats an attempt that needs the leader until it got somewhere or the time is up.
    async fn until_led<T, E, F: Future<Output = Result<T, E>>>(
        &self,
        patience: Duration,
        attempt: impl Fn(Leader, Duration) -> F,
        is_leaderless: impl Fn(&E) -> bool,
        stopped: impl Fn(String) -> E,
    ) -> Result<T, E> {
        let deadline = Instant::now() + patience;
        let mut metrics = self.local.raft.metrics();
        loop {
            if let Some(reason) = self.local.stopped() {
                return Err(stopped(reason));
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            let result = attempt(self.local.leader(), remaining).await;
            let pause = LOOK_AGAIN.min(deadline.saturating_duration_since(Instant::now()));
            match result {
                Err(error) if is_leaderless(&error) && !pause.is_zero() => {
                    // Whether something changed or not: look again. A watch whose sender is gone must not spin.
                    let changed = async {
                        if metrics.changed().await.is_err() {
                            std::future::pending::<()>().await;
                        }
                    };
                    drop(timeout(pause, changed).await);
                }
                result => return result,
            }
        }
    }
}

/// Keeps the watch of the leadership current until the consensus ends.
async fn watch_leadership(local: Arc<Local>, sender: watch::Sender<Leadership>) {
    let mut metrics = local.raft.metrics();
    loop {
        let next = leadership_of(&local.metrics(), &local);
        sender.send_if_modified(|now| {
            let is_new = *now != next;
            if is_new {
                *now = next;
            }
            is_new
        });
        if metrics.changed().await.is_err() {
            break;
        }
    }
    local.has_vanished.store(true, Ordering::Release);
    let next = leadership_of(&local.metrics(), &local);
    sender.send_replace(next);
}

fn leadership_of(metrics: &Metrics, local: &Local) -> Leadership {
    let leader = (local.state(metrics) == State::Running).then(|| current_leader(metrics)).flatten();
    let is_leader = metrics.state.is_leader() && leader.as_ref().is_some_and(|leader| leader.id == local.id);
    Leadership { term: metrics.current_term, leader, is_leader }
}

fn current_leader(metrics: &Metrics) -> Option<Member> {
    let id = metrics.current_leader?;
    metrics.membership_config.membership().get_node(&id).map(|address| address.member(id))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
