//! Room: why a VM is where it is, how many more fit, what the loss of a host would mean, moves that would help.

use berth_model::{Bytes, Timestamp};
use berth_proto::v1;
use serde::Serialize;

use super::{API_VERSION, amount, page_size, time};

/// What each host says to a VM.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExplanationView {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) vm: String,
    /// Where it lies; empty if nowhere.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) placed_on: String,
    /// Where it would be placed now; empty if nowhere.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) chosen: String,
    pub(crate) looked_at: u32,
    pub(crate) hosts: Vec<VerdictView>,
    pub(crate) smallest_change: Vec<FieldChangeView>,
    pub(crate) revision: u64,
}

/// What one host says.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerdictView {
    pub(crate) host: String,
    pub(crate) fits: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) rule: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) score: Vec<ScoreView>,
}

/// One number by which hosts are compared; less is better.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScoreView {
    pub(crate) name: String,
    pub(crate) value: i64,
}

/// One field that would have to be another.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldChangeView {
    pub(crate) field: String,
    pub(crate) advice: String,
}

impl ExplanationView {
    /// Of a VM, by name.
    pub(crate) fn new(vm: String, placed_on: String, wire: v1::Explanation, revision: u64) -> Self {
        let v1::Explanation { looked_at, hosts, chosen, smallest_change } = wire;
        let verdict = |v1::HostVerdict { host, fits, rule, why, score }| VerdictView {
            host,
            fits,
            rule,
            why,
            score: score.into_iter().map(|v1::ScoreField { name, value }| ScoreView { name, value }).collect(),
        };
        Self {
            api_version: API_VERSION,
            kind: "Explanation",
            vm,
            placed_on,
            chosen,
            looked_at,
            hosts: hosts.into_iter().map(verdict).collect(),
            smallest_change: smallest_change
                .into_iter()
                .map(|v1::FieldChange { field, advice }| FieldChangeView { field, advice })
                .collect(),
            revision,
        }
    }
}

/// How many more fit.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CapacityView {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) count: u64,
    /// Whether counting was ended at a limit.
    pub(crate) at_least: bool,
    pub(crate) hosts: Vec<HostCountView>,
    pub(crate) refusals: Vec<super::vm::RefusalView>,
    pub(crate) revision: u64,
}

/// How many more fit on one host.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostCountView {
    pub(crate) host: String,
    pub(crate) count: u64,
}

impl From<v1::GetCapacityResponse> for CapacityView {
    fn from(wire: v1::GetCapacityResponse) -> Self {
        let v1::GetCapacityResponse { count, hosts, refusals, at_least, revision } = wire;
        Self {
            api_version: API_VERSION,
            kind: "Capacity",
            count,
            at_least,
            hosts: hosts.into_iter().map(|v1::HostRoom { host, count }| HostCountView { host, count }).collect(),
            refusals: refusals
                .into_iter()
                .map(|v1::HostRefusal { host, why }| super::vm::RefusalView { host, why })
                .collect(),
            revision,
        }
    }
}

/// What the loss of each host would mean.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SurvivalView {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) survives: bool,
    pub(crate) hosts: Vec<LossView>,
    pub(crate) revision: u64,
}

/// What the loss of one host would mean.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct LossView {
    pub(crate) host: String,
    pub(crate) vms: u32,
    /// VMs that no other host could take.
    pub(crate) stranded: u32,
    /// The first of those, as `project/name`.
    pub(crate) first: Vec<String>,
}

impl From<v1::GetSurvivalResponse> for SurvivalView {
    fn from(wire: v1::GetSurvivalResponse) -> Self {
        let v1::GetSurvivalResponse { survives, hosts, revision } = wire;
        let loss = |v1::HostLoss { host, vms, stranded, first }| LossView {
            host,
            vms,
            stranded,
            first: first.into_iter().map(|v1::Stranded { project, name }| format!("{project}/{name}")).collect(),
        };
        let hosts = hosts.into_iter().map(loss).collect();
        Self { api_version: API_VERSION, kind: "Survival", survives, hosts, revision }
    }
}

/// A move that would help.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProposalView {
    pub(crate) vm: String,
    pub(crate) uid: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) why: String,
    #[serde(serialize_with = "time")]
    pub(crate) since: Timestamp,
}

impl From<v1::Proposal> for ProposalView {
    fn from(wire: v1::Proposal) -> Self {
        let v1::Proposal { vm, project, name, from, to, why, since_ms } = wire;
        let since = Timestamp::from_millis(since_ms);
        Self { vm: format!("{project}/{name}"), uid: vm, from, to, why, since }
    }
}

/// What of one host is free, booked and kept.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostRoomView {
    pub(crate) host: String,
    pub(crate) takes: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) why_not: String,
    pub(crate) vms: u32,
    pub(crate) nodes: Vec<NodeRoomView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) threads: Vec<ThreadRoomView>,
    /// Thousandths of a CPU thread.
    pub(crate) shared_cpu_booked: u64,
    /// Thousandths of a CPU thread.
    pub(crate) shared_cpu_total: u64,
    #[serde(serialize_with = "amount")]
    pub(crate) ordinary_memory_total: Bytes,
    #[serde(serialize_with = "amount")]
    pub(crate) ordinary_memory_booked: Bytes,
    pub(crate) devices_total: u32,
    pub(crate) devices_booked: u32,
    pub(crate) scattered_percent: u32,
}

/// One NUMA node.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeRoomView {
    pub(crate) node: u32,
    pub(crate) threads_total: u32,
    pub(crate) threads_reserved: u32,
    pub(crate) threads_booked: u32,
    pub(crate) threads_on_free_cores: u32,
    pub(crate) pages: Vec<PageRoomView>,
}

impl NodeRoomView {
    /// Threads that nobody has for itself and that are not kept for the host.
    pub(crate) const fn threads_free(&self) -> u32 {
        self.threads_total.saturating_sub(self.threads_reserved).saturating_sub(self.threads_booked)
    }
}

/// Pages of one size on one node.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PageRoomView {
    pub(crate) page_size: String,
    pub(crate) total: u64,
    pub(crate) booked: u64,
}

/// One thread.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct ThreadRoomView {
    pub(crate) thread: u32,
    pub(crate) core: u32,
    pub(crate) cache: u32,
    pub(crate) node: u32,
    pub(crate) socket: u32,
    pub(crate) role: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) vm: String,
}

impl From<v1::HostRoomInDetail> for HostRoomView {
    fn from(wire: v1::HostRoomInDetail) -> Self {
        let v1::HostRoomInDetail {
            host,
            takes,
            why_not,
            vms,
            nodes,
            threads,
            shared_cpu_booked,
            shared_cpu_total,
            ordinary_bytes_total,
            ordinary_bytes_booked,
            devices_total,
            devices_booked,
            scattered_percent,
        } = wire;
        let page = |v1::PageRoom { page, total, booked }| PageRoomView { page_size: page_size(page), total, booked };
        let node = |node: v1::NodeRoom| {
            let v1::NodeRoom { node, threads_total, threads_reserved, threads_booked, threads_on_free_cores, pages } =
                node;
            let pages = pages.into_iter().map(page).collect();
            NodeRoomView { node, threads_total, threads_reserved, threads_booked, threads_on_free_cores, pages }
        };
        let thread = |one: v1::ThreadRoom| {
            let role = thread_role(one.role);
            let v1::ThreadRoom { thread, core, cache, node, socket, role: _, called } = one;
            ThreadRoomView { thread, core, cache, node, socket, role, vm: called }
        };
        Self {
            host,
            takes,
            why_not,
            vms,
            nodes: nodes.into_iter().map(node).collect(),
            threads: threads.into_iter().map(thread).collect(),
            shared_cpu_booked,
            shared_cpu_total,
            ordinary_memory_total: Bytes(ordinary_bytes_total),
            ordinary_memory_booked: Bytes(ordinary_bytes_booked),
            devices_total,
            devices_booked,
            scattered_percent,
        }
    }
}

/// What a thread is used for, in one word.
pub(crate) fn thread_role(number: i32) -> String {
    match v1::ThreadRole::try_from(number) {
        Ok(v1::ThreadRole::Unspecified) => "free".into(),
        Ok(v1::ThreadRole::Vcpu) => "vcpu".into(),
        Ok(v1::ThreadRole::Dedicated) => "dedicated".into(),
        Ok(v1::ThreadRole::Idle) => "idle".into(),
        Ok(v1::ThreadRole::Held) => "held".into(),
        Ok(v1::ThreadRole::Reserved) => "reserved".into(),
        Err(_) => format!("value{number}"),
    }
}
