//! Calls of a member that is not the leader to the one that is.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::peers::{Lane, was_never_sent};
use super::{convert, proto};
use crate::error::{MembershipError, ProposeError, ReadError, TransferError};
use crate::handle::{ReadMode, millis};
use crate::local::Local;
use crate::membership::Change;
use crate::options::Member;

/// How much sooner than the caller the leader gives up, so that its answer still arrives.
const HEAD_START: Duration = Duration::from_millis(200);

/// What the leader is told of the caller's patience.
fn patience_ms(patience: Duration) -> u64 {
    millis(patience.saturating_sub(HEAD_START).max(patience / 2))
}

impl Local {
    /// Asks the leader to propose.
    pub(crate) async fn forward(
        &self,
        leader: &Member,
        payload: Bytes,
        patience: Duration,
    ) -> Result<Bytes, ProposeError> {
        use proto::propose_response::Outcome;
        let unknown = |reason: String| Err(ProposeError::Unknown { reason });
        let mut client = self.peers.client(leader, Lane::Calls);
        let size = payload.len();
        let request = proto::ProposeRequest { payload, timeout_ms: millis(patience) };
        match timeout(patience, client.propose(request)).await {
            Err(_) => unknown(format!("the leader {} did not answer in time", leader.name)),
            Ok(Err(status)) if was_never_sent(&status) || status.code() == tonic::Code::PermissionDenied => {
                Err(ProposeError::NoLeader)
            }
            Ok(Err(status)) => {
                unknown(format!("the connection to the leader {} broke: {}", leader.name, status.message()))
            }
            Ok(Ok(response)) => match response.into_inner().outcome {
                Some(Outcome::Response(response)) => Ok(response),
                // A leader that has stopped leads no more; another one may be found.
                Some(Outcome::NotLeader(proto::NotLeader {}) | Outcome::Stopped(_)) => Err(ProposeError::NoLeader),
                Some(Outcome::Unknown(reason)) => unknown(reason),
                Some(Outcome::Full(reason)) => Err(ProposeError::Full { reason }),
                Some(Outcome::TooLarge(limit)) => {
                    Err(ProposeError::TooLarge { size, limit: usize::try_from(limit).unwrap_or(usize::MAX) })
                }
                None => unknown(format!("the leader {} answered without an outcome", leader.name)),
            },
        }
    }

    /// Asks the leader up to which index a reader must have applied.
    pub(crate) async fn ask_read_index(
        &self,
        leader: &Member,
        mode: ReadMode,
        patience: Duration,
    ) -> Result<u64, ReadError> {
        use proto::read_index_response::Outcome;
        let mut client = self.peers.client(leader, Lane::Calls);
        let request = proto::ReadIndexRequest { timeout_ms: millis(patience), lease: mode == ReadMode::Lease };
        let Ok(Ok(response)) = timeout(patience, client.read_index(request)).await else {
            // Asking twice does no harm, so every failure is the same.
            return Err(ReadError::NoLeader);
        };
        match response.into_inner().outcome {
            Some(Outcome::Index(index)) => Ok(index),
            Some(Outcome::NotLeader(proto::NotLeader {}) | Outcome::Stopped(_)) | None => Err(ReadError::NoLeader),
        }
    }

    /// Asks the leader to change the members.
    pub(crate) async fn forward_change(
        &self,
        leader: &Member,
        change: &Change,
        patience: Duration,
    ) -> Result<Member, MembershipError> {
        use proto::change_response::Outcome;
        let unknown = |reason: String| Err(MembershipError::Unknown { reason });
        match self.call_change(leader, convert::change_to_wire(change), patience).await {
            Call::NotSent => Err(MembershipError::NoLeader),
            Call::Broken(reason) => unknown(reason),
            Call::Answered(outcome) => match outcome {
                Outcome::Done(member) => Ok(convert::member_from_wire(member)),
                Outcome::NotLeader(proto::NotLeader {}) | Outcome::Stopped(_) => Err(MembershipError::NoLeader),
                Outcome::Refused(refused) => Err(convert::refusal_from_wire(refused).into()),
                Outcome::Unknown(reason) => unknown(reason),
                Outcome::NoCandidate(_) | Outcome::NotReady(_) => {
                    unknown(format!("the leader {} gave the answer to another question", leader.name))
                }
            },
        }
    }

    /// Asks the leader to hand its office over.
    pub(crate) async fn forward_transfer(
        &self,
        leader: &Member,
        to: Option<u64>,
        patience: Duration,
    ) -> Result<Member, TransferError> {
        use proto::change_response::Outcome;
        let request = proto::change_request::Change::MoveLead(proto::MoveLead { to });
        match self.call_change(leader, request, patience).await {
            Call::NotSent => Err(TransferError::NotLeader { leader: None }),
            Call::Broken(_) => Err(TransferError::TimedOut),
            Call::Answered(outcome) => match outcome {
                Outcome::Done(member) => Ok(convert::member_from_wire(member)),
                Outcome::NotLeader(proto::NotLeader {}) | Outcome::Stopped(_) => {
                    Err(TransferError::NotLeader { leader: None })
                }
                Outcome::NoCandidate(proto::NoCandidate {}) => Err(TransferError::NoCandidate { to }),
                Outcome::NotReady(proto::NotReady { name, reason }) => Err(TransferError::NotReady { name, reason }),
                Outcome::Unknown(_) | Outcome::Refused(_) => Err(TransferError::TimedOut),
            },
        }
    }

    async fn call_change(&self, leader: &Member, change: proto::change_request::Change, patience: Duration) -> Call {
        let mut client = self.peers.client(leader, Lane::Calls);
        let request = proto::ChangeRequest { timeout_ms: patience_ms(patience), change: Some(change) };
        let name = &leader.name;
        match timeout(patience, client.change(request)).await {
            Err(_) => Call::Broken(format!("the leader {name} did not answer in time")),
            Ok(Err(status)) if was_never_sent(&status) || status.code() == tonic::Code::PermissionDenied => {
                Call::NotSent
            }
            Ok(Err(status)) => Call::Broken(format!("the connection to the leader {name} broke: {}", status.message())),
            Ok(Ok(response)) => match response.into_inner().outcome {
                Some(outcome) => Call::Answered(outcome),
                None => Call::Broken(format!("the leader {name} answered without an outcome")),
            },
        }
    }
}

/// What a call came to.
enum Call {
    /// It never left this member, or was refused at the door.
    NotSent,
    /// It may have been heard.
    Broken(String),
    Answered(proto::change_response::Outcome),
}
