//! Hosts.

use std::collections::BTreeMap;

use berth_model::host::{ThreadId, ThreadSet};
use berth_model::{Bytes, Timestamp};
use berth_proto::v1;
use serde::Serialize;

use super::room::thread_role;
use super::{API_VERSION, ConditionView, MetaView, accelerator, amount, page_size, some_amount, time, word};

/// A host.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostView {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) metadata: MetaView,
    pub(crate) spec: HostSpecView,
    pub(crate) status: HostStatusView,
}

/// What was asked of it.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostSpecView {
    pub(crate) cordoned: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) zone: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) rack: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<String>,
    /// As `key=value:effect`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) taints: Vec<String>,
    pub(crate) cpu_overcommit_percent: u32,
    pub(crate) memory_overcommit_percent: u32,
}

/// How it is.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostStatusView {
    pub(crate) liveness: String,
    #[serde(serialize_with = "time")]
    pub(crate) liveness_since: Timestamp,
    pub(crate) address: String,
    pub(crate) boot: String,
    pub(crate) vms: u32,
    pub(crate) accelerator: AcceleratorView,
    pub(crate) versions: Vec<String>,
    pub(crate) shared_machine: bool,
    pub(crate) reserve: String,
    pub(crate) threads: Vec<ThreadView>,
    pub(crate) hugepages: Vec<HugepagesView>,
    pub(crate) ordinary_memory: MemoryView,
    /// Thousandths of a CPU thread.
    pub(crate) shared_cpu_booked: u64,
    /// Thousandths of a CPU thread.
    pub(crate) shared_cpu_total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) devices: Vec<DeviceView>,
    pub(crate) images: Vec<HostImageView>,
    pub(crate) orphans: Vec<OrphanView>,
    /// Placements that were ended without its word.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) evictions: Vec<EvictionView>,
    pub(crate) conditions: Vec<ConditionView>,
}

/// A PCI device for VMs.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeviceView {
    pub(crate) address: String,
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) iommu_group: Option<u32>,
    /// Of which device it is a virtual function.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) physical: String,
    /// Whose it is, as `project/name`; empty if free.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) vm: String,
}

/// A placement that was ended without the host's word.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EvictionView {
    pub(crate) vm: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) called: String,
    pub(crate) epoch: u64,
    pub(crate) threads: String,
    pub(crate) with_disk: bool,
}

/// What runs guest code there.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AcceleratorView {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed_step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// What a CPU thread is used for.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", tag = "use")]
pub(crate) enum ThreadUse {
    /// For a virtual CPU.
    Booked {
        /// `project/name`.
        vm: String,
        /// Which of its virtual CPUs.
        vcpu: u32,
    },
    /// A VM's in another way: `dedicated` to QEMU's threads, `idle` beside it, or `held` by what the cluster did not place.
    Taken {
        /// `project/name`; may be empty.
        vm: String,
        /// Which way.
        how: String,
    },
    /// For the host itself.
    Reserved,
    /// For nothing yet.
    Free,
}

/// One CPU thread.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct ThreadView {
    pub(crate) id: u32,
    pub(crate) core: u32,
    pub(crate) socket: u32,
    pub(crate) node: u32,
    #[serde(flatten)]
    pub(crate) used: ThreadUse,
}

/// Hugepages of one size on one NUMA node.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HugepagesView {
    pub(crate) node: u32,
    pub(crate) page_size: String,
    pub(crate) total: u64,
    pub(crate) booked: u64,
}

/// Memory that is not hugepages.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryView {
    #[serde(serialize_with = "amount")]
    pub(crate) total: Bytes,
    #[serde(serialize_with = "amount")]
    pub(crate) booked: Bytes,
}

/// An image file.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HostImageView {
    pub(crate) sha256: String,
    #[serde(serialize_with = "some_amount", skip_serializing_if = "Option::is_none")]
    pub(crate) virtual_size: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
}

/// A domain of ours that the cluster does not know.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct OrphanView {
    pub(crate) vm: String,
    pub(crate) called: String,
    pub(crate) running: bool,
}

/// An orphan and where it is.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OrphanOnHost {
    pub(crate) host: String,
    pub(crate) vm: String,
    pub(crate) called: String,
    pub(crate) running: bool,
    /// Whether the host remembers what it was given, so that a VM can be made of it.
    pub(crate) adoptable: bool,
    pub(crate) cpus: u32,
    pub(crate) memory_bytes: u64,
}

impl HostView {
    /// Threads in total, kept for the host, booked, free.
    pub(crate) fn thread_counts(&self) -> (usize, usize, usize, usize) {
        let count =
            |wanted: fn(&ThreadUse) -> bool| self.status.threads.iter().filter(|thread| wanted(&thread.used)).count();
        (
            self.status.threads.len(),
            count(|used| matches!(used, ThreadUse::Reserved)),
            count(|used| matches!(used, ThreadUse::Booked { .. } | ThreadUse::Taken { .. })),
            count(|used| matches!(used, ThreadUse::Free)),
        )
    }
}

impl From<v1::Host> for HostView {
    fn from(wire: v1::Host) -> Self {
        let v1::Host {
            meta,
            cordoned,
            address,
            boot,
            liveness,
            liveness_since_ms,
            inventory,
            conditions,
            images,
            orphans,
            r#use: used,
            holdings: _,
            zone,
            rack,
            groups,
            taints,
            overcommit,
            evictions,
        } = wire;
        let v1::Inventory {
            topology,
            reserve,
            memory: _,
            hugepages: _,
            accelerator: report,
            versions,
            overlap,
            devices: pci,
        } = inventory.unwrap_or_default();
        let v1::Overcommit { cpu_percent, memory_percent } = overcommit.unwrap_or_default();
        let v1::HostUse {
            threads_total: _,
            threads_reserved: _,
            threads_booked: _,
            booked,
            hugepages,
            ordinary_bytes_total,
            ordinary_bytes_booked,
            vms,
            shared_cpu_booked,
            shared_cpu_total,
            devices_total: _,
            devices: given,
        } = used.unwrap_or_default();
        let v1::AcceleratorReport { accelerator: kind, failed_step, detail } = report.unwrap_or_default();
        Self {
            api_version: API_VERSION,
            kind: "Host",
            metadata: meta.into(),
            spec: HostSpecView {
                cordoned,
                zone,
                rack,
                groups,
                taints: taints.into_iter().map(taint).collect(),
                cpu_overcommit_percent: cpu_percent,
                memory_overcommit_percent: memory_percent,
            },
            status: HostStatusView {
                liveness: word::<v1::Liveness>(liveness),
                liveness_since: Timestamp::from_millis(liveness_since_ms),
                address,
                boot,
                vms,
                accelerator: AcceleratorView { name: accelerator(kind), failed_step, detail },
                versions,
                shared_machine: overlap,
                threads: threads(topology.unwrap_or_default(), &reserve, booked),
                reserve,
                hugepages: hugepages
                    .into_iter()
                    .map(|v1::HugepageUse { node, page, total, booked }| HugepagesView {
                        node,
                        page_size: page_size(page),
                        total,
                        booked,
                    })
                    .collect(),
                ordinary_memory: MemoryView {
                    total: Bytes(ordinary_bytes_total),
                    booked: Bytes(ordinary_bytes_booked),
                },
                shared_cpu_booked,
                shared_cpu_total,
                devices: pci.into_iter().map(|one| device(one, &given)).collect(),
                images: images.into_iter().map(|(sha256, found)| image(sha256, found)).collect(),
                orphans: orphans
                    .into_iter()
                    .map(|v1::Orphan { vm, called, running }| OrphanView { vm, called, running })
                    .collect(),
                evictions: evictions
                    .into_iter()
                    .map(|v1::Eviction { vm, called, incarnation: _, epoch, threads, with_disk }| EvictionView {
                        vm,
                        called,
                        epoch,
                        threads,
                        with_disk,
                    })
                    .collect(),
                conditions: conditions.into_iter().map(Into::into).collect(),
            },
        }
    }
}

fn taint(wire: v1::Taint) -> String {
    let effect = word::<v1::TaintEffect>(wire.effect);
    let v1::Taint { key, value, effect: _ } = wire;
    if value.is_empty() { format!("{key}:{effect}") } else { format!("{key}={value}:{effect}") }
}

fn device(wire: v1::PciDevice, given: &[v1::BookedDevice]) -> DeviceView {
    let v1::PciDevice { address, kind, node, iommu_group, physical } = wire;
    let holder = given.iter().find(|one| one.device == address);
    let vm = holder.map(|one| if one.called.is_empty() { one.vm.clone() } else { one.called.clone() });
    DeviceView { address, kind, node, iommu_group, physical, vm: vm.unwrap_or_default() }
}

/// A booked thread is shown as booked even if it is also reserved: that is the surprising fact.
fn threads(topology: v1::Topology, reserve: &str, booked: Vec<v1::BookedThread>) -> Vec<ThreadView> {
    let reserve: ThreadSet = reserve.parse().unwrap_or_default();
    let mut holders: BTreeMap<u32, v1::BookedThread> = booked.into_iter().map(|held| (held.thread, held)).collect();
    topology
        .threads
        .into_iter()
        .map(|v1::Thread { id, core, socket, node, cache: _ }| {
            let used = match holders.remove(&id) {
                Some(held) if matches!(held.role(), v1::ThreadRole::Vcpu | v1::ThreadRole::Unspecified) => {
                    ThreadUse::Booked { vm: held.called, vcpu: held.vcpu }
                }
                Some(held) => ThreadUse::Taken { how: thread_role(held.role), vm: held.called },
                None if reserve.contains(ThreadId(id)) => ThreadUse::Reserved,
                None => ThreadUse::Free,
            };
            ThreadView { id, core, socket, node, used }
        })
        .collect()
}

fn image(sha256: String, wire: v1::ImageOnHost) -> HostImageView {
    use v1::image_on_host::Found;
    let (virtual_size, refused) = match wire.found {
        Some(Found::VerifiedVirtualSizeBytes(size)) => (Some(Bytes(size)), None),
        Some(Found::Refused(why)) => (None, Some(why)),
        None => (None, Some("the server does not say what was found".into())),
    };
    HostImageView { sha256, virtual_size, refused }
}
