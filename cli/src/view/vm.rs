//! VMs.

use berth_model::{Bytes, Timestamp};
use berth_proto::v1;
use serde::Serialize;

use crate::placement::{Device, RulesText, Tuning};

use super::{API_VERSION, ConditionView, MetaView, accelerator, amount, page_size, performance, time, word};

/// A VM.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VmView {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) metadata: MetaView,
    pub(crate) spec: SpecView,
    pub(crate) status: StatusView,
}

/// What was asked, in the words of a manifest.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SpecView {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) instance_type: String,
    pub(crate) cpus: u32,
    #[serde(serialize_with = "amount")]
    pub(crate) memory: Bytes,
    pub(crate) performance: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) preference: String,
    #[serde(skip_serializing_if = "Tuning::is_silent")]
    pub(crate) tuning: Tuning,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) devices: Vec<Device>,
    /// None if this program does not understand them.
    #[serde(skip_serializing_if = "none_asked")]
    pub(crate) rules: Option<RulesText>,
    pub(crate) image: String,
    #[serde(serialize_with = "amount")]
    pub(crate) disk_size: Bytes,
    pub(crate) run_strategy: String,
    pub(crate) grace_seconds: u64,
}

#[expect(clippy::ref_option, reason = "serde passes references")]
fn none_asked(rules: &Option<RulesText>) -> bool {
    *rules == Some(RulesText::default())
}

/// How it is.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusView {
    pub(crate) phase: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) accelerator: Option<String>,
    pub(crate) image_sha256: String,
    #[serde(serialize_with = "amount")]
    pub(crate) image_virtual_size: Bytes,
    pub(crate) has_user_data: bool,
    pub(crate) restart_count: u64,
    /// Resets that were asked for.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) reset_count: u64,
    /// Whether a stop is in force.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) stopped: bool,
    /// Whether it is to be held.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) placement: Option<PlacementView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unplaced: Option<UnplacedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) observed: Option<ObservedView>,
    pub(crate) conditions: Vec<ConditionView>,
}

/// Where it lies.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlacementView {
    pub(crate) host_uid: String,
    pub(crate) epoch: u64,
    pub(crate) vcpus: Vec<u32>,
    pub(crate) emulator: String,
    pub(crate) iothread: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) dedicated: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) idle: String,
    /// Thousandths of a CPU thread.
    pub(crate) shared_cpu: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) devices: Vec<String>,
    pub(crate) memory: Vec<PagesView>,
    #[serde(serialize_with = "amount")]
    pub(crate) overhead: Bytes,
    #[serde(serialize_with = "time")]
    pub(crate) at: Timestamp,
}

/// Guest memory on one NUMA node.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PagesView {
    pub(crate) node: u32,
    pub(crate) page_size: String,
    pub(crate) count: u64,
}

/// Why it lies nowhere.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UnplacedView {
    #[serde(serialize_with = "time")]
    pub(crate) since: Timestamp,
    pub(crate) hosts: u32,
    pub(crate) refusals: Vec<RefusalView>,
}

/// Why not on this host.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusalView {
    pub(crate) host: String,
    pub(crate) why: String,
}

/// What its host saw.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObservedView {
    pub(crate) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) accelerator: Option<String>,
    pub(crate) epoch: u64,
    pub(crate) restart_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) reset_count: u64,
    pub(crate) failures: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_end: Option<EndedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<TroubleView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) degraded: Vec<String>,
    #[serde(serialize_with = "time")]
    pub(crate) since: Timestamp,
}

/// How a run ended.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndedView {
    pub(crate) reason: String,
    #[serde(serialize_with = "time")]
    pub(crate) at: Timestamp,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What hinders it.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct TroubleView {
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl From<v1::Vm> for VmView {
    fn from(wire: v1::Vm) -> Self {
        let v1::Vm { meta, spec, restart_count, assignment, unplaced, observed, status, power } = wire;
        let power = power.unwrap_or_default();
        let v1::VmSpec {
            instance_type,
            cpus,
            memory_bytes,
            performance: template,
            image,
            disk_size_bytes,
            run_strategy,
            user_data: _,
            has_user_data,
            image_sha256,
            image_virtual_size_bytes,
            preference,
            tuning,
            devices,
            rules,
            grace_ms,
        } = spec.unwrap_or_default();
        let v1::VmStatus { phase, message, host, host_name, conditions, accelerator: kind } =
            status.unwrap_or_default();
        Self {
            api_version: API_VERSION,
            kind: "VirtualMachine",
            metadata: meta.into(),
            spec: SpecView {
                instance_type,
                cpus: cpus.unwrap_or_default(),
                memory: Bytes(memory_bytes.unwrap_or_default()),
                performance: performance(template),
                preference,
                tuning: Tuning::read(tuning.unwrap_or_default()),
                devices: devices.into_iter().filter_map(Device::read).collect(),
                rules: rules.map_or_else(|| Some(RulesText::default()), RulesText::read),
                image,
                disk_size: Bytes(disk_size_bytes.unwrap_or_default()),
                run_strategy: word::<v1::RunStrategy>(run_strategy),
                grace_seconds: grace_ms.unwrap_or_default() / 1000,
            },
            status: StatusView {
                phase: word::<v1::VmPhase>(phase),
                message,
                host: if host_name.is_empty() { host } else { host_name },
                accelerator: kind.map(accelerator),
                image_sha256,
                image_virtual_size: Bytes(image_virtual_size_bytes),
                has_user_data,
                restart_count,
                reset_count: power.reset_count,
                stopped: power.off,
                paused: power.paused,
                placement: assignment.map(Into::into),
                unplaced: unplaced.map(Into::into),
                observed: observed.map(Into::into),
                conditions: conditions.into_iter().map(Into::into).collect(),
            },
        }
    }
}

impl From<v1::Assignment> for PlacementView {
    fn from(wire: v1::Assignment) -> Self {
        let v1::Assignment {
            host,
            epoch,
            vcpus,
            emulator,
            iothread,
            memory,
            overhead_bytes,
            at_ms,
            dedicated,
            idle,
            shared_cpu,
            devices,
        } = wire;
        Self {
            host_uid: host,
            epoch,
            vcpus,
            emulator,
            iothread,
            dedicated,
            idle,
            shared_cpu,
            devices,
            memory: memory
                .into_iter()
                .map(|v1::NodePages { node, page, count }| PagesView { node, page_size: page_size(page), count })
                .collect(),
            overhead: Bytes(overhead_bytes),
            at: Timestamp::from_millis(at_ms),
        }
    }
}

impl From<v1::Unplaced> for UnplacedView {
    fn from(wire: v1::Unplaced) -> Self {
        let v1::Unplaced { since_ms, hosts, refusals } = wire;
        Self {
            since: Timestamp::from_millis(since_ms),
            hosts,
            refusals: refusals.into_iter().map(|v1::HostRefusal { host, why }| RefusalView { host, why }).collect(),
        }
    }
}

impl From<v1::Observed> for ObservedView {
    fn from(wire: v1::Observed) -> Self {
        let v1::Observed {
            epoch,
            state,
            stop_reason,
            accelerator: kind,
            restart_count,
            failures,
            trouble,
            degraded,
            since_ms,
            reset_count,
            last_end,
        } = wire;
        Self {
            state: word::<v1::DomainState>(state),
            stop_reason: (stop_reason != 0).then(|| word::<v1::StopReason>(stop_reason)),
            accelerator: kind.map(accelerator),
            epoch,
            restart_count,
            reset_count,
            failures,
            last_end: last_end.map(|v1::Ended { reason, at_ms }| EndedView {
                reason: word::<v1::StopReason>(reason),
                at: Timestamp::from_millis(at_ms),
            }),
            trouble: trouble.map(|v1::Trouble { reason, message }| TroubleView { reason, message }),
            degraded,
            since: Timestamp::from_millis(since_ms),
        }
    }
}
