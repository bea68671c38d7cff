//! What the rest of a program does with the log: propose, read, watch, change the members, hand over, stop.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{MembershipError, ProposeError, ReadError, RefusalKind, TransferError};
use crate::local::{Leader, Local};
use crate::membership::Change;
use crate::meters;
use crate::options::{Member, NewMember};
use crate::slot::Slot;
use crate::status::{Leadership, LogWork, MemberStatus, Role, State, Status, Warning};

/// How long to wait before asking for the leader again when nothing has been heard of a change.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

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
    slot: Arc<Slot>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Handle").field("id", &self.slot.local().id).finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn new(slot: Arc<Slot>) -> Self {
        Self { slot }
    }

    /// Proposes a change, wherever the leader is, and returns the state machine's answer once the change is applied there.
    ///
    /// While no leader can be reached this waits for one, up to `timeout`.
    ///
    /// # Errors
    /// See [`ProposeError`]: only [`ProposeError::Unknown`] leaves open whether the change was made.
    pub async fn propose(&self, payload: Bytes, timeout: Duration) -> Result<Bytes, ProposeError> {
        let local = &self.slot.local();
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
        let stopped = |reason| ProposeError::Stopped { reason };
        until_led(local, timeout, attempt, |error| *error == ProposeError::NoLeader, stopped).await
    }

    /// Proposes a change on this member alone: if it does not lead at this moment, nothing is proposed. For what a leader
    /// says as the leader, which must not be said in its name after another one took over.
    ///
    /// # Errors
    /// See [`ProposeError`]; [`ProposeError::NoLeader`] if this member does not lead.
    pub async fn propose_leading(&self, payload: Bytes, timeout: Duration) -> Result<Bytes, ProposeError> {
        self.slot.local().propose_here(payload, timeout).await
    }

    /// Waits until what this member has applied reflects every change that was acknowledged anywhere before this call, and
    /// returns the index up to which that is so. A read of the state machine after it is linearizable.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_barrier(&self, mode: ReadMode, timeout: Duration) -> Result<u64, ReadError> {
        let local = &self.slot.local();
        let deadline = Instant::now() + timeout;
        let attempt = async |leader: Leader, patience| match leader {
            Leader::Here => local.read_index_here(mode, patience).await,
            Leader::There(member) => local.ask_read_index(&member, mode, patience).await,
            Leader::Nowhere => Err(ReadError::NoLeader),
        };
        let stopped = |reason| ReadError::Stopped { reason };
        let wanted = until_led(local, timeout, attempt, |error| *error == ReadError::NoLeader, stopped).await?;
        match timeout_at(deadline, local.applied.clone().wait_for(|applied| *applied >= Some(wanted))).await {
            Ok(Ok(_)) => Ok(wanted),
            Err(_) => Err(ReadError::Behind { wanted, applied: *local.applied.borrow() }),
            // Only the state machine's end closes it.
            Ok(Err(_)) => Err(stopped(local.stopped().unwrap_or_else(|| "it is shutting down".to_owned()))),
        }
    }

    /// Adds a member that receives the log and has no vote yet, and returns it with the id that it must be opened with.
    /// Asking again for the same name, addresses and domain returns the same member.
    ///
    /// # Errors
    /// See [`MembershipError`]; this holds for all changes of the members. Each of them may be asked of any member.
    pub async fn add_member(&self, new: NewMember, timeout: Duration) -> Result<Member, MembershipError> {
        self.change(Change::Add(new), timeout).await
    }

    /// Gives a learner its vote, waiting up to `timeout` for it to catch up.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn promote(&self, id: u64, timeout: Duration) -> Result<Member, MembershipError> {
        self.change(Change::Promote(id), timeout).await
    }

    /// Removes a member for good: its id is never used again. A leader that is removed hands its office over.
    ///
    /// With `force`, members that are silent do not keep it from being tried. The cluster then stands still until a majority
    /// both of the voters before and of those after has confirmed it.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn remove(&self, id: u64, force: bool, timeout: Duration) -> Result<Member, MembershipError> {
        self.change(Change::Remove { id, force }, timeout).await
    }

    /// Adds a member that takes the place of another one as soon as it has caught up, under whichever leader that is. Returns
    /// the new member, which must then be started; that it votes and the other one is gone shows in the [`Status`].
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn replace(&self, dead: u64, with: NewMember, timeout: Duration) -> Result<Member, MembershipError> {
        self.change(Change::Replace { dead, with }, timeout).await
    }

    /// Notes where a member is reached from now on, or with which others it fails. Its name and id stay.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn update_member(&self, member: Member, timeout: Duration) -> Result<Member, MembershipError> {
        self.change(Change::Update(member), timeout).await
    }

    /// Asks whoever leads until it is clear what became of the change: asking for the same twice is harmless, so an answer
    /// that got lost with a leader is asked for again.
    async fn change(&self, change: Change, timeout: Duration) -> Result<Member, MembershipError> {
        let local = &self.slot.local();
        let going = match change {
            Change::Remove { id, .. } => {
                let metrics = local.metrics();
                metrics.membership_config.membership().get_node(&id).map(|address| address.member(id))
            }
            _ => None,
        };
        let begun = OnceLock::new();
        let attempt = async |leader: Leader, patience| {
            let result = match leader {
                Leader::Here => local.change_here(&change, patience).await,
                Leader::There(member) => local.forward_change(&member, &change, patience).await,
                Leader::Nowhere => Err(MembershipError::NoLeader),
            };
            if let Err(MembershipError::Unknown { reason }) = &result {
                begun.get_or_init(|| reason.clone());
            }
            result
        };
        let is_open =
            |error: &MembershipError| matches!(error, MembershipError::NoLeader | MembershipError::Unknown { .. });
        let stopped = |reason| MembershipError::Stopped { reason };
        let result = until_led(local, timeout, attempt, is_open, stopped).await;
        let Some(reason) = begun.into_inner() else { return result };
        match (result, going) {
            (Err(MembershipError::Refused(refusal)), Some(gone)) if refusal.kind == RefusalKind::UnknownMember => {
                Ok(gone)
            }
            // Refused by who leads now: what the one before it had begun may still come to be.
            (Err(MembershipError::Refused(refusal)), _) if refusal.kind != RefusalKind::UnderWay => {
                Err(MembershipError::Unknown { reason: format!("{reason}; asked again: {}", refusal.reason) })
            }
            (Err(_), _) => Err(MembershipError::Unknown { reason }),
            (done, _) => done,
        }
    }

    /// Who leads, now and at each change.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.slot.leadership()
    }

    /// Who belongs to the cluster, as this member knows it: as much of [`Handle::status`] as may be asked at each word of
    /// each client.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.slot.local().raft.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(&id, address)| address.member(id)).collect()
    }

    /// This member's picture of the cluster.
    pub fn status(&self) -> Status {
        let local = &self.slot.local();
        let metrics = local.metrics();
        let state = self.slot.state(local, &metrics);
        let leader = (state == State::Running).then(|| local.current_leader(&metrics)).flatten();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let leads = leader.as_ref().is_some_and(|leader| leader.id == local.id);
        let members: Vec<_> = membership
            .nodes()
            .map(|(&id, address)| {
                let is_self = id == local.id;
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
                    replaces: address.replaces,
                    has_forgotten: leads && local.peers.has_forgotten(id),
                    receiving: if leads { local.peers.sending(id) } else { None },
                }
            })
            .collect();
        let is_changing = membership.get_joint_config().len() > 1;
        let full = local.full();
        let mut warnings = Warning::of(&members, is_changing);
        let slow = self.slot.meters.slow_disk().map(|median| Warning::SlowDisk { median_ms: millis(median) });
        let no_room = full.clone().map(|reason| Warning::Full { reason });
        warnings.extend(slow.into_iter().chain(no_room));
        Status {
            id: local.id,
            state,
            term: metrics.current_term,
            leader,
            members,
            last_log: metrics.last_log_index,
            committed: metrics.local_committed.map(|id| id.index),
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            receiving: local.snapshots.receiving(),
            log_bytes: local.log_bytes(),
            snapshot_bytes: local.snapshots.bytes(),
            full,
            warnings,
        }
    }

    /// Hands the lead over to `to`, or to the voter that is furthest, and waits until it has taken it: for a planned stop
    /// without the wait for an election. Only the leader itself does it.
    ///
    /// # Errors
    /// See [`TransferError`]; after any of them this member may still lead.
    pub async fn transfer_leadership(&self, to: Option<u64>, timeout: Duration) -> Result<Member, TransferError> {
        self.slot.local().transfer_here(to, timeout).await
    }

    /// As [`Self::transfer_leadership`], asked of any member.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub async fn move_leadership(&self, to: Option<u64>, timeout: Duration) -> Result<Member, TransferError> {
        let local = &self.slot.local();
        let attempt = async |leader: Leader, patience| match leader {
            Leader::Here => local.transfer_here(to, patience).await,
            Leader::There(member) => local.forward_transfer(&member, to, patience).await,
            Leader::Nowhere => Err(TransferError::NotLeader { leader: None }),
        };
        let is_leaderless = |error: &TransferError| matches!(error, TransferError::NotLeader { .. });
        until_led(local, timeout, attempt, is_leaderless, |reason| TransferError::Stopped { reason }).await
    }

    /// Stops this member: it takes no further part, everything it stored is on the disk, and its directory may be opened
    /// again. The service must be ended by its own shutdown.
    pub async fn shutdown(&self) {
        self.slot.close();
        self.slot.local().close().await;
    }

    /// What this member has done to keep its log, since it was last opened.
    pub fn log_work(&self) -> LogWork {
        self.slot.local().gauge.work()
    }

    /// What is counted and measured here.
    pub fn metrics(&self) -> meters::Metrics {
        meters::Metrics { handle: self.clone(), meters: Arc::clone(&self.slot.meters) }
    }
}

/// Repeats an attempt that needs the leader until it got somewhere or the time is up.
async fn until_led<T, E, F: Future<Output = Result<T, E>>>(
    local: &Local,
    patience: Duration,
    attempt: impl Fn(Leader, Duration) -> F,
    is_leaderless: impl Fn(&E) -> bool,
    stopped: impl Fn(String) -> E,
) -> Result<T, E> {
    let deadline = Instant::now() + patience;
    let mut metrics = local.raft.server_metrics();
    loop {
        if let Some(reason) = local.stopped() {
            return Err(stopped(reason));
        }
        // What changes from here on is a change; to a receiver that was just made, everything that ever happened is one.
        drop(metrics.borrow_and_update());
        let remaining = deadline.saturating_duration_since(Instant::now());
        let result = attempt(local.leader(), remaining).await;
        let pause = LOOK_AGAIN.min(deadline.saturating_duration_since(Instant::now()));
        match result {
            Err(error) if is_leaderless(&error) && !pause.is_zero() => {
                // Whether something changed or not: look again. Only who leads matters: an attempt moves the other metrics
                // itself, and would be repeated at once for ever. A watch whose sender is gone must not spin either.
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

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
