//! When a snapshot is worth making.
//!
//! A snapshot costs writing the whole state; not making one costs disk for the log and time to replay it at a start. So it is
//! made when the log has grown by a fixed amount, or, where the state is large, by half of what the last snapshot took: the
//! work for snapshots then stays within twice the work for the log, however large the state becomes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::options::SnapshotPolicy;

/// Bytes of the log that an entry takes besides its payload; roughly.
const ENTRY_BYTES: u64 = 64;

/// Entries that a snapshot holds are kept for members that were away for a moment, but not more of them than this, in bytes.
pub(crate) const KEPT_BYTES: u64 = 32 * 1024 * 1024;

/// How finely that is known, in bytes.
const MARK_BYTES: u64 = 1024 * 1024;

/// Marks that are remembered: as far back as anything is kept, and some more while a snapshot is late.
const MARKS: usize = 1024;

/// How many times the growth that makes a snapshot due may pass while something speaks against making it.
const OVERDUE: u64 = 4;

/// What was applied since the last snapshot was begun.
#[derive(Debug)]
pub(crate) struct Pace {
    policy: SnapshotPolicy,
    entries: AtomicU64,
    bytes: AtomicU64,
    is_making: AtomicBool,
    /// How many bytes had been applied up to some of the last entries.
    marks: Mutex<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    total: u64,
    /// Index and total, about one each [`MARK_BYTES`].
    at: VecDeque<(u64, u64)>,
}

impl Pace {
    pub(crate) fn new(policy: SnapshotPolicy) -> Self {
        Self {
            policy,
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            is_making: AtomicBool::new(false),
            marks: Mutex::default(),
        }
    }

    /// Notes that entries with so many bytes of payload were applied, up to the one with this index.
    pub(crate) fn applied(&self, index: u64, entries: u64, payload_bytes: u64) {
        let bytes = payload_bytes + entries * ENTRY_BYTES;
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.total += bytes;
        let total = marks.total;
        if marks.at.back().is_none_or(|(_, before)| total - before >= MARK_BYTES) {
            marks.at.push_back((index, total));
            if marks.at.len() > MARKS {
                marks.at.pop_front();
            }
        }
    }

    /// The last entry, of those up to `snapshot`, after which there are still [`KEPT_BYTES`].
    pub(crate) fn surplus(&self, snapshot: u64) -> Option<u64> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let is_surplus = |(index, total): &&(u64, u64)| *index <= snapshot && marks.total - total >= KEPT_BYTES;
        marks.at.iter().rev().find(is_surplus).map(|(index, _)| *index)
    }

    /// Notes that a snapshot of what was applied so far is begun.
    pub(crate) fn begin(&self) {
        self.is_making.store(true, Ordering::Relaxed);
        self.entries.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Notes that it has ended, well or not.
    pub(crate) fn end(&self) {
        self.is_making.store(false, Ordering::Relaxed);
    }

    /// Bytes that the log has grown by since the last snapshot was begun; roughly.
    pub(crate) fn grown(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a snapshot would take away enough of the log to be made for that alone.
    pub(crate) fn is_worth_a_squeeze(&self) -> bool {
        !self.is_making.load(Ordering::Relaxed) && self.grown() >= MARK_BYTES
    }

    /// Whether the log has grown so much that the next one cannot wait for anything.
    pub(crate) fn is_overdue(&self, last_bytes: u64) -> bool {
        self.grown() >= OVERDUE * self.policy.bytes_between.max(last_bytes / 2)
    }

    /// Whether it is time for the next one, the last having taken so many bytes.
    pub(crate) fn is_due(&self, last_bytes: u64) -> bool {
        let SnapshotPolicy { entries_between, bytes_between, entries_kept: _ } = self.policy;
        !self.is_making.load(Ordering::Relaxed)
            && (self.entries.load(Ordering::Relaxed) >= entries_between
                || self.grown() >= bytes_between.max(last_bytes / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new(SnapshotPolicy { entries_between: 1000, bytes_between: 10_000, entries_kept: 0 })
    }

    #[test]
    fn a_snapshot_is_due_after_so_many_entries_or_bytes() {
        let pace = pace();
        pace.applied(1, 999, 0);
        assert!(pace.is_due(0), "the entries themselves weigh {} bytes", pace.grown());
        pace.begin();
        pace.end();
        pace.applied(1, 10, 9000);
        assert!(!pace.is_due(0));
        pace.applied(1, 10, 1000);
        assert!(pace.is_due(0));
    }

    #[test]
    fn of_large_entries_only_some_are_kept() {
        let pace = pace();
        assert_eq!(pace.surplus(100), None);
        for index in 0..100 {
            pace.applied(index, 1, MARK_BYTES);
        }
        // The last 32 take a little more than what is kept.
        assert_eq!(pace.surplus(99), Some(67));
        assert_eq!(pace.surplus(50), Some(50));
    }

    #[test]
    fn a_large_state_is_written_less_often_and_none_while_one_is_made() {
        let pace = pace();
        pace.applied(1, 10, 20_000);
        assert!(!pace.is_due(100_000));
        pace.applied(1, 10, 30_000);
        assert!(pace.is_due(100_000));
        pace.begin();
        pace.applied(1, 10, 60_000);
        assert!(!pace.is_due(100_000));
        pace.end();
        assert!(pace.is_due(100_000));
    }
}
