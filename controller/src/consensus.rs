//! The replicated log as the port that control asks for.

use std::time::Duration;

use async_trait::async_trait;
use berth_control::{Consensus, ConsensusError, Leadership};
use berth_model::Term;
use berth_raft::{Handle, ProposeError, ReadError, ReadMode};
use berth_state::{Applied, Batch, record};
use bytes::Bytes;
use tokio::sync::watch;

use crate::guard::Halt;

/// How long a change may wait for a leader and a majority: longer than an election, shorter than an operator's patience.
const PROPOSE_WITHIN: Duration = Duration::from_secs(10);
/// The same for a linearizable read.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// The log of this member.
#[derive(Debug)]
pub(crate) struct Log {
    handle: Handle,
    leadership: watch::Receiver<Leadership>,
    halt: Halt,
}

impl Log {
    /// Joins the log; a task translates its word on leadership until the log ends.
    pub(crate) fn new(handle: Handle, halt: Halt) -> Self {
        let mut theirs = handle.leadership();
        let mut halted = halt.changes();
        let (sender, leadership) = watch::channel(translate(&theirs.borrow_and_update(), false));
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = theirs.changed() => changed,
                    changed = halted.changed() => changed,
                };
                let is_halted = halted.borrow_and_update().is_some();
                sender.send_replace(translate(&theirs.borrow_and_update(), is_halted));
                if changed.is_err() {
                    return;
                }
            }
        });
        Self { handle, leadership, halt }
    }

    /// Nothing is asked of the log by a member that must not serve.
    fn permitted(&self) -> Result<(), ConsensusError> {
        self.halt.reason().map_or(Ok(()), |why| Err(ConsensusError::Differs(why)))
    }
}

/// Whether reads shall be answered without asking the leader: the fault that shows whether the test of linearizability
/// finds any. Programs that are built to be shipped have no such switch.
fn answers_stale_reads() -> bool {
    cfg!(debug_assertions) && std::env::var_os("BERTH_TEST_STALE_READS").is_some()
}

impl Log {
    async fn barrier(&self, mode: ReadMode) -> Result<(), ConsensusError> {
        self.permitted()?;
        if answers_stale_reads() {
            return Ok(());
        }
        self.handle.read_barrier(mode, READ_WITHIN).await.map(|_| ()).map_err(|error| match error {
            ReadError::NoLeader => ConsensusError::NoLeader,
            ReadError::Behind { .. } => ConsensusError::Stopped(error.to_string()),
            ReadError::Stopped { reason } => ConsensusError::Stopped(reason),
        })
    }
}

/// A member that must not serve does not lead either, whatever the log says.
fn translate(known: &berth_raft::Leadership, is_halted: bool) -> Leadership {
    let leads = known.is_leader && !is_halted;
    let leader = known.leader.as_ref().filter(|_| leads || !known.is_leader);
    Leadership { term: Term(known.term), here: leads, leader_api: leader.map(|leader| leader.api_addr.clone()) }
}

fn encoded(batch: &Batch) -> Result<Bytes, ConsensusError> {
    record::encode_batch(batch).map(Bytes::from).map_err(|error| ConsensusError::Stopped(error.to_string()))
}

fn answered(outcome: Result<Bytes, ProposeError>) -> Result<Vec<Applied>, ConsensusError> {
    let answers = outcome.map_err(|error| match error {
        ProposeError::NoLeader => ConsensusError::NoLeader,
        ProposeError::Unknown { reason } => ConsensusError::Unknown(reason),
        ProposeError::TooLarge { size, limit } => ConsensusError::TooLarge { bytes: size, limit },
        ProposeError::Stopped { reason } => ConsensusError::Stopped(reason),
        ProposeError::Full { reason } => ConsensusError::Full(reason),
    })?;
    // The change is made; an answer that this version cannot read must not be called a failure.
    record::decode_answers(&answers).map_err(|error| ConsensusError::Unknown(error.to_string()))
}

#[async_trait]
impl Consensus for Log {
    async fn propose(&self, batch: &Batch) -> Result<Vec<Applied>, ConsensusError> {
        self.permitted()?;
        answered(self.handle.propose(encoded(batch)?, PROPOSE_WITHIN).await)
    }

    async fn propose_leading(&self, batch: &Batch) -> Result<Vec<Applied>, ConsensusError> {
        self.permitted()?;
        answered(self.handle.propose_leading(encoded(batch)?, PROPOSE_WITHIN).await)
    }

    async fn read_barrier(&self) -> Result<(), ConsensusError> {
        self.barrier(ReadMode::Index).await
    }

    async fn lease_barrier(&self) -> Result<(), ConsensusError> {
        self.barrier(ReadMode::Lease).await
    }

    fn halted(&self) -> Option<String> {
        self.halt.reason()
    }

    fn controllers(&self) -> Vec<String> {
        self.handle.members().into_iter().map(|member| member.api_addr).collect()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }
}
