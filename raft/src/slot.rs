//! Where a handle and a service find the member: a supervisor may have opened it anew since.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::local::{Local, SILENT};
use crate::meters::Meters;
use crate::status::{Leadership, State};
use crate::steward;
use crate::types::Metrics;

/// One member, whichever of its lives it is in.
pub(crate) struct Slot {
    /// Filled by the first opening, before anyone gets to see the slot.
    current: OnceLock<RwLock<Arc<Local>>>,
    /// Why the member is not open at the moment.
    failure: Mutex<Option<String>>,
    leadership: watch::Sender<Leadership>,
    closed: CancellationToken,
    pub(crate) meters: Arc<Meters>,
}

impl Slot {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            current: OnceLock::new(),
            failure: Mutex::default(),
            leadership: watch::Sender::default(),
            closed: CancellationToken::new(),
            meters: Arc::default(),
        })
    }

    /// The member as it was opened last.
    pub(crate) fn local(&self) -> Arc<Local> {
        let current = self.current.get().expect("a slot is filled before anyone sees it");
        Arc::clone(&current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The member is open, and does from now on what it does unasked.
    pub(crate) fn fill(self: &Arc<Self>, local: Arc<Local>) {
        let current = self.current.get_or_init(|| RwLock::new(Arc::clone(&local)));
        *current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&local);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.tell(&local);
        tokio::spawn(steward::run(Arc::clone(&local)));
        tokio::spawn(watch_leadership(Arc::clone(self), local));
    }

    /// The member is not open, for that reason.
    pub(crate) fn fail(&self, reason: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    pub(crate) fn state(&self, local: &Local, metrics: &Metrics) -> State {
        match local.state(metrics) {
            State::Running => State::Running,
            state => {
                let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
                failure.filter(|_| !self.closed.is_cancelled()).map_or(state, State::Failed)
            }
        }
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// No further opening.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Keeps the watch of the leadership current.
    fn tell(&self, local: &Arc<Local>) {
        if !Arc::ptr_eq(local, &self.local()) {
            return;
        }
        let next = leadership_of(&local.metrics(), local);
        self.leadership.send_if_modified(|now| {
            if *now == next {
                return false;
            }
            if now.leader != next.leader {
                self.meters.leader_changes.fetch_add(1, Ordering::Relaxed);
            }
            *now = next;
            true
        });
    }
}

/// Until the consensus ends.
async fn watch_leadership(slot: Arc<Slot>, local: Arc<Local>) {
    let mut metrics = local.raft.server_metrics();
    // That a leader is no longer followed is seen by the clock, not by a change.
    while let Ok(Ok(())) | Err(_) = timeout(SILENT / 4, metrics.changed()).await {
        slot.tell(&local);
    }
    local.vanish();
    slot.tell(&local);
}

fn leadership_of(metrics: &Metrics, local: &Local) -> Leadership {
    let leader = (local.state(metrics) == State::Running).then(|| local.current_leader(metrics)).flatten();
    let is_leader = metrics.state.is_leader() && leader.as_ref().is_some_and(|leader| leader.id == local.id);
    Leadership { term: metrics.current_term, leader, is_leader }
}
