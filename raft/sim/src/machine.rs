//! What is replicated in the simulation: a few registers, and a digest of everything that was applied.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use berth_raft::{BoxError, Bytes, Entry, StateMachine};
use serde::{Deserialize, Serialize};

use crate::witness::Shared;

/// What a client asks of a member; a change goes into the log as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// The register shall hold this, whatever it holds.
    Write { key: u8, value: u64 },
    /// The register shall hold this, if nobody changed it since that version.
    Swap { key: u8, value: u64, expected: u64 },
    /// What does it hold, by a read index or by the leader's lease?
    Read { key: u8, by_lease: bool },
}

/// What a member answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Done, at this version.
    Changed { version: u64 },
    /// Not done: the register was at another version.
    Mismatch,
    /// This is what it holds.
    Seen { value: u64, version: u64 },
    /// Not done, and never will be.
    Refused,
    /// Perhaps done.
    Unknown,
}

/// Bytes of every request.
pub(crate) const REQUEST: usize = 18;
/// Bytes of every reply.
pub(crate) const REPLY: usize = 17;

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes are given"))
}

impl Request {
    pub(crate) fn encode(self) -> [u8; REQUEST] {
        let (tag, key, first, second) = match self {
            Self::Write { key, value } => (0, key, value, 0),
            Self::Swap { key, value, expected } => (1, key, value, expected),
            Self::Read { key, by_lease } => (2 + u8::from(by_lease), key, 0, 0),
        };
        let mut bytes = [0; REQUEST];
        bytes[0] = tag;
        bytes[1] = key;
        bytes[2..10].copy_from_slice(&first.to_le_bytes());
        bytes[10..].copy_from_slice(&second.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; REQUEST]) -> Self {
        let (key, value, expected) = (bytes[1], number(&bytes[2..10]), number(&bytes[10..]));
        match bytes[0] {
            0 => Self::Write { key, value },
            1 => Self::Swap { key, value, expected },
            tag => Self::Read { key, by_lease: tag == 3 },
        }
    }
}

impl Reply {
    pub(crate) fn encode(self) -> [u8; REPLY] {
        let (tag, first, second) = match self {
            Self::Changed { version } => (0, version, 0),
            Self::Mismatch => (1, 0, 0),
            Self::Seen { value, version } => (2, value, version),
            Self::Refused => (3, 0, 0),
            Self::Unknown => (4, 0, 0),
        };
        let mut bytes = [0; REPLY];
        bytes[0] = tag;
        bytes[1..9].copy_from_slice(&first.to_le_bytes());
        bytes[9..].copy_from_slice(&second.to_le_bytes());
        bytes
    }

    /// `None` for what no member sends.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REPLY] = bytes.try_into().ok()?;
        let (first, second) = (number(&bytes[1..9]), number(&bytes[9..]));
        Some(match bytes[0] {
            0 => Self::Changed { version: first },
            1 => Self::Mismatch,
            2 => Self::Seen { value: first, version: second },
            3 => Self::Refused,
            4 => Self::Unknown,
            _ => return None,
        })
    }
}

/// The whole state. A register's version is the index of the entry that wrote it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct State {
    registers: BTreeMap<u8, (u64, u64)>,
    /// Index of the last applied entry.
    pub(crate) index: u64,
    /// Of every entry up to that one, in order.
    pub(crate) digest: u64,
}

impl State {
    /// Value and version.
    pub(crate) fn read(&self, key: u8) -> (u64, u64) {
        self.registers.get(&key).copied().unwrap_or_default()
    }

    fn apply(&mut self, entry: &Entry) -> Reply {
        let mut hasher = DefaultHasher::new();
        (self.digest, entry.index, entry.term, &entry.payload).hash(&mut hasher);
        (self.index, self.digest) = (entry.index, hasher.finish());
        let bytes = entry.payload.as_ref().try_into().expect("only requests are proposed");
        match Request::decode(bytes) {
            Request::Swap { key, expected, .. } if self.read(key).1 != expected => Reply::Mismatch,
            Request::Write { key, value } | Request::Swap { key, value, .. } => {
                self.registers.insert(key, (value, entry.index));
                Reply::Changed { version: entry.index }
            }
            Request::Read { .. } => panic!("a read was proposed"),
        }
    }
}

/// The machine of one running member, seen by its readers and by the witness.
#[derive(Clone)]
pub(crate) struct Registers {
    member: u64,
    state: Arc<Mutex<Arc<State>>>,
    witness: Shared,
}

impl Registers {
    pub(crate) fn new(member: u64, witness: Shared) -> Self {
        Self { member, state: Arc::default(), witness }
    }

    /// The state after the last applied entry.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, state: Arc<State>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl StateMachine for Registers {
    type Snapshot = Arc<State>;

    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes> {
        let mut state = State::clone(&self.state());
        let mut witness = self.witness.lock();
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let before = state.index;
            let reply = state.apply(entry);
            witness.applied(self.member, before, entry, state.digest);
            answers.push(Bytes::copy_from_slice(&reply.encode()));
        }
        drop(witness);
        self.publish(Arc::new(state));
        answers
    }

    fn snapshot(&self) -> Self::Snapshot {
        self.state()
    }

    fn write(snapshot: &Self::Snapshot, out: &mut dyn Write) -> Result<(), BoxError> {
        Ok(serde_json::to_writer(out, snapshot.as_ref())?)
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), BoxError> {
        let state: State = serde_json::from_reader(from)?;
        self.witness.lock().restored(self.member, self.state().index, state.index, state.digest);
        self.publish(Arc::new(state));
        Ok(())
    }
}
