//! Hosts, for operators.

use berth_control::admit::{HostTarget, OrphanTarget, UpdateHost};
use berth_control::{Answer, admit, status};
use berth_model::VmUid;
use berth_model::host::Host;
use berth_model::placement::Taint;
use berth_proto::ConvertError;
use berth_proto::convert::{host_to_wire, host_use, taint_effect};
use berth_proto::v1;
use berth_proto::v1::host_service_server::HostService;
use berth_state::Cluster;
use tonic::{Request, Response, Status};

use super::{Shared, caller, error};

/// The service.
pub(super) struct Service(pub(super) Shared);

fn wire(view: &Cluster, host: &Host) -> v1::Host {
    let (vms, orphans) = (view.vms_on(host.uid()), view.holdings_on(host.uid()));
    let used = host_use(host, vms.map(AsRef::as_ref), orphans.map(AsRef::as_ref));
    let holdings = view.holdings_on(host.uid()).map(|held| v1::Holding::from(&**held)).collect();
    let mut wire = v1::Host { holdings, ..host_to_wire(host, &status::host_conditions(view, host), used) };
    for eviction in &mut wire.evictions {
        let vm = eviction.vm.parse().ok().and_then(|uid| view.vms.get(&VmUid(uid)));
        eviction.called = vm.map(|vm| format!("{}/{}", vm.meta.project, vm.meta.name)).unwrap_or_default();
    }
    wire
}

pub(super) fn target(write: Option<&v1::Write>, name: String) -> HostTarget {
    HostTarget {
        name,
        uid: write.and_then(|write| write.expected_uid.clone()).unwrap_or_default(),
        revision: write.and_then(|write| write.expected_revision),
    }
}

/// Takes the request apart.
fn update_request(request: v1::UpdateHostRequest) -> Result<(HostTarget, UpdateHost), ConvertError> {
    let v1::UpdateHostRequest {
        write,
        name,
        set_labels,
        remove_labels,
        cordoned,
        zone,
        rack,
        add_groups,
        remove_groups,
        set_taints,
        remove_taints,
        cpu_overcommit_percent,
        memory_overcommit_percent,
    } = request;
    let set = set_taints
        .into_iter()
        .enumerate()
        .map(|(at, taint)| Taint::try_from(taint).map_err(|inner| inner.within(format_args!("set_taints[{at}]"))));
    let remove = remove_taints.into_iter().enumerate().map(|(at, v1::TaintKey { key, effect })| {
        Ok((key, taint_effect(effect, &format!("remove_taints[{at}].effect"))?))
    });
    let asked = UpdateHost {
        set_labels,
        remove_labels,
        cordoned,
        zone,
        rack,
        add_groups,
        remove_groups,
        set_taints: set.collect::<Result<_, _>>()?,
        remove_taints: remove.collect::<Result<_, ConvertError>>()?,
        cpu_overcommit: cpu_overcommit_percent,
        memory_overcommit: memory_overcommit_percent,
    };
    Ok((target(write.as_ref(), name), asked))
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
        let host = admit::find_host(&view, &target(None, request.name)).map_err(error::status)?;
        let host = Some(wire(&view, host));
        Ok(Response::new(v1::HostAnswer { host, revision: view.revision.0, request_id: String::new() }))
    }

    async fn update_host(&self, request: Request<v1::UpdateHostRequest>) -> Result<Response<v1::HostAnswer>, Status> {
        let (caller, request_id, request) = caller::change("UpdateHost", request)?;
        let (target, asked) = update_request(request).map_err(|why| error::malformed(&why))?;
        let done = self.0.control.update_host(&caller, &target, &asked).await.map_err(error::status)?;
        let host = done.host().map(|host| wire(&done.view, host));
        Ok(Response::new(v1::HostAnswer { host, revision: done.revision.0, request_id }))
    }

    async fn confirm_dead(
        &self,
        request: Request<v1::ConfirmDeadRequest>,
    ) -> Result<Response<v1::ConfirmDeadAnswer>, Status> {
        let (caller, request_id, request) = caller::change("ConfirmDead", request)?;
        let v1::ConfirmDeadRequest { write, name, name_again } = request;
        let target = target(write.as_ref(), name);
        let done = self.0.control.confirm_dead(&caller, &target, &name_again).await.map_err(error::status)?;
        let host = done.host().map(|host| wire(&done.view, host));
        let evicted = host.as_ref().map_or(0, |host| u32::try_from(host.evictions.len()).unwrap_or(u32::MAX));
        Ok(Response::new(v1::ConfirmDeadAnswer { host, revision: done.revision.0, request_id, evicted }))
    }

    async fn remove_host(
        &self,
        request: Request<v1::RemoveHostRequest>,
    ) -> Result<Response<v1::RemoveHostAnswer>, Status> {
        let (caller, request_id, request) = caller::change("RemoveHost", request)?;
        let v1::RemoveHostRequest { write, name, never_returns } = request;
        let target = target(write.as_ref(), name);
        let done = self.0.control.remove_host(&caller, &target, never_returns).await.map_err(error::status)?;
        Ok(Response::new(v1::RemoveHostAnswer { revision: done.revision.0, request_id }))
    }
}
