//! Answers about room, from small clusters.

use berth_model::testing::{Machine, host_uid, vm_spec, vm_uid};
use berth_model::vm::{Performance, Tuning};
use berth_state::testing::World;
use berth_state::{Body, Expect, HostPatch};

use super::*;
use crate::testing::wanted;

/// Two hosts of four cores each, and a VM of two CPUs on the first.
fn world() -> World {
    let mut world = World::new();
    let h1 = world.host(1, Machine::cores(4).inventory());
    world.host(2, Machine::cores(4).inventory());
    let vm = world.vm(1, vm_spec(2, Bytes::mib(128)));
    world.assign(vm, h1, [0, 1], 0);
    world
}

fn cordon(world: &mut World, number: u128) {
    let patch = Box::new(HostPatch { cordoned: Some(true), ..HostPatch::default() });
    world.done(Body::UpdateHost { host: host_uid(number), patch, expect: Expect::default() });
}

#[test]
fn it_is_counted_how_many_more_fit_whatever_the_image() {
    let view = Arc::new(world().cluster);
    let (found, why) = capacity(&view, &wanted("x")).unwrap();
    let hosts: Vec<_> = found.hosts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!((found.total, hosts), (3, vec![("h1", 1), ("h2", 2)]));
    assert!(why.is_none());
    let any = CreateVm { image: String::new(), disk_size: None, ..wanted("") };
    assert_eq!(capacity(&view, &any).unwrap().0.total, 3);
    let unknown = CreateVm { image: "nobody".into(), ..wanted("") };
    assert_eq!(capacity(&view, &unknown).unwrap_err().code, "BE-1005");
}

#[test]
fn if_not_one_fits_each_host_says_why() {
    let mut world = world();
    cordon(&mut world, 2);
    let view = Arc::new(world.cluster);
    let (found, why) = capacity(&view, &CreateVm { cpus: Some(3), ..wanted("x") }).unwrap();
    let rules: Vec<_> = why.unwrap().hosts.iter().map(|(_, word)| rule(word.as_ref().unwrap_err())).collect();
    assert_eq!((found.total, rules), (0, vec!["Threads".to_owned(), "Cordoned".to_owned()]));
}

#[test]
fn the_room_of_a_host_names_whose_each_thread_is_and_why_it_takes_nothing() {
    let mut world = world();
    cordon(&mut world, 1);
    let view = world.cluster;
    let mut all: Vec<&Arc<Host>> = view.hosts.values().collect();
    all.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
    let rooms = hosts(&view, all);
    assert_eq!(rooms[0].closed.as_deref(), Some("it is cordoned"));
    assert_eq!(rooms[1].closed, None);
    let called = "default/vm-1".to_owned();
    let expected = [(ThreadId(0), (ThreadPart::Vcpu, called.clone())), (ThreadId(1), (ThreadPart::Vcpu, called))];
    assert_eq!(rooms[0].threads, BTreeMap::from(expected));
    assert!(rooms[1].threads.is_empty());
}

#[test]
fn what_a_dead_host_may_still_run_is_held_there() {
    let mut world = world();
    world.liveness(host_uid(1), Liveness::Lost);
    world.done(Body::ConfirmDead { host: host_uid(1), expect: Expect::default() });
    let view = world.cluster;
    let rooms = hosts(&view, [&view.hosts[&host_uid(1)]]);
    let parts: Vec<_> = rooms[0].threads.values().map(|(part, called)| (*part, called.as_str())).collect();
    assert_eq!(parts, [(ThreadPart::Held, "default/vm-1"), (ThreadPart::Held, "default/vm-1")]);
    assert_eq!(rooms[0].closed.as_deref(), Some("it is Lost: not heard of"));
}

#[test]
fn the_loss_of_a_host_strands_what_no_other_can_take() {
    let mut world = world();
    let big = world.vm(2, vm_spec(4, Bytes::mib(128)));
    world.assign(big, host_uid(2), [0, 1, 2, 3], 0);
    let found = losses(&world.cluster);
    let stranded: Vec<_> = found.iter().map(|loss| (loss.name.as_str(), loss.homeless.clone())).collect();
    assert_eq!(stranded, [("h1", vec![vm_uid(1)]), ("h2", vec![vm_uid(2)])]);
}

#[test]
fn a_vm_that_waits_is_told_the_smallest_change() {
    let mut world = world();
    let spec = berth_model::vm::VmSpec {
        performance: Performance::High,
        tuning: Tuning::of(Performance::High),
        ..vm_spec(8, Bytes::mib(128))
    };
    let vm = world.vm(2, spec);
    let view = world.cluster;
    let found = explain(&view, &view.vms[&vm]);
    let fields: Vec<_> = found.smallest_change.iter().flatten().map(field).collect();
    assert_eq!(fields, ["cpus"]);
    assert_eq!(found.hosts.len(), 2);
}
