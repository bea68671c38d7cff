//! VMs, for operators.

use std::sync::Arc;

use berth_control::admit::{self, CreateVm, UpdateLabels, UpdateVm};
use berth_control::selector::Selector;
use berth_control::{Answer, status};
use berth_model::Name;
use berth_model::instancetype::PreferenceSpec;
use berth_model::placement::Rules;
use berth_model::vm::{DeviceDemand, Vm};
use berth_proto::ConvertError;
use berth_proto::convert::vm_to_wire;
use berth_proto::status::to_status;
use berth_proto::v1;
use berth_proto::v1::vm_service_server::VmService;
use berth_state::Cluster;
use tonic::{Code, Request, Response, Status};

use super::{Shared, caller, error, room, watch};

/// The service.
pub(super) struct Service(pub(super) Shared);

/// VMs in one page unless fewer are asked for: some hundred kilobytes.
const PAGE: usize = 500;

pub(super) fn wire(view: &Cluster, vm: &Vm) -> v1::Vm {
    vm_to_wire(vm, &status::derive(view, vm))
}

fn answer(answer: &Answer, request_id: String) -> Response<v1::VmAnswer> {
    let vm = answer.vm().map(|(vm, status)| vm_to_wire(&vm, &status));
    Response::new(v1::VmAnswer { vm, revision: answer.revision.0, request_id, explanation: None })
}

#[tonic::async_trait]
impl VmService for Service {
    type WatchVmsStream = watch::VmStream;

    async fn create_vm(&self, request: Request<v1::CreateVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let (caller, id, request) = caller::change("CreateVm", request)?;
        let dry_run = request.dry_run;
        let asked = create_request(request)?;
        if dry_run {
            let (vm, view) = self.0.control.would_create_vm(&asked).await.map_err(error::status)?;
            let shown = Some(wire(&view, &vm));
            let (revision, request_id) = (view.revision.0, String::new());
            let explanation = Some(room::explanation(view, vm).await?);
            return Ok(Response::new(v1::VmAnswer { vm: shown, revision, request_id, explanation }));
        }
        let done = self.0.control.create_vm(&caller, &asked).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn get_vm(&self, request: Request<v1::GetVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let target = caller::target(None, &request.project, &request.name);
        let vm = admit::find_vm(&view, &target).map_err(error::status)?;
        let vm = Some(wire(&view, vm));
        let (revision, request_id) = (view.revision.0, String::new());
        Ok(Response::new(v1::VmAnswer { vm, revision, request_id, explanation: None }))
    }

    async fn list_vms(&self, request: Request<v1::ListVmsRequest>) -> Result<Response<v1::ListVmsResponse>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let project = match request.project.as_str() {
            "" => None,
            project => Some(admit::project(project).map_err(error::status)?),
        };
        let selector = Selector::parse(&request.label_selector).map_err(error::status)?;
        let after = page_start(&request.page_token)?;
        let size = match request.page_size as usize {
            0 => PAGE,
            size => size.min(PAGE),
        };
        let mut found =
            view.vms_by_name(project.as_ref(), after.as_ref()).filter(|vm| selector.matches(&vm.meta.labels));
        let page: Vec<&Arc<Vm>> = found.by_ref().take(size).collect();
        let next_page_token = match (page.last(), found.next()) {
            (Some(last), Some(_)) => format!("{}/{}", last.meta.project, last.meta.name),
            _ => String::new(),
        };
        let vms = page.into_iter().map(|vm| wire(&view, vm)).collect();
        Ok(Response::new(v1::ListVmsResponse { vms, next_page_token, revision: view.revision.0 }))
    }

    async fn watch_vms(&self, request: Request<v1::WatchVmsRequest>) -> Result<Response<Self::WatchVmsStream>, Status> {
        watch::vms(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn start_vm(&self, request: Request<v1::StartVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let (caller, id, request) = caller::change("StartVm", request)?;
        let target = caller::target(request.write.as_ref(), &request.project, &request.name);
        let done = self.0.control.start_vm(&caller, &target).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn stop_vm(&self, request: Request<v1::StopVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let (caller, id, request) = caller::change("StopVm", request)?;
        let target = caller::target(request.write.as_ref(), &request.project, &request.name);
        let done = self.0.control.stop_vm(&caller, &target, request.force).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn restart_vm(&self, request: Request<v1::RestartVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let (caller, id, request) = caller::change("RestartVm", request)?;
        let target = caller::target(request.write.as_ref(), &request.project, &request.name);
        let done = self.0.control.restart_vm(&caller, &target, request.force).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn reset_vm(&self, request: Request<v1::ResetVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let (caller, id, request) = caller::change("ResetVm", request)?;
        let target = caller::target(request.write.as_ref(), &request.project, &request.name);
        let done = self.0.control.reset_vm(&caller, &target).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn pause_vm(&self, request: Request<v1::PauseVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let (caller, id, request) = caller::change("PauseVm", request)?;
        let target = caller::target(request.write.as_ref(), &request.project, &request.name);
        let done = self.0.control.pause_vm(&caller, &target).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn resume_vm(&self, request: Request<v1::ResumeVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let (caller, id, request) = caller::change("ResumeVm", request)?;
        let target = caller::target(request.write.as_ref(), &request.project, &request.name);
        let done = self.0.control.resume_vm(&caller, &target).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn delete_vm(&self, request: Request<v1::DeleteVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let (caller, id, request) = caller::change("DeleteVm", request)?;
        let target = caller::target(request.write.as_ref(), &request.project, &request.name);
        let done = self.0.control.delete_vm(&caller, &target).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn update_labels(&self, request: Request<v1::UpdateLabelsRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let (caller, id, request) = caller::change("UpdateLabels", request)?;
        let v1::UpdateLabelsRequest { write, project, name, set, remove } = request;
        let target = caller::target(write.as_ref(), &project, &name);
        let asked = UpdateLabels { set, remove };
        let done = self.0.control.update_labels(&caller, &target, &asked).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn update_vm(&self, request: Request<v1::UpdateVmRequest>) -> Result<Response<v1::VmAnswer>, Status> {
        let (caller, id, request) = caller::change("UpdateVm", request)?;
        let v1::UpdateVmRequest { write, project, name, spec, fields } = request;
        let target = caller::target(write.as_ref(), &project, &name);
        let to = spec_request(spec.ok_or_else(|| error::missing("spec"))?)?;
        let asked = UpdateVm { fields, to };
        let done = self.0.control.update_vm(&caller, &target, &asked).await.map_err(error::status)?;
        Ok(answer(&done, id))
    }

    async fn explain_vm(
        &self,
        request: Request<v1::ExplainVmRequest>,
    ) -> Result<Response<v1::ExplainVmResponse>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let target = caller::target(None, &request.project, &request.name);
        let vm = Vm::clone(admit::find_vm(&view, &target).map_err(error::status)?);
        let (shown, revision) = (Some(wire(&view, &vm)), view.revision.0);
        let explanation = Some(room::explanation(view, vm).await?);
        Ok(Response::new(v1::ExplainVmResponse { vm: shown, explanation, revision }))
    }
}

/// The last object of the page before, as `project/name`.
fn page_start(token: &str) -> Result<Option<(Name, Name)>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token.split_once('/').and_then(|(project, name)| Some((project.parse().ok()?, name.parse().ok()?)));
    parsed.map(Some).ok_or_else(|| {
        to_status(
            Code::InvalidArgument,
            "BE-1007",
            "page_token is not one that this service gave",
            Some("leave it empty to begin anew"),
        )
    })
}

/// Takes the request apart; fields that only answers carry are refused rather than passed over.
fn create_request(request: v1::CreateVmRequest) -> Result<CreateVm, Status> {
    let v1::CreateVmRequest { write: _, project, name, labels, annotations, spec, dry_run: _ } = request;
    let asked = spec_request(spec.ok_or_else(|| error::missing("spec"))?)?;
    Ok(CreateVm { project, name, labels, annotations, ..asked })
}

/// Takes a spec apart.
pub(super) fn spec_request(spec: v1::VmSpec) -> Result<CreateVm, Status> {
    let v1::VmSpec {
        instance_type,
        cpus,
        memory_bytes,
        performance,
        image,
        disk_size_bytes,
        run_strategy,
        user_data,
        has_user_data,
        image_sha256,
        image_virtual_size_bytes,
        preference,
        tuning,
        devices,
        rules,
        grace_ms,
    } = spec;
    if has_user_data || !image_sha256.is_empty() || image_virtual_size_bytes != 0 {
        let message = "spec.has_user_data, spec.image_sha256 and spec.image_virtual_size_bytes are only read";
        return Err(to_status(Code::InvalidArgument, "BE-1007", message, Some("leave them out")));
    }
    let performance = match v1::Performance::try_from(performance) {
        Ok(v1::Performance::Unspecified) => String::new(),
        Ok(v1::Performance::High) => "high".into(),
        Ok(v1::Performance::Standard) => "standard".into(),
        Ok(v1::Performance::Density) => "density".into(),
        Err(_) => performance.to_string(),
    };
    let run = match berth_proto::convert::run_strategy(run_strategy, "spec.run_strategy") {
        Ok(run) => run.map_or_else(String::new, |run| run.to_string()),
        Err(_) => run_strategy.to_string(),
    };
    let malformed = |field: String| move |why: ConvertError| error::malformed(&why.within(field));
    let wishes = tuning.map(PreferenceSpec::try_from).transpose().map_err(malformed("spec.tuning".into()))?;
    let demands = devices
        .into_iter()
        .enumerate()
        .map(|(at, demand)| DeviceDemand::try_from(demand).map_err(malformed(format!("spec.devices[{at}]"))));
    let demands = demands.collect::<Result<_, _>>()?;
    let rules = rules.map(Rules::try_from).transpose().map_err(malformed("spec.rules".into()))?;
    Ok(CreateVm {
        instance_type: (!instance_type.is_empty()).then_some(instance_type),
        cpus,
        memory: memory_bytes,
        performance,
        preference: (!preference.is_empty()).then_some(preference),
        tuning: wishes.unwrap_or_default(),
        devices: demands,
        rules: rules.unwrap_or_default(),
        image,
        disk_size: disk_size_bytes,
        run,
        grace: grace_ms,
        user_data,
        ..CreateVm::default()
    })
}

#[cfg(test)]
mod tests;
