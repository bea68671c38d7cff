//! The laws of every plan, over clusters of up to four hosts of whatever shape and filling.

use std::collections::BTreeSet;

use berth_model::host::{Host, Liveness};
use berth_model::image::ImageOnHost;
use berth_model::session::Report;
use berth_model::testing::strategies::livenesses;
use berth_model::testing::{IMAGE_SIZE, Machine, digest, host_uid, vm_spec, vm_uid};
use berth_model::vm::VmSpec;
use berth_model::{Bytes, PageSize};
use berth_state::testing::{World, report};
use berth_state::{Body, Cluster};
use proptest::collection::vec;
use proptest::prelude::*;

use super::whole;
use crate::{Budget, Verdict, plan};

fn machines() -> impl Strategy<Value = Machine> {
    let ordinary = prop_oneof![1 => Just(Bytes::mib(150)), 3 => Just(Bytes::gib(4))];
    (1..3_u32, 1..4_u32, 1..3_u32, 0..3_u32, 0..160_u64, ordinary).prop_map(
        |(nodes, cores, threads, reserve, hugepages, ordinary)| {
            let reserve = reserve.min(nodes * cores / 2);
            Machine { nodes, cores, threads, reserve, hugepages, ordinary }
        },
    )
}

fn specs() -> impl Strategy<Value = VmSpec> {
    (1..7_u32, 32..160_u64).prop_map(|(cpus, pages)| vm_spec(cpus, Bytes::mib(2 * pages)))
}

fn images() -> impl Strategy<Value = Option<ImageOnHost>> {
    let verified = |virtual_size| Some(ImageOnHost::Verified { virtual_size });
    prop_oneof![
        12 => Just(verified(IMAGE_SIZE)),
        1 => Just(verified(Bytes::mib(65))),
        1 => Just(Some(ImageOnHost::Refused { reason: "altered".into() })),
        1 => Just(None),
    ]
}

/// Hosts with VMs on them: some placed, some deleted and not yet gone, some hosts shrunk afterwards.
fn worlds() -> impl Strategy<Value = World> {
    let host = (machines(), prop_oneof![6 => Just(Liveness::Alive), 1 => livenesses()], images(), any::<u8>());
    (vec(host, 0..5), vec((specs(), any::<bool>()), 0..8)).prop_map(|(hosts, vms)| {
        let mut world = World::new();
        for (number, (machine, ..)) in (0..).zip(&hosts) {
            world.host(number, machine.inventory());
        }
        for (number, (spec, deleted)) in (100..).zip(vms) {
            let vm = world.vm(number, spec);
            super::settle(&mut world);
            if deleted {
                world.done(berth_state::testing::delete_vm(vm));
            }
        }
        for (number, (machine, liveness, image, shrunk)) in (0..).zip(hosts) {
            let inventory = (shrunk < 30).then(|| Machine { hugepages: machine.hugepages / 2, ..machine }.inventory());
            let images = vec![(digest(1), image)];
            world.done(report(number, Report { number: 2, inventory, images, ..Report::default() }));
            world.liveness(host_uid(number.into()), liveness);
        }
        world
    })
}

/// Whether a host can take the VM, by counting what its VMs have: an independent word on what the planner finds.
fn fits(view: &Cluster, host: &Host, spec: &VmSpec) -> bool {
    let inventory = &host.inventory;
    let there: Vec<_> = view
        .vms
        .values()
        .filter_map(|vm| vm.assignment.as_ref())
        .filter(|held| held.host == host.uid())
        .map(|held| &held.resources)
        .collect();
    let taken: BTreeSet<_> = there.iter().flat_map(|resources| &resources.vcpus).copied().collect();
    let free = inventory.topology.threads.iter().filter(|thread| !inventory.reserve.contains(thread.id));
    let free_threads = free.filter(|thread| !taken.contains(&thread.id)).count();
    let mut free_pages = 0;
    for pool in &inventory.hugepages {
        let booked = |part: &&berth_model::vm::NodePages| part.node == pool.node;
        let used: u64 =
            there.iter().flat_map(|resources| &resources.memory).filter(booked).map(|part| part.count).sum();
        if used > pool.total {
            return false;
        }
        free_pages += pool.total - used;
    }
    let ordinary: u64 = inventory.memory.iter().map(|node| node.ordinary.0).sum();
    let overhead: u64 = there.iter().map(|resources| resources.overhead.0).sum();
    let verified = Some(&ImageOnHost::Verified { virtual_size: spec.image.virtual_size });
    host.liveness == Liveness::Alive
        && host.images.get(&spec.image.sha256) == verified
        && free_threads >= spec.cpus as usize
        && free_pages * PageSize::Huge2M.bytes().0 >= spec.memory.0
        && ordinary >= overhead + spec.overhead().0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_single_vm_is_placed_whenever_some_host_fits_and_only_there(world in worlds(), spec in specs()) {
        let mut world = world;
        // Those that wait from before would take what is there.
        for vm in world.cluster.waiting().map(|vm| vm.uid()).collect::<Vec<_>>() {
            world.done(berth_state::testing::delete_vm(vm));
        }
        let vm = world.vm(1, spec.clone());
        let view = world.cluster.clone();
        let fitting: Vec<_> = view.hosts.values().filter(|host| fits(&view, host, &spec)).map(|host| host.uid()).collect();
        match &whole(&view).report[..] {
            [(planned, Verdict::Placed { host, .. })] => {
                prop_assert_eq!(*planned, vm);
                prop_assert!(fitting.contains(host), "{} does not fit", host);
            }
            [(_, Verdict::Refused(refusals))] => {
                prop_assert!(fitting.is_empty(), "{:?} fit, and the plan says {:?}", fitting, refusals);
                prop_assert_eq!(refusals.len(), view.hosts.len(), "each host has its reason");
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_plan_that_is_applied_at_once_is_never_refused_and_the_next_one_is_empty(
        world in worlds(),
        specs in vec(specs(), 0..10),
    ) {
        let mut world = world;
        for (number, spec) in (1..).zip(specs) {
            world.vm(number, spec);
        }
        let made = whole(&world.cluster);
        prop_assert_eq!(&made, &whole(&world.cluster.clone()), "the same view gives the same plan");
        let mut threads = BTreeSet::new();
        for body in &made.commands {
            if let Body::Assign { host, resources, .. } = body {
                for thread in &resources.vcpus {
                    prop_assert!(threads.insert((*host, *thread)), "{} of {} is given twice", thread, host);
                }
            }
        }
        for body in made.commands {
            world.done(body);
        }
        // Figures may have moved under reasons that were noted earlier in the plan; then all is said.
        for body in whole(&world.cluster).commands {
            prop_assert!(matches!(body, Body::NoteUnplaced { .. }), "{:?}", body);
            world.done(body);
        }
        prop_assert_eq!(whole(&world.cluster).commands, Vec::new());
    }

    #[test]
    fn a_round_in_parts_gives_each_waiting_vm_one_turn(specs in vec(specs(), 0..10), vms in 0..4_usize) {
        let mut world = World::new();
        world.host(0, Machine::cores(6).inventory());
        for (number, spec) in (1..).zip(&specs) {
            world.vm(number, spec.clone());
        }
        let (mut after, mut turns) = (None, Vec::new());
        loop {
            let part = plan(&world.cluster, after, Budget { vms });
            turns.extend(part.report.iter().map(|(vm, _)| *vm));
            for body in part.commands {
                world.done(body);
            }
            after = part.next;
            if after.is_none() {
                break;
            }
        }
        let all: Vec<_> = (1..=specs.len() as u128).map(vm_uid).collect();
        prop_assert_eq!(turns, all);
    }
}
