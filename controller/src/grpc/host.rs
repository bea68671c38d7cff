//! Hosts, for operators.

use berth_control::admit::OrphanTarget;
use berth_control::{Answer, Kind, admit, status};
use berth_model::host::Host;
use berth_proto::convert::host_to_wire;
use berth_proto::convert::host_use;
use berth_proto::v1;
use berth_proto::v1::host_service_server::HostService;
use berth_state::Cluster;
use tonic::{Request, Response, Status};

use super::{Shared, caller, error};

/// The service.
pub(super) struct Service(pub(super) Shared);

fn wire(view: &Cluster, host: &Host) -> v1::Host {
    let used = host_use(host, view.vms_on(host.uid()).map(AsRef::as_ref));
    let holdings = view.holdings_on(host.uid()).map(|held| v1::Holding::from(&**held)).collect();
    v1::Host { holdings, ..host_to_wire(host, &status::host_conditions(view, host), used) }
}

fn orphan(write: Option<&v1::Write>, host: String, vm: String) -> OrphanTarget {
    OrphanTarget {
        host,
        host_uid: write.and_then(|write| write.expected_uid.clone()).unwrap_or_default(),
        revision: write.and_then(|write| write.expected_revision),
        vm,
    }
}

fn answer(answer: &Answer, request_id: String) -> Response<v1::OrphanAnswer> {
    let vm = answer.vm().map(|(vm, _)| vm);
    let meta = vm.as_ref().map(|vm| &vm.meta);
    Response::new(v1::OrphanAnswer {
        project: meta.map(|meta| meta.project.to_string()).unwrap_or_default(),
        name: meta.map(|meta| meta.name.to_string()).unwrap_or_default(),
        vm: meta.map(|meta| meta.uid.to_string()).unwrap_or_default(),
        revision: answer.revision.0,
        request_id,
    })
}

#[tonic::async_trait]
impl HostService for Service {
    async fn list_hosts(
        &self,
        request: Request<v1::ListHostsRequest>,
    ) -> Result<Response<v1::ListHostsResponse>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let mut hosts: Vec<_> = view.hosts.values().collect();
        hosts.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
        let size = match request.page_size as usize {
            0 => 200,
            size => size.min(200),
        };
        let mut rest = hosts.into_iter().filter(|host| host.meta.name.as_str() > request.page_token.as_str());
        let page: Vec<_> = rest.by_ref().take(size).collect();
        let next_page_token = match (page.last(), rest.next()) {
            (Some(last), Some(_)) => last.meta.name.to_string(),
            _ => String::new(),
        };
        let hosts = page.into_iter().map(|host| wire(&view, host)).collect();
        Ok(Response::new(v1::ListHostsResponse { hosts, next_page_token, revision: view.revision.0 }))
    }

    async fn adopt_orphan(
        &self,
        request: Request<v1::AdoptOrphanRequest>,
    ) -> Result<Response<v1::OrphanAnswer>, Status> {
        let (caller, id, v1::AdoptOrphanRequest { write, host, vm }) = caller::change("AdoptOrphan", request)?;
        let target = orphan(write.as_ref(), host, vm);
        let done = self.0.control.adopt_orphan(&caller, &target).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn remove_orphan(
        &self,
        request: Request<v1::RemoveOrphanRequest>,
    ) -> Result<Response<v1::OrphanAnswer>, Status> {
        let (caller, id, v1::RemoveOrphanRequest { write, host, vm }) = caller::change("RemoveOrphan", request)?;
        let target = orphan(write.as_ref(), host, vm);
        let done = self.0.control.remove_orphan(&caller, &target).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn get_host(&self, request: Request<v1::GetHostRequest>) -> Result<Response<v1::HostAnswer>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let name = admit::name("host name", &request.name).map_err(error::status)?;
        let host = view.host_by_name(&name).ok_or_else(|| {
            let missing = berth_control::Error::new(Kind::NotFound, "BE-3003", format!("there is no host {name:?}"));
            error::status(missing.hint("'berth host list' shows what is there"))
        })?;
        Ok(Response::new(v1::HostAnswer { host: Some(wire(&view, host)), revision: view.revision.0 }))
    }
}
