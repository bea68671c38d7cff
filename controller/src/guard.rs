//! Compares this member's state with the others' and stops serving when it is the one that strays (law 11).
//!
//! What is decided is [`berth_control::checkpoints::judge`]'s; this asks the others and carries it out. A member that strays
//! answers nothing, leads nothing, and fails its log at the next entry, so that no supervision brings it back: a restart finds
//! the same difference again, because its own checkpoints are in its snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_control::Control;
use berth_control::checkpoints::{Verdict, judge};
use berth_model::Revision;
use berth_proto::v1;
use berth_proto::v1::peer_service_client::PeerServiceClient;
use berth_raft::{Handle, Role};
use berth_state::{Checkpoint, Digest};
use tokio::sync::watch;

use crate::peers::Peers;

/// How often members compare: soon after a checkpoint, and without a word to spare between.
const EVERY: Duration = Duration::from_secs(5);
/// How long another member may take to answer.
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// Why this member must not serve, shared by all that serve.
#[derive(Clone, Debug)]
pub(crate) struct Halt {
    reason: watch::Sender<Option<String>>,
    /// Set once this member was found to stray: the log ends at its next entry.
    fatal: Arc<Mutex<Option<String>>>,
}

impl Halt {
    pub(crate) fn new() -> Self {
        Self { reason: watch::Sender::new(None), fatal: Arc::default() }
    }

    /// Why it must not serve at present.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    /// Why its log must end.
    pub(crate) fn fatal(&self) -> Option<String> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Told whenever it changed.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<String>> {
        self.reason.subscribe()
    }

    fn set(&self, reason: Option<String>, is_fatal: bool) {
        if is_fatal {
            self.fatal.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&reason);
        }
        self.reason.send_if_modified(|held| {
            let changed = *held != reason;
            *held = reason;
            changed
        });
    }
}

/// Compares for as long as the member runs.
pub(crate) async fn run(control: Control, log: Handle, peers: Peers, halt: Halt) {
    let mut told = Verdict::Agreed;
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let own: Vec<Checkpoint> = control.now_applied().checkpoints.iter().copied().collect();
        let status = log.status();
        let voters = status.members.iter().filter(|member| member.role == Role::Voter);
        let (own_id, count) = (status.id, voters.clone().count());
        let asked = voters.filter(|member| member.member.id != own_id).map(|member| {
            let (name, address) = (member.member.name.clone(), member.member.api_addr.clone());
            ask(&peers, name, address)
        });
        let heard: BTreeMap<_, _> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        // What this member has now is no older than what it was asked for.
        let verdict = judge(&own, &heard, count);
        if verdict != told {
            carry_out(&verdict, &log, &halt).await;
            told = verdict.clone();
        }
        if let Verdict::Strays(_) = verdict {
            return;
        }
    }
}

async fn carry_out(verdict: &Verdict, log: &Handle, halt: &Halt) {
    match verdict {
        Verdict::Agreed => {
            halt.set(None, false);
            tracing::info!("the members' states agree again");
        }
        Verdict::Others(names) => {
            halt.set(None, false);
            let names = names.join(", ");
            tracing::error!(
                code = "BE-5031",
                "the state of {names} differs from that of the majority: it serves no more; remove it from the cluster and \
                 add it anew with an empty data directory"
            );
        }
        Verdict::Undecided(number) => {
            let reason = format!(
                "members' states differ since revision {}, and no majority agrees on one",
                number * Checkpoint::EVERY
            );
            tracing::error!(code = "BE-5031", "{reason}; nobody serves until a majority agrees");
            halt.set(Some(reason), false);
        }
        Verdict::Strays(number) => {
            let reason = format!(
                "its state differs from that of the majority since revision {}; remove it from the cluster and add it anew \
                 with an empty data directory",
                number * Checkpoint::EVERY
            );
            tracing::error!(code = "BE-5031", "this controller serves no more: {reason}");
            halt.set(Some(reason), true);
            if let Err(why) = log.transfer_leadership(None, ASK_WITHIN).await {
                tracing::debug!("no leadership was passed on: {why}");
            }
        }
    }
}

async fn ask(peers: &Peers, name: String, address: String) -> Option<(String, Vec<Checkpoint>)> {
    let asked = async {
        let channel = peers.controller(&address);
        let answer = PeerServiceClient::new(channel).get_checkpoints(v1::GetCheckpointsRequest {}).await.ok()?;
        Some(answer.into_inner().checkpoints.into_iter().filter_map(read).collect())
    };
    let checkpoints = tokio::time::timeout(ASK_WITHIN, asked).await.ok()??;
    Some((name, checkpoints))
}

fn read(wire: v1::Checkpoint) -> Option<Checkpoint> {
    let v1::Checkpoint { number, revision, digest } = wire;
    Some(Checkpoint { number, revision: Revision(revision), digest: Digest::from_bytes(digest.try_into().ok()?) })
}

/// This member's checkpoints, for others.
pub(crate) fn told(control: &Control) -> v1::GetCheckpointsResponse {
    let view = control.now_applied();
    let checkpoint = |held: &Checkpoint| v1::Checkpoint {
        number: held.number,
        revision: held.revision.0,
        digest: held.digest.to_bytes().to_vec(),
    };
    v1::GetCheckpointsResponse { checkpoints: view.checkpoints.iter().map(checkpoint).collect() }
}
