//! Which hosts are heard of: the leader's own count of heartbeats, turned into replicated transitions.
//!
//! Heartbeats never enter the log; only the transitions do. A new leader knows nothing yet and gives every host the
//! same time as if it had just been heard of (law 7: it warms up first).

use std::collections::BTreeMap;

use berth_model::host::Liveness;
use berth_model::{HostUid, Millis, Timestamp};
use berth_state::{Body, Cluster};

/// How often a host sends a heartbeat.
pub const HEARTBEAT_EVERY: Millis = Millis(2000);
/// Three missed heartbeats.
pub const SUSPECT_AFTER: Millis = Millis(7000);
/// Long enough for a daemon's restart or a short cut of the network.
pub const LOST_AFTER: Millis = Millis(60_000);
/// How long a host may start domains after it sent a heartbeat that was answered.
pub const MAY_START_FOR: Millis = Millis(10_000);

/// When each host was last heard of, by this leader's monotonic clock.
#[derive(Debug, Default)]
pub struct Table {
    since: Timestamp,
    heard: BTreeMap<HostUid, Timestamp>,
}

impl Table {
    /// A new leader's table.
    pub fn new(now: Timestamp) -> Self {
        Self { since: now, heard: BTreeMap::new() }
    }

    /// A host was heard of.
    pub fn heard(&mut self, host: HostUid, now: Timestamp) {
        self.heard.insert(host, now);
    }

    /// What changed for whom.
    pub fn transitions(&self, view: &Cluster, now: Timestamp) -> Vec<Body> {
        view.hosts
            .values()
            .filter_map(|host| {
                let last = self.heard.get(&host.uid()).copied().unwrap_or(self.since);
                let silence = now.since(last);
                let known = self.heard.contains_key(&host.uid());
                let liveness = if silence >= LOST_AFTER {
                    Liveness::Lost
                } else if silence >= SUSPECT_AFTER {
                    Liveness::Suspect
                } else if known {
                    Liveness::Alive
                } else {
                    // Not heard of yet by this leader: it keeps the last leader's word.
                    host.liveness
                };
                // Lost does not turn into Suspect by the passing of a new leader's time.
                let worse_already = host.liveness == Liveness::Lost && liveness == Liveness::Suspect;
                (liveness != host.liveness && !worse_already)
                    .then_some(Body::SetLiveness { host: host.uid(), liveness })
            })
            .collect()
    }
}
