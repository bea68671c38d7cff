//! Breaks a real cluster at random, under load, and judges what its clients saw.
//!
//! Three controllers run as they are shipped, each in a network namespace of its own with a small disk of its own and a
//! clock that can be set. Clients read and change labels of a few VMs through every member, each label a register. One
//! after another, in an order that a seed decides, members are killed, frozen, cut off in one or both directions, slowed
//! down, filled up, set to another time and restarted. What the clients saw must be linearizable: one single register a
//! key could have given all these answers. What they never learnt, because they gave up waiting, may have happened or not.
//!
//! | file | what |
//! |---|---|
//! | `cluster.rs` | the three members, and each fault as one call |
//! | `nemesis.rs` | which fault comes when, and when it is over |
//! | `load.rs` | the clients |
//! | `leaders.rs` | who led when |
//! | `judge.rs` | what all that amounts to |

mod cluster;
mod dice;
mod judge;
mod leaders;
mod load;
mod nemesis;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use cluster::Cluster;
pub use judge::Report;
pub use nemesis::Kind;

use leaders::Leaders;
use load::Load;

/// What to do to a cluster.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// How long faults go on.
    pub lasting: Duration,
    /// They go on longer, up to twice as long, until so many operations are completed: a slow machine takes longer to
    /// show as much.
    pub operations: usize,
    /// Which faults.
    pub kinds: Vec<Kind>,
    /// Registers.
    pub keys: usize,
    /// Clients, each with one operation under way.
    pub clients: usize,
}

impl Plan {
    /// Every fault, and at least 20,000 operations on 20 keys.
    pub fn new(seed: u64, lasting: Duration) -> Self {
        Self { seed, lasting, operations: 20_000, kinds: Kind::ALL.to_vec(), keys: 20, clients: 24 }
    }
}

/// A seed that differs from run to run.
pub fn fresh_seed() -> u64 {
    let id = uuid::Uuid::new_v4().as_u64_pair();
    // Short enough to be typed.
    id.0 >> 40
}

/// Carries a plan out, and judges what came of it.
///
/// # Panics
/// When the cluster cannot be brought back between two faults.
pub async fn run(cluster: &Arc<Cluster>, plan: &Plan) -> Report {
    let began = Instant::now();
    let leaders = Leaders::watch(cluster, began);
    let load = Load::start(cluster, plan, leaders.known(), began).await;
    let windows = nemesis::run(cluster, plan, &leaders, began, || load.completed()).await;
    let history = load.finish(cluster).await;
    cluster.agree().await;
    let terms = leaders.finish().await;
    judge::judge(plan, &windows, history, &terms)
}
