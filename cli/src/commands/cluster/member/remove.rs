//! `berth cluster member remove`.

use berth_proto::v1;
use serde::Serialize;

use super::super::super::Session;
use super::{change, confirm, find, keep_endpoints, look, service};
use crate::args::cluster::Remove;
use crate::exit::ExitStatus;
use crate::failure::Failure;

#[derive(Serialize)]
struct Removed {
    removed: String,
    id: u64,
}

/// Asks a person, then the cluster.
pub(super) async fn run(mut session: Session<'_>, remove: Remove) -> Result<ExitStatus, Failure> {
    let Remove { name, yes, force } = remove;
    let status = look(&mut session, v1::Consistency::Linearizable).await?;
    let id = find(&status, &name)?.id;
    let what = format!(
        "{name} (id {id}) leaves the cluster for good; to come back it must be added anew, with an empty folder"
    );
    confirm(&mut session, &what, yes).await?;
    let question = v1::RemoveMemberRequest { id, force };
    session
        .client
        .ask(&change(), question, |channel, question| async move { service(channel).remove_member(question).await })
        .await?;
    let removed = Removed { removed: name, id };
    session.print(&removed, |_| format!("{} is no member any more\n", removed.removed))?;
    keep_endpoints(&mut session).await;
    Ok(ExitStatus::Ok)
}
