//! What was written once is read for ever: golden bytes of every record, with every variant of every enum in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_frame::HEADER_BYTES;
use berth_model::host::{
    Eviction, HostSpec, Liveness, NodeId, Orphan, Overcommit, PciAddress, PciDevice, PciKind, Percent, ThreadId,
};
use berth_model::image::{ImageOnHost, ImageSpec};
use berth_model::instancetype::{BUILT_IN, InstanceType, Preference, PreferenceSpec};
use berth_model::meta::OwnerRef;
use berth_model::placement::{
    Domain, HostWish, Operator, Proposal, Requirement, Rules, Selector, Spread, Strength, Taint, TaintEffect,
    Toleration, VmAffinity, WhenUnsatisfiable,
};
use berth_model::session::{Holding, Report, VmReport};
use berth_model::testing::{
    self, IMAGE_SIZE, Machine, NOW, cluster_id, digest, host_uid, image_uid, name, observed, vm_spec, vm_uid,
};
use berth_model::vm::{
    Accelerator, Assignment, CpuShape, DeviceDemand, DomainState, Ended, NodePages, NumaPolicy, Observed, Performance,
    Power, Resources, RunStrategy, SmtPolicy, StopReason, Tuning, Unplaced, Vm, VmSpec,
};
use berth_model::{
    Actor, ActorRole, BootId, Bytes, Condition, ConditionStatus, Epoch, Generation, Incarnation, PageSize, RequestId,
    Revision, Sealed, Stamp, Timestamp,
};
use proptest::prelude::*;

use super::{
    RecordError, decode_answers, decode_batch, decode_snapshot, encode_answers, encode_batch, encode_snapshot, kind,
};
use crate::cluster::{Cluster, ClusterInfo};
use crate::command::{Batch, Body, Command, Expect, HostFacts, HostPatch, ProposedMove};
use crate::digest::{Checkpoint, Digest};
use crate::history::{self, History, ObjectKind, Undo};
use crate::ledger::Shortage;
use crate::outcome::{Applied, Outcome, Rejection};

fn map(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.into(), value.into())])
}

fn spec() -> VmSpec {
    VmSpec {
        instance_type: Some(name("standard-2")),
        preference: Some(name("sockets-advantage")),
        tuning: tuning(PageSize::Huge2M, SmtPolicy::Siblings, NumaPolicy::Fewest, CpuShape::Cores),
        devices: vec![DeviceDemand { kind: PciKind { vendor: 0x10de, product: 0x2204 }, count: 2 }],
        rules: rules(),
        user_data: Some(Sealed { key_id: "k1".into(), nonce: vec![1, 2, 3], ciphertext: vec![4, 5, 6, 7] }),
        ..vm_spec(2, Bytes::mib(256))
    }
}

fn tuning(pages: PageSize, smt: SmtPolicy, numa: NumaPolicy, cpu_shape: CpuShape) -> Tuning {
    Tuning { pages, smt, numa, dedicated_emulator: true, dedicated_iothreads: 2, cpu_shape }
}

/// The other templates, with the other values of their tuning.
fn other_specs() -> [VmSpec; 2] {
    let other = |performance, tuning| VmSpec { performance, tuning, ..vm_spec(1, Bytes::mib(64)) };
    [
        other(
            Performance::Standard,
            tuning(PageSize::Small, SmtPolicy::WholeCores, NumaPolicy::Single, CpuShape::Sockets),
        ),
        other(Performance::Density, tuning(PageSize::Huge1G, SmtPolicy::Isolate, NumaPolicy::Single, CpuShape::Cores)),
    ]
}

fn selector() -> Selector {
    use Operator::{DoesNotExist, Exists, Gt, In, Lt, NotIn};
    let all = [In, NotIn, Exists, DoesNotExist, Gt, Lt].into_iter().map(|operator| Requirement {
        key: "disk".into(),
        operator,
        values: ["ssd".to_owned(), "nvme".to_owned()].into(),
    });
    Selector(all.collect())
}

fn rules() -> Rules {
    let domains = [Domain::Host, Domain::Rack, Domain::Zone, Domain::Label("row".into())];
    let near = |(number, domain): (u32, Domain)| VmAffinity {
        anti: number > 0,
        strength: if number == 0 { Strength::Required } else { Strength::Preferred(number * 100) },
        domain,
        vms: selector(),
    };
    let spread =
        |when_unsatisfiable| Spread { domain: Domain::Zone, max_skew: 300, when_unsatisfiable, vms: selector() };
    let (key, value) = (Some("gpu".into()), Some("a100".into()));
    Rules {
        hosts: vec![selector()],
        host_wishes: vec![HostWish { weight: 80, hosts: selector() }],
        host_group: Some(name("fast")),
        tolerations: vec![
            Toleration { key, value, effect: Some(TaintEffect::PreferNoSchedule) },
            Toleration::default(),
        ],
        affinity: (0..).zip(domains).map(near).collect(),
        spread: vec![spread(WhenUnsatisfiable::DoNotSchedule), spread(WhenUnsatisfiable::ScheduleAnyway)],
        priority: -300,
    }
}

fn taints() -> [Taint; 2] {
    let taint = |effect| Taint { key: "gpu".into(), value: "a100".into(), effect };
    [TaintEffect::NoSchedule, TaintEffect::PreferNoSchedule].map(taint)
}

fn address(device: u8) -> PciAddress {
    PciAddress { domain: 300, bus: 59, device, function: 1 }
}

fn preference() -> PreferenceSpec {
    PreferenceSpec {
        cpu_shape: Some(CpuShape::Sockets),
        pages: Some(PageSize::Small),
        smt: Some(SmtPolicy::Isolate),
        numa: Some(NumaPolicy::Single),
        dedicated_emulator: Some(true),
        dedicated_iothreads: Some(300),
    }
}

fn resources() -> Resources {
    let part = |node, page, count| NodePages { node: NodeId(node), page, count };
    Resources {
        vcpus: vec![ThreadId(4), ThreadId(5)],
        emulator: "0-1".parse().unwrap(),
        iothread: "1".parse().unwrap(),
        memory: vec![part(0, PageSize::Huge2M, 128), part(1, PageSize::Small, 300), part(1, PageSize::Huge1G, 1)],
        overhead: Bytes::mib(112),
        dedicated: "6-7".parse().unwrap(),
        idle: "12".parse().unwrap(),
        shared_cpu: 300,
        devices: vec![address(1), address(2)],
    }
}

fn every_domain_state() -> Vec<DomainState> {
    use StopReason::{Asked, Crashed, GuestShutdown, NeverStarted, Panicked, StartFailed, Unknown};
    let running = [
        DomainState::Starting,
        DomainState::Running,
        DomainState::Paused,
        DomainState::Stopping,
        DomainState::Panicked,
    ];
    let stopped =
        [NeverStarted, GuestShutdown, Asked, Crashed, StartFailed, Unknown, Panicked].map(DomainState::Stopped);
    running.into_iter().chain(stopped).collect()
}

fn rich_observed() -> Observed {
    Observed {
        accelerator: Some(Accelerator::Tcg),
        restart_count: 3,
        reset_count: 4,
        failures: 2,
        last_end: Some(Ended { reason: StopReason::Panicked, at: NOW }),
        trouble: Some(("NoSpace".into(), "the disk is full".into())),
        degraded: vec!["one IOThread for all queues".into()],
        ..observed(Epoch(9), DomainState::Running)
    }
}

fn conditions() -> Vec<Condition> {
    use ConditionStatus::{False, True, Unknown};
    let condition = |kind: &str, status| Condition {
        kind: kind.into(),
        status,
        reason: "Probed".into(),
        message: "a sentence".into(),
        since: NOW,
    };
    vec![condition("A", True), condition("B", False), condition("C", Unknown)]
}

fn report() -> Report {
    let mut inventory = Machine { threads: 2, nodes: 2, reserve: 1, ..Machine::cores(2) }.inventory();
    inventory.accelerator.accelerator = Accelerator::Tcg;
    inventory.accelerator.failed_step = Some("long mode".into());
    inventory.accelerator.detail = Some("the guest did not answer".into());
    inventory.overlap = true;
    let kind = PciKind { vendor: 0x10de, product: 0x2204 };
    inventory.devices = vec![
        PciDevice { address: address(1), kind, node: Some(NodeId(1)), iommu_group: Some(300), physical: None },
        PciDevice { address: address(2), kind, node: None, iommu_group: None, physical: Some(address(1)) },
    ];
    let seen = every_domain_state().into_iter().zip(1..).map(|(state, number)| {
        let accelerator = Some(if number % 2 == 0 { Accelerator::Kvm } else { Accelerator::Tcg });
        let seen = Observed { state, accelerator, ..rich_observed() };
        (vm_uid(number), VmReport::Seen(seen))
    });
    let gone = VmReport::Gone(Stamp { incarnation: Incarnation(1), epoch: Epoch(9) });
    Report {
        number: 7,
        full: true,
        inventory: Some(inventory),
        conditions: Some(conditions()),
        images: vec![
            (digest(1), Some(ImageOnHost::Verified { virtual_size: IMAGE_SIZE })),
            (digest(2), Some(ImageOnHost::Refused { reason: "it has a backing file".into() })),
            (digest(3), None),
        ],
        vms: seen.chain([(vm_uid(99), gone)]).collect(),
        orphans: Some(vec![Orphan { vm: vm_uid(50), called: "default/old".into(), running: true }]),
        holdings: Vec::new(),
    }
}

fn holding() -> Holding {
    Holding {
        vm: vm_uid(50),
        project: name("default"),
        name: name("old"),
        cpus: 2,
        memory: Bytes::mib(256),
        performance: Performance::High,
        tuning: spec().tuning,
        devices: spec().devices,
        image_name: name("tiny"),
        image: digest(1),
        disk_size: IMAGE_SIZE,
        run: RunStrategy::Always,
        resources: resources(),
        restart_count: 300,
    }
}

fn every_body() -> Vec<Body> {
    let (vm, host) = (vm_uid(1), host_uid(1));
    let expect = Expect { revision: Some(Revision(300)) };
    let set_run = |run| Body::SetRun { vm, run, expect };
    let [standard, density] = other_specs();
    let patch = HostPatch {
        set_labels: map("disk", "ssd"),
        remove_labels: vec!["old".into()],
        cordoned: Some(true),
        zone: Some(Some(name("a"))),
        rack: Some(None),
        groups: Some([name("fast")].into()),
        set_taints: taints().to_vec(),
        remove_taints: vec![("gpu".into(), None), ("gpu".into(), Some(TaintEffect::NoSchedule))],
        overcommit: Some(Overcommit { cpu_percent: Percent(300), memory_percent: Percent(110) }),
    };
    let hear = |liveness| Body::SetLiveness { host, liveness };
    let facts = HostFacts {
        uid: host,
        name: name("h1"),
        address: "10.0.0.1:7443".into(),
        boot: BootId("4c4d7e2a-boot".into()),
    };
    vec![
        Body::Bootstrap { cluster: cluster_id(), version: 1 },
        Body::CreateVm {
            uid: vm,
            project: name("default"),
            name: name("web-1"),
            labels: map("tier", "web"),
            annotations: map("note", "a b"),
            spec: Box::new(spec()),
        },
        set_run(RunStrategy::Always),
        set_run(RunStrategy::Halted),
        set_run(RunStrategy::RerunOnFailure),
        set_run(RunStrategy::Manual),
        set_run(RunStrategy::Once),
        Body::StartVm { vm, expect },
        Body::StopVm { vm, force: true, expect },
        Body::ResetVm { vm, expect },
        Body::PauseVm { vm, expect },
        Body::ResumeVm { vm, expect },
        Body::RestartVm { vm, force: false, expect: Expect::default() },
        Body::DeleteVm { vm, expect },
        Body::CreateImage {
            uid: image_uid(1),
            name: name("tiny"),
            labels: map("os", "linux"),
            spec: ImageSpec { sha256: digest(1), virtual_size: IMAGE_SIZE },
        },
        Body::DeleteImage { name: name("tiny") },
        Body::ReportHost { facts: facts.clone(), report: Box::new(report()) },
        Body::ReportHost { facts, report: Box::default() },
        hear(Liveness::Alive),
        hear(Liveness::Suspect),
        hear(Liveness::Lost),
        Body::Assign { vm, generation: Generation(2), host, resources: resources() },
        Body::NoteUnplaced { vm, hosts: 2, refusals: vec![(name("h1"), "is cordoned".into())] },
        Body::SetLabels { vm, set: map("app", "web"), remove: vec!["tier".into()], expect },
        Body::NoteHoldings { host, holdings: vec![holding()] },
        Body::AdoptOrphan { host, vm, expect },
        Body::RemoveOrphan { host, vm, expect },
        Body::SetSpec { vm, spec: Box::new(standard), expect },
        Body::SetSpec { vm, spec: Box::new(density), expect },
        Body::UpdateHost { host, patch: Box::new(patch), expect },
        Body::UpdateHost { host, patch: Box::default(), expect },
        Body::ConfirmDead { host, expect },
        Body::RemoveHost { host, never_returns: true, expect },
        Body::NoteProposals { moves: vec![ProposedMove { vm, from: host, to: host_uid(2), why: "x".into() }] },
        Body::CreateInstanceType { uid: vm_uid(7).0, name: name("big"), spec: BUILT_IN[0].1 },
        Body::DeleteInstanceType { name: name("big") },
        Body::CreatePreference { uid: vm_uid(8).0, name: name("db"), spec: preference() },
        Body::DeletePreference { name: name("db") },
    ]
}

fn every_actor() -> [Actor; 3] {
    [ActorRole::Controller, ActorRole::Host, ActorRole::Operator].map(|role| Actor { role, name: "ada".into() })
}

fn request_id() -> RequestId {
    RequestId::from_parts(NOW, 0x0123_4567_89ab_cdef)
}

fn every_rejection() -> Vec<Rejection> {
    let text = || String::from("x");
    let node = NodeId(1);
    let shortages = [
        Shortage::NoSuchThread(ThreadId(300)),
        Shortage::ThreadTaken { thread: ThreadId(3), by: vm_uid(2) },
        Shortage::Pages { node, page: PageSize::Huge2M, wanted: 300, free: 2 },
        Shortage::Ordinary { wanted: Bytes::gib(2), free: Bytes(0) },
        Shortage::Shared { wanted: 4300, capacity: 4000 },
        Shortage::NoSuchDevice(address(3)),
        Shortage::DeviceTaken { device: address(3), by: vm_uid(2) },
    ];
    let mut rejections = vec![
        Rejection::AlreadyBootstrapped,
        Rejection::NotBootstrapped,
        Rejection::NeedsClusterVersion { command: text(), needs: 2, has: 1 },
        Rejection::NameTaken { kind: "VM".into(), name: text() },
        Rejection::NotFound { kind: "VM".into(), name: text() },
        Rejection::Changed { kind: "VM".into(), name: text(), expected: Revision(1), actual: Revision(2) },
        Rejection::Deleting { name: text() },
        Rejection::Halted { name: text() },
        Rejection::ImageInUse { name: name("tiny"), vm: text() },
        Rejection::RequestReused { id: request_id().to_string() },
        Rejection::RequestExpired { id: text(), horizon: NOW },
        Rejection::RequestFromFuture { id: text(), ahead_seconds: 700 },
        Rejection::PlanOutdated,
        Rejection::HostNotTaking { name: text(), why: "it is cordoned".into() },
        Rejection::HostNameTaken { name: name("h1"), held_by: host_uid(2) },
    ];
    rejections.extend(shortages.map(Rejection::DoesNotFit));
    rejections.push(Rejection::TooManyLabels { kind: "VM".into(), name: text(), count: 300, most: 64 });
    rejections.push(Rejection::NoOrphan { host: "h1".into(), vm: vm_uid(1) });
    rejections.push(Rejection::NothingHeld { host: "h1".into(), vm: vm_uid(1) });
    rejections.push(Rejection::OrphanIsVm { vm: vm_uid(1), name: text() });
    rejections.push(Rejection::Placed { name: text() });
    rejections.push(Rejection::HostHeardOf { name: text(), liveness: "Alive".into() });
    rejections.push(Rejection::HostInUse { name: text(), why: text() });
    rejections.push(Rejection::BuiltIn { kind: "preference".into(), name: text() });
    rejections.push(Rejection::TooMany { name: text(), what: "taints".into(), count: 300, most: 16 });
    rejections.push(Rejection::NotNow { name: text(), what: "paused".into(), why: "it does not run".into() });
    rejections
}

fn every_answer() -> Vec<Applied> {
    let outcomes = [Outcome::Done, Outcome::Vm(vm_uid(1)), Outcome::Image(image_uid(1)), Outcome::Host(host_uid(1))];
    let carried_out = outcomes.map(Ok).into_iter();
    let answer = |result| Applied { revision: Revision(300), result };
    carried_out.chain(every_rejection().into_iter().map(Err)).map(answer).collect()
}

/// A state with one rich object of each kind, put there by hand: not every field can be reached by commands yet.
fn rich_cluster() -> Cluster {
    let mut cluster = Cluster {
        info: Some(ClusterInfo { id: cluster_id(), incarnation: Incarnation(2), version: 1, created_at: NOW }),
        last_at: NOW,
        ..Cluster::default()
    };
    let changes = &mut Vec::new();
    let mut meta = testing::meta(vm_uid(1).0, "web-1");
    meta.labels = map("tier", "web");
    meta.annotations = map("note", "a b");
    meta.finalizers = vec!["example.org/hold".into()];
    meta.owners = vec![OwnerRef { kind: "Pool".into(), name: name("web"), uid: vm_uid(40).0 }];
    meta.deleted_at = Some(Timestamp::from_millis(NOW.as_millis() + 1));
    let assignment = Assignment { host: host_uid(1), epoch: Epoch(1), resources: resources(), at: NOW };
    let placed = Vm {
        meta,
        spec: spec(),
        restart_count: 3,
        power: Power { off: true, forced: false, paused: true, resume_count: 300, reset_count: 4 },
        assignment: Some(assignment),
        unplaced: None,
        observed: Some(rich_observed()),
    };
    let refusals = vec![(name("h1"), "is cordoned".into())];
    let unplaced = Some(Unplaced { since: NOW, hosts: 1, refusals });
    let waiting = Vm { unplaced, ..testing::vm(2, vm_spec(1, Bytes::mib(64))) };
    cluster.put_vm(changes, |_| placed);
    cluster.put_vm(changes, |_| waiting);
    let reported = report();
    let mut host = testing::host(1, reported.inventory.unwrap());
    host.spec = HostSpec {
        cordoned: true,
        zone: Some(name("a")),
        rack: Some(name("r1")),
        groups: [name("fast")].into(),
        taints: taints().into(),
        overcommit: Overcommit { cpu_percent: Percent(300), memory_percent: Percent(110) },
    };
    let stamp = Stamp { incarnation: Incarnation(1), epoch: Epoch(9) };
    host.evictions = vec![Eviction { vm: vm_uid(60), stamp, resources: resources(), with_disk: true }];
    host.awaited = Some(NOW);
    host.liveness = Liveness::Suspect;
    host.conditions = conditions();
    host.images.insert(digest(2), ImageOnHost::Refused { reason: "it has a backing file".into() });
    host.orphans = reported.orphans.unwrap();
    cluster.put_host(changes, host);
    cluster.put_image(changes, testing::image());
    cluster.put_preference(changes, Preference { meta: testing::meta(vm_uid(8).0, "db"), spec: preference() });
    let proposal = Proposal { vm: vm_uid(1), from: host_uid(1), to: host_uid(2), why: "spread".into(), since: NOW };
    cluster.put_proposals([Arc::new(proposal)].into_iter().collect());
    let spec = BUILT_IN[0].1;
    let meta = testing::meta("standard-2".parse().unwrap(), "standard-2");
    cluster.put_instance_type(changes, InstanceType { meta, spec });
    let [actor, ..] = every_actor();
    cluster.requests.remember(request_id(), actor, [7; 32], every_answer().remove(0), NOW);
    cluster.sum = cluster.summed();
    cluster.history = History::after(cluster.revision);
    cluster
}

/// The same with what version 2 of a snapshot has besides.
fn richer_cluster() -> Cluster {
    let mut cluster = rich_cluster();
    let digest = Digest([1, 2, 3, 4]);
    cluster.checkpoints.push_back(Checkpoint { number: 2, revision: Revision(2001), digest });
    cluster.put_holding(host_uid(1), holding());
    let kinds = [ObjectKind::Vm, ObjectKind::Host, ObjectKind::Image, ObjectKind::InstanceType, ObjectKind::Preference];
    let actors = every_actor();
    let mut number = 0;
    cluster.history = History::after(Revision(0));
    for (kind, actor) in kinds.into_iter().zip(actors.iter().cycle()) {
        number += 1;
        let undo = Undo { revision: Revision(3), layout: 1, front: 300, back: 4, middle: vec![1, 2, 3] };
        cluster.history.push(&history::Record {
            revision: Revision(number),
            at: NOW,
            actor: actor.clone(),
            request: (number == 1).then(request_id),
            command: "SetRun".into(),
            kind,
            project: name("default"),
            name: name("web-1"),
            uid: vm_uid(1).0,
            exists: number != 2,
            undo: (number != 3).then_some(undo),
        });
    }
    cluster
}

/// The records of a snapshot, one by one.
fn records(whole: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut rest = whole;
    let mut written = Vec::new();
    while !rest.is_empty() {
        let record = berth_frame::decode(rest).unwrap();
        let length = rest.len() - record.rest.len();
        written.push((format!("{:#06x}", record.header.kind), rest[..length].to_vec()));
        rest = record.rest;
    }
    written
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// Compares with a golden file of lines `name hex`. `UPDATE_GOLDEN=1` writes it anew, until the first release: from then on
/// a difference means that stored records would be read wrongly, and that a new version is needed (decision 0007).
fn assert_golden(file: &str, golden: &str, written: &[(String, Vec<u8>)]) {
    let lines: Vec<_> = written.iter().map(|(called, bytes)| format!("{called} {}", hex(bytes))).collect();
    let written = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/record/golden");
        std::fs::write(folder.join(file), written).unwrap();
        return;
    }
    let different = written.lines().zip(golden.lines()).find(|(written, golden)| written != golden);
    assert!(written == golden, "the encoding changed, first here: {different:?}\nwritten now:\n{written}");
}

fn golden(text: &str) -> impl Iterator<Item = (&str, Vec<u8>)> {
    text.lines().map(|line| line.split_once(' ').map(|(called, hex)| (called, bytes(hex))).unwrap())
}

const BATCHES: &str = include_str!("golden/v1-batches.hex");
const ANSWERS: &str = include_str!("golden/v1-answers.hex");
const SNAPSHOT: &str = include_str!("golden/v2-snapshot.hex");
const HISTORY_BLOCK: &str = include_str!("golden/v2-history-block.hex");
const DIGEST: &str = include_str!("golden/v1-digest.hex");

/// A batch for each command, by every actor in turn, every second one with a request.
fn every_batch() -> Vec<Batch> {
    let actors = every_actor();
    let batch = |(at, body): (usize, Body)| {
        let request = (at % 2 == 0).then_some((request_id(), [7; 32]));
        Batch { at: NOW, commands: vec![Command { request, actor: actors[at % 3].clone(), body }] }
    };
    every_body().into_iter().enumerate().map(batch).collect()
}

#[test]
fn log_entries_of_version_1_are_written_and_read_as_ever() {
    let batches = every_batch();
    let written: Vec<_> =
        batches.iter().map(|batch| (batch.commands[0].body.name().to_owned(), encode_batch(batch).unwrap())).collect();
    assert_golden("v1-batches.hex", BATCHES, &written);
    for (batch, (called, bytes)) in batches.iter().zip(golden(BATCHES)) {
        assert_eq!(&decode_batch(&bytes).unwrap(), batch, "{called}");
    }
}

#[test]
fn answers_of_version_1_are_written_and_read_as_ever() {
    let answers = every_answer();
    let called = |answer: &Applied| {
        let shown = match &answer.result {
            Ok(outcome) => format!("{outcome:?}"),
            Err(Rejection::DoesNotFit(shortage)) => format!("{shortage:?}"),
            Err(rejection) => format!("{rejection:?}"),
        };
        shown.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap().to_owned()
    };
    let written: Vec<_> =
        answers.iter().map(|answer| (called(answer), encode_answers(std::slice::from_ref(answer)).unwrap())).collect();
    assert_golden("v1-answers.hex", ANSWERS, &written);
    for (answer, (called, bytes)) in answers.iter().zip(golden(ANSWERS)) {
        assert_eq!(decode_answers(&bytes).unwrap(), std::slice::from_ref(answer), "{called}");
    }
}

#[test]
fn snapshots_of_version_2_are_written_and_read_as_ever() {
    let cluster = richer_cluster();
    let written = records(&encode_snapshot(&cluster).unwrap());
    assert_golden("v2-snapshot.hex", SNAPSHOT, &written);
    let kinds: std::collections::BTreeSet<_> = written.into_iter().map(|(called, _)| called).collect();
    assert_eq!(kinds.len(), 11, "every kind of record is in it but the sealed block: {kinds:?}");
    let stored: Vec<u8> = golden(SNAPSHOT).flat_map(|(_, bytes)| bytes).collect();
    assert!(decode_snapshot(&stored).unwrap() == cluster);
}

#[test]
fn a_sealed_block_of_the_history_is_read_as_ever() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let mut sealed = richer_cluster();
        sealed.history.seal();
        assert_golden("v2-history-block.hex", HISTORY_BLOCK, &records(&encode_snapshot(&sealed).unwrap()));
        return;
    }
    let stored: Vec<u8> = golden(HISTORY_BLOCK).flat_map(|(_, bytes)| bytes).collect();
    let read = decode_snapshot(&stored).unwrap();
    let mut known = richer_cluster();
    let (told, _) = history::list(&read, &history::Question::default(), 10).unwrap();
    let (expected, _) = history::list(&known, &history::Question::default(), 10).unwrap();
    assert_eq!((told.len(), &told), (5, &expected));
    // The compressor may change; what it compressed must not.
    known.history.seal();
    let again = decode_snapshot(&encode_snapshot(&known).unwrap()).unwrap();
    assert_eq!(history::list(&again, &history::Question::default(), 10).unwrap().0, expected);
    assert_eq!(again.history.bytes(), read.history.bytes());
}

#[test]
fn the_digest_is_taken_of_the_same_bytes_as_ever() {
    let digest = rich_cluster().digest().to_string();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/record/golden/v1-digest.hex");
        std::fs::write(file, format!("{digest}\n")).unwrap();
        return;
    }
    assert_eq!(digest, DIGEST.trim());
}

#[test]
fn a_record_of_an_unknown_kind_or_version_is_an_error_and_is_not_skipped() {
    let batch = encode_batch(&every_batch()[0]).unwrap();
    assert!(matches!(decode_answers(&batch), Err(RecordError::Frame(_))), "another kind");
    let body = &batch[HEADER_BYTES..];
    let newer = berth_frame::encode(kind::BATCH, 2, body).unwrap();
    assert!(matches!(decode_batch(&newer), Err(RecordError::Frame(_))), "a newer version");

    let records: Vec<_> = golden(SNAPSHOT).map(|(_, bytes)| bytes).collect();
    let with = |at: usize, record: Vec<u8>| {
        let mut records = records.clone();
        records[at] = record;
        decode_snapshot(&records.concat())
    };
    let unknown = berth_frame::encode(0x02f0, 1, b"").unwrap();
    let newer = berth_frame::encode(kind::SNAPSHOT_VM, 2, b"").unwrap();
    let old_head = berth_frame::encode(kind::SNAPSHOT_HEAD, 1, b"").unwrap();
    assert!(matches!(with(0, old_head), Err(RecordError::Unknown { kind: kind::SNAPSHOT_HEAD, version: 1 })));
    assert!(matches!(with(1, unknown), Err(RecordError::Unknown { kind: 0x02f0, version: 1 })));
    assert!(matches!(with(1, newer), Err(RecordError::Unknown { kind: kind::SNAPSHOT_VM, version: 2 })));
    let headless = records[1..].concat();
    assert!(matches!(decode_snapshot(&headless), Err(RecordError::Unknown { .. })));
}

#[test]
fn a_snapshot_that_lost_a_record_or_its_end_is_an_error() {
    let records: Vec<_> = golden(SNAPSHOT).map(|(_, bytes)| bytes).collect();
    for lost in 1..records.len() {
        let mut kept = records.clone();
        kept.remove(lost);
        assert!(matches!(decode_snapshot(&kept.concat()), Err(RecordError::Incomplete(_))), "record {lost}");
    }
    let mut more = records.concat();
    more.extend_from_slice(&records[1]);
    assert!(matches!(decode_snapshot(&more), Err(RecordError::Incomplete(_))));
    assert!(decode_snapshot(b"").is_err());
}

#[test]
fn a_variant_that_this_program_does_not_know_is_an_error() {
    let batch = encode_batch(&Batch { at: NOW, commands: Vec::new() }).unwrap();
    let mut body = batch[HEADER_BYTES..].to_vec();
    // One command, without request, of role 3, which is none.
    *body.last_mut().unwrap() = 1;
    body.extend([0, 3]);
    let unknown = berth_frame::encode(kind::BATCH, 1, &body).unwrap();
    assert!(matches!(decode_batch(&unknown), Err(RecordError::Frame(_))));
}

proptest! {
    #[test]
    fn a_flipped_bit_is_an_error_and_never_a_panic(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
        let records: Vec<_> = golden(BATCHES).chain(golden(ANSWERS)).map(|(_, bytes)| bytes).collect();
        let flipped = |mut bytes: Vec<u8>| {
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        };
        let record = flipped(records[which.index(records.len())].clone());
        prop_assert!(decode_batch(&record).is_err() && decode_answers(&record).is_err());
        for stored in [SNAPSHOT, HISTORY_BLOCK] {
            let snapshot = flipped(golden(stored).flat_map(|(_, bytes)| bytes).collect());
            prop_assert!(decode_snapshot(&snapshot).is_err());
        }
    }

    #[test]
    fn a_record_that_is_cut_short_is_an_error(record in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
        let records: Vec<_> = golden(BATCHES).map(|(_, bytes)| bytes).collect();
        let record = &records[record.index(records.len())];
        prop_assert!(decode_batch(&record[..at.index(record.len())]).is_err());
        let snapshot: Vec<u8> = golden(SNAPSHOT).flat_map(|(_, bytes)| bytes).collect();
        prop_assert!(decode_snapshot(&snapshot[..at.index(snapshot.len())]).is_err());
    }

    #[test]
    fn whatever_a_body_holds_reading_it_never_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let framed = |kind| berth_frame::encode(kind, 1, &body).unwrap();
        let _ = decode_batch(&framed(kind::BATCH));
        let _ = decode_answers(&framed(kind::ANSWERS));
        let head = golden(SNAPSHOT).next().unwrap().1;
        for kind in kind::SNAPSHOT_VM..=kind::SNAPSHOT_PROPOSAL {
            let _ = decode_snapshot(&[head.clone(), framed(kind)].concat());
        }
    }
}

#[test]
fn a_restored_state_shares_nothing_that_a_later_change_could_reach() {
    let cluster = rich_cluster();
    let restored = decode_snapshot(&encode_snapshot(&cluster).unwrap()).unwrap();
    let (held, again) = (&cluster.vms[&vm_uid(1)], &restored.vms[&vm_uid(1)]);
    assert!(held == again && !Arc::ptr_eq(held, again));
}
