//! The controllers themselves, for operators.

mod members;
mod status;
mod warnings;

use berth_proto::v1;
use berth_proto::v1::cluster_service_server::ClusterService;
use tonic::{Request, Response, Status};

use super::Shared;

pub(super) use status::own;

/// The service.
pub(super) struct Service(pub(super) Shared);

#[tonic::async_trait]
impl ClusterService for Service {
    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Result<Response<v1::ClusterStatus>, Status> {
        status::answer(&self.0, &request).await.map(Response::new)
    }

    async fn add_member(&self, request: Request<v1::AddMemberRequest>) -> Result<Response<v1::MemberAnswer>, Status> {
        members::add(&self.0, request).await.map(Response::new)
    }

    async fn promote_member(
        &self,
        request: Request<v1::PromoteMemberRequest>,
    ) -> Result<Response<v1::MemberAnswer>, Status> {
        members::promote(&self.0, request).await.map(Response::new)
    }

    async fn update_member(
        &self,
        request: Request<v1::UpdateMemberRequest>,
    ) -> Result<Response<v1::MemberAnswer>, Status> {
        members::update(&self.0, request).await.map(Response::new)
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::MemberAnswer>, Status> {
        members::remove(&self.0, request).await.map(Response::new)
    }

    async fn replace_member(
        &self,
        request: Request<v1::ReplaceMemberRequest>,
    ) -> Result<Response<v1::MemberAnswer>, Status> {
        members::replace(&self.0, request).await.map(Response::new)
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        members::transfer(&self.0, request).await.map(Response::new)
    }
}
