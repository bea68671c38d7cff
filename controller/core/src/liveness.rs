//! Which hosts are heard of: the leader's own count of heartbeats, turned into replicated transitions.
//!
//! Heartbeats never enter the log; only the transitions do. A new leader knows nothing yet and gives every host the
//! same time as if it had just been heard of (law 7: it warms up first).

use std::collections::BTreeMap;

use berth_model::host::Liveness;
use berth_model::{HostUid, Millis};
use berth_state::{Body, Cluster};

/// How often a host sends a heartbeat. Each costs its leader some 0.2 ms of processor time, nearly all of it the kernel's: a
/// thousand hosts are to take less than a tenth of a CPU.
pub const HEARTBEAT_EVERY: Millis = Millis(2500);
/// Three missed heartbeats.
pub const SUSPECT_AFTER: Millis = Millis(8000);
/// Long enough for a daemon's restart or a short cut of the network.
pub const LOST_AFTER: Millis = Millis(60_000);
/// How long a host may start domains after it sent a heartbeat that was answered.
pub const MAY_START_FOR: Millis = Millis(10_000);

/// How long the leader may be busy between two looks before the hosts' silence meanwhile is doubted: it may be its own.
pub const LOOKED_AWAY_AFTER: Millis = Millis(3000);

/// When each host was last heard of, by this leader's own clock ([`crate::Environment::uptime`]).
#[derive(Debug, Default)]
pub struct Table {
    since: Millis,
    looked: Millis,
    heard: BTreeMap<HostUid, Millis>,
}

impl Table {
    /// A new leader's table.
    pub fn new(now: Millis) -> Self {
        Self { since: now, looked: now, heard: BTreeMap::new() }
    }

    /// A host was heard of.
    pub fn heard(&mut self, host: HostUid, now: Millis) {
        self.heard.insert(host, now);
    }

    /// A leader that was held up, by a slow disk or a stopped process, did not hear what hosts said meanwhile: beyond
    /// [`LOOKED_AWAY_AFTER`] the time since the last look counts as nobody's silence.
    fn look(&mut self, now: Millis) {
        let away = now.0.saturating_sub(self.looked.0).saturating_sub(LOOKED_AWAY_AFTER.0);
        if away > 0 {
            for last in self.heard.values_mut().chain([&mut self.since]) {
                *last = Millis((last.0 + away).min(now.0));
            }
        }
        self.looked = now;
    }

    /// What changed for whom.
    pub fn transitions(&mut self, view: &Cluster, now: Millis) -> Vec<Body> {
        self.look(now);
        view.hosts
            .values()
            .filter_map(|host| {
                let last = self.heard.get(&host.uid()).copied().unwrap_or(self.since);
                let silence = Millis(now.0.saturating_sub(last.0));
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

#[cfg(test)]
mod tests;
