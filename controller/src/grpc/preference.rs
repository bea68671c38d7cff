//! Preferences, for operators.

use berth_control::{Answer, Kind};
use berth_model::instancetype::PreferenceSpec;
use berth_proto::v1;
use berth_proto::v1::preference_service_server::PreferenceService;
use tonic::{Request, Response, Status};

use super::{Shared, caller, error};

/// The service.
pub(super) struct Service(pub(super) Shared);

fn answer(answer: &Answer, name: &str, request_id: String) -> Response<v1::PreferenceAnswer> {
    let preference = answer.view.preferences.get(name).map(|held| held.as_ref().into());
    Response::new(v1::PreferenceAnswer { preference, revision: answer.revision.0, request_id })
}

#[tonic::async_trait]
impl PreferenceService for Service {
    async fn list_preferences(
        &self,
        request: Request<v1::ListPreferencesRequest>,
    ) -> Result<Response<v1::ListPreferencesResponse>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let preferences = view.preferences.values().map(|held| held.as_ref().into()).collect();
        Ok(Response::new(v1::ListPreferencesResponse { preferences, revision: view.revision.0 }))
    }

    async fn get_preference(
        &self,
        request: Request<v1::GetPreferenceRequest>,
    ) -> Result<Response<v1::PreferenceAnswer>, Status> {
        let request = request.into_inner();
        let view = self.0.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let held = view.preferences.get(request.name.as_str()).ok_or_else(|| {
            let shown: String = request.name.chars().take(80).collect();
            let missing =
                berth_control::Error::new(Kind::NotFound, "BE-2002", format!("there is no preference {shown:?}"));
            error::status(missing.hint("'berth preference list' shows what is there"))
        })?;
        let preference = Some(held.as_ref().into());
        Ok(Response::new(v1::PreferenceAnswer { preference, revision: view.revision.0, request_id: String::new() }))
    }

    async fn create_preference(
        &self,
        request: Request<v1::CreatePreferenceRequest>,
    ) -> Result<Response<v1::PreferenceAnswer>, Status> {
        let (caller, id, request) = caller::change("CreatePreference", request)?;
        let v1::CreatePreferenceRequest { write: _, name, tuning } = request;
        let wishes = tuning.map(PreferenceSpec::try_from).transpose();
        let wishes = wishes.map_err(|why| error::malformed(&why.within("tuning")))?.unwrap_or_default();
        let done = self.0.control.create_preference(&caller, &name, wishes).await.map_err(error::status)?;
        Ok(answer(&done, &name, id))
    }

    async fn delete_preference(
        &self,
        request: Request<v1::DeletePreferenceRequest>,
    ) -> Result<Response<v1::PreferenceAnswer>, Status> {
        let (caller, id, request) = caller::change("DeletePreference", request)?;
        let done = self.0.control.delete_preference(&caller, &request.name).await.map_err(error::status)?;
        Ok(answer(&done, &request.name, id))
    }
}
