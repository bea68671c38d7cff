//! `berth cluster status`.

use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;

use super::super::Session;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::ClusterView;

/// Reads and prints. Always what the first member that answers has at hand: this is looked at when there is no leader.
pub(in crate::commands) async fn run(mut session: Session<'_>) -> Result<ExitStatus, Failure> {
    let question = v1::GetStatusRequest { consistency: v1::Consistency::Stale.into() };
    let answer = session
        .client
        .ask(&Effect::Read, question, |channel, question| async move {
            ClusterServiceClient::new(channel).get_status(question).await
        })
        .await?;
    let cluster = ClusterView::from(answer);
    session.print(&cluster, |style| render::cluster::status(&cluster, style))?;
    Ok(ExitStatus::Ok)
}
