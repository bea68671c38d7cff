//! Drives the state machine: applies what is committed, and makes and installs snapshots.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::stream::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::watch;

use crate::machine::{AnyMachine, Encoder, Entry};
use crate::snapshot::{SnapshotFile, SnapshotStore};
use crate::store::log::blocking;
use crate::store::panic_message;
use crate::types::{LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, Types};

/// Entries given to the state machine at once: enough to share its cost per call, few enough that the first one's answer
/// does not wait long for the last one.
const ENTRIES_AT_ONCE: usize = 256;

/// The state machine with what the log must know about its state.
pub(crate) struct Machine {
    state: Box<dyn AnyMachine>,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<SnapshotStore>,
    told: watch::Sender<Option<u64>>,
    has_given_up: Arc<AtomicBool>,
}

impl Machine {
    /// A machine in the state that `meta` describes, or in its first one.
    pub(crate) fn new(machine: Box<dyn AnyMachine>, meta: Option<SnapshotMeta>, snapshots: Arc<SnapshotStore>) -> Self {
        let SnapshotMeta { last_log_id, last_membership } = meta.unwrap_or_default();
        let told = watch::Sender::new(last_log_id.map(|id| id.index));
        let has_given_up = Arc::default();
        Self { state: machine, applied: last_log_id, membership: last_membership, snapshots, told, has_given_up }
    }

    /// Up to which index entries are applied, now and later.
    pub(crate) fn applied_index(&self) -> watch::Receiver<Option<u64>> {
        self.told.subscribe()
    }

    /// Whether the machine met something that it does not understand, so that no other opening would help.
    pub(crate) fn has_given_up(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_given_up)
    }

    fn given_up(&self, reason: String) -> io::Error {
        self.has_given_up.store(true, Ordering::Release);
        io::Error::other(reason)
    }

    fn tell(&self) {
        self.told.send_replace(self.applied.map(|id| id.index));
    }

    /// Applies proposals; a machine that panics or answers wrongly stops the member, not the process.
    fn apply_entries(&mut self, entries: &[Entry]) -> io::Result<Vec<Bytes>> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let range = || format!("{} to {}", entries[0].index, entries[entries.len() - 1].index);
        let answers = match catch_unwind(AssertUnwindSafe(|| self.state.apply(entries))) {
            Ok(answers) => answers,
            Err(panic) => {
                let message = panic_message(panic.as_ref());
                return Err(
                    self.given_up(format!("the state machine panicked while applying entries {}: {message}", range()))
                );
            }
        };
        if answers.len() == entries.len() {
            return Ok(answers);
        }
        let (got, wanted) = (answers.len(), entries.len());
        Err(self.given_up(format!("the state machine gave {got} answers to the {wanted} entries {}", range())))
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.try_chunks(ENTRIES_AT_ONCE);
        while let Some(batch) = batches.try_next().await.map_err(|error| error.1)? {
            let mut proposals = Vec::with_capacity(batch.len());
            let mut responders = Vec::with_capacity(batch.len());
            let mut applied = self.applied;
            let mut membership = None;
            for (entry, responder) in batch {
                let id = entry.log_id;
                applied = Some(id);
                let is_proposal = match entry.payload {
                    EntryPayload::Normal(Payload(payload)) => {
                        proposals.push(Entry { index: id.index, term: id.leader_id.term, payload });
                        true
                    }
                    EntryPayload::Membership(members) => {
                        membership = Some(StoredMembership::new(Some(id), members));
                        false
                    }
                    EntryPayload::Blank => false,
                };
                responders.push((is_proposal, responder));
            }
            let payload_bytes: usize = proposals.iter().map(|entry| entry.payload.len()).sum();
            let mut answers = self.apply_entries(&proposals)?.into_iter();
            let count = |number| u64::try_from(number).unwrap_or(u64::MAX);
            let last = applied.map_or(0, |id| id.index);
            self.snapshots.pace.applied(last, count(responders.len()), count(payload_bytes));
            self.applied = applied;
            self.tell();
            if let Some(membership) = membership {
                self.membership = membership;
            }
            for (is_proposal, responder) in responders {
                let answer = if is_proposal { answers.next() } else { None };
                if let Some(responder) = responder {
                    responder.send(answer.unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        self.snapshots.pace.begin();
        Builder { encoder: Some(self.state.freeze()), meta, snapshots: Arc::clone(&self.snapshots) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let store = Arc::clone(&self.snapshots);
        let announced = meta.clone();
        let file = blocking(move || store.install(&announced, &snapshot)).await?;
        let restored = catch_unwind(AssertUnwindSafe(|| file.restore(|from| self.state.restore(from))));
        restored
            .unwrap_or_else(|panic| Err(panic_message(panic.as_ref()).into()))
            .map_err(|error| self.given_up(format!("the state machine does not accept a snapshot: {error}")))?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.tell();
        self.snapshots.pace.begin();
        self.snapshots.pace.end();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.snapshots.current())
    }
}

/// Writes a snapshot of a frozen state while the machine goes on.
pub(crate) struct Builder {
    /// `None` once used.
    encoder: Option<Encoder>,
    meta: SnapshotMeta,
    snapshots: Arc<SnapshotStore>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let encoder = self.encoder.take().ok_or_else(|| io::Error::other("a frozen state is written only once"))?;
        let meta = self.meta.clone();
        let snapshots = Arc::clone(&self.snapshots);
        let written = blocking(move || snapshots.write(&meta, encoder)).await;
        self.snapshots.pace.end();
        written
    }
}
