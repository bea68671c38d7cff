//! What becomes of a state that is put back: a later incarnation of the same cluster.
//!
//! Hosts may have obeyed placements that this state does not know. So everything that it will say must be newer than
//! everything that was ever said: the incarnation counts up, and the revision, of which epochs are made, jumps to where no
//! other restore of the same state came. What was before is compacted: nobody can be told what changed in between.
//!
//! ```text
//!   new revision = max(old, milliseconds since the bootstrap * 2^20) + 2^32 + something at random below 2^30
//! ```
//!
//! The second term grows faster than any cluster draws revisions, so a later restore begins beyond an earlier one's reach
//! whatever happened since; the random one tells two apart that were made by clocks that are wrong.

use std::sync::Arc;

use berth_model::host::{Host, Inventory, Liveness, Topology};
use berth_model::{Incarnation, Revision, Timestamp};
use imbl::{OrdMap, Vector};

use crate::cluster::Cluster;
use crate::history::History;

/// By how much a restore raises the revision at least.
pub const JUMP: u64 = 1 << 32;
/// Revisions for each millisecond of the cluster's life: more than any cluster draws.
const PER_MILLISECOND: u64 = 1 << 20;
/// The bits that are drawn at random.
const DICE: u64 = (1 << 30) - 1;

/// Makes the next incarnation of a state.
///
/// `now` is wall-clock time, `random` fresh random bits, and `at_least` an incarnation that hosts are known to have obeyed,
/// for a backup that was restored more than once. A state without identity stays as it is.
pub fn renew(cluster: &Cluster, now: Timestamp, random: u64, at_least: Incarnation) -> Cluster {
    let mut renewed = cluster.clone();
    let Some(info) = &mut renewed.info else { return renewed };
    info.incarnation = Incarnation(info.incarnation.0.saturating_add(1)).max(at_least);
    let lived = now.since(info.created_at).0;
    let base = cluster.revision.0.max(lived.saturating_mul(PER_MILLISECOND));
    renewed.revision = Revision(base.saturating_add(JUMP).saturating_add(random & DICE));
    renewed.history = History::after(renewed.revision);
    renewed.checkpoints = Vector::new();
    // Nobody has a session with this incarnation yet, and what hosts last reported may no longer be so. Nothing is placed
    // on a host before its full report, which brings its inventory together with its orphans.
    let at = renewed.last_at;
    for (uid, before) in &cluster.hosts {
        let host = forgotten(before, at);
        renewed.index_host(Some(before), Some(&host));
        renewed.hosts.insert(*uid, Arc::new(host));
    }
    renewed.holdings = OrdMap::new();
    renewed.sum = renewed.summed();
    renewed
}

fn forgotten(host: &Host, at: Timestamp) -> Host {
    let inventory = Inventory {
        topology: Topology { threads: Vec::new() },
        memory: Vec::new(),
        hugepages: Vec::new(),
        ..host.inventory.clone()
    };
    Host {
        liveness: Liveness::Lost,
        liveness_since: at,
        inventory,
        orphans: Vec::new(),
        // Of what they name, later placements may be there, and a word about an earlier one would not end them: what the
        // host still holds it lists as orphans.
        evictions: Vec::new(),
        awaited: Some(at),
        ..host.clone()
    }
}

#[cfg(test)]
mod tests;
