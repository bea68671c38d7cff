//! What controllers ask of each other: a ticket signed by the leader.

use berth_control::{Consistency, Error, Kind, admit};
use berth_model::host::Liveness;
use berth_model::vm::DomainState;
use berth_pki::ticket::{self, Right, Ticket};
use berth_proto::status::to_status;
use berth_proto::v1;
use berth_proto::v1::peer_service_client::PeerServiceClient;
use berth_proto::v1::peer_service_server::PeerService;
use tonic::{Code, Request, Response, Status};

use super::{Peer, Shared, error};

/// The service.
pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl PeerService for Service {
    async fn get_checkpoints(
        &self,
        _request: Request<v1::GetCheckpointsRequest>,
    ) -> Result<Response<v1::GetCheckpointsResponse>, Status> {
        Ok(Response::new(crate::guard::told(&self.0.control)))
    }

    async fn issue_ticket(
        &self,
        request: Request<v1::IssueTicketRequest>,
    ) -> Result<Response<v1::IssueTicketResponse>, Status> {
        let holder = request.extensions().get::<Peer>().ok_or_else(error::no_certificate)?.0.name().to_owned();
        if !self.0.control.leadership().here {
            return Err(to_status(Code::Unavailable, "BE-5001", "this controller does not lead", None));
        }
        sign(&self.0, &request.into_inner(), &holder).await.map(Response::new)
    }

    async fn get_own_status(
        &self,
        _: Request<v1::GetOwnStatusRequest>,
    ) -> Result<Response<v1::GetOwnStatusResponse>, Status> {
        Ok(Response::new(super::cluster::own(&self.0)))
    }
}

/// A ticket for this controller: signed here if it leads, else asked of the leader.
pub(super) async fn ticket_for(
    shared: &Shared,
    request: v1::IssueTicketRequest,
) -> Result<v1::IssueTicketResponse, Status> {
    let lead = shared.control.leadership();
    if lead.here {
        return sign(shared, &request, &shared.seat.name).await;
    }
    let no_leader = || to_status(Code::Unavailable, "BE-5001", "the cluster has no leader at present", None);
    let leader = lead.leader_api.ok_or_else(no_leader)?;
    let asked = PeerServiceClient::new(shared.peers.controller(&leader)).issue_ticket(request).await;
    // An answer has a code of ours; what has none never came from the leader.
    asked.map(Response::into_inner).map_err(|status| {
        if status.metadata().contains_key(berth_proto::status::CODE_KEY) { status } else { no_leader() }
    })
}

/// Signs from a linearizable view: whoever leads no more finds out here.
async fn sign(
    shared: &Shared,
    request: &v1::IssueTicketRequest,
    holder: &str,
) -> Result<v1::IssueTicketResponse, Status> {
    let right = match v1::TicketRight::try_from(request.right) {
        Ok(v1::TicketRight::Console) => Right::Console,
        Ok(v1::TicketRight::Unspecified) | Err(_) => return Err(error::missing("right")),
    };
    let view = shared.control.view(Consistency::Linearizable).await.map_err(error::status)?;
    let target = admit::Target {
        project: request.project.clone(),
        name: request.name.clone(),
        uid: request.expected_uid.clone().unwrap_or_default(),
        revision: None,
    };
    let vm = admit::find_vm(&view, &target).map_err(error::status)?;
    let unavailable = |why: String| {
        error::status(Error::new(Kind::Precondition, "BE-6005", format!("VM {:?} has no console: {why}", vm.meta.name)))
    };
    let assignment = vm.assignment.as_ref().ok_or_else(|| unavailable("it has no host yet".into()))?;
    let host = view.hosts.get(&assignment.host).ok_or_else(|| unavailable("its host is not known".into()))?;
    if host.liveness != Liveness::Alive {
        return Err(unavailable(format!("its host {} is {}", host.meta.name, host.liveness)));
    }
    let runs = vm
        .observed
        .as_ref()
        .is_some_and(|seen| matches!(seen.state, DomainState::Running | DomainState::Paused | DomainState::Stopping));
    if !runs {
        return Err(unavailable("it does not run".into()));
    }
    let now = crate::environment::now();
    let random = berth_control::Environment::random(&crate::environment::Machine);
    let expires_at_ms = now.as_millis() + ticket::LONGEST_MS;
    let ticket = Ticket {
        vm_uid: vm.meta.uid.to_string(),
        epoch: assignment.epoch.0,
        incarnation: view.info.map(|info| info.incarnation.0).unwrap_or_default(),
        right,
        holder: holder.to_owned(),
        nonce: random.to_be_bytes(),
        expires_at_ms,
    };
    let ticket = ticket::sign(&shared.peers.credentials, &ticket).map_err(|failure| {
        let mut problem = Error::new(Kind::Internal, "BE-9001", "a ticket could not be signed");
        problem.context = Some(failure.to_string());
        error::status(problem)
    })?;
    tracing::info!(vm.id = %vm.meta.uid, holder, actor = request.actor, "console ticket issued");
    Ok(v1::IssueTicketResponse {
        ticket,
        host_address: host.address.clone(),
        host_name: host.meta.name.to_string(),
        vm: vm.meta.uid.to_string(),
        expires_at_ms,
    })
}
