//! The key-value machine that the bench drives over our log: every write makes a revision, and old revisions stay readable.
//!
//! That is what etcd's store does, and what it costs must be in our figures too. How much history stays is bounded as the
//! product's own is. Everything lies in persistent maps, so that a snapshot is a clone and the next writes go on beside it.

use std::io::{self, Read, Write};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use berth_raft::{BoxError, Bytes, Entry, StateMachine};
use imbl::{OrdMap, Vector};

/// Revisions that stay readable at most.
const MOST_REVISIONS: usize = 100_000;

/// Bytes of history at most.
const MOST_BYTES: usize = 128 << 20;

/// What a version weighs besides its key and value, in bytes; roughly.
const VERSION_WEIGHT: usize = 160;

/// First byte of a snapshot: its layout.
const SNAPSHOT_LAYOUT: u8 = 1;

/// First byte of a proposal: a write of one key.
const PUT: u8 = 1;

/// The bytes of a proposal that writes a key. Keys are shorter than 64 KiB: `None` if this one is not.
pub(crate) fn put(key: &[u8], value: &[u8]) -> Option<Bytes> {
    let key_bytes = u16::try_from(key.len()).ok()?;
    let mut payload = Vec::with_capacity(3 + key.len() + value.len());
    payload.push(PUT);
    payload.extend_from_slice(&key_bytes.to_le_bytes());
    payload.extend_from_slice(key);
    payload.extend_from_slice(value);
    Some(payload.into())
}

/// Key and value of a proposal.
fn parse(payload: &Bytes) -> Option<(&[u8], Bytes)> {
    let (&[PUT, low, high], rest) = payload.split_first_chunk::<3>()? else { return None };
    let key_bytes = usize::from(u16::from_le_bytes([low, high]));
    let (key, _) = rest.split_at_checked(key_bytes)?;
    Some((key, payload.slice(3 + key_bytes..)))
}

/// The revision in the answer to a proposal.
pub(crate) fn revision_of(answer: &[u8]) -> Option<u64> {
    answer.try_into().ok().map(u64::from_le_bytes)
}

/// One write of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// The revision that this write made.
    pub(crate) revision: u64,
    /// The revision at which the key came into being.
    pub(crate) created: u64,
    /// How often the key was written by then.
    pub(crate) writes: u64,
    /// The revision of the write before, 0 if there was none.
    previous: u64,
}

impl Version {
    fn weight(&self) -> usize {
        self.key.len() + self.value.len() + VERSION_WEIGHT
    }
}

/// Why a revision cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RevisionError {
    /// Too old.
    #[error("revision {asked} has been compacted; the oldest is {oldest}")]
    Compacted { asked: u64, oldest: u64 },
    /// Not made yet.
    #[error("revision {asked} is not made yet; the latest is {latest}")]
    Future { asked: u64, latest: u64 },
}

/// All keys, and the past of them as far as it is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// The latest revision.
    revision: u64,
    /// The latest write of each key.
    latest: OrdMap<Bytes, u64>,
    /// The last writes; each made the revision after the one before it, and the last made `revision`.
    history: Vector<Version>,
    /// Of each key the last write before the history, if it had one.
    settled: OrdMap<Bytes, Version>,
    /// What the history weighs.
    bytes: usize,
}

impl State {
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The oldest revision that is readable.
    fn oldest(&self) -> u64 {
        self.revision - self.history.len() as u64
    }

    fn put(&mut self, key: &[u8], value: Bytes) -> u64 {
        let revision = self.revision + 1;
        // The map keeps its own copy of a key: one cut from the proposal would hold its value too.
        let (key, before) = match self.latest.get_key_value(key) {
            Some((key, &before)) => (key.clone(), self.at(key, before)),
            None => (Bytes::copy_from_slice(key), None),
        };
        let (created, writes, previous) =
            before.map_or((revision, 1, 0), |before| (before.created, before.writes + 1, before.revision));
        self.latest.insert(key.clone(), revision);
        self.revision = revision;
        self.push(Version { key, value, revision, created, writes, previous });
        revision
    }

    fn push(&mut self, version: Version) {
        self.bytes += version.weight();
        self.history.push_back(version);
        while self.history.len() > MOST_REVISIONS || self.bytes > MOST_BYTES {
            let Some(oldest) = self.history.pop_front() else { break };
            self.bytes -= oldest.weight();
            self.settled.insert(oldest.key.clone(), oldest);
        }
    }

    /// The write that made a revision, or what stands for it: of the settled ones only the last of a key is there.
    fn find(&self, revision: u64) -> Option<&Version> {
        let place = revision.checked_sub(self.oldest() + 1)?;
        self.history.get(usize::try_from(place).ok()?)
    }

    /// A key as it was at a revision; 0 means now.
    pub(crate) fn get(&self, key: &[u8], revision: u64) -> Result<Option<&Version>, RevisionError> {
        let revision = self.readable(revision)?;
        Ok(self.at(key, revision))
    }

    /// Up to `limit` keys from `start` up to but not including `end`, as they were at a revision; 0 means now.
    pub(crate) fn range<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        revision: u64,
        limit: usize,
    ) -> Result<Vec<&'a Version>, RevisionError> {
        let revision = self.readable(revision)?;
        let keys = self.latest.range::<_, [u8]>((std::ops::Bound::Included(start), std::ops::Bound::Excluded(end)));
        Ok(keys.filter_map(|(key, _)| self.at(key, revision)).take(limit).collect())
    }

    fn readable(&self, asked: u64) -> Result<u64, RevisionError> {
        let (oldest, latest) = (self.oldest(), self.revision);
        match asked {
            0 => Ok(latest),
            _ if asked < oldest => Err(RevisionError::Compacted { asked, oldest }),
            _ if asked > latest => Err(RevisionError::Future { asked, latest }),
            _ => Ok(asked),
        }
    }

    fn at(&self, key: &[u8], revision: u64) -> Option<&Version> {
        let mut next = *self.latest.get(key)?;
        while let Some(version) = self.find(next) {
            if version.revision <= revision {
                return Some(version);
            }
            next = version.previous;
        }
        self.settled.get(key)
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&[SNAPSHOT_LAYOUT])?;
        for number in [self.revision, self.settled.len() as u64, self.history.len() as u64] {
            out.write_all(&number.to_le_bytes())?;
        }
        for Version { key, value, revision, created, writes, previous } in
            self.settled.values().chain(self.history.iter())
        {
            for number in [key.len() as u64, value.len() as u64, *revision, *created, *writes, *previous] {
                out.write_all(&number.to_le_bytes())?;
            }
            out.write_all(key)?;
            out.write_all(value)?;
        }
        Ok(())
    }

    fn read(from: &mut dyn Read) -> Result<Self, BoxError> {
        let mut layout = [0];
        from.read_exact(&mut layout)?;
        if layout != [SNAPSHOT_LAYOUT] {
            return Err(format!("a snapshot of layout {}, this program knows {SNAPSHOT_LAYOUT}", layout[0]).into());
        }
        let [revision, settled, history] = numbers(from)?;
        let mut state = Self { revision, ..Self::default() };
        for at in 0..settled + history {
            let [key, value, revision, created, writes, previous] = numbers(from)?;
            let (key, value) = (bytes(from, key)?, bytes(from, value)?);
            // One copy of each key, as while writing.
            let key = state.latest.get_key_value(&key).map_or(key, |(known, _)| known.clone());
            state.latest.insert(key.clone(), revision);
            let version = Version { key, value, revision, created, writes, previous };
            if at < settled {
                state.settled.insert(version.key.clone(), version);
            } else {
                state.push(version);
            }
        }
        if state.history.len() as u64 > state.revision {
            return Err("a snapshot with more history than revisions".into());
        }
        Ok(state)
    }
}

fn numbers<const N: usize>(from: &mut dyn Read) -> io::Result<[u64; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        *number = u64::from_le_bytes(bytes);
    }
    Ok(numbers)
}

fn bytes(from: &mut dyn Read, length: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    from.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes.into()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The machine. Readers look into the same state under a lock that each holds for less than a microsecond.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    state: Arc<RwLock<State>>,
}

/// Reads what a machine has applied.
#[derive(Debug, Clone)]
pub(crate) struct Reader(Arc<RwLock<State>>);

impl Reader {
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine {
    pub(crate) fn reader(&self) -> Reader {
        Reader(Arc::clone(&self.state))
    }
}

impl StateMachine for Machine {
    type Snapshot = State;

    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let apply = |entry: &Entry| {
            let (key, value) = parse(&entry.payload).expect("an entry of a layout that this program knows");
            Bytes::copy_from_slice(&state.put(key, value).to_le_bytes())
        };
        entries.iter().map(apply).collect()
    }

    fn snapshot(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(snapshot: &State, out: &mut dyn Write) -> Result<(), BoxError> {
        Ok(snapshot.write(out)?)
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), BoxError> {
        let state = State::read(from)?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(found: Result<Option<&Version>, RevisionError>) -> Option<String> {
        found.unwrap().map(|version| String::from_utf8(version.value.to_vec()).unwrap())
    }

    #[test]
    fn a_proposal_says_what_was_put_into_it() {
        let payload = put(b"key", b"value").unwrap();
        assert_eq!(parse(&payload), Some((&b"key"[..], Bytes::from_static(b"value"))));
        assert_eq!(parse(&Bytes::from_static(&[PUT, 9, 0, 1])), None);
        assert_eq!(parse(&Bytes::from_static(&[7, 0, 0])), None);
        assert_eq!(put(&vec![0; 1 << 16], b""), None);
    }

    #[test]
    fn old_revisions_stay_readable() {
        let mut state = State::default();
        for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            state.put(key.as_bytes(), Bytes::from(value));
        }
        let at = |key: &str, revision| text(state.get(key.as_bytes(), revision));
        assert_eq!((at("a", 1), at("a", 2), at("a", 3)), (Some("1".into()), Some("1".into()), Some("3".into())));
        assert_eq!((at("b", 1), at("b", 2), at("a", 0)), (None, Some("2".into()), Some("3".into())));
        assert_eq!(state.get(b"a", 4), Err(RevisionError::Future { asked: 4, latest: 3 }));
        let version = state.get(b"a", 0).unwrap().unwrap();
        assert_eq!((version.revision, version.created, version.writes), (3, 1, 2));
        let range = state.range(b"a", b"c", 2, 9).unwrap();
        assert_eq!(range.iter().map(|version| version.revision).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn history_is_bounded_and_what_is_older_is_said_to_be_compacted() {
        let mut state = State::default();
        state.put(b"still", Bytes::from_static(b"here"));
        let total = MOST_REVISIONS as u64 + 10;
        for number in 2..=total {
            state.put(format!("k{}", number % 10).as_bytes(), Bytes::from(number.to_string()));
        }
        assert_eq!(state.history.len(), MOST_REVISIONS);
        assert_eq!(state.get(b"k5", 9), Err(RevisionError::Compacted { asked: 9, oldest: 10 }));
        // At the edge the last writes before the history still count.
        assert_eq!(text(state.get(b"k5", 10)), Some("5".into()));
        assert_eq!(text(state.get(b"k5", 15)), Some("15".into()));
        assert_eq!(text(state.get(b"still", 0)), Some("here".into()));
        assert_eq!(text(state.get(b"k0", 0)), Some((total / 10 * 10).to_string()));
    }

    #[test]
    fn a_snapshot_restores_the_past_too_and_later_writes_do_not_change_it() {
        let mut machine = Machine::default();
        let entry = |index, key: &str, value: &str| Entry {
            index,
            term: 1,
            payload: put(key.as_bytes(), value.as_bytes()).unwrap(),
        };
        let answers = machine.apply(&[entry(1, "a", "1"), entry(3, "a", "2"), entry(4, "b", "3")]);
        assert_eq!(answers.iter().map(|answer| revision_of(answer)).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
        let snapshot = machine.snapshot();
        machine.apply(&[entry(5, "a", "4")]);
        let mut other = Machine::default();
        let mut bytes = Vec::new();
        Machine::write(&snapshot, &mut bytes).unwrap();
        other.restore(&mut &bytes[..]).unwrap();
        let reader = other.reader();
        assert_eq!(reader.state().revision(), 3);
        assert_eq!(text(reader.state().get(b"a", 1)), Some("1".into()));
        assert_eq!(text(reader.state().get(b"a", 0)), Some("2".into()));
        other.apply(&[entry(5, "a", "4")]);
        let version = reader.state().get(b"a", 0).unwrap().unwrap().clone();
        assert_eq!((version.revision, version.created, version.writes), (4, 1, 3));
        assert!(other.restore(&mut &[9][..]).is_err());
        assert_eq!(reader.state().revision(), 4);
    }
}
