//! What people read, over every state that a VM and its host can be in.

use berth_model::host::Liveness;
use berth_model::session::{Report, VmReport};
use berth_model::testing::{Machine, full_report, host_uid, name, observed, vm_spec};
use berth_model::vm::{Accelerator, DomainState, Ended, Observed, RunStrategy, StopReason, VmPhase, VmStatus};
use berth_model::{Bytes, Condition, ConditionStatus, Epoch, HostUid, Timestamp, VmUid};
use berth_state::testing::{World, delete_vm, report};
use berth_state::{Body, Expect};

use super::{derive, host_conditions};

fn placed() -> (World, VmUid, HostUid, Epoch) {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(8).inventory());
    let vm = world.vm(1, vm_spec(2, Bytes::mib(128)));
    let epoch = world.assign(vm, host, [0, 1], 0);
    (world, vm, host, epoch)
}

fn see(world: &mut World, vm: VmUid, seen: Observed) {
    world.done(report(1, Report { number: 2, vms: vec![(vm, VmReport::Seen(seen))], ..Report::default() }));
}

fn status(world: &World, vm: VmUid) -> VmStatus {
    derive(&world.cluster, world.vm_now(vm))
}

fn condition(status: &VmStatus, kind: &str) -> Option<Condition> {
    status.conditions.iter().find(|condition| condition.kind == kind).cloned()
}

fn said(world: &World, vm: VmUid) -> (VmPhase, String) {
    let status = status(world, vm);
    let ready = condition(&status, "Ready").unwrap();
    let expected = match status.phase {
        VmPhase::Running => ConditionStatus::True,
        VmPhase::Unknown => ConditionStatus::Unknown,
        _ => ConditionStatus::False,
    };
    assert_eq!((ready.status, ready.reason), (expected, status.phase.to_string()));
    assert!(status.conditions.is_sorted_by_key(|condition| condition.kind.clone()));
    (status.phase, status.message)
}

#[test]
fn each_state_of_a_domain_has_its_phase_for_a_vm_that_shall_run_and_one_that_shall_not() {
    use DomainState::{Panicked, Paused, Running, Starting, Stopped, Stopping};
    let table = [
        (Starting, VmPhase::Starting, "", VmPhase::Starting),
        (Running, VmPhase::Running, "", VmPhase::Stopping),
        (
            Paused,
            VmPhase::Paused,
            "its guest code is held; where nobody asked for that, QEMU does it after an error of a disk; 'berth vm resume' \
             lets it go on",
            VmPhase::Paused,
        ),
        (Panicked, VmPhase::Failing, "its guest's kernel gave up; it is started again after a pause", VmPhase::Stopped),
        (Stopping, VmPhase::Stopping, "", VmPhase::Stopping),
        (Stopped(StopReason::NeverStarted), VmPhase::Starting, "", VmPhase::Stopped),
        (
            Stopped(StopReason::GuestShutdown),
            VmPhase::Failing,
            "its guest shut itself down; it is started again",
            VmPhase::Stopped,
        ),
        (Stopped(StopReason::Asked), VmPhase::Starting, "", VmPhase::Stopped),
        (
            Stopped(StopReason::Crashed),
            VmPhase::Failing,
            "its QEMU ended or was killed; it is started again after a pause",
            VmPhase::Stopped,
        ),
        (
            Stopped(StopReason::StartFailed),
            VmPhase::Failing,
            "it could not be started; it is tried again after a pause",
            VmPhase::Stopped,
        ),
        (
            Stopped(StopReason::Unknown),
            VmPhase::Failing,
            "it ended for a reason that its host does not know, such as a power cut; it is started again",
            VmPhase::Stopped,
        ),
    ];
    for (state, running, message, halted) in table {
        let (mut world, vm, _, epoch) = placed();
        see(&mut world, vm, observed(epoch, state));
        assert_eq!(said(&world, vm), (running, message.to_owned()), "{state:?}");
        world.done(Body::SetRun { vm, run: RunStrategy::Halted, expect: Expect::default() });
        assert_eq!(said(&world, vm).0, halted, "{state:?}, to be halted");
    }
}

#[test]
fn before_its_host_has_begun_a_vm_is_assigned_and_before_that_it_waits_with_its_reasons() {
    let mut world = World::new();
    let vm = world.vm(1, vm_spec(2, Bytes::mib(128)));
    assert_eq!(said(&world, vm), (VmPhase::Pending, "waits for its turn to be placed".into()));
    let waits = condition(&status(&world, vm), "Placed").unwrap();
    assert_eq!((waits.status, &waits.reason[..]), (ConditionStatus::False, "Waiting"));

    let note = |hosts, refusals: &[(&str, &str)]| Body::NoteUnplaced {
        vm,
        hosts,
        refusals: refusals.iter().map(|(host, why)| (name(host), (*why).to_owned())).collect(),
    };
    world.done(note(0, &[]));
    assert_eq!(said(&world, vm).1, "there is no host yet");
    world.done(note(5, &[("h1", "is cordoned"), ("h2", "a"), ("h3", "b"), ("h4", "c"), ("h5", "d")]));
    let message = "none of 5 hosts can take it: h1 is cordoned; h2 a; h3 b; and 2 more";
    assert_eq!(said(&world, vm).1, message);
    let waits = condition(&status(&world, vm), "Placed").unwrap();
    assert_eq!((&waits.reason[..], &waits.message[..]), ("NoHostFits", message));

    let host = world.host(1, Machine::cores(8).inventory());
    world.assign(vm, host, [0, 1], 0);
    assert_eq!(said(&world, vm), (VmPhase::Assigned, String::new()));
    let placed = status(&world, vm);
    assert_eq!(placed.host, Some((host, name("h1"))));
    assert_eq!(condition(&placed, "Placed").unwrap().status, ConditionStatus::True);
}

#[test]
fn a_vm_on_a_silent_host_is_unknown_and_not_said_to_be_down() {
    let (mut world, vm, host, epoch) = placed();
    see(&mut world, vm, observed(epoch, DomainState::Running));
    for liveness in [Liveness::Suspect, Liveness::Lost] {
        world.liveness(host, liveness);
        let (phase, message) = said(&world, vm);
        assert_eq!(phase, VmPhase::Unknown);
        let expected = format!(
            "host h1 is {liveness} since {}; the VM may well run, and is not started elsewhere; what is asked of it is done when \
             the host is heard of again",
            world.cluster.hosts[&host].liveness_since
        );
        assert_eq!(message, expected);
    }
    world.done(delete_vm(vm));
    let message = "host h1 is Lost; the VM is removed when it is heard of again";
    assert_eq!(said(&world, vm), (VmPhase::Deleting, message.into()));
    world.liveness(host, Liveness::Alive);
    assert_eq!(said(&world, vm), (VmPhase::Deleting, String::new()));
}

#[test]
fn a_restart_that_is_not_done_yet_and_trouble_show() {
    let (mut world, vm, _, epoch) = placed();
    see(&mut world, vm, observed(epoch, DomainState::Running));
    world.done(Body::RestartVm { vm, force: false, expect: Expect::default() });
    assert_eq!(said(&world, vm), (VmPhase::Stopping, "a restart was asked for".into()));
    see(&mut world, vm, Observed { restart_count: 1, ..observed(epoch, DomainState::Running) });
    assert_eq!(said(&world, vm), (VmPhase::Running, String::new()));

    let trouble = Some(("NoSpace".into(), "the disk is full".into()));
    let crashed = Observed {
        failures: 3,
        trouble: trouble.clone(),
        ..observed(epoch, DomainState::Stopped(StopReason::Crashed))
    };
    see(&mut world, vm, crashed);
    let message = "its QEMU ended or was killed; it is started again after a pause (3 failures in a row): the disk is full [BE-6006]";
    assert_eq!(said(&world, vm), (VmPhase::Failing, message.into()));
    let never = observed(epoch, DomainState::Stopped(StopReason::NeverStarted));
    see(&mut world, vm, Observed { trouble, ..never.clone() });
    assert_eq!(said(&world, vm), (VmPhase::Failing, "the disk is full [BE-6006]".into()));
    see(&mut world, vm, Observed { failures: 1, ..never });
    assert_eq!(said(&world, vm), (VmPhase::Failing, "it has not started yet".into()));
}

#[test]
fn software_emulation_and_what_a_host_lacks_are_never_silent() {
    let (mut world, vm, _, epoch) = placed();
    see(&mut world, vm, observed(epoch, DomainState::Running));
    let kvm = status(&world, vm);
    assert_eq!(condition(&kvm, "Accelerated").unwrap().status, ConditionStatus::True);
    assert_eq!(condition(&kvm, "Degraded"), None);

    let mut inventory = Machine::cores(8).inventory();
    inventory.accelerator.failed_step = Some("long mode".into());
    world.done(report(1, Report { number: 2, inventory: Some(inventory), ..Report::default() }));
    let slow = Observed {
        accelerator: Some(Accelerator::Tcg),
        degraded: vec!["one".into(), "two".into()],
        ..observed(epoch, DomainState::Running)
    };
    see(&mut world, vm, slow);
    let tcg = status(&world, vm);
    let accelerated = condition(&tcg, "Accelerated").unwrap();
    assert_eq!(accelerated.status, ConditionStatus::False);
    assert_eq!(
        accelerated.message,
        "runs under software emulation (TCG), many times slower than KVM: the host's KVM failed its test at step long mode"
    );
    assert_eq!(condition(&tcg, "Degraded").unwrap().message, "one; two");
}

#[test]
fn status_is_the_same_on_a_member_that_was_restored_from_a_snapshot() {
    let (mut world, vm, host, epoch) = placed();
    see(&mut world, vm, observed(epoch, DomainState::Running));
    world.liveness(host, Liveness::Suspect);
    let bytes = berth_state::record::encode_snapshot(&world.cluster).unwrap();
    let restored = berth_state::record::decode_snapshot(&bytes).unwrap();
    assert_eq!(derive(&restored, &restored.vms[&vm]), status(&world, vm));
}

#[test]
fn a_hosts_conditions_tell_of_silence_and_of_what_is_booked_beyond_it() {
    let (mut world, _, host, _) = placed();
    let conditions = |world: &World| host_conditions(&world.cluster, &world.cluster.hosts[&host_uid(1)]);
    let ready = conditions(&world);
    assert_eq!((ready.len(), ready[0].status, &ready[0].reason[..]), (1, ConditionStatus::True, "Alive"));
    world.done(report(1, full_report(Machine { hugepages: 10, ..Machine::cores(8) }.inventory())));
    world.liveness(host, Liveness::Lost);
    let [overbooked, ready] = &conditions(&world)[..] else { panic!("two conditions") };
    assert_eq!((ready.status, &ready.reason[..]), (ConditionStatus::Unknown, "Lost"));
    assert_eq!(
        overbooked.message,
        "64 pages of 2MiB are booked on NUMA node 0, it has 10; it takes no new VM; concerned are vm-1"
    );
}

#[test]
fn a_vm_that_was_started_again_says_how_its_last_run_ended_and_one_that_rests_says_why() {
    let (mut world, vm, _, epoch) = placed();
    let last_end = Some(Ended { reason: StopReason::Crashed, at: Timestamp::from_millis(7) });
    see(&mut world, vm, Observed { last_end, failures: 1, ..observed(epoch, DomainState::Running) });
    let told = condition(&status(&world, vm), "LastRunEndedWell").unwrap();
    assert_eq!((told.status, &told.reason[..], told.since.as_millis()), (ConditionStatus::False, "Crashed", 7));
    assert_eq!(told.message, "its QEMU ended or was killed; 1 starts in a row failed or ended in a crash");

    let set = |run| Body::SetRun { vm, run, expect: Expect::default() };
    world.done(set(RunStrategy::RerunOnFailure));
    see(&mut world, vm, observed(epoch, DomainState::Stopped(StopReason::GuestShutdown)));
    let rests = "its guest shut itself down; by its run strategy RerunOnFailure it is not started again";
    assert_eq!(said(&world, vm), (VmPhase::Stopped, rests.into()));
    world.done(Body::StartVm { vm, expect: Expect::default() });
    assert_eq!(said(&world, vm), (VmPhase::Starting, String::new()));
    world.done(set(RunStrategy::Manual));
    see(&mut world, vm, observed(epoch, DomainState::Stopped(StopReason::NeverStarted)));
    assert_eq!(said(&world, vm).0, VmPhase::Starting);
    world.done(Body::StopVm { vm, force: false, expect: Expect::default() });
    assert_eq!(said(&world, vm), (VmPhase::Stopped, String::new()));
}
