//! Instance types, for operators.

use berth_control::Kind;
use berth_proto::v1;
use berth_proto::v1::instance_type_service_server::InstanceTypeService;
use tonic::{Request, Response, Status};

use super::{Shared, caller, error};

/// The service.
pub(super) struct Service(pub(super) Shared);

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
        Ok(Response::new(v1::InstanceTypeAnswer { instance_type, revision: view.revision.0 }))
    }
}
