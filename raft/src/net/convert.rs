//! Between openraft's types and the messages.

use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse};
use tonic::Status;

use super::proto;
use crate::store::record;
use crate::types::{LogId, Types, Vote, log_id};

fn id_to_wire(id: LogId) -> proto::LogId {
    proto::LogId { term: id.leader_id.term, index: id.index }
}

fn id_from_wire(proto::LogId { term, index }: proto::LogId) -> LogId {
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

pub(super) fn append_to_wire(request: &AppendEntriesRequest<Types>) -> Result<proto::AppendRequest, Status> {
    let entries =
        request.entries.iter().map(|entry| record::encode_entry(entry).map(Into::into)).collect::<Result<_, _>>();
    Ok(proto::AppendRequest {
        ballot: Some(ballot_to_wire(request.vote)),
        previous: request.prev_log_id.map(id_to_wire),
        leader_commit: request.leader_commit.map(id_to_wire),
        entries: entries.map_err(|error| Status::internal(error.to_string()))?,
    })
}

pub(super) fn append_from_wire(request: proto::AppendRequest) -> Result<AppendEntriesRequest<Types>, Status> {
    let proto::AppendRequest { ballot: vote, previous, leader_commit, entries } = request;
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

pub(super) fn vote_to_wire(request: &VoteRequest<Types>) -> proto::VoteRequest {
    let VoteRequest { vote, last_log_id, leadership_transfer } = request;
    proto::VoteRequest {
        ballot: Some(ballot_to_wire(*vote)),
        last: last_log_id.map(id_to_wire),
        leadership_transfer: *leadership_transfer,
    }
}

pub(super) fn vote_from_wire(request: proto::VoteRequest) -> Result<VoteRequest<Types>, Status> {
    let proto::VoteRequest { ballot: vote, last, leadership_transfer } = request;
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

pub(super) fn transfer_to_wire(request: &TransferLeaderRequest<Types>) -> proto::TransferLeaderRequest {
    proto::TransferLeaderRequest {
        from: Some(ballot_to_wire(*request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().copied().map(id_to_wire),
    }
}

pub(super) fn transfer_from_wire(
    request: proto::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<Types>, Status> {
    let proto::TransferLeaderRequest { from, to, last } = request;
    Ok(TransferLeaderRequest::new(ballot(from)?, to, last.map(id_from_wire)))
}
