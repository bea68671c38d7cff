//! The state machine that the log drives: the port of this crate towards its user.

use std::io::{Read, Write};

use bytes::Bytes;

/// Any error of the user's, as a boxed value.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// One committed proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position in the log; rises by at least one from entry to entry (the log's own entries take positions too).
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
    /// What was proposed.
    pub payload: Bytes,
}

/// A deterministic machine: the same entries in the same order give the same state and the same answers on every member.
///
/// What readers need must be published by the machine itself (for example as a shared pointer to a persistent state that
/// `apply` and `restore` replace): the log owns the machine and hands nothing out but answers to proposals.
pub trait StateMachine: Send + Sync + 'static {
    /// A cheap persistent copy of the whole state, which later `apply` calls do not change.
    type Snapshot: Send + Sync + 'static;

    /// Applies committed entries in order and returns exactly one answer for each.
    ///
    /// It never fails: a refusal is an answer. An entry that this program cannot understand must panic rather than be
    /// skipped; the member then stops with that reason and the process lives on.
    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes>;

    /// The state after the last applied entry, in O(1).
    fn snapshot(&self) -> Self::Snapshot;

    /// Writes the bytes of a snapshot; called away from the apply path, while further entries are applied. What is written
    /// is buffered and checksummed behind `out`, so small writes are cheap.
    ///
    /// # Errors
    /// Whatever keeps the state from being written, errors of `out` among it; the member then stops with that reason.
    fn write(snapshot: &Self::Snapshot, out: &mut dyn Write) -> Result<(), BoxError>;

    /// Replaces the whole state by that of the bytes that [`write`](Self::write) wrote, perhaps on another member. The bytes
    /// were checked before, so an error of `from` is one of the disk.
    ///
    /// # Errors
    /// If the bytes are not a state that this program knows, or cannot be read.
    fn restore(&mut self, from: &mut dyn Read) -> Result<(), BoxError>;
}

/// Writes a frozen state; made under the apply path, called off it.
pub(crate) type Encoder = Box<dyn FnOnce(&mut dyn Write) -> Result<(), BoxError> + Send + Sync>;

/// [`StateMachine`] without its type parameter, so that everything else in this crate has none either.
pub(crate) trait AnyMachine: Send + Sync + 'static {
    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes>;
    fn freeze(&self) -> Encoder;
    fn restore(&mut self, from: &mut dyn Read) -> Result<(), BoxError>;
}

impl<M: StateMachine> AnyMachine for M {
    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes> {
        StateMachine::apply(self, entries)
    }

    fn freeze(&self) -> Encoder {
        let snapshot = self.snapshot();
        Box::new(move |out| M::write(&snapshot, out))
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), BoxError> {
        StateMachine::restore(self, from)
    }
}
