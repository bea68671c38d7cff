//! The controllers themselves, for operators.
//!
//! Only the leader knows how far the others are, so a follower asks it and says that it did; without a leader a member
//! answers with what it knows of itself.

use std::time::Duration;

use berth_control::Consistency;
use berth_model::host::Liveness;
use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;
use berth_proto::v1::cluster_service_server::ClusterService;
use berth_raft::{MemberStatus, Role, State};
use tonic::{Request, Response, Status};

use super::{Shared, caller, error};

/// The service.
pub(super) struct Service(pub(super) Shared);

/// Marks a question that was passed on, so that it is not passed on again.
const PASSED_ON: &str = "berth-passed-on";
/// How long the leader may take.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// A follower that answered nothing for longer is called unreachable: several heartbeats.
const SILENT_AFTER_MS: u64 = 3000;

#[tonic::async_trait]
impl ClusterService for Service {
    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Result<Response<v1::ClusterStatus>, Status> {
        let passed_on = request.metadata().contains_key(PASSED_ON);
        let freshness = caller::consistency(request.get_ref().consistency);
        let lead = self.0.control.leadership();
        if let Some(leader) = lead.leader_api.filter(|_| !lead.here && !passed_on)
            && let Ok(mut answer) = self.ask(&leader, freshness).await
        {
            answer.answered_by.clone_from(&self.0.name);
            return Ok(Response::new(answer));
        }
        let view = self.0.control.view(freshness).await.map_err(error::status)?;
        let log = self.0.log.status();
        let info = view.info;
        Ok(Response::new(v1::ClusterStatus {
            cluster: info.map(|info| info.id.to_string()).unwrap_or_default(),
            incarnation: info.map(|info| info.incarnation.0).unwrap_or_default(),
            revision: view.revision.0,
            cluster_version: info.map(|info| info.version).unwrap_or_default(),
            leader: log.leader.as_ref().map(|leader| leader.name.clone()).unwrap_or_default(),
            answered_by: self.0.name.clone(),
            members: log.members.iter().map(|member| wired(&log, member)).collect(),
            hosts: count(view.hosts.len()),
            hosts_alive: count(view.hosts.values().filter(|host| host.liveness == Liveness::Alive).count()),
            vms: count(view.vms.len()),
        }))
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl Service {
    async fn ask(&self, leader: &str, freshness: Consistency) -> Result<v1::ClusterStatus, Status> {
        let ask = async {
            let channel =
                self.0.peers.controller(leader).await.map_err(|error| Status::unavailable(error.to_string()))?;
            let consistency = match freshness {
                Consistency::Linearizable => v1::Consistency::Linearizable,
                Consistency::Stale => v1::Consistency::Stale,
            };
            let mut request = Request::new(v1::GetStatusRequest { consistency: consistency.into() });
            request.metadata_mut().insert(PASSED_ON, tonic::metadata::MetadataValue::from_static("1"));
            ClusterServiceClient::new(channel).get_status(request).await.map(Response::into_inner)
        };
        tokio::time::timeout(ASK_WITHIN, ask).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("the leader")))
    }
}

/// A member as this one knows it.
fn wired(log: &berth_raft::Status, member: &MemberStatus) -> v1::Member {
    let own = member.member.id == log.id;
    let leads = log.leader.as_ref().is_some_and(|leader| leader.id == member.member.id);
    let i_lead = log.leader.as_ref().is_some_and(|leader| leader.id == log.id);
    let trouble = match &log.state {
        State::Failed(why) | State::Excluded(why) if own => why.clone(),
        State::Stopped if own => "the log of this member has stopped".into(),
        State::Failed(_) | State::Excluded(_) | State::Stopped | State::Running => String::new(),
    };
    let role = if !trouble.is_empty() {
        v1::MemberRole::Failed
    } else if leads {
        v1::MemberRole::Leader
    } else if member.role == Role::Learner {
        v1::MemberRole::Learner
    } else {
        v1::MemberRole::Follower
    };
    let heard = i_lead && member.silent_ms.is_some_and(|silent| silent < SILENT_AFTER_MS);
    let behind = member.replicated.unwrap_or_default();
    v1::Member {
        id: member.member.id,
        name: member.member.name.clone(),
        api_address: member.member.api_addr.clone(),
        raft_address: member.member.raft_addr.clone(),
        role: role.into(),
        term: if own || heard { log.term } else { 0 },
        committed: if own { log.committed.unwrap_or_default() } else { behind },
        applied: if own { log.applied.unwrap_or_default() } else { behind },
        reachable: own || heard,
        version: if own { env!("CARGO_PKG_VERSION").into() } else { String::new() },
        trouble,
    }
}
