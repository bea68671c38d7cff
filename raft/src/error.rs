//! What can go wrong, one enum an operation.

use std::io;
use std::path::PathBuf;

use berth_frame::FrameError;

use crate::machine::BoxError;

/// Why a member could not be opened. Its directory is never emptied to get over one of these.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options contradict themselves.
    #[error("the options of member {id} cannot work: {reason}")]
    Options {
        /// The member.
        id: u64,
        /// What is wrong with them.
        reason: String,
    },
    /// The directory holds something that is not ours.
    #[error(
        "{path} is not the data directory of a replicated log: {reason}; name another directory, or move what is there away"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What was found there.
        reason: String,
    },
    /// The directory is that of another member.
    #[error(
        "{file} says that the directory belongs to member {found}, not to member {expected}; give this member its own directory"
    )]
    OtherMember {
        /// The file that says so.
        file: PathBuf,
        /// The member it belongs to.
        found: u64,
        /// The member that was to be opened.
        expected: u64,
    },
    /// Another process has the directory open.
    #[error("{file} is in use by another process; stop that one first")]
    InUse {
        /// The locked file.
        file: PathBuf,
    },
    /// A record is not what was written.
    #[error(
        "{file} is damaged at {record}: {source}; keep the directory for inspection, and let this member start with an empty one and catch up from the others, or restore a backup"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Which record of it.
        record: String,
        /// What is wrong with it.
        source: FrameError,
    },
    /// Records are whole but do not fit together, so something was lost.
    #[error(
        "{file} is incomplete: {reason}; keep the directory for inspection, and let this member start with an empty one and catch up from the others, or restore a backup"
    )]
    Incomplete {
        /// The file or directory.
        file: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The snapshot is whole, but the state machine does not take it.
    #[error(
        "the state machine does not accept the snapshot {file}: {source}; run the version that wrote it, or a later one"
    )]
    Restore {
        /// The snapshot's file.
        file: PathBuf,
        /// What the state machine said.
        source: BoxError,
    },
    /// The operating system refused something.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The consensus itself did not start.
    #[error("member {id} could not start: {reason}")]
    Start {
        /// The member.
        id: u64,
        /// What it said.
        reason: String,
    },
}

/// Why a proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader took it in time: it was not executed and never will be.
    #[error("no leader could be reached in time; nothing was changed; try again, or check that most members run")]
    NoLeader,
    /// It was handed to a leader, and what became of it is not known: it may have been executed, or may still be.
    #[error(
        "it is not known whether the change was made ({reason}); look before doing it again, or repeat it under the same request id"
    )]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// It is above the limit: it was not executed.
    #[error("the proposal of {size} bytes is above the limit of {limit} bytes; split it")]
    TooLarge {
        /// Bytes in the proposal.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The leader has no room for it: it was not executed.
    #[error("{reason}; nothing was changed")]
    Full {
        /// What there is too little or too much of, and what to do.
        reason: String,
    },
    /// This member takes no part: it was not executed.
    #[error("this member of the replicated log has stopped ({reason}); nothing was changed; ask another member")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why a read cannot be promised to be current.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed its office in time.
    #[error("no leader confirmed in time that it still leads; try again, or check that most members run")]
    NoLeader,
    /// The leader answered, but this member has not applied everything yet.
    #[error(
        "this member has not caught up in time: it must apply up to {wanted} and is at {applied:?}; try again or ask another member"
    )]
    Behind {
        /// The index that must be applied.
        wanted: u64,
        /// The index that is.
        applied: Option<u64>,
    },
    /// This member takes no part.
    #[error("this member of the replicated log has stopped ({reason}); ask another member")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why the leader's office was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This member does not lead, so it has nothing to hand over.
    #[error("this member does not lead; ask the leader{}", .leader.as_ref().map(|name| format!(" {name}")).unwrap_or_default())]
    NotLeader {
        /// The name of who leads, if known.
        leader: Option<String>,
    },
    /// There is no such voter besides this member.
    #[error("no other voting member {} could take over", .to.map_or_else(|| "at all".to_owned(), |id| format!("with id {id}")))]
    NoCandidate {
        /// The member asked for, if any.
        to: Option<u64>,
    },
    /// The one asked for, or the best of all, could not lead at once; this member leads on.
    #[error("{name} cannot take over: {reason}; try again when it can, or name another member")]
    NotReady {
        /// The candidate's name.
        name: String,
        /// What keeps it from leading.
        reason: String,
    },
    /// Nobody took over in time; this member may lead on.
    #[error("no other member took over in time; this member may still lead; try again")]
    TimedOut,
    /// This member takes no part.
    #[error("this member of the replicated log has stopped ({reason})")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Why the members were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// No leader took it in time: nothing was changed.
    #[error("no leader could be reached in time; nothing was changed; try again, or check that most members run")]
    NoLeader,
    /// The leader does not do it: nothing was changed.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// It was begun, and what became of it is not known. Whoever leads finishes what a majority confirms, and asking for the
    /// same again is harmless.
    #[error(
        "it is not known whether the members were changed ({reason}); list the members, and ask for the same again if it is not so"
    )]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// This member takes no part: nothing was changed.
    #[error("this member of the replicated log has stopped ({reason}); nothing was changed; ask another member")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// A change of the members that the leader does not make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// Which sort.
    pub kind: RefusalKind,
    /// Why, and what to do.
    pub reason: String,
}

/// Sorts of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// What is asked for makes no sense.
    Invalid,
    /// There is no such member.
    UnknownMember,
    /// Another member has the name.
    NameTaken,
    /// Another member has the address.
    AddressTaken,
    /// The voters that would be left could not make a majority.
    WouldLoseQuorum,
    /// It is the only voter.
    LastVoter,
    /// The learner does not answer.
    Silent,
    /// The learner has not caught up.
    Lagging,
    /// The member lost what it had acknowledged.
    HasForgotten,
    /// Another change is not finished.
    UnderWay,
}

/// Why the transport stopped serving.
#[derive(Debug, thiserror::Error)]
#[error("the transport of the replicated log stopped: {0}")]
pub struct ServeError(#[source] pub(crate) BoxError);
