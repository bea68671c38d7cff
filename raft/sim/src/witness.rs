//! Sees everything that happens, and says at once when a law of the log is broken.
//!
//! | law | how it is seen |
//! |---|---|
//! | one leader a term | who says that it leads, and whom ballots on disks name as leader |
//! | log matching | the entries on all disks |
//! | state machine safety | every applied entry, with a digest of all before it, against the first one applied at its index |
//! | leader completeness | a settled leader's log against what was applied before its term |
//! | nothing acknowledged is lost, nothing refused is made | answers to clients against what was applied |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_raft::Entry;
use berth_raft::testing::{Ballot, Logged};

use crate::machine::{REQUEST, Request};

/// The first application of an index anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Applied {
    term: u64,
    value: u64,
    digest: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    applied: BTreeMap<u64, Applied>,
    /// When each index was first applied.
    since: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, u64>,
    acknowledged: BTreeMap<u64, u64>,
    refused: BTreeSet<u64>,
    /// How often each kind of fault was at work.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// The first law that was broken.
    pub(crate) broken: Option<String>,
    /// Milliseconds of simulated time.
    pub(crate) now: u64,
    /// Events so far.
    pub(crate) events: u64,
    trace: u64,
    is_verbose: bool,
}

/// The witness as all parts of a simulation hold it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Witness>>);

impl Shared {
    pub(crate) fn new(is_verbose: bool) -> Self {
        Self(Arc::new(Mutex::new(Witness { is_verbose, ..Witness::default() })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Witness> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Witness {
    /// Takes an event into the trace.
    #[expect(clippy::print_stdout, reason = "showing the trace is what the option is for")]
    pub(crate) fn event(&mut self, what: fmt::Arguments<'_>) {
        self.events += 1;
        let line = format!("{:>6} ms  {what}", self.now);
        let mut hasher = DefaultHasher::new();
        (self.trace, &line).hash(&mut hasher);
        self.trace = hasher.finish();
        if self.is_verbose {
            println!("{line}");
        }
    }

    /// A digest of all events.
    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    /// Notes that a fault is at work.
    pub(crate) fn fault(&mut self, kind: &'static str, what: fmt::Arguments<'_>) {
        *self.faults.entry(kind).or_default() += 1;
        self.event(format_args!("{kind}: {what}"));
    }

    /// Notes that a law is broken; the first one counts.
    pub(crate) fn broken(&mut self, law: &str, how: fmt::Arguments<'_>) {
        self.event(format_args!("BROKEN {law}: {how}"));
        let now = self.now;
        self.broken.get_or_insert_with(|| format!("{law} is broken at {now} ms: {how}"));
    }

    /// A member applied an entry after that at index `before`.
    pub(crate) fn applied(&mut self, member: u64, before: u64, entry: &Entry, digest: u64) {
        let Entry { index, term, ref payload } = *entry;
        if index <= before {
            self.broken(
                "state machine safety",
                format_args!("member {member} applied {index} after it had applied {before}"),
            );
        }
        let request = payload.as_ref().try_into().map(|bytes: &[u8; REQUEST]| Request::decode(bytes));
        let value = match request {
            Ok(Request::Write { value, .. } | Request::Swap { value, .. }) => value,
            Ok(Request::Read { .. }) | Err(_) => {
                return self
                    .broken("integrity", format_args!("member {member} applied at {index} what nobody proposed"));
            }
        };
        let applied = Applied { term, value, digest };
        match self.applied.get(&index) {
            None => {
                self.applied.insert(index, applied);
                self.since.insert(index, self.now);
                self.event(format_args!("member {member} is the first to apply {index} of term {term}: value {value}"));
            }
            Some(first) if *first == applied => {}
            Some(&first) => self.broken(
                "state machine safety",
                format_args!("member {member} applied {applied:?} at {index}, where another one applied {first:?}"),
            ),
        }
        if self.refused.contains(&value) {
            self.broken("refusal", format_args!("value {value} was refused for good and is applied at {index}"));
        }
    }

    /// A member replaced its state, which was at index `before`, by a snapshot.
    pub(crate) fn restored(&mut self, member: u64, before: u64, index: u64, digest: u64) {
        if before > 0 {
            *self.faults.entry("snapshot installed").or_default() += 1;
        }
        self.event(format_args!("member {member} goes from {before} to the snapshot at {index}"));
        if index < before {
            self.broken(
                "state machine safety",
                format_args!("member {member} had applied {before} and was set back to a snapshot at {index}"),
            );
        }
        let known = self.applied.get(&index).map(|applied| applied.digest);
        if index > 0 && known != Some(digest) {
            self.broken(
                "state machine safety",
                format_args!("the snapshot at {index} of member {member} holds {digest:x}, not {known:x?}"),
            );
        }
    }

    /// A member says that it leads, or a ballot says so of it.
    pub(crate) fn leads(&mut self, member: u64, term: u64, says: &str) {
        match self.leaders.insert(term, member) {
            None => self.event(format_args!("member {member} leads term {term}, says {says}")),
            Some(other) if other == member => {}
            Some(other) => self.broken(
                "election safety",
                format_args!("member {member} leads term {term}, says {says}, and so does member {other}"),
            ),
        }
    }

    /// A member's ballot as it is on its disk.
    pub(crate) fn ballot(&mut self, holder: u64, ballot: Ballot) {
        if ballot.committed {
            self.leads(
                ballot.member,
                ballot.term,
                if ballot.member == holder { "its ballot" } else { "another's ballot" },
            );
        }
    }

    /// A change was acknowledged to a client.
    pub(crate) fn acknowledged(&mut self, value: u64, version: u64) {
        self.acknowledged.insert(value, version);
        if self.applied.get(&version).is_none_or(|applied| applied.value != value) {
            self.broken(
                "honesty",
                format_args!("value {value} was acknowledged at {version}, where it is not applied anywhere"),
            );
        }
    }

    /// A change was refused for good.
    pub(crate) fn refused(&mut self, value: u64) {
        self.refused.insert(value);
        if self.applied.values().any(|applied| applied.value == value) {
            self.broken("refusal", format_args!("value {value} is applied, and was then refused for good"));
        }
    }

    /// Compares the logs on all disks with each other.
    pub(crate) fn compare_logs(&mut self, logs: &[(u64, Vec<Logged>)]) {
        for (at, (one, left)) in logs.iter().enumerate() {
            for (other, right) in &logs[at + 1..] {
                let right: BTreeMap<u64, &Logged> = right.iter().map(|entry| (entry.index, entry)).collect();
                // From the end: below the last agreement everything must agree.
                let mut agreed = None;
                for mine in left.iter().rev() {
                    let Some(theirs) = right.get(&mine.index) else { continue };
                    if mine.term == theirs.term {
                        agreed = agreed.or(Some(mine.index));
                    }
                    if agreed.is_some() && **theirs != *mine {
                        self.broken(
                            "log matching",
                            format_args!(
                                "members {one} and {other} agree at {agreed:?} and have {mine:?} and {theirs:?} before it"
                            ),
                        );
                    }
                }
            }
        }
    }

    /// Looks for what was applied in earlier terms in the log of a leader that has long been one.
    pub(crate) fn check_leader(&mut self, member: u64, term: u64, since: u64, log: &[Logged]) {
        let differing = log.iter().find(|entry| {
            let applied = self.applied.get(&entry.index);
            // What an earlier term wrote may be committed by a later one, past this leader.
            let was_before = self.since.get(&entry.index).is_some_and(|at| *at < since);
            was_before && applied.is_some_and(|applied| applied.term < term && applied.term != entry.term)
        });
        if let Some(entry) = differing.copied() {
            self.broken(
                "leader completeness",
                format_args!("the leader {member} of term {term} has {entry:?}, and other was applied before its term"),
            );
        }
    }

    /// At the end, all members having applied everything up to `index`: is everything there that was acknowledged?
    pub(crate) fn check_end(&mut self, index: u64) {
        let lost: Vec<_> = self
            .acknowledged
            .iter()
            .filter(|&(value, version)| {
                *version > index || self.applied.get(version).is_none_or(|applied| applied.value != *value)
            })
            .map(|(value, _)| *value)
            .collect();
        if !lost.is_empty() {
            self.broken("durability", format_args!("at the end at {index} acknowledged values are lost: {lost:?}"));
        }
    }

    /// The digest of the state at an index.
    pub(crate) fn digest_at(&self, index: u64) -> Option<u64> {
        self.applied.get(&index).map(|applied| applied.digest)
    }
}
