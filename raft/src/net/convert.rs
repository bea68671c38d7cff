//! Between openraft's types and the messages.

use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse};
use tonic::Status;

use super::proto;
use crate::error::{Refusal, RefusalKind};
use crate::membership::Change;
use crate::options::{Member, NewMember};
use crate::store::record;
use crate::types::{LogId, Types, Vote, log_id};

pub(crate) fn id_to_wire(id: LogId) -> proto::LogId {
    proto::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn id_from_wire(proto::LogId { term, index }: proto::LogId) -> LogId {
    log_id(term, index)
}

/// A vote as a message.
pub(super) fn ballot_to_wire(vote: Vote) -> proto::Ballot {
    let leader = vote.leader_id();
    proto::Ballot { term: leader.term, member: leader.voted_for, committed: vote.is_committed() }
}

fn ballot_from_wire(proto::Ballot { term, member, committed }: proto::Ballot) -> Vote {
    if committed { Vote::new_committed(term, member) } else { Vote::new(term, member) }
}

/// The ballot of a message, which must have one.
pub(super) fn ballot(ballot: Option<proto::Ballot>) -> Result<Vote, Status> {
    ballot.map(ballot_from_wire).ok_or_else(|| Status::invalid_argument("the message has no ballot"))
}

pub(super) fn append_to_wire(
    request: &AppendEntriesRequest<Types>,
    belief: proto::Belief,
) -> Result<proto::AppendRequest, Status> {
    let entries =
        request.entries.iter().map(|entry| record::encode_entry(entry).map(Into::into)).collect::<Result<_, _>>();
    Ok(proto::AppendRequest {
        ballot: Some(ballot_to_wire(request.vote)),
        previous: request.prev_log_id.map(id_to_wire),
        leader_commit: request.leader_commit.map(id_to_wire),
        entries: entries.map_err(|error| Status::internal(error.to_string()))?,
        belief: Some(belief),
    })
}

pub(super) fn append_from_wire(request: proto::AppendRequest) -> Result<AppendEntriesRequest<Types>, Status> {
    let proto::AppendRequest { ballot: vote, previous, leader_commit, entries, belief: _ } = request;
    let entries = entries.iter().map(|bytes| record::decode_entry(bytes)).collect::<Result<Vec<_>, _>>();
    Ok(AppendEntriesRequest {
        vote: ballot(vote)?,
        prev_log_id: previous.map(id_from_wire),
        leader_commit: leader_commit.map(id_from_wire),
        entries: entries.map_err(|error| Status::data_loss(format!("a log entry arrived damaged: {error}")))?,
    })
}

/// What an append came to.
pub(super) type Appended = Result<Option<LogId>, StreamAppendError<Types>>;

pub(super) fn appended_to_wire(result: &Appended) -> proto::AppendResponse {
    use proto::append_response::Outcome;
    let outcome = match result {
        Ok(last) => Outcome::Accepted(proto::Accepted { last: last.map(id_to_wire) }),
        Err(StreamAppendError::Conflict(at)) => Outcome::Conflict(id_to_wire(*at)),
        Err(StreamAppendError::HigherVote(vote)) => Outcome::Higher(ballot_to_wire(*vote)),
    };
    proto::AppendResponse { outcome: Some(outcome) }
}

pub(super) fn appended_from_wire(response: proto::AppendResponse) -> Result<Appended, Status> {
    use proto::append_response::Outcome;
    Ok(match response.outcome {
        Some(Outcome::Accepted(proto::Accepted { last })) => Ok(last.map(id_from_wire)),
        Some(Outcome::Conflict(at)) => Err(StreamAppendError::Conflict(id_from_wire(at))),
        Some(Outcome::Higher(vote)) => Err(StreamAppendError::HigherVote(ballot_from_wire(vote))),
        None => return Err(Status::data_loss("an append was answered without an outcome")),
    })
}

pub(super) fn vote_to_wire(request: &VoteRequest<Types>, belief: proto::Belief) -> proto::VoteRequest {
    let VoteRequest { vote, last_log_id, leadership_transfer } = request;
    proto::VoteRequest {
        ballot: Some(ballot_to_wire(*vote)),
        last: last_log_id.map(id_to_wire),
        leadership_transfer: *leadership_transfer,
        belief: Some(belief),
    }
}

pub(super) fn vote_from_wire(request: proto::VoteRequest) -> Result<VoteRequest<Types>, Status> {
    let proto::VoteRequest { ballot: vote, last, leadership_transfer, belief: _ } = request;
    Ok(VoteRequest { vote: ballot(vote)?, last_log_id: last.map(id_from_wire), leadership_transfer })
}

pub(super) fn voted_to_wire(response: &VoteResponse<Types>) -> proto::VoteResponse {
    let VoteResponse { vote, vote_granted, last_log_id } = response;
    proto::VoteResponse {
        ballot: Some(ballot_to_wire(*vote)),
        granted: *vote_granted,
        last: last_log_id.map(id_to_wire),
    }
}

pub(super) fn voted_from_wire(response: proto::VoteResponse) -> Result<VoteResponse<Types>, Status> {
    let proto::VoteResponse { ballot: vote, granted, last } = response;
    Ok(VoteResponse { vote: ballot(vote)?, vote_granted: granted, last_log_id: last.map(id_from_wire) })
}

pub(super) fn transfer_to_wire(
    request: &TransferLeaderRequest<Types>,
    belief: proto::Belief,
) -> proto::TransferLeaderRequest {
    proto::TransferLeaderRequest {
        from: Some(ballot_to_wire(*request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().copied().map(id_to_wire),
        belief: Some(belief),
    }
}

pub(super) fn transfer_from_wire(
    request: proto::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<Types>, Status> {
    let proto::TransferLeaderRequest { from, to, last, belief: _ } = request;
    Ok(TransferLeaderRequest::new(ballot(from)?, to, last.map(id_from_wire)))
}

pub(super) fn change_to_wire(change: &Change) -> proto::change_request::Change {
    use proto::change_request::Change as Wire;
    let new = |NewMember { name, raft_addr, api_addr, domain }: NewMember| proto::NewMember {
        name,
        raft_addr,
        api_addr,
        domain,
    };
    match change.clone() {
        Change::Add(member) => Wire::Add(new(member)),
        Change::Promote(id) => Wire::Promote(id),
        Change::Remove { id, force } => Wire::Remove(proto::Remove { id, force }),
        Change::Replace { dead, with } => Wire::Replace(proto::Replace { dead, with: Some(new(with)) }),
        Change::Update(member) => Wire::Update(member_to_wire(member)),
    }
}

/// What a member asks of the leader.
pub(super) enum Asked {
    Change(Change),
    MoveLead(Option<u64>),
}

pub(super) fn change_from_wire(change: Option<proto::change_request::Change>) -> Result<Asked, Status> {
    use proto::change_request::Change as Wire;
    let new = |proto::NewMember { name, raft_addr, api_addr, domain }: proto::NewMember| NewMember {
        name,
        raft_addr,
        api_addr,
        domain,
    };
    Ok(Asked::Change(match change {
        Some(Wire::Add(member)) => Change::Add(new(member)),
        Some(Wire::Promote(id)) => Change::Promote(id),
        Some(Wire::Remove(proto::Remove { id, force })) => Change::Remove { id, force },
        Some(Wire::Replace(proto::Replace { dead, with: Some(with) })) => Change::Replace { dead, with: new(with) },
        Some(Wire::Update(member)) => Change::Update(member_from_wire(member)),
        Some(Wire::MoveLead(proto::MoveLead { to })) => return Ok(Asked::MoveLead(to)),
        Some(Wire::Replace(proto::Replace { dead: _, with: None })) | None => {
            return Err(Status::invalid_argument("the change is empty"));
        }
    }))
}

pub(super) fn member_to_wire(member: Member) -> proto::Member {
    let Member { id, name, raft_addr, api_addr, domain } = member;
    proto::Member { id, name, raft_addr, api_addr, domain }
}

pub(super) fn member_from_wire(member: proto::Member) -> Member {
    let proto::Member { id, name, raft_addr, api_addr, domain } = member;
    Member { id, name, raft_addr, api_addr, domain }
}

pub(super) fn refusal_to_wire(refusal: Refusal) -> proto::Refused {
    use proto::refused::Kind as Wire;
    let kind = match refusal.kind {
        RefusalKind::Invalid => Wire::Invalid,
        RefusalKind::UnknownMember => Wire::UnknownMember,
        RefusalKind::NameTaken => Wire::NameTaken,
        RefusalKind::AddressTaken => Wire::AddressTaken,
        RefusalKind::WouldLoseQuorum => Wire::WouldLoseQuorum,
        RefusalKind::LastVoter => Wire::LastVoter,
        RefusalKind::Silent => Wire::Silent,
        RefusalKind::Lagging => Wire::Lagging,
        RefusalKind::HasForgotten => Wire::HasForgotten,
        RefusalKind::UnderWay => Wire::UnderWay,
    };
    proto::Refused { kind: kind.into(), reason: refusal.reason }
}

pub(super) fn refusal_from_wire(refused: proto::Refused) -> Refusal {
    use proto::refused::Kind as Wire;
    let kind = match refused.kind() {
        Wire::Invalid => RefusalKind::Invalid,
        Wire::UnknownMember => RefusalKind::UnknownMember,
        Wire::NameTaken => RefusalKind::NameTaken,
        Wire::AddressTaken => RefusalKind::AddressTaken,
        Wire::WouldLoseQuorum => RefusalKind::WouldLoseQuorum,
        Wire::LastVoter => RefusalKind::LastVoter,
        Wire::Silent => RefusalKind::Silent,
        Wire::Lagging => RefusalKind::Lagging,
        Wire::HasForgotten => RefusalKind::HasForgotten,
        Wire::UnderWay => RefusalKind::UnderWay,
    };
    Refusal { kind, reason: refused.reason }
}
