//! A disk in memory, for simulations: what was not synced is gone after a crash, or a part of it is.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::engine::{Batch, Change, Engine, Visit};
use super::{keys, log, record};
use crate::runtime::roll;

/// A bug that a disk is given on purpose, to see whether it is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flaw {
    /// An honest disk.
    #[default]
    None,
    /// Each barrier leaves out the newest batch, so the log is acknowledged before it is durable.
    LateBarrier,
    /// A vote becomes durable only together with the first entry of its term.
    ForgottenVote,
}

/// The ballot that a member has on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ballot {
    /// The term.
    pub term: u64,
    /// Who was voted for in it.
    pub member: u64,
    /// Whether that member is known to lead.
    pub committed: bool,
}

/// One entry of a member's log, as its disk has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logged {
    /// The entry's index.
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
    /// A checksum of the whole record.
    pub digest: u32,
}

/// One member's disk; it outlives the member. All clones mean the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// A value for a key, or its removal.
type Write = (Vec<u8>, Option<Vec<u8>>);

#[derive(Debug, Default)]
struct State {
    /// What a reader sees.
    visible: Records,
    /// What a crash leaves.
    durable: Records,
    /// What was written since the last barrier, in order.
    unsynced: Vec<Vec<Write>>,
    barriers: u64,
    latency: Range<Duration>,
    failure: Option<io::ErrorKind>,
    flaw: Flaw,
}

fn apply(records: &mut Records, batch: &[Write]) {
    for (key, value) in batch {
        match value {
            Some(value) => records.insert(key.clone(), value.clone()),
            None => records.remove(key),
        };
    }
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long it takes from a write to the end of the barrier after it.
    pub fn set_latency(&self, latency: Range<Duration>) {
        self.lock().latency = latency;
    }

    /// Lets every write and barrier fail from now on, or work again.
    pub fn set_failure(&self, failure: Option<io::ErrorKind>) {
        self.lock().failure = failure;
    }

    /// Gives the disk a bug.
    pub fn set_flaw(&self, flaw: Flaw) {
        self.lock().flaw = flaw;
    }

    /// Batches that a crash would put at risk now.
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// Barriers so far.
    pub fn barriers(&self) -> u64 {
        self.lock().barriers
    }

    /// Whether nothing was ever stored.
    pub fn is_pristine(&self) -> bool {
        self.lock().visible.is_empty()
    }

    /// Cuts the power, once the member no longer runs: of the batches that no barrier followed, only the first `kept`
    /// survive.
    pub fn crash(&self, kept: usize) {
        let mut state = self.lock();
        let unsynced = std::mem::take(&mut state.unsynced);
        for batch in unsynced.iter().take(kept) {
            state.harden(batch);
        }
        state.visible = state.durable.clone();
    }

    /// The entries of the log from `start` on, in order.
    ///
    /// # Errors
    /// If a record is damaged.
    pub fn entries(&self, start: u64) -> io::Result<Vec<Logged>> {
        let mut found = Vec::new();
        let mut damage = None;
        log::scan_entries(self, start, u64::MAX, &mut |index, record| match record::decode_entry(record) {
            Ok(entry) => {
                let term = entry.log_id.leader_id.term;
                found.push(Logged { index, term, digest: berth_frame::crc32(record) });
                true
            }
            Err(error) => {
                damage = Some(io::Error::new(io::ErrorKind::InvalidData, error));
                false
            }
        })?;
        damage.map_or(Ok(found), Err)
    }

    /// The ballot.
    ///
    /// # Errors
    /// If the record is damaged.
    pub fn ballot(&self) -> io::Result<Option<Ballot>> {
        let record = self.lock().visible.get(keys::VOTE).cloned();
        let vote = record.map(|record| record::decode_vote(&record)).transpose();
        let vote = vote.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(vote.map(|vote| {
            let leader = vote.leader_id();
            Ballot { term: leader.term, member: leader.voted_for, committed: vote.is_committed() }
        }))
    }

    /// A duration out of the disk's latency.
    pub(crate) fn pace(&self) -> Duration {
        let Range { start, end } = self.lock().latency.clone();
        let spread = u64::try_from(end.saturating_sub(start).as_micros()).unwrap_or(u64::MAX);
        start + Duration::from_micros(if spread == 0 { 0 } else { roll() % spread })
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        self.failure.map_or(Ok(()), |kind| Err(io::Error::new(kind, "the simulated disk fails")))
    }

    /// Brings a batch to the durable records.
    fn harden(&mut self, batch: &[Write]) {
        if self.flaw != Flaw::ForgottenVote {
            return apply(&mut self.durable, batch);
        }
        let others: Vec<_> = batch.iter().filter(|(key, _)| key != keys::VOTE).cloned().collect();
        let has_entries = others.iter().any(|(key, value)| keys::parse(key).is_some() && value.is_some());
        apply(&mut self.durable, &others);
        if has_entries && let Some(vote) = self.visible.get(keys::VOTE).cloned() {
            self.durable.insert(keys::VOTE.to_vec(), vote);
        }
    }
}

impl Engine for Disk {
    fn write(&self, batch: Batch) -> io::Result<()> {
        let mut state = self.lock();
        state.check()?;
        let changes = batch.changes.into_iter().map(|change| match change {
            Change::Put(key, value) => (key, Some(value)),
            Change::Remove(key) => (key, None),
        });
        let changes: Vec<_> = changes.collect();
        apply(&mut state.visible, &changes);
        state.unsynced.push(changes);
        Ok(())
    }

    fn barrier(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.check()?;
        state.barriers += 1;
        let left = usize::from(state.flaw == Flaw::LateBarrier).min(state.unsynced.len());
        let synced = state.unsynced.len() - left;
        let batches: Vec<_> = state.unsynced.drain(..synced).collect();
        for batch in batches {
            state.harden(&batch);
        }
        Ok(())
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        let state = self.lock();
        if start < end {
            for (key, value) in
                state.visible.range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Excluded(end)))
            {
                if !visit(key, value) {
                    break;
                }
            }
        }
        Ok(())
    }
}
