//! Instance types, for operators.

use berth_control::{Answer, Kind};
use berth_proto::v1;
use berth_proto::v1::instance_type_service_server::InstanceTypeService;
use tonic::{Request, Response, Status};

use super::{Shared, caller, error};

/// The service.
pub(super) struct Service(pub(super) Shared);

fn answer(answer: &Answer, name: &str, request_id: String) -> Response<v1::InstanceTypeAnswer> {
    let instance_type = answer.view.instance_types.get(name).map(|held| held.as_ref().into());
    Response::new(v1::InstanceTypeAnswer { instance_type, revision: answer.revision.0, request_id })
}

#[tonic::async_trait]
impl InstanceTypeService for Service {
    async fn list_instance_types(
        &self,
        request: Request<v1::ListInstanceTypesRequest>,
    ) -> Result<Response<v1::ListInstanceTypesResponse>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let instance_types = view.instance_types.values().map(|held| held.as_ref().into()).collect();
        Ok(Response::new(v1::ListInstanceTypesResponse { instance_types, revision: view.revision.0 }))
    }

    async fn get_instance_type(
        &self,
        request: Request<v1::GetInstanceTypeRequest>,
    ) -> Result<Response<v1::InstanceTypeAnswer>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let held = view.instance_types.get(request.name.as_str()).ok_or_else(|| {
            let shown: String = request.name.chars().take(80).collect();
            let missing =
                berth_control::Error::new(Kind::NotFound, "BE-2002", format!("there is no instance type {shown:?}"));
            error::status(missing.hint("'berth instancetype list' shows what is there"))
        })?;
        let instance_type = Some(held.as_ref().into());
        Ok(Response::new(v1::InstanceTypeAnswer {
            instance_type,
            revision: view.revision.0,
            request_id: String::new(),
        }))
    }

    async fn create_instance_type(
        &self,
        request: Request<v1::CreateInstanceTypeRequest>,
    ) -> Result<Response<v1::InstanceTypeAnswer>, Status> {
        let (caller, id, request) = caller::change("CreateInstanceType", request)?;
        let v1::CreateInstanceTypeRequest { write: _, name, cpus, memory_bytes } = request;
        let done = self.0.control.create_instance_type(&caller, &name, cpus, memory_bytes).await;
        Ok(answer(&done.map_err(error::status)?, &name, id))
    }

    async fn delete_instance_type(
        &self,
        request: Request<v1::DeleteInstanceTypeRequest>,
    ) -> Result<Response<v1::InstanceTypeAnswer>, Status> {
        let (caller, id, request) = caller::change("DeleteInstanceType", request)?;
        let done = self.0.control.delete_instance_type(&caller, &request.name).await.map_err(error::status)?;
        Ok(answer(&done, &request.name, id))
    }
}
