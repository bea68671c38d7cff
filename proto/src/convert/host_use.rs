//! What of a host is spoken for, summed from the assignments of its VMs.
//!
//! Bookings are nothing but assignments, so that the sum can never differ from what hosts are told.

use std::collections::BTreeMap;

use berth_model::host::Host;
use berth_model::vm::{NodePages, Vm};
use berth_model::{Bytes, PageSize};

use crate::v1;

/// Sums what `vms` hold on `host`; VMs that are assigned elsewhere or nowhere are passed over.
pub fn host_use<'a>(host: &Host, vms: impl IntoIterator<Item = &'a Vm>) -> v1::HostUse {
    let mut booked = Vec::new();
    let mut pages: BTreeMap<_, u64> = BTreeMap::new();
    let mut ordinary = Bytes(0);
    let mut count = 0;
    for vm in vms {
        let Some(assignment) = vm.assignment.as_ref().filter(|assignment| assignment.host == host.uid()) else {
            continue;
        };
        count += 1;
        for (vcpu, thread) in (0..).zip(&assignment.resources.vcpus) {
            booked.push(v1::BookedThread {
                thread: thread.0,
                vm: vm.meta.uid.to_string(),
                called: format!("{}/{}", vm.meta.project, vm.meta.name),
                vcpu,
            });
        }
        for NodePages { node, page, count } in &assignment.resources.memory {
            match page {
                PageSize::Small => ordinary = ordinary.saturating_add(Bytes(page.bytes().0.saturating_mul(*count))),
                PageSize::Huge2M | PageSize::Huge1G => *pages.entry((*node, *page)).or_default() += count,
            }
        }
        ordinary = ordinary.saturating_add(assignment.resources.overhead);
    }
    booked.sort_by_key(|booked| (booked.thread, booked.vcpu));
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    v1::HostUse {
        threads_total: number(host.inventory.topology.threads.len()),
        threads_reserved: number(host.inventory.reserve.len()),
        threads_booked: number(booked.len()),
        booked,
        hugepages: host
            .inventory
            .hugepages
            .iter()
            .map(|pool| v1::HugepageUse {
                node: pool.node.0,
                page: v1::PageSize::from(pool.page).into(),
                total: pool.total,
                booked: pages.get(&(pool.node, pool.page)).copied().unwrap_or_default(),
            })
            .collect(),
        ordinary_bytes_total: host.inventory.memory.iter().fold(0, |sum, node| node.ordinary.0.saturating_add(sum)),
        ordinary_bytes_booked: ordinary.0,
        vms: count,
    }
}
