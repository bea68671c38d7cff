//! Who the controllers are: operators' changes of the membership, passed to the log, which knows where the leader is.

use std::time::Duration;

use berth_proto::status::to_status;
use berth_proto::v1;
use berth_raft::{Member, MembershipError, NewMember, RefusalKind, TransferError};
use tonic::{Code, Request, Status};

use super::super::{Shared, caller, error};

/// How long a change may take: shorter than a client waits for one answer, so that it hears why it takes long.
const CHANGE_WITHIN: Duration = Duration::from_secs(8);

type Answer = Result<v1::MemberAnswer, Status>;

/// Registers a learner.
pub(super) async fn add(shared: &Shared, request: Request<v1::AddMemberRequest>) -> Answer {
    let actor = caller::actor(&request)?;
    let new = newcomer(request.into_inner())?;
    let member = shared.log.add_member(new, CHANGE_WITHIN).await.map_err(refusal)?;
    tracing::info!(%actor, member.name, member.id, "a member is added");
    Ok(now(shared, &member))
}

/// Gives a learner its vote.
pub(super) async fn promote(shared: &Shared, request: Request<v1::PromoteMemberRequest>) -> Answer {
    let actor = caller::actor(&request)?;
    let member = shared.log.promote(request.get_ref().id, CHANGE_WITHIN).await.map_err(refusal)?;
    tracing::info!(%actor, member.name, member.id, "a member gets its vote");
    Ok(now(shared, &member))
}

/// Tells everybody where a member is.
pub(super) async fn update(shared: &Shared, request: Request<v1::UpdateMemberRequest>) -> Answer {
    let actor = caller::actor(&request)?;
    let v1::UpdateMemberRequest { id, api_address, raft_address, domain } = request.into_inner();
    let status = shared.log.status();
    let known = status.members.into_iter().map(|member| member.member).find(|member| member.id == id);
    let known = known.ok_or_else(|| no_such(id))?;
    let or = |given: String, known: String| if given.is_empty() { known } else { given };
    let member = Member {
        api_addr: or(api_address, known.api_addr),
        raft_addr: or(raft_address, known.raft_addr),
        domain: domain.unwrap_or(known.domain),
        ..known
    };
    let member = shared.log.update_member(member, CHANGE_WITHIN).await.map_err(refusal)?;
    tracing::info!(%actor, member.name, member.id, api = member.api_addr, "a member has moved");
    Ok(now(shared, &member))
}

/// Takes a member out.
pub(super) async fn remove(shared: &Shared, request: Request<v1::RemoveMemberRequest>) -> Answer {
    let actor = caller::actor(&request)?;
    let v1::RemoveMemberRequest { id, force } = request.into_inner();
    match shared.log.remove(id, force, CHANGE_WITHIN).await {
        Ok(member) => {
            tracing::info!(%actor, member.name, member.id, force, "a member is removed");
            Ok(v1::MemberAnswer { member: None })
        }
        // Whoever repeats the request finds it done.
        Err(MembershipError::Refused(refused)) if refused.kind == RefusalKind::UnknownMember => {
            Ok(v1::MemberAnswer { member: None })
        }
        Err(failure) => Err(refusal(failure)),
    }
}

/// Lets a new member take the place of a dead one as soon as it has caught up.
pub(super) async fn replace(shared: &Shared, request: Request<v1::ReplaceMemberRequest>) -> Answer {
    let actor = caller::actor(&request)?;
    let v1::ReplaceMemberRequest { dead, with } = request.into_inner();
    let with = newcomer(with.ok_or_else(|| error::missing("with"))?)?;
    let member = shared.log.replace(dead, with, CHANGE_WITHIN).await.map_err(refusal)?;
    tracing::info!(%actor, member.name, member.id, dead, "a member takes the place of another");
    Ok(now(shared, &member))
}

/// Hands the lead over.
pub(super) async fn transfer(
    shared: &Shared,
    request: Request<v1::TransferLeadershipRequest>,
) -> Result<v1::TransferLeadershipResponse, Status> {
    let actor = caller::actor(&request)?;
    let to = request.into_inner().to;
    let status = shared.log.status();
    let leads = |id| status.leader.as_ref().filter(|leader| leader.id == id);
    if let Some(leader) = leads(to) {
        return Ok(v1::TransferLeadershipResponse { leader: leader.name.clone() });
    }
    let to = (to != 0).then_some(to);
    let new = shared.log.move_leadership(to, CHANGE_WITHIN).await.map_err(|failure| not_transferred(&failure))?;
    tracing::info!(%actor, to = new.name, "the lead is handed over");
    Ok(v1::TransferLeadershipResponse { leader: new.name })
}

/// The member as it is after the change, as far as this member knows by now.
fn now(shared: &Shared, member: &Member) -> v1::MemberAnswer {
    let status = shared.log.status();
    let known = status.members.iter().find(|known| known.member.id == member.id);
    let Member { id, name, raft_addr, api_addr, domain } = member.clone();
    let answer = match known {
        Some(known) => super::status::wired(&status, known),
        None => v1::Member { role: v1::MemberRole::Learner.into(), ..v1::Member::default() },
    };
    // What was just decided may not have come here yet.
    let answer = v1::Member { id, name, api_address: api_addr, raft_address: raft_addr, domain, ..answer };
    v1::MemberAnswer { member: Some(answer) }
}

fn newcomer(request: v1::AddMemberRequest) -> Result<NewMember, Status> {
    let v1::AddMemberRequest { name, api_address, raft_address, domain } = request;
    let odd = |field: &str, why: String| to_status(Code::InvalidArgument, "BE-5016", format!("{field}: {why}"), None);
    name.parse::<berth_model::Name>().map_err(|why| odd("name", why.to_string()))?;
    if !domain.is_empty() {
        domain.parse::<berth_model::Name>().map_err(|why| odd("domain", why.to_string()))?;
    }
    for (field, address) in [("api_address", &api_address), ("raft_address", &raft_address)] {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(1..))) {
            return Err(odd(field, format!("{address:?} is not of the form address:port")));
        }
    }
    Ok(NewMember { name, raft_addr: raft_address, api_addr: api_address, domain })
}

fn no_such(id: u64) -> Status {
    let message = format!("the cluster has no member with id {id}");
    to_status(Code::NotFound, "BE-5011", message, Some("'berth cluster member list' shows who is there"))
}

/// A refusal of the log in the words of the API.
fn refusal(failure: MembershipError) -> Status {
    match failure {
        MembershipError::NoLeader => to_status(
            Code::Unavailable,
            "BE-5001",
            "the cluster has no leader at present; nothing was changed",
            Some("a majority of controllers must run and reach each other; see 'berth cluster status'"),
        ),
        MembershipError::Unknown { reason } => to_status(
            Code::Unknown,
            "BE-5002",
            format!("whether the members were changed is not known: {reason}"),
            Some(
                "look with 'berth cluster member list', or repeat the command: what is done already is not done twice",
            ),
        ),
        MembershipError::Stopped { reason } => to_status(
            Code::Unavailable,
            "BE-5003",
            format!("this controller cannot serve: {reason}"),
            Some("ask another controller, and look at this one's log"),
        ),
        MembershipError::Refused(refused) => {
            let (grpc, code, hint) = match refused.kind {
                RefusalKind::WouldLoseQuorum | RefusalKind::LastVoter => (
                    Code::FailedPrecondition,
                    "BE-5010",
                    "bring silent members back, or add members, before one leaves",
                ),
                RefusalKind::UnknownMember => {
                    (Code::NotFound, "BE-5011", "'berth cluster member list' shows who is there")
                }
                RefusalKind::Silent | RefusalKind::Lagging => (
                    Code::FailedPrecondition,
                    "BE-5012",
                    "see 'berth cluster status', and try again when it has caught up",
                ),
                RefusalKind::NameTaken | RefusalKind::AddressTaken => {
                    (Code::AlreadyExists, "BE-5013", "'berth cluster member list' shows who is there")
                }
                RefusalKind::UnderWay => {
                    (Code::Aborted, "BE-5014", "try again in a moment; see 'berth cluster status'")
                }
                RefusalKind::HasForgotten => {
                    (Code::FailedPrecondition, "BE-5015", "remove the member, and add it anew with an empty folder")
                }
                RefusalKind::Invalid => (Code::InvalidArgument, "BE-5016", "see 'berth cluster member --help'"),
            };
            to_status(grpc, code, refused.reason, Some(hint))
        }
    }
}

fn not_transferred(failure: &TransferError) -> Status {
    let message = failure.to_string();
    match failure {
        TransferError::NotLeader { .. } => to_status(Code::Unavailable, "BE-5001", message, None),
        TransferError::Stopped { .. } => to_status(Code::Unavailable, "BE-5003", message, None),
        TransferError::NoCandidate { .. } | TransferError::NotReady { .. } | TransferError::TimedOut => to_status(
            Code::FailedPrecondition,
            "BE-5017",
            message,
            Some("see 'berth cluster status' for who runs and has caught up"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use berth_proto::status::from_status;
    use berth_raft::Refusal;

    use super::*;

    fn code(status: &Status) -> String {
        from_status(status).code.unwrap()
    }

    #[test]
    fn each_refusal_has_its_code_and_keeps_its_reason() {
        for (kind, expected) in [
            (RefusalKind::WouldLoseQuorum, "BE-5010"),
            (RefusalKind::LastVoter, "BE-5010"),
            (RefusalKind::UnknownMember, "BE-5011"),
            (RefusalKind::Silent, "BE-5012"),
            (RefusalKind::Lagging, "BE-5012"),
            (RefusalKind::NameTaken, "BE-5013"),
            (RefusalKind::AddressTaken, "BE-5013"),
            (RefusalKind::UnderWay, "BE-5014"),
            (RefusalKind::HasForgotten, "BE-5015"),
            (RefusalKind::Invalid, "BE-5016"),
        ] {
            let refused = Refusal { kind, reason: "because".into() };
            let status = refusal(MembershipError::Refused(refused));
            assert_eq!((code(&status).as_str(), status.message()), (expected, "because"));
            assert!(from_status(&status).hint.is_some());
        }
    }

    #[test]
    fn what_may_have_been_done_is_told_from_what_was_not() {
        let unknown = refusal(MembershipError::Unknown { reason: "the leader died".into() });
        assert_eq!((unknown.code(), code(&unknown).as_str()), (Code::Unknown, "BE-5002"));
        let none = refusal(MembershipError::NoLeader);
        assert_eq!((none.code(), code(&none).as_str()), (Code::Unavailable, "BE-5001"));
        let stopped = refusal(MembershipError::Stopped { reason: "no space left".into() });
        assert_eq!((stopped.code(), code(&stopped).as_str()), (Code::Unavailable, "BE-5003"));
    }

    #[test]
    fn a_newcomer_must_be_found_by_the_others() {
        let good = v1::AddMemberRequest {
            name: "c2".into(),
            api_address: "10.0.0.2:7440".into(),
            raft_address: "[fd00::2]:7441".into(),
            domain: "rack-2".into(),
        };
        assert_eq!(newcomer(good.clone()).unwrap().raft_addr, "[fd00::2]:7441");
        for odd in [
            v1::AddMemberRequest { name: "C 2".into(), ..good.clone() },
            v1::AddMemberRequest { domain: "Rack".into(), ..good.clone() },
            v1::AddMemberRequest { api_address: "10.0.0.2".into(), ..good.clone() },
            v1::AddMemberRequest { api_address: ":7440".into(), ..good.clone() },
            v1::AddMemberRequest { raft_address: "c2:0".into(), ..good.clone() },
        ] {
            assert_eq!(code(&newcomer(odd.clone()).unwrap_err()), "BE-5016", "{odd:?}");
        }
    }
}
