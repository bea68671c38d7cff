//! What a member does unasked: finishes changes of the members, compacts the log, and asks whether it still belongs.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::{Instant, timeout};

use crate::error::MembershipError;
use crate::local::Local;
use crate::membership::{self, Upkeep, View};
use crate::net::peers::Lane;
use crate::net::proto;

/// How often a member looks whether something is to be done.
const ROUND: Duration = Duration::from_millis(200);

/// How long a change of the members that nobody asked for may take before it is tried again.
const UPKEEP_PATIENCE: Duration = Duration::from_secs(10);

/// A member that has heard no leader for this long asks the others whether it still belongs to them: several elections long.
const ASK_AFTER: Duration = Duration::from_secs(4);

/// A leader without room hands over not sooner than this after its opening and after the last attempt: all disks may be full.
const HAND_OVER_AFTER: Duration = Duration::from_secs(5);

/// How long that may take.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);

/// How long one of the others may take to answer that.
const ASK_PATIENCE: Duration = Duration::from_secs(1);

/// Goes on until the consensus ends.
pub(crate) async fn run(local: Arc<Local>) {
    let metrics = local.raft.metrics();
    let mut asked = Instant::now();
    // A member that was just opened takes part for a moment before it gives up the lead.
    let mut handed_over = Instant::now();
    loop {
        // Whether something has changed or not: a look is cheap, and silence is not seen in the metrics.
        tokio::time::sleep(ROUND).await;
        let (is_running, leads) = {
            let now = metrics.borrow_watched();
            (now.running_state.is_ok(), now.state.is_leader())
        };
        if !is_running || local.has_vanished() {
            return;
        }
        local.compact().await;
        let lacks_room = local.look_for_room();
        if leads && lacks_room && local.is_followed(&local.metrics()) && handed_over.elapsed() > HAND_OVER_AFTER {
            // The others may have room, and the cluster goes on with them.
            handed_over = Instant::now();
            if let Err(error) = local.transfer_here(None, HAND_OVER_PATIENCE).await {
                tracing::info!(%error, "the lead was not handed over, although there is no room here");
            }
        }
        if leads {
            if let Some(view) = local.view() {
                keep_up(&local, &view).await;
            }
        } else if local.unheard() > ASK_AFTER && asked.elapsed() > ASK_AFTER {
            asked = Instant::now();
            ask_standing(&local).await;
        }
    }
}

/// Does what the leader has to do, unless a change that was asked for is being made.
async fn keep_up(local: &Local, view: &View) {
    let Some(upkeep) = membership::upkeep(view) else { return };
    let Ok(_changing) = local.changes.try_lock() else { return };
    if matches!(upkeep, Upkeep::Replace { dead, .. } if dead == local.id) {
        // Whoever leads next does it.
        if let Err(error) = local.transfer_here(None, HAND_OVER_PATIENCE).await {
            tracing::info!(%error, "the lead was not handed over, although this member is to be replaced");
        }
        return;
    }
    match timeout(UPKEEP_PATIENCE, local.submit(upkeep.changes())).await {
        Ok(Ok(())) => tracing::info!("{upkeep}"),
        // The next round, or the next leader, does it.
        Ok(Err(MembershipError::NoLeader | MembershipError::Unknown { .. })) | Err(_) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a change of the members could not be made"),
    }
}

/// Asks the members that this one knows of whether it still belongs to them. A later membership without it settles that.
async fn ask_standing(local: &Local) {
    let Some(question) = local.standing_question() else { return };
    for member in local.others() {
        let mut client = local.peers.client(&member, Lane::Calls);
        let Ok(Ok(answer)) = timeout(ASK_PATIENCE, client.standing(question)).await else { continue };
        if let proto::StandingResponse { excluded: Some(reason) } = answer.into_inner() {
            local.exclude(format!("{}: {reason}", member.name));
            return;
        }
    }
}
