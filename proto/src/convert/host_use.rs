//! What of a host is spoken for, summed from the assignments of its VMs and from what is held for nobody.
//!
//! Bookings are nothing but assignments, so that the sum can never differ from what hosts are told.

use std::collections::BTreeMap;

use berth_model::host::{Host, NodeId, PciAddress, ThreadId};
use berth_model::session::Holding;
use berth_model::vm::{Resources, Vm};
use berth_model::{Bytes, PageSize, VmUid};

use crate::v1;

/// Sums what `vms` have on `host`, what its orphans hold and what its ended placements do; VMs that are assigned elsewhere
/// or nowhere are passed over.
pub fn host_use<'a>(
    host: &Host,
    vms: impl IntoIterator<Item = &'a Vm>,
    orphans: impl IntoIterator<Item = &'a Holding>,
) -> v1::HostUse {
    let mut sum = Sum::default();
    let mut count = 0;
    for vm in vms {
        let Some(assignment) = vm.assignment.as_ref().filter(|assignment| assignment.host == host.uid()) else {
            continue;
        };
        count += 1;
        sum.add(vm.uid(), &format!("{}/{}", vm.meta.project, vm.meta.name), &assignment.resources, false);
    }
    for held in orphans {
        sum.add(held.vm, &format!("{}/{}", held.project, held.name), &held.resources, true);
    }
    for eviction in &host.evictions {
        sum.add(eviction.vm, "", &eviction.resources, true);
    }
    let Sum { mut threads, mut devices, pages, ordinary, shared_cpu } = sum;
    threads.sort_by_key(|booked| (booked.thread, booked.vcpu));
    devices.sort_by_key(|(address, _)| *address);
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let inventory = &host.inventory;
    let exclusive = threads.len();
    let usable = inventory.topology.threads.iter().filter(|thread| !inventory.reserve.contains(thread.id)).count();
    v1::HostUse {
        threads_total: number(inventory.topology.threads.len()),
        threads_reserved: number(inventory.reserve.len()),
        threads_booked: number(exclusive),
        booked: threads,
        hugepages: inventory
            .hugepages
            .iter()
            .map(|pool| v1::HugepageUse {
                node: pool.node.0,
                page: v1::PageSize::from(pool.page).into(),
                total: pool.total,
                booked: pages.get(&(pool.node, pool.page)).copied().unwrap_or_default(),
            })
            .collect(),
        ordinary_bytes_total: inventory.memory.iter().fold(0, |sum, node| node.ordinary.0.saturating_add(sum)),
        ordinary_bytes_booked: ordinary.0,
        vms: count,
        shared_cpu_booked: shared_cpu,
        shared_cpu_total: (usable.saturating_sub(exclusive) as u64).saturating_mul(1000),
        devices_total: number(inventory.devices.len()),
        devices: devices.into_iter().map(|(_, booked)| booked).collect(),
    }
}

#[derive(Default)]
struct Sum {
    threads: Vec<v1::BookedThread>,
    devices: Vec<(PciAddress, v1::BookedDevice)>,
    pages: BTreeMap<(NodeId, PageSize), u64>,
    ordinary: Bytes,
    shared_cpu: u64,
}

impl Sum {
    fn add(&mut self, vm: VmUid, called: &str, resources: &Resources, held: bool) {
        let mut book = |thread: ThreadId, vcpu: u32, role: v1::ThreadRole| {
            let role = if held { v1::ThreadRole::Held } else { role };
            let (vm, called) = (vm.to_string(), called.to_owned());
            self.threads.push(v1::BookedThread { thread: thread.0, vm, called, vcpu, role: role.into() });
        };
        for (vcpu, thread) in (0..).zip(&resources.vcpus) {
            book(*thread, vcpu, v1::ThreadRole::Vcpu);
        }
        resources.dedicated.iter().for_each(|thread| book(thread, 0, v1::ThreadRole::Dedicated));
        resources.idle.iter().for_each(|thread| book(thread, 0, v1::ThreadRole::Idle));
        for part in resources.memory.iter().filter(|part| part.page != PageSize::Small) {
            let pages = self.pages.entry((part.node, part.page)).or_default();
            *pages = pages.saturating_add(part.count);
        }
        let ordinary = resources.ordinary_pages().saturating_add(resources.overhead);
        self.ordinary = self.ordinary.saturating_add(ordinary);
        self.shared_cpu = self.shared_cpu.saturating_add(resources.shared_cpu);
        for address in &resources.devices {
            let (device, vm, called) = (address.to_string(), vm.to_string(), called.to_owned());
            self.devices.push((*address, v1::BookedDevice { device, vm, called }));
        }
    }
}
