//! This member, as its handle, its service and its steward share it: what only the leader does is done here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::{ChangeMembers, Instant as _, ReadPolicy};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{MembershipError, ProposeError, ReadError, Refusal, RefusalKind, TransferError};
use crate::handle::ReadMode;
use crate::membership::{self, Change, Seat, Step, View};
use crate::meters::Meters;
use crate::net::convert::{id_from_wire, id_to_wire};
use crate::net::peers::Peers;
use crate::net::proto;
use crate::options::Member;
use crate::snapshot::SnapshotStore;
use crate::status::State;
use crate::store::log::{Closer, Gauge, blocking};
use crate::supervise::free_bytes;
use crate::types::{Address, LogId, Metrics, Payload, Raft};

/// A member that was silent for longer than this does not count as one that answers.
pub(crate) const SILENT: Duration = Duration::from_secs(1);

/// How long to wait before looking again at what keeps a change from being made.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A member that takes over the lead must not lag by more than this many entries: while it catches up, nobody can write.
const TRANSFER_LAG: u64 = 1000;

/// This member.
pub(crate) struct Local {
    pub(crate) id: u64,
    pub(crate) raft: Raft,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) max_payload_bytes: usize,
    /// How old a majority's word may be for a lease read.
    pub(crate) read_lease: Duration,
    /// A leader that has heard no majority for this long no longer says that it leads: another one may.
    pub(crate) lead_lease: Duration,
    /// Held while the members are changed.
    pub(crate) changes: tokio::sync::Mutex<()>,
    /// Up to which index the state machine has applied; closed when it is gone.
    pub(crate) applied: watch::Receiver<Option<u64>>,
    pub(crate) meters: Arc<Meters>,
    /// Why there is no room for proposals, if there is none.
    full: Mutex<Option<String>>,
    is_full: AtomicBool,
    /// Whether the state machine gave up, so that opening the member again would not help.
    is_beyond_help: Arc<AtomicBool>,
    pub(crate) gauge: Gauge,
    room: Room,
    /// Held while it closes, so that whoever closes a second time waits for the end of it.
    closer: tokio::sync::Mutex<Option<Closer>>,
    /// Whether the consensus has ended without saying why.
    has_vanished: AtomicBool,
    /// Why the cluster does not let this member take part, if it does not.
    excluded: Mutex<Option<String>>,
    opened: Instant,
    /// When a leader was heard last, in milliseconds since the opening.
    heard: AtomicU64,
}

/// Where the leader is.
pub(crate) enum Leader {
    Here,
    There(Member),
    Nowhere,
}

/// Who is to lead.
enum Heir {
    Here(Member),
    Other(u64),
}

/// What a [`Local`] is made of.
pub(crate) struct Parts {
    pub(crate) id: u64,
    pub(crate) raft: Raft,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) max_payload_bytes: usize,
    /// The longest wait for an election.
    pub(crate) election: Duration,
    pub(crate) closer: Closer,
    pub(crate) applied: watch::Receiver<Option<u64>>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) is_beyond_help: Arc<AtomicBool>,
    pub(crate) gauge: Gauge,
    pub(crate) room: Room,
}

/// How much the store may take.
pub(crate) struct Room {
    pub(crate) data_dir: PathBuf,
    pub(crate) max_store_bytes: u64,
    pub(crate) min_free_bytes: u64,
}

impl Local {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { id, raft, snapshots, peers, max_payload_bytes, election, closer, .. } = parts;
        let Parts { applied, meters, is_beyond_help, gauge, room, .. } = parts;
        Self {
            id,
            raft,
            snapshots,
            peers,
            max_payload_bytes,
            // The members grant no other vote for the longest election wait after they heard the leader.
            read_lease: election / 2,
            lead_lease: election * 2,
            changes: tokio::sync::Mutex::new(()),
            applied,
            meters,
            full: Mutex::new(None),
            is_full: AtomicBool::new(false),
            is_beyond_help,
            gauge,
            room,
            closer: tokio::sync::Mutex::new(Some(closer)),
            has_vanished: AtomicBool::new(false),
            excluded: Mutex::new(None),
            opened: Instant::now(),
            heard: AtomicU64::new(0),
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.clone()
    }

    pub(crate) fn state(&self, metrics: &Metrics) -> State {
        match &metrics.running_state {
            Ok(()) if self.has_vanished.load(Ordering::Acquire) => {
                State::Failed("the consensus ended unexpectedly".to_owned())
            }
            Ok(()) => self.lock_excluded().clone().map_or(State::Running, State::Excluded),
            Err(Fatal::Stopped) => State::Stopped,
            Err(fatal) => State::Failed(fatal.to_string()),
        }
    }

    /// Why this member takes no part, if it does not.
    pub(crate) fn stopped(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match self.state(&metrics) {
            State::Running => None,
            State::Stopped => Some("it was shut down".to_owned()),
            State::Failed(reason) | State::Excluded(reason) => Some(reason),
        }
    }

    /// Notes that the consensus ended.
    pub(crate) fn vanish(&self) {
        self.has_vanished.store(true, Ordering::Release);
    }

    pub(crate) fn has_vanished(&self) -> bool {
        self.has_vanished.load(Ordering::Acquire)
    }

    fn lock_excluded(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.excluded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no further part, and stands for no election: the cluster does not want this member, for that reason.
    pub(crate) fn exclude(&self, reason: String) {
        let mut excluded = self.lock_excluded();
        if excluded.is_none() {
            tracing::error!(reason, "this member is excluded from the cluster");
            self.raft.runtime_config().elect(false);
            *excluded = Some(reason);
        }
    }

    /// Whether the cluster does not let this member take part.
    pub(crate) fn is_excluded(&self) -> bool {
        self.lock_excluded().is_some()
    }

    /// Notes that a leader spoke to this member.
    pub(crate) fn hear(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// For how long no leader was heard.
    pub(crate) fn unheard(&self) -> Duration {
        self.opened.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }

    /// Whether a majority answered this leader lately.
    pub(crate) fn is_followed(&self, metrics: &Metrics) -> bool {
        metrics.last_quorum_acked.as_ref().is_some_and(|acked| acked.elapsed() < self.lead_lease)
            || metrics.membership_config.membership().voter_ids().eq([self.id])
    }

    /// Who leads, as far as this member knows. A leader that hears no majority does not count as one.
    pub(crate) fn current_leader(&self, metrics: &Metrics) -> Option<Member> {
        let id = metrics.current_leader?;
        if id == self.id && metrics.state.is_leader() && !self.is_followed(metrics) {
            return None;
        }
        metrics.membership_config.membership().get_node(&id).map(|address| address.member(id))
    }

    pub(crate) fn leader(&self) -> Leader {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match metrics.current_leader {
            None => Leader::Nowhere,
            Some(id) if id == self.id => Leader::Here,
            Some(id) => match metrics.membership_config.membership().get_node(&id) {
                Some(address) => Leader::There(address.member(id)),
                None => Leader::Nowhere,
            },
        }
    }

    /// All members but this one.
    pub(crate) fn others(&self) -> Vec<Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.filter(|(id, _)| **id != self.id).map(|(id, address)| address.member(*id)).collect()
    }

    /// The members as only the leader sees them; `None` if this is not the leader.
    pub(crate) fn view(&self) -> Option<View> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let progress = metrics.replication.as_ref().filter(|_| metrics.state.is_leader())?;
        let membership = metrics.membership_config.membership();
        // A leader that was removed only waits for the next one.
        membership.get_node(&self.id)?;
        let seat = |(&id, address): (&u64, &Address)| {
            let is_self = id == self.id;
            let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&id)).copied().flatten();
            let replicated = if is_self {
                metrics.last_log_index
            } else {
                progress.get(&id).copied().flatten().map(|log| log.index)
            };
            let seat = Seat {
                address: address.clone(),
                replicated,
                answers: is_self || heard.is_some_and(|at| at.elapsed() < SILENT),
                has_forgotten: self.peers.has_forgotten(id),
            };
            (id, seat)
        };
        Some(View {
            leader: self.id,
            last_log: metrics.last_log_index.unwrap_or_default(),
            members: membership.nodes().map(seat).collect::<BTreeMap<_, _>>(),
            voters: membership.get_joint_config().last().cloned().unwrap_or_default(),
            has_committed: metrics.local_committed.is_some_and(|id| id.index > 0),
            is_committed: metrics.membership_config.log_id() == metrics.committed_membership_config.log_id(),
            is_joint: membership.get_joint_config().len() > 1,
        })
    }

    /// What to ask others to learn whether this member still belongs to them; `None` while it knows of no cluster.
    pub(crate) fn standing_question(&self) -> Option<proto::StandingRequest> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let (_, address) = metrics.membership_config.membership().nodes().next()?;
        let membership = metrics.membership_config.log_id().map(id_to_wire);
        Some(proto::StandingRequest { member: self.id, lineage: address.lineage, membership })
    }

    /// Whether the asking member was removed: only a later, committed membership of the same life of the cluster says so.
    pub(crate) fn judge(&self, question: proto::StandingRequest) -> Option<String> {
        let proto::StandingRequest { member, lineage, membership: theirs } = question;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let ours = &metrics.committed_membership_config;
        let (_, address) = ours.membership().nodes().next()?;
        let theirs: Option<LogId> = theirs.map(id_from_wire);
        let was_removed =
            address.lineage == lineage && *ours.log_id() > theirs && ours.membership().get_node(&member).is_none();
        was_removed.then(|| {
            "this member was removed from the cluster; stop it, or add it anew with an empty directory".to_owned()
        })
    }

    /// Ends this member: it takes no further part, and its directory can be opened again.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the consensus did not end cleanly");
        }
        // A snapshot in the making is given up: nothing is to change in the directory any more.
        let snapshots = Arc::clone(&self.snapshots);
        let close = move || {
            snapshots.close();
            Ok(())
        };
        drop(blocking(close).await);
        let mut closer = self.closer.lock().await;
        if let Some(closer) = closer.take() {
            closer.close().await;
        }
    }

    /// Whether opening this member again would not help.
    pub(crate) fn is_beyond_help(&self) -> bool {
        self.is_beyond_help.load(Ordering::Acquire)
    }

    /// Bytes that the log takes on the disk.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.gauge.bytes()
    }

    /// Why there is no room for proposals, if there is none.
    pub(crate) fn full(&self) -> Option<String> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks whether there is room for more. Tells whether it is the disk that has none, which another member's may.
    pub(crate) fn look_for_room(&self) -> bool {
        let Room { data_dir, max_store_bytes, min_free_bytes } = &self.room;
        let used = self.log_bytes().saturating_add(self.snapshots.bytes());
        // A disk that cannot be asked shows its trouble at the next write.
        let free = free_bytes(data_dir).unwrap_or(u64::MAX);
        let reason = if used > *max_store_bytes {
            Some(format!(
                "the store of this member takes {used} bytes and may take {max_store_bytes}; remove what is not needed, or raise the limit"
            ))
        } else if free < *min_free_bytes {
            Some(format!(
                "only {free} bytes are free under {}, and {min_free_bytes} must be; make room there",
                data_dir.display()
            ))
        } else {
            None
        };
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_full.store(reason.is_some(), Ordering::Release);
        if full.is_some() != reason.is_some() {
            match &reason {
                Some(reason) => tracing::error!(reason, "proposals are refused for want of room"),
                None => tracing::info!("there is room for proposals again"),
            }
        }
        *full = reason;
        full.is_some() && used <= *max_store_bytes
    }

    /// Makes a snapshot if it is worth it by now, and lets go of entries that it holds if they are large.
    pub(crate) async fn compact(&self) {
        // A new one makes worthless what was sent of the last, and takes away the entries that follow it.
        let is_due = self.snapshots.is_due() && (!self.peers.is_sending() || self.snapshots.is_overdue());
        // What the log takes may be just what is too much.
        let is_squeezed = self.is_full.load(Ordering::Acquire) && self.snapshots.pace.is_worth_a_squeeze();
        // One that does not fit would end this member; while there is no room, proposals are refused, and the log stays.
        let fits = || free_bytes(&self.room.data_dir).is_ok_and(|free| free > self.snapshots.bytes());
        // An end of the consensus is seen elsewhere.
        if (is_due || is_squeezed) && fits() {
            let _ = self.raft.trigger().snapshot().await;
        }
        let (snapshot, purged) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.snapshot.map(|id| id.index), metrics.purged.map(|id| id.index))
        };
        if let Some(upto) = snapshot.and_then(|snapshot| self.snapshots.pace.surplus(snapshot))
            && Some(upto) > purged
            && !self.peers.is_sending()
        {
            let _ = self.raft.trigger().purge_log(upto).await;
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
        if self.is_full.load(Ordering::Acquire)
            && let Some(reason) = self.full()
        {
            return Err(ProposeError::Full { reason });
        }
        let unknown = |reason: String| Err(ProposeError::Unknown { reason });
        let began = Instant::now();
        match timeout(patience, self.raft.client_write(Payload(payload))).await {
            Ok(Ok(response)) => {
                self.meters.proposals.observe(began.elapsed());
                Ok(response.data)
            }
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

    /// Changes the members; this member must lead: otherwise [`MembershipError::NoLeader`]. What stands in the way for a
    /// moment only is waited for.
    pub(crate) async fn change_here(&self, change: &Change, patience: Duration) -> Result<Member, MembershipError> {
        if let Some(reason) = self.stopped() {
            return Err(MembershipError::Stopped { reason });
        }
        let deadline = Instant::now() + patience;
        // A leader that has just begun has not heard everyone yet.
        let heard_by = deadline.min(Instant::now() + SILENT * 3 / 2);
        loop {
            // Not held while waiting: the steward finishes what stands in the way.
            let Ok(changing) = timeout_at(deadline, self.changes.lock()).await else {
                let reason = "another change of the members is being made; try again after it".to_owned();
                return Err(Refusal { kind: RefusalKind::UnderWay, reason }.into());
            };
            let view = self.view().ok_or(MembershipError::NoLeader)?;
            let refusal = match membership::decide(&view, change) {
                Err(refusal) if refusal.kind == RefusalKind::WouldLoseQuorum && Instant::now() < heard_by => refusal,
                Err(refusal) => return Err(refusal.into()),
                Ok(Step::Done(member)) => return Ok(member),
                Ok(Step::Wait(refusal)) => refusal,
                Ok(Step::Submit { .. }) if matches!(change, Change::Remove { id, .. } if *id == self.id) => {
                    // Whoever leads next does it, so that no leader has to go on while it is none.
                    drop(changing);
                    let remaining = deadline.saturating_duration_since(Instant::now());
                    return match self.transfer_here(None, remaining).await {
                        Ok(_) | Err(TransferError::NotLeader { .. }) => Err(MembershipError::NoLeader),
                        Err(error) => Err(Refusal { kind: RefusalKind::Silent, reason: error.to_string() }.into()),
                    };
                }
                Ok(Step::Submit { changes, member }) => match timeout_at(deadline, self.submit(changes)).await {
                    Ok(Ok(())) => return Ok(member),
                    Ok(Err(MembershipError::Refused(refusal))) if refusal.kind == RefusalKind::UnderWay => refusal,
                    Ok(Err(error)) => return Err(error),
                    Err(_) => {
                        let reason = "no majority of the members confirmed it in time".to_owned();
                        return Err(MembershipError::Unknown { reason });
                    }
                },
            };
            drop(changing);
            if Instant::now() + LOOK_AGAIN >= deadline {
                return Err(refusal.into());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Writes a change of the members into the log, and its second half too if it has one.
    pub(crate) async fn submit(&self, changes: ChangeMembers<u64, Address>) -> Result<(), MembershipError> {
        let refused = |kind, reason| Err(MembershipError::Refused(Refusal { kind, reason }));
        match self.raft.change_membership(changes, false).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => match error {
                ChangeMembershipError::InProgress(error) => refused(RefusalKind::UnderWay, error.to_string()),
                error => refused(RefusalKind::Invalid, error.to_string()),
            },
            // The first half may be in the log already, also when it is the second that no longer finds a leader.
            Err(RaftError::APIError(error)) => Err(MembershipError::Unknown { reason: error.to_string() }),
            Err(RaftError::Fatal(fatal)) => Err(MembershipError::Unknown { reason: fatal.to_string() }),
        }
    }

    /// Who could take the lead over at this moment.
    fn candidate(&self, to: Option<u64>) -> Result<Heir, TransferError> {
        let Some(view) = self.view() else {
            let leader = self.current_leader(&self.metrics()).filter(|leader| leader.id != self.id);
            return Err(TransferError::NotLeader { leader: leader.map(|leader| leader.name) });
        };
        if let Some(own) = view.members.get(&self.id).filter(|_| to == Some(self.id)) {
            return Ok(Heir::Here(own.address.member(self.id)));
        }
        let is_candidate = |id: &u64| *id != self.id && view.voters.contains(id) && to.is_none_or(|to| to == *id);
        let (id, seat) = view
            .members
            .iter()
            .filter(|(id, _)| is_candidate(id))
            .max_by_key(|(_, seat)| (seat.answers && !seat.has_forgotten, seat.replicated))
            .ok_or(TransferError::NoCandidate { to })?;
        let name = seat.address.name.clone();
        if !seat.answers || seat.has_forgotten {
            return Err(TransferError::NotReady { name, reason: "it does not answer".to_owned() });
        }
        let lag = view.last_log.saturating_sub(seat.replicated.unwrap_or_default());
        if lag > TRANSFER_LAG {
            return Err(TransferError::NotReady { name, reason: format!("it lags by {lag} entries") });
        }
        Ok(Heir::Other(*id))
    }

    /// Hands the lead over to `to`, or to the voter that is furthest, and waits until it has taken it.
    pub(crate) async fn transfer_here(&self, to: Option<u64>, patience: Duration) -> Result<Member, TransferError> {
        let deadline = Instant::now() + patience;
        let stopped = |reason: String| TransferError::Stopped { reason };
        if let Some(reason) = self.stopped() {
            return Err(stopped(reason));
        }
        // A leader that has just begun has not heard everyone yet.
        let ready_by = deadline.min(Instant::now() + SILENT);
        let id = loop {
            match self.candidate(to) {
                Ok(Heir::Other(id)) => break id,
                Ok(Heir::Here(member)) => return Ok(member),
                Err(TransferError::NotReady { .. }) if Instant::now() + LOOK_AGAIN < ready_by => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        };
        self.raft.trigger().transfer_leader(id).await.map_err(|fatal| stopped(fatal.to_string()))?;
        let mut metrics = self.raft.metrics();
        loop {
            let taken = {
                let now = metrics.borrow_watched();
                let leader = now.current_leader.filter(|leader| *leader != self.id);
                leader.and_then(|id| now.membership_config.membership().get_node(&id).map(|address| address.member(id)))
            };
            if let Some(member) = taken {
                return Ok(member);
            }
            match timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(stopped("it is shutting down".to_owned())),
                Err(_) => return Err(TransferError::TimedOut),
            }
        }
    }
}

/// Whether a member has stored nothing but the list of the first members, at most. Votes do not count: it may have given one
/// a moment ago because it knew no better.
pub(crate) fn is_young(metrics: &Metrics) -> bool {
    metrics.last_log_index.unwrap_or_default() == 0
}
