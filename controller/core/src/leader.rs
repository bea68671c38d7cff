//! What the leader does unasked: gives a new cluster its identity, plans, and counts who is heard of.

use std::time::Duration;

use berth_model::{Actor, ActorRole, ClusterId, Revision};
use berth_planner::Budget;
use berth_state::{Batch, Body, Cluster, Command};

use crate::handle::Control;
use crate::liveness::Table;

/// How often the leader looks at its hosts' heartbeats, and plans even if nothing changed.
const TICK: Duration = Duration::from_secs(1);

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
                () = reign => {}
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
    let mut table = Table::new(control.environment.now());
    let mut views = control.views.cluster.clone();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut planned_at: Option<Revision> = None;
    loop {
        let ticked = tokio::select! {
            _ = tick.tick() => true,
            changed = views.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
        };
        let view = std::sync::Arc::clone(&views.borrow_and_update());
        if view.info.is_none() {
            let version = Cluster::NEWEST_VERSION;
            propose(control, vec![Body::Bootstrap { cluster, version }]).await;
            continue;
        }
        let mut bodies = Vec::new();
        if ticked {
            let now = control.environment.now();
            for (host, heard) in control.heard.take() {
                table.heard(host, heard);
            }
            bodies.extend(table.transitions(&view, now));
        }
        if planned_at != Some(view.revision) {
            let plan = berth_planner::plan(&view, Budget::default());
            planned_at = (plan.left == 0).then_some(view.revision);
            bodies.extend(plan.commands);
        }
        if !bodies.is_empty() {
            propose(control, bodies).await;
        }
    }
}

async fn propose(control: &Control, bodies: Vec<Body>) {
    let actor = Actor { role: ActorRole::Controller, name: "leader".into() };
    let names: Vec<_> = bodies.iter().map(Body::name).collect();
    let commands = bodies.into_iter().map(|body| Command { request: None, actor: actor.clone(), body }).collect();
    match control.consensus.propose(&Batch { at: control.environment.now(), commands }).await {
        Ok(answers) => {
            for (name, applied) in names.iter().zip(answers) {
                if let Err(rejection) = applied.result {
                    tracing::info!("{name} was overtaken: {rejection}");
                }
            }
        }
        // The plan is made anew from what is there: nothing is lost and nothing repeated.
        Err(error) => tracing::warn!("a plan could not be proposed: {error}"),
    }
}
