//! Looks now and then for moves of VMs that would make the cluster better, and keeps what it finds in the replicated state.
//!
//! Every VM is looked at, which takes seconds on a large cluster: it is done beside the leader's loop, which must not keep
//! its hosts waiting.

use std::sync::Arc;
use std::time::Duration;

use berth_model::placement::Proposal;
use berth_planner::{Index, Move};
use berth_state::{Body, Cluster, ProposedMove};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::handle::Control;

/// How often moves are looked for: a VM stays where it was placed for longer anyway.
const EVERY: Duration = Duration::from_secs(5 * 60);

/// When the next look is due, and the one that is going on.
#[derive(Debug)]
pub(super) struct Review {
    due: Instant,
    looking: Option<JoinHandle<Vec<ProposedMove>>>,
}

impl Review {
    pub(super) fn new() -> Self {
        Self { due: Instant::now() + EVERY, looking: None }
    }

    /// Waits for the next look and its end. What is to be proposed, if that is not what is kept already. May be dropped
    /// at any time and waited for again.
    pub(super) async fn found(&mut self, control: &Control) -> Option<Body> {
        let looking = match &mut self.looking {
            Some(looking) => looking,
            None => {
                tokio::time::sleep_until(self.due).await;
                let view = control.now_applied();
                self.looking.insert(tokio::task::spawn_blocking(move || moves(&view)))
            }
        };
        let found = looking.await;
        (self.looking, self.due) = (None, Instant::now() + EVERY);
        match found {
            Ok(moves) => (!is_kept(&control.now_applied(), &moves)).then_some(Body::NoteProposals { moves }),
            Err(error) => {
                tracing::error!("moves that would help could not be looked for: {error}");
                None
            }
        }
    }
}

fn moves(view: &Cluster) -> Vec<ProposedMove> {
    let found = berth_planner::rebalance(view, &mut Index::new(view), Proposal::MOST);
    let proposed = |Move { vm, from, to, gain, resources: _ }| ProposedMove { vm, from, to, why: gain.to_string() };
    found.into_iter().map(proposed).collect()
}

/// Whether the state keeps just these moves. The figures in their reasons change all the time and are let.
fn is_kept(view: &Cluster, moves: &[ProposedMove]) -> bool {
    let kept =
        |(held, one): (&Arc<Proposal>, &ProposedMove)| (held.vm, held.from, held.to) == (one.vm, one.from, one.to);
    view.proposals.len() == moves.len() && view.proposals.iter().zip(moves).all(kept)
}

#[cfg(test)]
mod tests {
    use berth_model::testing::{Machine, host_uid, vm_spec, vm_uid};
    use berth_model::{Bytes, Millis};
    use berth_state::testing::World;

    use super::*;
    use crate::testing::Member;

    #[tokio::test(start_paused = true)]
    async fn a_move_that_would_help_is_noted_once() {
        let mut world = World::new();
        let h1 = world.host(1, Machine::cores(8).inventory());
        world.host(2, Machine::cores(8).inventory());
        for number in 1..=2 {
            let vm = world.vm(number, vm_spec(3, Bytes::mib(128)));
            world.assign(vm, h1, (number - 1) * 3..number * 3, 0);
        }
        world.at = world.at.plus(Millis(11 * 60 * 1000));
        world.vm(3, vm_spec(1, Bytes::mib(128)));
        let member = Member::of(world);
        let mut review = Review::new();
        let body = review.found(&member.control).await.expect("one host carries everything");
        let Body::NoteProposals { moves } = &body else { panic!("{body:?}") };
        let shown: Vec<_> = moves.iter().map(|one| (one.vm, one.from, one.to)).collect();
        assert_eq!(shown, [(vm_uid(1), host_uid(1), host_uid(2))]);
        member.elsewhere(body.clone());
        assert_eq!(review.found(&member.control).await, None, "it is kept already");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_nobody_waits_for_is_not_lost() {
        let member = Member::of(World::new());
        let mut review = Review::new();
        let early = tokio::time::timeout(EVERY / 2, review.found(&member.control)).await;
        assert!(early.is_err(), "it was not due");
        let began = Instant::now();
        assert_eq!(review.found(&member.control).await, None);
        assert!(began.elapsed() <= EVERY / 2, "the wait began anew");
    }
}
