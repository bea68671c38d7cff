//! What the replicated machine has applied, and what hosts say that never enters the log.

use std::fmt;

use berth_control::Control;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Commands that this member has applied since it started, those of its log that it read again included. Each is counted by
/// itself, however many an entry of the log carries.
pub(crate) fn commands_applied(registry: &mut Registry) -> Counter {
    let counter = Counter::default();
    registry.register("berth_commands_applied", "Commands applied to the replicated state", counter.clone());
    counter
}

/// Hosts' sessions with this member.
#[derive(Debug)]
pub(crate) struct HostMetrics(pub(crate) Control);

impl Collector for HostMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sessions = ConstGauge::new(u64::try_from(self.0.host_sessions()).unwrap_or(u64::MAX));
        let heartbeats = ConstCounter::new(self.0.heartbeats());
        sessions.encode(encoder.encode_descriptor(
            "berth_host_sessions",
            "Hosts that have a session with this member",
            None,
            sessions.metric_type(),
        )?)?;
        heartbeats.encode(encoder.encode_descriptor(
            "berth_host_heartbeats",
            "Heartbeats of hosts that this member answered",
            None,
            heartbeats.metric_type(),
        )?)
    }
}
