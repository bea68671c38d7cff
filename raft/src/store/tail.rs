//! The end of the log in memory: what is read most, and what is not written yet.
//!
//! The tail always reaches to the end of the log. Entries leave it at the front, once it is large and they are on the disk,
//! so an entry is found in the tail or on the disk and never in neither.

use std::collections::VecDeque;

use crate::types::{LogEntry, LogId, LogPayload, Vote};

/// Payload bytes kept in memory: some thousands of ordinary entries, so that members which keep up never make the leader
/// read its disk.
const TAIL_BYTES: usize = 32 * 1024 * 1024;

/// What an entry weighs besides its payload, in bytes; roughly.
const ENTRY_WEIGHT: usize = 128;

/// The end of the log, and the small values beside it.
#[derive(Debug)]
pub(crate) struct Tail {
    /// Above this weight, entries that the disk has are let go.
    limit: usize,
    /// Consecutive entries up to the last one of the log.
    entries: VecDeque<LogEntry>,
    weight: usize,
    /// Index of the last entry that the engine holds.
    written: Option<u64>,
    /// The last entry of the log, or of what was purged if nothing follows.
    pub(crate) last: Option<LogId>,
    /// The last entry that was purged.
    pub(crate) purged: Option<LogId>,
    /// The last entry known to be committed.
    pub(crate) committed: Option<LogId>,
    /// The vote on the disk.
    pub(crate) vote: Option<Vote>,
}

/// Where a range of entries is found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// First and one past the last index that only the engine has.
    pub(crate) stored: Option<(u64, u64)>,
    /// What follows, out of memory.
    pub(crate) recent: Vec<LogEntry>,
}

impl Tail {
    /// An empty end of a log of which everything up to `purged` is gone.
    pub(crate) fn new(purged: Option<LogId>, committed: Option<LogId>, vote: Option<Vote>) -> Self {
        Self {
            limit: TAIL_BYTES,
            entries: VecDeque::new(),
            weight: 0,
            written: None,
            last: purged,
            purged,
            committed,
            vote,
        }
    }

    /// Another limit for what is kept in memory, in bytes.
    #[cfg(test)]
    pub(crate) fn with_limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Adds entries that follow the last one.
    pub(crate) fn append(&mut self, entries: &[LogEntry]) {
        for entry in entries {
            debug_assert!(self.entries.back().is_none_or(|last| last.log_id.index + 1 == entry.log_id.index));
            self.weight += weight(entry);
            self.last = Some(entry.log_id);
            self.entries.push_back(entry.clone());
        }
    }

    /// Notes that the engine holds everything up to `index`, and lets old entries go.
    pub(crate) fn written(&mut self, index: u64) {
        self.written = self.written.max(Some(index));
        while self.weight > self.limit {
            match self.entries.front() {
                Some(front) if Some(front.log_id.index) <= self.written => self.pop_front(),
                Some(_) | None => break,
            }
        }
    }

    /// Notes that the engine holds nothing from index `from` on. Batches that were under way when the tail was cut may
    /// have said otherwise in between.
    pub(crate) fn truncated(&mut self, from: u64) {
        self.written = self.written.min(from.checked_sub(1));
    }

    /// Forgets everything after `last`.
    pub(crate) fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = self.entries.partition_point(|entry| last.is_some_and(|last| entry.log_id.index <= last.index));
        let cut: usize = self.entries.drain(keep..).map(|entry| weight(&entry)).sum();
        self.weight -= cut;
        if last.map(|last| last.index) < self.last.map(|last| last.index) {
            self.last = last;
        }
    }

    /// Forgets everything up to and including `upto`.
    pub(crate) fn purge(&mut self, upto: LogId) {
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            self.pop_front();
        }
        self.purged = self.purged.max(Some(upto));
        if self.last.is_none_or(|last| last.index < upto.index) {
            self.last = Some(upto);
        }
    }

    /// Finds the entries from `start` up to but not including `end` as far as there are any, with at most about
    /// `max_bytes` (but at least one entry) out of memory.
    pub(crate) fn find(&self, start: u64, end: u64, max_bytes: usize) -> Found {
        let Some(last) = self.last else { return Found::default() };
        let start = self.purged.map_or(start, |purged| start.max(purged.index.saturating_add(1)));
        let end = end.min(last.index.saturating_add(1));
        if start >= end {
            return Found::default();
        }
        let recent_from = self.entries.front().map_or(end, |front| front.log_id.index);
        let stored = (start < recent_from).then(|| (start, end.min(recent_from)));
        let mut recent = Vec::new();
        if end > recent_from {
            let skip = usize::try_from(start.saturating_sub(recent_from)).unwrap_or(usize::MAX);
            let mut bytes = 0;
            for entry in self.entries.iter().skip(skip).take_while(|entry| entry.log_id.index < end) {
                bytes += weight(entry);
                if !recent.is_empty() && bytes > max_bytes {
                    break;
                }
                recent.push(entry.clone());
            }
        }
        Found { stored, recent }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.weight -= weight(&entry);
        }
    }
}

/// What an entry weighs in memory and on the wire, in bytes; roughly.
pub(crate) fn weight(entry: &LogEntry) -> usize {
    ENTRY_WEIGHT
        + match &entry.payload {
            LogPayload::Normal(payload) => payload.0.len(),
            LogPayload::Blank | LogPayload::Membership(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Payload, log_id};
    use bytes::Bytes;

    fn entry(index: u64, bytes: usize) -> LogEntry {
        LogEntry { log_id: log_id(1, index), payload: LogPayload::Normal(Payload(Bytes::from(vec![0; bytes]))) }
    }

    fn empty() -> Tail {
        Tail::new(None, None, None)
    }

    fn indexes(found: &Found) -> Vec<u64> {
        found.recent.iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn entries_stay_in_memory_until_they_are_written_and_then_go_from_the_front() {
        let mut tail = empty().with_limit(4500);
        let entries: Vec<_> = (0..10).map(|index| entry(index, 1000)).collect();
        tail.append(&entries);
        assert_eq!(indexes(&tail.find(0, 10, usize::MAX)).len(), 10);
        tail.written(4);
        let found = tail.find(0, 10, usize::MAX);
        assert_eq!(found.stored, Some((0, 5)));
        assert_eq!(indexes(&found), [5, 6, 7, 8, 9]);
        tail.written(9);
        assert_eq!(tail.find(0, 10, usize::MAX).stored, Some((0, 7)));
    }

    #[test]
    fn a_limit_in_bytes_still_gives_one_entry() {
        let mut tail = empty();
        tail.append(&[entry(0, 1000), entry(1, 1000), entry(2, 1000)]);
        assert_eq!(indexes(&tail.find(0, 3, 1)), [0]);
        assert_eq!(indexes(&tail.find(0, 3, 2500)), [0, 1]);
    }

    #[test]
    fn purging_past_the_end_leaves_an_empty_log_that_goes_on_after_it() {
        let mut tail = empty();
        tail.append(&[entry(0, 1), entry(1, 1)]);
        tail.purge(log_id(2, 9));
        assert_eq!((tail.last, tail.purged), (Some(log_id(2, 9)), Some(log_id(2, 9))));
        tail.append(&[entry(10, 1)]);
        assert_eq!(indexes(&tail.find(0, 20, usize::MAX)), [10]);
    }

    #[test]
    fn truncating_forgets_the_end_only() {
        let mut tail = empty();
        tail.append(&[entry(0, 1), entry(1, 1), entry(2, 1)]);
        tail.written(2);
        tail.truncate_after(Some(log_id(1, 0)));
        assert_eq!(indexes(&tail.find(0, 9, usize::MAX)), [0]);
        tail.truncate_after(None);
        assert_eq!(tail.last, None);
    }
}
