//! How the controllers are.
//!
//! Only the leader knows how far the others are, so a follower asks it and says that it did; without a leader a member
//! answers with what it knows. What a member alone knows, such as that its disk fails, it is asked for itself.

use std::time::Duration;

use berth_control::Consistency;
use berth_model::host::Liveness;
use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;
use berth_proto::v1::peer_service_client::PeerServiceClient;
use berth_raft::{MemberStatus, Role};
use futures::future::join_all;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::super::{Shared, caller, error};
use super::warnings;

/// Marks a question that was passed on, so that it is not passed on again.
const PASSED_ON: &str = "berth-passed-on";
/// How long the leader may take.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// How long a member may take to speak of itself: within the leader's time.
const OWN_WITHIN: Duration = Duration::from_secs(1);
/// A follower that answered nothing for longer is called unreachable: several heartbeats.
pub(super) const SILENT_AFTER_MS: u64 = 3000;

/// The whole picture.
pub(super) async fn answer(
    shared: &Shared,
    request: &Request<v1::GetStatusRequest>,
) -> Result<v1::ClusterStatus, Status> {
    let passed_on = request.metadata().contains_key(PASSED_ON);
    let freshness = caller::consistency(request.get_ref().consistency);
    let lead = shared.control.leadership();
    if let Some(leader) = lead.leader_api.filter(|_| !lead.here && !passed_on)
        && let Ok(mut answer) = ask_leader(shared, &leader, freshness).await
    {
        answer.answered_by.clone_from(&shared.seat.name);
        return Ok(answer);
    }
    let view = shared.control.view(freshness).await.map_err(error::status)?;
    let log = shared.log.status();
    let mut members: Vec<v1::Member> = log.members.iter().map(|member| wired(&log, member)).collect();
    let v1::GetOwnStatusResponse { member: own, warnings: mut said } = own(shared);
    let own = own.unwrap_or_default();
    match members.iter_mut().find(|member| member.id == shared.seat.id) {
        Some(member) => *member = own,
        None => members.push(own),
    }
    let addresses: Vec<&str> = members.iter().map(|member| member.api_address.as_str()).collect();
    shared.peers.keep_controllers(&addresses);
    let others = members.iter_mut().filter(|member| member.id != shared.seat.id);
    let asked = join_all(others.map(|member| async {
        let told = ask_member(shared, &member.api_address).await;
        (member, told)
    }));
    for (member, told) in asked.await {
        if let Some(v1::GetOwnStatusResponse { member: Some(told), warnings }) = told {
            merge(member, told);
            said.extend(warnings);
        }
    }
    let mut all = warnings::of(&members, log.leader.is_some());
    let about_all = log.warnings.iter().filter(|warning| !warnings::is_own(warning));
    all.extend(about_all.map(|warning| warnings::of_log(warning, "")));
    all.extend(said);
    let info = view.info;
    Ok(v1::ClusterStatus {
        cluster: info.map(|info| info.id.to_string()).unwrap_or_default(),
        incarnation: info.map(|info| info.incarnation.0).unwrap_or_default(),
        revision: view.revision.0,
        cluster_version: info.map(|info| info.version).unwrap_or_default(),
        leader: log.leader.as_ref().map(|leader| leader.name.clone()).unwrap_or_default(),
        answered_by: shared.seat.name.clone(),
        members,
        hosts: count(view.hosts.len()),
        hosts_alive: count(view.hosts.values().filter(|host| host.liveness == Liveness::Alive).count()),
        vms: count(view.vms.len()),
        warnings: all,
    })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

async fn ask_leader(shared: &Shared, leader: &str, freshness: Consistency) -> Result<v1::ClusterStatus, Status> {
    let consistency = match freshness {
        Consistency::Linearizable => v1::Consistency::Linearizable,
        Consistency::Lease => v1::Consistency::Lease,
        Consistency::Stale => v1::Consistency::Stale,
    };
    let mut request = Request::new(v1::GetStatusRequest { consistency: consistency.into() });
    request.metadata_mut().insert(PASSED_ON, MetadataValue::from_static("1"));
    let mut client = ClusterServiceClient::new(shared.peers.controller(leader));
    let ask = async move { client.get_status(request).await.map(Response::into_inner) };
    tokio::time::timeout(ASK_WITHIN, ask).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("the leader")))
}

async fn ask_member(shared: &Shared, address: &str) -> Option<v1::GetOwnStatusResponse> {
    let mut client = PeerServiceClient::new(shared.peers.controller(address));
    let asked = tokio::time::timeout(OWN_WITHIN, client.get_own_status(v1::GetOwnStatusRequest {})).await;
    asked.ok()?.ok().map(Response::into_inner)
}

/// Adds what a member says of itself to what the one that answers knows of it.
fn merge(known: &mut v1::Member, told: v1::Member) {
    if told.id != known.id {
        // Another member answers at its address, perhaps one that took its place.
        return;
    }
    known.reachable = true;
    known.term = told.term;
    known.committed = told.committed;
    known.applied = told.applied;
    known.version = told.version;
    known.store_bytes = told.store_bytes;
    known.store_limit_bytes = told.store_limit_bytes;
    if !told.trouble.is_empty() {
        known.trouble = told.trouble;
        known.role = v1::MemberRole::Failed.into();
    }
}

/// What this member knows of itself.
pub(in crate::grpc) fn own(shared: &Shared) -> v1::GetOwnStatusResponse {
    let log = shared.log.status();
    let listed = log.members.iter().find(|member| member.member.id == shared.seat.id);
    let member = match listed {
        Some(member) => wired(&log, member),
        // It has joined and nobody reached it yet, or its log cannot be read.
        None => v1::Member {
            id: shared.seat.id,
            name: shared.seat.name.clone(),
            api_address: shared.seat.api_addr.clone(),
            raft_address: shared.seat.raft_addr.clone(),
            role: v1::MemberRole::Unspecified.into(),
            term: log.term,
            reachable: true,
            version: env!("CARGO_PKG_VERSION").into(),
            domain: shared.seat.domain.clone(),
            ..v1::Member::default()
        },
    };
    let trouble = crate::trouble::of(&log.state).unwrap_or_default();
    let role = if trouble.is_empty() { member.role } else { v1::MemberRole::Failed.into() };
    let about_this = log.warnings.iter().filter(|warning| warnings::is_own(warning));
    v1::GetOwnStatusResponse {
        member: Some(v1::Member {
            trouble,
            role,
            store_bytes: Some(log.log_bytes.saturating_add(log.snapshot_bytes)),
            store_limit_bytes: Some(shared.store_limit),
            ..member
        }),
        warnings: about_this.map(|warning| warnings::of_log(warning, &shared.seat.name)).collect(),
    }
}

/// A member as this one knows it.
pub(super) fn wired(log: &berth_raft::Status, status: &MemberStatus) -> v1::Member {
    let MemberStatus { member, role, is_leader, replicated, silent_ms, replaces: _, has_forgotten, receiving } = status;
    let own = member.id == log.id;
    let i_lead = log.leader.as_ref().is_some_and(|leader| leader.id == log.id);
    let is = match (is_leader, role) {
        (true, _) => v1::MemberRole::Leader,
        (false, Role::Learner) => v1::MemberRole::Learner,
        (false, Role::Voter) => v1::MemberRole::Follower,
    };
    let heard = i_lead && silent_ms.is_some_and(|silent| silent < SILENT_AFTER_MS);
    let lag = replicated.filter(|_| i_lead).map(|at| log.last_log.unwrap_or_default().saturating_sub(at));
    let at = |index: Option<u64>| if own { index } else { *replicated }.unwrap_or_default();
    v1::Member {
        id: member.id,
        name: member.name.clone(),
        api_address: member.api_addr.clone(),
        raft_address: member.raft_addr.clone(),
        role: is.into(),
        term: if own || heard { log.term } else { 0 },
        committed: at(log.committed),
        applied: at(log.applied),
        reachable: own || heard,
        version: if own { env!("CARGO_PKG_VERSION").into() } else { String::new() },
        trouble: if *has_forgotten { "it lost what it had acknowledged".into() } else { String::new() },
        domain: member.domain.clone(),
        voter: *role == Role::Voter,
        lag,
        silent_ms: silent_ms.filter(|_| i_lead && !own),
        store_bytes: None,
        store_limit_bytes: None,
        snapshot: receiving
            .map(|berth_raft::Progress { bytes, of }| v1::SnapshotProgress { sent_bytes: bytes, total_bytes: of }),
    }
}
