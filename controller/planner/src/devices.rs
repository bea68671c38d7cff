//! Which PCI devices of a host a VM gets: those of its NUMA nodes first.
//!
//! A device can be given if no device that is tied to it belongs to a VM: one of its IOMMU group, its physical function or
//! one of its virtual functions. A VM that asks for physical and for virtual functions never gets both of one card.

use berth_model::host::{Host, NodeId, PciAddress, PciDevice, PciKind};
use berth_model::vm::VmSpec;

use crate::layout::Free;
use crate::refusal::Refusal;

/// Devices of one kind that a VM asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    kind: PciKind,
    count: usize,
    /// What can be given, by position in the inventory.
    free: Vec<usize>,
}

/// What a VM asks for, kind by kind.
pub(crate) fn wanted(host: &Host, free: &Free, spec: &VmSpec) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for demand in &spec.devices {
        let count = demand.count as usize;
        if let Some(held) = wanted.iter_mut().find(|held| held.kind == demand.kind) {
            held.count += count;
            continue;
        }
        let devices = host.inventory.devices.iter().enumerate();
        let can_be_given = devices.filter(|(at, device)| device.kind == demand.kind && free.devices[*at]);
        wanted.push(Wanted { kind: demand.kind, count, free: can_be_given.map(|(at, _)| at).collect() });
    }
    wanted
}

/// Whether the host has enough, wherever on it.
pub(crate) fn enough(host: &Host, wanted: &[Wanted]) -> Result<(), Refusal> {
    if pick(host, wanted, false, |_| true).is_some() { Ok(()) } else { Err(refusal(host, wanted, None)) }
}

/// The first kind of which there is too little, on one node if one is named.
pub(crate) fn refusal(host: &Host, wanted: &[Wanted], node: Option<NodeId>) -> Refusal {
    let is_there = |at: &&usize| host.inventory.devices[**at].node.is_none_or(|id| node.is_none_or(|node| node == id));
    let free = |kind: &Wanted| kind.free.iter().filter(is_there).count();
    let short = wanted.iter().find(|kind| free(kind) < kind.count).or_else(|| wanted.last());
    let short = short.expect("only a VM that asks for devices is refused for them");
    Refusal::Devices {
        kind: short.kind,
        wanted: u32::try_from(short.count).unwrap_or(u32::MAX),
        free: free(short),
        total: host.inventory.devices.iter().filter(|device| device.kind == short.kind).count(),
        node,
    }
}

/// How many devices would have to come from other nodes.
pub(crate) fn missing_on(host: &Host, wanted: &[Wanted], is_ours: impl Fn(NodeId) -> bool) -> u32 {
    let near = |at: &&usize| host.inventory.devices[**at].node.is_none_or(&is_ours);
    let missing = wanted.iter().map(|kind| kind.count.saturating_sub(kind.free.iter().filter(near).count()));
    u32::try_from(missing.sum::<usize>()).unwrap_or(u32::MAX)
}

/// Chooses the devices, in ascending order; none if there are too few. With `only`, a device of another node is not
/// taken.
pub(crate) fn pick(
    host: &Host,
    wanted: &[Wanted],
    only: bool,
    is_ours: impl Fn(NodeId) -> bool,
) -> Option<Vec<PciAddress>> {
    if wanted.is_empty() {
        return Some(Vec::new());
    }
    let all = &host.inventory.devices;
    let is_near = |at: usize| all[at].node.is_none_or(&is_ours);
    let is_card_of = |card: &PciDevice, function: &PciDevice| function.physical == Some(card.address);
    // Virtual functions that the VM asks for, and that it would lose with this card.
    let functions = |at: usize| {
        let asked = wanted.iter().flat_map(|kind| &kind.free);
        asked.filter(|other| is_card_of(&all[at], &all[**other])).count()
    };
    let mut kinds: Vec<(&Wanted, Vec<usize>)> = wanted
        .iter()
        .map(|kind| (kind, kind.free.iter().copied().filter(|at| !only || is_near(*at)).collect()))
        .collect();
    // Cards before functions: which functions are left depends on them.
    kinds.sort_by_key(|(_, free)| std::cmp::Reverse(free.iter().map(|at| functions(*at)).max().unwrap_or(0)));
    let chosen = |near_first: bool| {
        let mut given: Vec<usize> = Vec::new();
        for (kind, free) in &kinds {
            let mut order = free.clone();
            order.sort_by_key(|at| {
                if near_first {
                    (usize::from(!is_near(*at)), functions(*at), *at)
                } else {
                    (functions(*at), usize::from(!is_near(*at)), *at)
                }
            });
            let clashes = |given: &[usize], at: usize| {
                given.iter().any(|held| is_card_of(&all[*held], &all[at]) || is_card_of(&all[at], &all[*held]))
            };
            let mut count = 0;
            for at in order {
                if count < kind.count && !clashes(&given, at) {
                    given.push(at);
                    count += 1;
                }
            }
            if count < kind.count {
                return None;
            }
        }
        given.sort_unstable();
        Some(given.into_iter().map(|at| all[at].address).collect())
    };
    chosen(true).or_else(|| chosen(false))
}
