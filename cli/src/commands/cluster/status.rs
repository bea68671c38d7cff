//! `berth cluster status`.

use berth_proto::v1;

use super::super::Session;
use super::look;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::ClusterView;

/// Reads and prints. Always what the first member that answers has at hand: this is looked at when there is no leader.
pub(super) async fn run(mut session: Session<'_>) -> Result<ExitStatus, Failure> {
    let cluster = ClusterView::from(look(&mut session, v1::Consistency::Stale).await?);
    session.print(&cluster, |style| render::cluster::status(&cluster, style))?;
    Ok(ExitStatus::Ok)
}
