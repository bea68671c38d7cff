//! A disk in memory, for simulations: what was not synced is gone after a crash, or a part of it is.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::engine::{Action, Batch, Engine, Frame, Visit};
use super::record;
use super::tail::Tail;
use crate::runtime::roll;
use crate::types::{LogId, Vote};

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

/// What a disk holds.
#[derive(Debug, Clone, Default)]
struct Records {
    entries: BTreeMap<u64, Arc<[u8]>>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

/// A change and its record.
type Write = (Action, Arc<[u8]>);

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

impl Records {
    fn apply(&mut self, (action, record): &Write) {
        match *action {
            Action::Append(id) => drop(self.entries.insert(id.index, Arc::clone(record))),
            Action::Vote(vote) => self.vote = Some(vote.into()),
            Action::Commit(id) => self.committed = Some(id.into()),
            Action::Truncate(from, _) => drop(self.entries.split_off(&from)),
            Action::Purge(upto) => {
                self.entries = self.entries.split_off(&upto.index.saturating_add(1));
                self.purged = Some(upto.into());
            }
        }
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
        let Records { entries, vote, committed, purged } = &self.lock().visible;
        entries.is_empty() && vote.is_none() && committed.is_none() && purged.is_none()
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
        let state = self.lock();
        let logged = |(_, record): (&u64, &Arc<[u8]>)| {
            let entry = record::decode_entry(record).map_err(damage)?;
            let (index, term) = (entry.log_id.index, entry.log_id.leader_id.term);
            Ok(Logged { index, term, digest: berth_frame::crc32(record) })
        };
        state.visible.entries.range(start..).map(logged).collect()
    }

    /// The ballot.
    ///
    /// # Errors
    /// If the record is damaged.
    pub fn ballot(&self) -> io::Result<Option<Ballot>> {
        Ok(self.lock().visible.vote.map(|vote| {
            let leader = vote.leader_id();
            Ballot { term: leader.term, member: leader.voted_for, committed: vote.is_committed() }
        }))
    }

    /// The end of the log and the small values, as found.
    pub(crate) fn load(&self) -> io::Result<Tail> {
        let state = self.lock();
        let Records { entries, vote, committed, purged } = &state.visible;
        let mut tail = Tail::new(*purged, *committed, *vote);
        for (index, record) in entries {
            tail.append(&[record::decode_entry(record).map_err(damage)?]);
            tail.written(*index);
        }
        Ok(tail)
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
        let is_forgetful = self.flaw == Flaw::ForgottenVote;
        for write in batch {
            if !(is_forgetful && matches!(write.0, Action::Vote(_))) {
                self.durable.apply(write);
            }
        }
        if is_forgetful && batch.iter().any(|(action, _)| matches!(action, Action::Append(_))) {
            self.durable.vote = self.visible.vote;
        }
    }
}

fn damage(error: berth_frame::FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Engine for Disk {
    fn write(&self, batch: Batch) -> io::Result<()> {
        let mut state = self.lock();
        state.check()?;
        let mut changes: Vec<Write> = Vec::new();
        for Frame { bytes, changes: made } in batch.frames {
            let ends = made.iter().skip(1).map(|change| change.offset).chain([bytes.len()]);
            changes
                .extend(made.iter().zip(ends).map(|(change, end)| (change.action, bytes[change.offset..end].into())));
        }
        for write in &changes {
            state.visible.apply(write);
        }
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

    fn begin(&self) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, start: u64, end: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        let state = self.lock();
        for (index, record) in state.visible.entries.range(start..end.max(start)) {
            if !visit(*index, record) {
                break;
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.lock().visible.entries.values().map(|record| record.len() as u64).sum()
    }

    fn seal(&self) -> io::Result<()> {
        self.barrier()
    }
}
