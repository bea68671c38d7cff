//! The laws over random histories: sensible steps that lead VMs through their lives, mixed with commands that nobody
//! in his right mind would propose.

use std::collections::BTreeMap;

use berth_model::host::{Liveness, NodeId, Overcommit, Percent};
use berth_model::image::ImageSpec;
use berth_model::session::{Report, VmReport};
use berth_model::testing::strategies::{
    POOL, amounts, host_uids, livenesses, names, reports, resources, runs, times, vm_specs, vm_uids,
};
use berth_model::testing::{Machine, NOW, cluster_id, digest, full_report, host_uid, image_uid, observed, operator};
use berth_model::testing::{vm_spec, vm_uid};
use berth_model::vm::{DomainState, RunStrategy};
use berth_model::{
    BootId, Bytes, Epoch, Generation, Incarnation, Millis, PageSize, RequestId, Revision, Stamp, Timestamp, VmUid,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::apply::apply;
use crate::audit::audit;
use crate::cluster::Cluster;
use crate::command::{Batch, Body, Command, Expect, HostFacts, HostPatch};
use crate::outcome::{Change, Object};
use crate::record;
use crate::testing::{create_vm, facts};

/// A step of a history; what it means depends on where the history stands.
#[derive(Clone, Debug)]
enum Step {
    /// A host joins, or reports that it is what it was.
    Join(u32),
    /// A VM of this many CPUs is created.
    Create(u32, u32),
    /// A VM gets the first free threads of a host.
    Place(u32, u32),
    /// A VM gets threads that begin at this one, free or not.
    Grab(u32, u32, u32),
    /// A VM's host reports it as running.
    Run(u32),
    /// A VM is deleted.
    Delete(u32),
    /// A VM's host reports it as gone, by an epoch that is off by this much.
    Gone(u32, u64),
    /// Another host reports a VM as gone.
    GoneElsewhere(u32, u32),
    /// A host is not heard of, or is again.
    Hear(u32, Liveness),
    /// A VM is started or stopped.
    SetRun(u32, bool),
    /// A word about a VM's run.
    Steer(u32, u8),
    /// A host is said to be dead.
    Bury(u32),
    /// Anything.
    Raw(Box<Body>),
}

const HOSTS: u32 = 3;

fn machine() -> Machine {
    Machine { hugepages: 200, ordinary: Bytes::mib(600), ..Machine::cores(4) }
}

impl Step {
    fn body(self, cluster: &Cluster) -> Option<Body> {
        let uid = |number: u32| vm_uid(u128::from(number));
        let vm = |number: u32| cluster.vms.get(&uid(number));
        let report =
            |number: u32, report: Report| Some(Body::ReportHost { facts: facts(number), report: Box::new(report) });
        let number_of = |host| (0..HOSTS).find(|number| host_uid(u128::from(*number)) == host);
        let gone = |number: u32, from: u32, off: u64| {
            let epoch = Epoch(vm(number)?.assignment.as_ref()?.epoch.0.saturating_sub(off));
            let said = VmReport::Gone(Stamp { incarnation: Incarnation(0), epoch });
            report(from, Report { number: 2, vms: vec![(uid(number), said)], ..Report::default() })
        };
        let give = |number: u32, host: u32, first: u32| {
            let (vm, host) = (vm(number)?, cluster.hosts.get(&host_uid(u128::from(host)))?);
            let vcpus = first..first.saturating_add(vm.spec.cpus.min(8));
            let resources = berth_model::testing::resources(&host.inventory, &vm.spec, vcpus, 0);
            let generation = vm.meta.generation;
            Some(Body::Assign { vm: vm.uid(), generation, host: host.uid(), resources })
        };
        match self {
            Self::Join(number) => report(number, full_report(machine().inventory())),
            Self::Create(number, cpus) => Some(create_vm(number, vm_spec(cpus, Bytes::mib(64)))),
            Self::Place(number, host) => {
                let on = host_uid(u128::from(host));
                let booked = cluster.bookings(on).cloned().unwrap_or_default();
                let wanted = vm(number)?.spec.cpus;
                let free = |first: &u32| {
                    (*first..first + wanted.min(8)).all(|id| booked.owner(berth_model::host::ThreadId(id)).is_none())
                };
                give(number, host, (0..4).find(free)?)
            }
            Self::Grab(number, host, first) => give(number, host, first),
            Self::Run(number) => {
                let assignment = vm(number)?.assignment.as_ref()?;
                let said = VmReport::Seen(observed(assignment.epoch, DomainState::Running));
                let vms = vec![(uid(number), said)];
                report(number_of(assignment.host)?, Report { number: 2, vms, ..Report::default() })
            }
            Self::Delete(number) => Some(Body::DeleteVm { vm: uid(number), expect: Expect::default() }),
            Self::Gone(number, off) => gone(number, number_of(vm(number)?.assignment.as_ref()?.host)?, off),
            Self::GoneElsewhere(number, host) => gone(number, host, 0),
            Self::Hear(number, liveness) => Some(Body::SetLiveness { host: host_uid(u128::from(number)), liveness }),
            Self::SetRun(number, run) => {
                let run = if run { RunStrategy::Always } else { RunStrategy::Halted };
                Some(Body::SetRun { vm: uid(number), run, expect: Expect::default() })
            }
            Self::Steer(number, 4) => Some(Body::StopVm { vm: uid(number), force: true, expect: Expect::default() }),
            Self::Steer(number, which) => Some(steered(uid(number), which, Expect::default())),
            Self::Bury(number) => {
                Some(Body::ConfirmDead { host: host_uid(u128::from(number)), expect: Expect::default() })
            }
            Self::Raw(body) => Some(*body),
        }
    }
}

/// Sensible and senseless steps, without words that make a host smaller than it was.
fn steps() -> impl Strategy<Value = Step> {
    let (vms, hosts) = (|| 0..u32::from(POOL), || 0..HOSTS);
    prop_oneof![
        2 => hosts().prop_map(Step::Join),
        4 => (vms(), 1..4_u32).prop_map(|(vm, cpus)| Step::Create(vm, cpus)),
        6 => (vms(), hosts()).prop_map(|(vm, host)| Step::Place(vm, host)),
        3 => (vms(), hosts(), 0..5_u32).prop_map(|(vm, host, first)| Step::Grab(vm, host, first)),
        3 => vms().prop_map(Step::Run),
        3 => vms().prop_map(Step::Delete),
        3 => (vms(), prop_oneof![3 => Just(0_u64), 1 => 1..4_u64]).prop_map(|(vm, off)| Step::Gone(vm, off)),
        1 => (vms(), hosts()).prop_map(|(vm, host)| Step::GoneElsewhere(vm, host)),
        1 => (hosts(), livenesses()).prop_map(|(host, liveness)| Step::Hear(host, liveness)),
        1 => (vms(), any::<bool>()).prop_map(|(vm, run)| Step::SetRun(vm, run)),
        3 => (vms(), 0..5_u8).prop_map(|(vm, which)| Step::Steer(vm, which)),
        1 => hosts().prop_map(Step::Bury),
    ]
}

fn expectations() -> impl Strategy<Value = Expect> {
    option::of(0..40_u64).prop_map(|revision| Expect { revision: revision.map(Revision) })
}

fn steered(vm: VmUid, which: u8, expect: Expect) -> Body {
    match which {
        0 => Body::StartVm { vm, expect },
        1 => Body::ResetVm { vm, expect },
        2 => Body::PauseVm { vm, expect },
        _ => Body::ResumeVm { vm, expect },
    }
}

/// Every command with whatever values.
fn bodies() -> impl Strategy<Value = Body> {
    let labels = || btree_map("[a-b]", "[a-z]{0,3}", 0..2);
    let created = (vm_uids(), names(), names(), labels(), labels(), vm_specs()).prop_map(
        |(uid, project, name, labels, annotations, spec)| Body::CreateVm {
            uid,
            project,
            name,
            labels,
            annotations,
            spec: Box::new(spec),
        },
    );
    let image = (names(), labels(), 0..3_u8, amounts()).prop_map(|(name, labels, number, virtual_size)| {
        let spec = ImageSpec { sha256: digest(number), virtual_size };
        Body::CreateImage { uid: image_uid(u128::from(number)), name, labels, spec }
    });
    let reported = (host_uids(), names(), reports()).prop_map(|(uid, name, report)| {
        let facts = HostFacts { uid, name, address: "10.0.0.1:7443".into(), boot: BootId("b".into()) };
        Body::ReportHost { facts, report: Box::new(report) }
    });
    let assigned = (vm_uids(), 0..3_u64, host_uids(), resources()).prop_map(|(vm, generation, host, resources)| {
        Body::Assign { vm, generation: Generation(generation), host, resources }
    });
    let noted = (vm_uids(), any::<u32>(), vec((names(), "[a-z ]{0,9}".prop_map(String::from)), 0..20))
        .prop_map(|(vm, hosts, refusals)| Body::NoteUnplaced { vm, hosts, refusals });
    let labelled = (vm_uids(), labels(), vec("[a-b]", 0..2), expectations())
        .prop_map(|(vm, set, remove, expect)| Body::SetLabels { vm, set, remove, expect });
    let patched = (host_uids(), labels(), option::of(any::<bool>()), option::of(option::of(names())), 100..2000_u32)
        .prop_map(|(host, set_labels, cordoned, zone, percent)| {
            let overcommit = Some(Overcommit { cpu_percent: Percent(percent), memory_percent: Percent(percent) });
            let patch = HostPatch { set_labels, cordoned, zone, overcommit, ..HostPatch::default() };
            Body::UpdateHost { host, patch: Box::new(patch), expect: Expect::default() }
        });
    prop_oneof![
        1 => (0..3_u32).prop_map(|version| Body::Bootstrap { cluster: cluster_id(), version }),
        4 => created,
        1 => (vm_uids(), runs(), expectations()).prop_map(|(vm, run, expect)| Body::SetRun { vm, run, expect }),
        1 => (vm_uids(), any::<bool>(), expectations())
            .prop_map(|(vm, force, expect)| Body::RestartVm { vm, force, expect }),
        1 => (vm_uids(), 0..4_u8, expectations()).prop_map(|(vm, which, expect)| steered(vm, which, expect)),
        1 => (vm_uids(), any::<bool>(), expectations())
            .prop_map(|(vm, force, expect)| Body::StopVm { vm, force, expect }),
        1 => (vm_uids(), expectations()).prop_map(|(vm, expect)| Body::DeleteVm { vm, expect }),
        1 => image,
        1 => names().prop_map(|name| Body::DeleteImage { name }),
        5 => reported,
        1 => (host_uids(), livenesses()).prop_map(|(host, liveness)| Body::SetLiveness { host, liveness }),
        4 => assigned,
        1 => noted,
        1 => labelled,
        1 => (vm_uids(), vm_specs(), expectations())
            .prop_map(|(vm, spec, expect)| Body::SetSpec { vm, spec: Box::new(spec), expect }),
        1 => (host_uids(), any::<bool>(), expectations())
            .prop_map(|(host, never_returns, expect)| Body::RemoveHost { host, never_returns, expect }),
        1 => (host_uids(), expectations()).prop_map(|(host, expect)| Body::ConfirmDead { host, expect }),
        1 => patched,
    ]
}

/// A request id of a few, or none.
fn requests() -> impl Strategy<Value = Option<(RequestId, [u8; 32])>> {
    let id = (times(), 0..4_u128).prop_map(|(at, random)| RequestId::from_parts(at, random));
    let near = (0..6_u128).prop_map(|random| RequestId::from_parts(NOW, random));
    option::weighted(0.4, (prop_oneof![1 => id, 3 => near], (0..2_u8).prop_map(|byte| [byte; 32])))
}

/// A step, perhaps as a client's request.
type Asked = (Option<(RequestId, [u8; 32])>, Step);

/// Batches of both sorts of steps at whatever times.
fn histories() -> impl Strategy<Value = Vec<(Timestamp, Vec<Asked>)>> {
    let step = prop_oneof![3 => steps(), 2 => bodies().prop_map(|body| Step::Raw(Box::new(body)))];
    vec((times(), vec((requests(), step), 0..4)), 1..40)
}

fn bootstrapped() -> Cluster {
    let mut cluster = Cluster::default();
    let body = Body::Bootstrap { cluster: cluster_id(), version: 1 };
    apply(&mut cluster, &Batch { at: NOW, commands: vec![Command { request: None, actor: operator(), body }] });
    cluster
}

fn batch(cluster: &Cluster, at: Timestamp, steps: Vec<Asked>) -> Batch {
    let command = |(request, step): (_, Step)| {
        let body = step.body(cluster)?;
        Some(Command { request, actor: operator(), body })
    };
    Batch { at, commands: steps.into_iter().filter_map(command).collect() }
}

/// What a reader sees: everything but the clock and the remembered requests.
fn visible(cluster: &Cluster) -> Cluster {
    Cluster { last_at: Timestamp::default(), requests: crate::requests::Requests::default(), ..cluster.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_law_holds_after_every_entry_of_any_history(history in histories()) {
        let mut cluster = bootstrapped();
        for (at, steps) in history {
            let batch = batch(&cluster, at, steps);
            let before = cluster.clone();
            let (answers, changes) = apply(&mut cluster, &batch);
            prop_assert_eq!(audit(&cluster), Vec::<String>::new());
            prop_assert_eq!(answers.len(), batch.commands.len());
            prop_assert!(cluster.last_at >= before.last_at && cluster.last_at >= at);
            let drawn: Vec<_> = changes.iter().map(|change| change.revision.0).collect();
            let expected: Vec<_> = (before.revision.0 + 1..=cluster.revision.0).collect();
            prop_assert_eq!(drawn, expected, "each change has the next revision, and nothing else draws one");
            prop_assert_eq!(changes.is_empty(), visible(&before) == visible(&cluster) && before.revision == cluster.revision);
            for change in &changes {
                tells_before_and_after(change)?;
            }
        }
    }

    #[test]
    fn two_replicas_of_one_history_and_one_that_began_from_a_snapshot_are_equal(
        history in histories(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut first = bootstrapped();
        let mut log = Vec::new();
        for (at, steps) in history {
            let batch = batch(&first, at, steps);
            let answers = apply(&mut first, &batch).0;
            log.push((batch, answers));
        }
        let cut = cut.index(log.len());
        let mut second = bootstrapped();
        for (at, (batch, answers)) in log.iter().enumerate() {
            if at == cut {
                let restored = record::decode_snapshot(&record::encode_snapshot(&second).unwrap()).unwrap();
                prop_assert!(restored == second, "a snapshot brings back what was written");
                second = restored;
            }
            let read = record::decode_batch(&record::encode_batch(batch).unwrap()).unwrap();
            prop_assert_eq!(&read, batch);
            let again = apply(&mut second, &read).0;
            prop_assert_eq!(&again, answers);
            prop_assert_eq!(&record::decode_answers(&record::encode_answers(&again).unwrap()).unwrap(), answers);
        }
        prop_assert!(first == second);
    }

    #[test]
    fn hosts_that_keep_their_size_are_never_overbooked_and_placements_stay_until_they_end_by_the_rules(
        history in vec(steps(), 1..120),
    ) {
        let mut cluster = bootstrapped();
        for step in history {
            let ends = match &step {
                Step::Gone(vm, 0) => Some((vm_uid(u128::from(*vm)), None)),
                Step::GoneElsewhere(vm, host) => Some((vm_uid(u128::from(*vm)), Some(host_uid(u128::from(*host))))),
                _ => None,
            };
            let buried = match &step {
                Step::Bury(host) => Some(host_uid(u128::from(*host))),
                _ => None,
            };
            let Some(body) = step.body(&cluster) else { continue };
            let before = cluster.clone();
            let command = Command { request: None, actor: operator(), body };
            apply(&mut cluster, &Batch { at: NOW, commands: vec![command] });
            prop_assert_eq!(audit(&cluster), Vec::<String>::new());
            for host in cluster.hosts.values() {
                let held = cluster.bookings(host.uid()).cloned().unwrap_or_default();
                prop_assert_eq!(held.overbooked(&host.inventory), None);
                prop_assert!(held.pages(NodeId(0), PageSize::Huge2M) <= 200);
            }
            for vm in before.vms.values().filter(|vm| vm.assignment.is_some()) {
                let after = cluster.vms.get(&vm.uid());
                let on = vm.assignment.as_ref().map(|held| held.host);
                let reported = ends.is_some_and(|(gone, by)| gone == vm.uid() && (by.is_none() || by == on));
                // By an operator's word that a silent host is dead: what it had there is kept from others.
                let silent = |host| before.hosts[&host].liveness != Liveness::Alive;
                let fenced = on.is_some_and(|host| {
                    buried == Some(host) && silent(host) && cluster.holds_ended(host, vm.uid())
                });
                let may_end = (vm.meta.is_deleting() && reported) || fenced;
                prop_assert!(
                    after.is_some_and(|after| after.assignment == vm.assignment) || may_end,
                    "the placement of {} ended without its host's word", vm.uid()
                );
            }
        }
    }

    #[test]
    fn a_request_that_is_sent_again_changes_nothing_and_is_answered_as_before(
        history in histories(),
        step in prop_oneof![steps(), bodies().prop_map(|body| Step::Raw(Box::new(body)))],
        later in 0..80_000_000_u64,
    ) {
        let mut cluster = bootstrapped();
        for (_, steps) in history {
            let batch = batch(&cluster, NOW, steps);
            apply(&mut cluster, &batch);
        }
        if let Some(body) = step.body(&cluster) {
            let request = Some((RequestId::from_parts(NOW, 99), [9; 32]));
            let commands = vec![Command { request, actor: operator(), body }];
            let (first, _) = apply(&mut cluster, &Batch { at: NOW, commands: commands.clone() });
            let before = visible(&cluster);
            let (again, changes) = apply(&mut cluster, &Batch { at: NOW.plus(Millis(later)), commands });
            prop_assert_eq!(again, first);
            prop_assert!(changes.is_empty() && before == visible(&cluster));
        }
    }
}

fn tells_before_and_after(change: &Change) -> Result<(), TestCaseError> {
    let revision = change.revision;
    let (before, after) = match &change.object {
        Object::Vm { before, after } => {
            (before.as_ref().map(|held| held.meta.revision), after.as_ref().map(|held| held.meta.revision))
        }
        Object::Host { before, after } => {
            (before.as_ref().map(|held| held.meta.revision), after.as_ref().map(|held| held.meta.revision))
        }
        Object::Image { before, after } => {
            (before.as_ref().map(|held| held.meta.revision), after.as_ref().map(|held| held.meta.revision))
        }
        Object::Preference { before, after } => {
            (before.as_ref().map(|held| held.meta.revision), after.as_ref().map(|held| held.meta.revision))
        }
        Object::InstanceType { before, after } => {
            (before.as_ref().map(|held| held.meta.revision), after.as_ref().map(|held| held.meta.revision))
        }
    };
    prop_assert!(before.is_some() || after.is_some());
    prop_assert!(before.is_none_or(|before| before < revision));
    prop_assert!(after.is_none_or(|after| after == revision));
    Ok(())
}

/// The steps do lead somewhere: without this, the properties above could hold of empty clusters alone.
#[test]
fn the_steps_lead_vms_through_their_whole_lives() {
    let mut cluster = bootstrapped();
    let mut lived = BTreeMap::new();
    let history = [
        Step::Join(0),
        Step::Create(1, 2),
        Step::Create(2, 2),
        Step::Place(1, 0),
        Step::Place(2, 0),
        Step::Run(1),
        Step::Delete(1),
        Step::Gone(1, 0),
    ];
    for step in history {
        let body = step.body(&cluster).unwrap();
        let commands = vec![Command { request: None, actor: operator(), body }];
        let (answers, _) = apply(&mut cluster, &Batch { at: NOW, commands });
        assert!(answers[0].result.is_ok(), "{answers:?}");
        for vm in cluster.vms.values() {
            lived.entry(vm.uid()).or_insert_with(Vec::new).push((vm.assignment.is_some(), vm.observed.is_some()));
        }
    }
    assert!(lived[&vm_uid(1)].contains(&(true, true)));
    assert_eq!(cluster.vms.len(), 1);
    assert_eq!(cluster.bookings(host_uid(0)).unwrap().threads(), 2);
}
