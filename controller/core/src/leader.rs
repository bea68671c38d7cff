//! Drives a reign: whenever this member leads, feeds [`Reign`] the state and the heartbeats, and proposes what it says.

mod review;

use std::sync::Arc;
use std::time::Duration;

use berth_model::ClusterId;
use berth_state::Body;

use crate::handle::Control;
use crate::reign::{self, Look, Reign};
use review::Review;

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
    let mut reign = Reign::new(cluster, control.environment.uptime());
    let mut review = Review::new();
    let mut views = control.views.cluster.clone();
    let mut tick = tokio::time::interval(Duration::from_millis(reign::TICK.0));
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
            () = tokio::task::yield_now(), if reign.is_midway() => false,
        };
        let view = Arc::clone(&views.borrow_and_update());
        let look = ticked.then(|| Look { heard: control.heard.take(), now: control.environment.uptime() });
        let mut bodies = reign.step(&view, look);
        while let Some(next) = reign::next_proposal(&mut bodies) {
            if !propose(control, next).await {
                reign.not_proposed();
                tick.reset();
                break;
            }
        }
    }
}

/// Proposes what the leader wants; whether it was committed.
async fn propose(control: &Control, bodies: Vec<Body>) -> bool {
    let names: Vec<_> = bodies.iter().map(Body::name).collect();
    match control.consensus.propose_leading(&reign::batch(bodies, control.environment.now())).await {
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
