//! What this crate needs of others: consensus, the clock and randomness, and the sealing key.

use async_trait::async_trait;
use berth_model::session::UserData;
use berth_model::{Millis, Sealed, Term, Timestamp};
use berth_state::{Applied, Batch};
use tokio::sync::watch;

/// Why consensus did not answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConsensusError {
    /// Nobody leads; nothing was proposed.
    #[error("no leader at present")]
    NoLeader,
    /// It may have been carried out.
    #[error("the outcome is not known: {0}")]
    Unknown(String),
    /// This member's state is not that of the others.
    #[error("this member's state differs: {0}")]
    Differs(String),
    /// This member cannot serve.
    #[error("this member cannot serve: {0}")]
    Stopped(String),
    /// The log has no room for it; nothing was proposed.
    #[error("there is no room: {0}")]
    Full(String),
    /// The batch is too large for the log.
    #[error("{bytes} bytes are more than the {limit} that the log takes")]
    TooLarge {
        /// Of the batch.
        bytes: usize,
        /// Of the log.
        limit: usize,
    },
}

/// Who leads, as this member knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    /// The term it knows.
    pub term: Term,
    /// Whether this member leads.
    pub here: bool,
    /// Where the leader's API answers, `address:port`.
    pub leader_api: Option<String>,
}

/// The replicated log, seen from above. On a follower, proposals are forwarded to the leader.
#[async_trait]
pub trait Consensus: Send + Sync + 'static {
    /// Commits a batch and returns the answers to its commands.
    async fn propose(&self, batch: &Batch) -> Result<Vec<Applied>, ConsensusError>;

    /// Commits a batch if this member leads at this moment, and never forwards it: for what a leader says as the
    /// leader. A deposed leader's word about a host, carried to its successor, would overwrite newer words.
    async fn propose_leading(&self, batch: &Batch) -> Result<Vec<Applied>, ConsensusError>;

    /// After this returns, the view of this member shows everything that was committed before the call.
    async fn read_barrier(&self) -> Result<(), ConsensusError>;

    /// Why this member must answer nothing at all, not even what it has at hand; none as long as it may.
    fn halted(&self) -> Option<String> {
        None
    }

    /// The same by the leader's lease, where there is one.
    async fn lease_barrier(&self) -> Result<(), ConsensusError> {
        self.read_barrier().await
    }

    /// Where the APIs of all members answer, `address:port`, by the membership that this member knows.
    fn controllers(&self) -> Vec<String>;

    /// Who leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;
}

/// The clocks and the dice.
pub trait Environment: Send + Sync + 'static {
    /// Wall-clock time.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment of this process, by a clock that nobody sets: for measuring silence. A step of the
    /// wall clock must not make hosts look lost.
    fn uptime(&self) -> Millis;

    /// 128 fresh random bits.
    fn random(&self) -> u128;
}

/// The key that seals secrets. `context` binds a secret to its object, so that it cannot be moved to another.
pub trait Seal: Send + Sync + 'static {
    /// Seals a secret.
    fn seal(&self, secret: &[u8], context: &[u8]) -> Result<Sealed, String>;

    /// Opens a secret.
    fn open(&self, sealed: &Sealed, context: &[u8]) -> Result<UserData, String>;
}
