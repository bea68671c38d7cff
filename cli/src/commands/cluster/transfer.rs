//! `berth cluster transfer-leader`.

use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;
use serde::Serialize;

use super::super::Session;
use super::{change, find, look};
use crate::exit::ExitStatus;
use crate::failure::Failure;

#[derive(Serialize)]
struct Transferred {
    leader: String,
}

/// Asks the leader to hand over, and waits until it has.
pub(super) async fn run(mut session: Session<'_>, name: Option<String>) -> Result<ExitStatus, Failure> {
    let to = match name {
        Some(name) => {
            let status = look(&mut session, v1::Consistency::Linearizable).await?;
            find(&status, &name)?.id
        }
        None => 0,
    };
    let question = v1::TransferLeadershipRequest { to };
    let answer = session
        .client
        .ask(&change(), question, |channel, question| async move {
            ClusterServiceClient::new(channel).transfer_leadership(question).await
        })
        .await?;
    let answer = Transferred { leader: answer.leader };
    session.print(&answer, |_| format!("{} leads\n", answer.leader))?;
    Ok(ExitStatus::Ok)
}
