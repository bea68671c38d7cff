//! What a member counts and measures, for whoever watches it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::handle::Handle;
use crate::status::State;

/// Barriers that are looked at to tell a slow disk from one slow moment.
const BARRIERS_SEEN: usize = 10;

/// A disk whose barriers take longer than this, half of them, is slow: the heartbeat is no longer, so an election is near.
const SLOW: Duration = Duration::from_millis(100);

/// A barrier longer ago than this says nothing of the disk as it is.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Durations, as a histogram and as their sum.
#[derive(Debug)]
pub(crate) struct Durations {
    histogram: Histogram,
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Default for Durations {
    fn default() -> Self {
        // From 50 µs to 26 s.
        let histogram = Histogram::new(exponential_buckets(0.000_05, 2.0, 20));
        Self { histogram, count: AtomicU64::new(0), nanoseconds: AtomicU64::new(0) }
    }
}

impl Durations {
    pub(crate) fn observe(&self, took: Duration) {
        self.histogram.observe(took.as_secs_f64());
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn sum(&self) -> (u64, Duration) {
        (self.count.load(Ordering::Relaxed), Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)))
    }
}

/// What is measured while the member runs. It outlives the member's reopening.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    /// From a proposal on this member, as the leader, to its answer.
    pub(crate) proposals: Durations,
    /// What the disk takes to make writes durable.
    barriers: Durations,
    /// When the last barriers ended, and how long they took.
    last_barriers: Mutex<VecDeque<(Instant, Duration)>>,
    /// How often another leader was seen, or none.
    pub(crate) leader_changes: AtomicU64,
    /// How often the member was opened again after a failure.
    pub(crate) reopened: AtomicU64,
}

impl Meters {
    /// Notes how long a barrier took.
    pub(crate) fn barrier(&self, took: Duration) {
        self.barriers.observe(took);
        let mut last = self.last_barriers.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == BARRIERS_SEEN {
            last.pop_front();
        }
        last.push_back((Instant::now(), took));
    }

    /// How long a barrier usually takes at present, if that is too long.
    pub(crate) fn slow_disk(&self) -> Option<Duration> {
        let last = self.last_barriers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut took: Vec<_> =
            last.iter().filter(|(at, _)| at.elapsed() < FORGOTTEN_AFTER).map(|(_, took)| *took).collect();
        drop(last);
        if took.len() < BARRIERS_SEEN {
            return None;
        }
        took.sort_unstable();
        Some(took[BARRIERS_SEEN / 2]).filter(|median| *median > SLOW)
    }
}

/// The figures of a member, to be registered where they are collected from.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) handle: Handle,
    pub(crate) meters: Arc<Meters>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers all figures under names that begin with `raft_`. Durations are in seconds, sizes in bytes.
    pub fn register(self, registry: &mut Registry) {
        registry.register_collector(Box::new(self));
    }

    /// How many proposals this member answered as the leader, and how long they took together.
    pub fn proposals(&self) -> (u64, Duration) {
        self.meters.proposals.sum()
    }

    /// How many barriers its disk made, and how long they took together.
    pub fn barriers(&self) -> (u64, Duration) {
        self.meters.barriers.sum()
    }

    /// How often another leader was seen, or none.
    pub fn leader_changes(&self) -> u64 {
        self.meters.leader_changes.load(Ordering::Relaxed)
    }

    /// How often the member was opened again after a failure.
    pub fn reopened(&self) -> u64 {
        self.meters.reopened.load(Ordering::Relaxed)
    }
}

fn metric(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let status = self.handle.status();
        let leads = status.leader.as_ref().is_some_and(|leader| leader.id == status.id);
        let lag = status.committed.unwrap_or_default().saturating_sub(status.applied.unwrap_or_default());
        let gauges = [
            ("raft_term", "The latest term seen", status.term),
            ("raft_is_leader", "1 while this member leads", leads.into()),
            ("raft_has_leader", "1 while a leader is known", status.leader.is_some().into()),
            ("raft_is_running", "1 while this member takes part", (status.state == State::Running).into()),
            ("raft_last_log_index", "Index of the last entry in the log", status.last_log.unwrap_or_default()),
            (
                "raft_committed_index",
                "Index of the last entry known to be committed",
                status.committed.unwrap_or_default(),
            ),
            ("raft_applied_index", "Index of the last entry applied", status.applied.unwrap_or_default()),
            ("raft_apply_lag_entries", "Committed entries that are not applied yet", lag),
            ("raft_log_bytes", "Bytes that the log takes on the disk", status.log_bytes),
            ("raft_snapshot_bytes", "Bytes of the newest snapshot", status.snapshot_bytes),
            (
                "raft_snapshot_index",
                "Index up to which the newest snapshot reaches",
                status.snapshot.unwrap_or_default(),
            ),
            (
                "raft_slow_disk",
                "1 while the disk takes too long to make writes durable",
                self.meters.slow_disk().is_some().into(),
            ),
            ("raft_full", "1 while proposals are refused for want of room", status.full.is_some().into()),
            ("raft_warnings", "Things that an operator should look at", count(status.warnings.len())),
        ];
        for (name, help, value) in gauges {
            metric(encoder, name, help, &ConstGauge::new(value))?;
        }
        metric(
            encoder,
            "raft_leader_changes",
            "How often another leader was seen, or none",
            &ConstCounter::new(self.leader_changes()),
        )?;
        metric(
            encoder,
            "raft_reopened",
            "How often the member was opened again after a failure",
            &ConstCounter::new(self.reopened()),
        )?;
        metric(
            encoder,
            "raft_appended_bytes",
            "Bytes appended to the log since it was last opened",
            &ConstCounter::new(self.handle.log_work().bytes),
        )?;
        metric(
            encoder,
            "raft_barrier_seconds",
            "How long the disk takes to make writes durable",
            &self.meters.barriers.histogram,
        )?;
        metric(
            encoder,
            "raft_proposal_seconds",
            "From a proposal on the leader to its answer",
            &self.meters.proposals.histogram,
        )?;
        let last = status.last_log.unwrap_or_default();
        let peers = status.members.iter().filter(|one| one.member.id != status.id);
        let lags: Vec<_> = peers
            .clone()
            .filter_map(|one| Some((one.member.name.as_str(), last.saturating_sub(one.replicated?))))
            .collect();
        per_peer(
            encoder,
            "raft_peer_lag_entries",
            "Entries that a member is behind the leader; told by the leader",
            &lags,
        )?;
        let silences: Vec<_> = peers.filter_map(|one| Some((one.member.name.as_str(), one.silent_ms?))).collect();
        per_peer(
            encoder,
            "raft_peer_silent_milliseconds",
            "How long a member has not answered; told by the leader",
            &silences,
        )
    }
}

fn per_peer(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, values: &[(&str, u64)]) -> fmt::Result {
    let kind = EncodeMetric::metric_type(&ConstGauge::new(0_u64));
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (peer, value) in values {
        ConstGauge::new(*value).encode(family.encode_family(&[("peer", *peer)])?)?;
    }
    Ok(())
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_slow_when_half_of_the_last_barriers_are() {
        let meters = Meters::default();
        let barriers = |number, millis| (0..number).for_each(|_| meters.barrier(Duration::from_millis(millis)));
        barriers(5, 300);
        assert_eq!(meters.slow_disk(), None, "too few to tell");
        barriers(5, 1);
        assert_eq!(meters.slow_disk(), Some(Duration::from_millis(300)));
        barriers(1, 1);
        assert_eq!(meters.slow_disk(), None, "one slow one fewer");
    }
}
