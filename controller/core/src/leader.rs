//! What the leader does unasked: gives a new cluster its identity, plans, and counts who is heard of.

mod review;

use std::sync::Arc;
use std::time::Duration;

use berth_model::{Actor, ActorRole, ClusterId, Revision};
use berth_planner::{Budget, Index, Turn};
use berth_state::{Batch, Body, Cluster, Command, PlanningBasis};

use crate::handle::Control;
use crate::liveness::Table;
use review::Review;

/// How often the leader looks at its hosts' heartbeats, and plans even if nothing changed.
const TICK: Duration = Duration::from_secs(1);

/// Commands in one proposal. The longest are reasons of 16 hosts, some kilobytes each in the worst case: this many always
/// fit into an entry of the log, and a plan that did not fit would be made again for ever.
const COMMANDS_AT_ONCE: usize = 50;

/// Leads whenever this member is the leader; ends when consensus does.
pub async fn run(control: Control, cluster: ClusterId) {
    let mut leadership = control.consensus.leadership();
    loop {
        let lead = leadership.borrow_and_update().clone();
        if lead.here {
            tracing::info!(term = lead.term.0, "this controller leads");
            let reign = reign(&control, cluster);
            let over = leadership.wait_for(|now| !now.here || now.term != lead.term);
            tokio::select! {
                // The views ended: this member goes down.
                () = reign => return,
                ended = over => if ended.is_err() { return },
            }
            tracing::info!(term = lead.term.0, "this controller no longer leads in this term");
        }
        if leadership.wait_for(|now| now.here).await.is_err() {
            return;
        }
    }
}

async fn reign(control: &Control, cluster: ClusterId) {
    while let Err(error) = control.consensus.read_barrier().await {
        tracing::debug!("the new leader waits until it can read: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    control.heard.take();
    let mut table = Table::new(control.environment.uptime());
    let mut planning = Planning::default();
    let mut review = Review::new();
    let mut views = control.views.cluster.clone();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let ticked = tokio::select! {
            biased;
            _ = tick.tick() => true,
            changed = views.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
            found = review.found(control) => {
                if let Some(body) = found {
                    propose(control, vec![body]).await;
                }
                continue;
            }
            // Some that wait have not had their turn yet.
            () = tokio::task::yield_now(), if planning.is_midway() => false,
        };
        let view = Arc::clone(&views.borrow_and_update());
        if view.info.is_none() {
            let version = Cluster::NEWEST_VERSION;
            propose(control, vec![Body::Bootstrap { cluster, version }]).await;
            continue;
        }
        let mut bodies = Vec::new();
        if ticked {
            for (host, heard) in control.heard.take() {
                table.heard(host, heard);
            }
            bodies.extend(table.transitions(&view, control.environment.uptime()));
        }
        bodies.extend(planning.plan(&view, ticked));
        while !bodies.is_empty() {
            let rest = bodies.split_off(bodies.len().min(COMMANDS_AT_ONCE));
            if !propose(control, std::mem::replace(&mut bodies, rest)).await {
                // Made anew from what is there, at the next tick.
                planning.begin_again();
                tick.reset();
                break;
            }
        }
    }
}

/// Which of the VMs that wait are planned for next. A round looks at each once.
///
/// Rounds begin at once when there are other hosts, bookings or waiting VMs, and at the next tick when anything else in the
/// state moved: most changes concern no placement, and thousands of VMs may wait.
#[derive(Debug, Default)]
struct Planning {
    /// Where the last whole round began.
    seen: Option<Beginning>,
    /// Where the present round began, and where it goes on.
    midway: Option<(Beginning, Turn)>,
    /// What the planner knows of the cluster from the views before.
    index: Index,
}

/// The state with which a round begins.
#[derive(Debug, Clone)]
struct Beginning {
    revision: Revision,
    basis: PlanningBasis,
}

impl Planning {
    /// Forgets which VMs had their turns.
    fn begin_again(&mut self) {
        (self.seen, self.midway) = (None, None);
    }

    fn is_midway(&self) -> bool {
        self.midway.is_some()
    }

    fn plan(&mut self, view: &Cluster, ticked: bool) -> Vec<Body> {
        let is_planned_for =
            |seen: &Beginning| seen.revision == view.revision || (!ticked && seen.basis.is_that_of(view));
        if self.midway.is_none() && self.seen.as_ref().is_some_and(is_planned_for) {
            return Vec::new();
        }
        let (began, after) = self.midway.take().map_or_else(
            || (Beginning { revision: view.revision, basis: view.planning_basis() }, None),
            |(began, turn)| (began, Some(turn)),
        );
        let plan = berth_planner::plan(view, &mut self.index, after, Budget::default());
        match plan.next {
            Some(turn) => self.midway = Some((began, turn)),
            None => self.seen = Some(began),
        }
        plan.commands
    }
}

/// Proposes what the leader wants; whether it was committed.
async fn propose(control: &Control, bodies: Vec<Body>) -> bool {
    let actor = Actor { role: ActorRole::Controller, name: "leader".into() };
    let names: Vec<_> = bodies.iter().map(Body::name).collect();
    let commands = bodies.into_iter().map(|body| Command { request: None, actor: actor.clone(), body }).collect();
    match control.consensus.propose_leading(&Batch { at: control.environment.now(), commands }).await {
        Ok(answers) => {
            for (name, applied) in names.iter().zip(answers) {
                if let Err(rejection) = applied.result {
                    tracing::info!("{name} was overtaken: {rejection}");
                }
            }
            true
        }
        Err(error) => {
            tracing::warn!("a plan could not be proposed: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests;
