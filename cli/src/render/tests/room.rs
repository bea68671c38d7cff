//! What people see of room, of preferences and of hosts' marks.

use berth_proto::v1;
use insta::assert_snapshot;

use super::{meta, one_host, running, style};
use crate::render::{host, preference, room, vm};
use crate::view::room::{CapacityView, ExplanationView, HostRoomView, ProposalView, SurvivalView};
use crate::view::{HostView, PreferenceView, VmView};

fn verdict(name: &str, score: [(&str, i64); 3]) -> v1::HostVerdict {
    let score = score.map(|(name, value)| v1::ScoreField { name: name.into(), value });
    v1::HostVerdict { host: name.into(), fits: true, score: score.into(), ..v1::HostVerdict::default() }
}

fn refusal(name: &str, rule: &str, why: &str) -> v1::HostVerdict {
    v1::HostVerdict { host: name.into(), rule: rule.into(), why: why.into(), ..v1::HostVerdict::default() }
}

#[test]
fn a_vm_that_waits_is_explained_with_each_host_and_the_smallest_change() {
    let wire = v1::Explanation {
        looked_at: 3,
        hosts: vec![
            refusal("h1", "Threads", "needs 4 free CPU threads, has 2 of 8"),
            refusal("h2", "Cordoned", "is cordoned"),
        ],
        smallest_change: vec![v1::FieldChange { field: "cpus".into(), advice: "ask for 2 CPUs".into() }],
        ..v1::Explanation::default()
    };
    let view = ExplanationView::new("web-1".into(), String::new(), wire, 9);
    assert_snapshot!(room::explanation(&view, style()), @r"
    none of 3 hosts can take web-1
    the smallest change with which one could: ask for 2 CPUs

    Hosts that cannot
      HOST  RULE      WHY NOT
      h1    Threads   needs 4 free CPU threads, has 2 of 8
      h2    Cordoned  is cordoned
      and 1 more hosts
    ");
}

#[test]
fn hosts_that_fit_are_shown_with_what_tells_them_apart() {
    let wire = v1::Explanation {
        looked_at: 2,
        chosen: "h2".into(),
        hosts: vec![
            verdict("h2", [("taints", 0), ("nodes", 1), ("vms_on_host", 1)]),
            verdict("h1", [("taints", 0), ("nodes", 1), ("vms_on_host", 4)]),
        ],
        ..v1::Explanation::default()
    };
    let view = ExplanationView::new("web-1".into(), "h1".into(), wire, 9);
    assert_snapshot!(room::explanation(&view, style()), @r"
    web-1 has its berth on h1; placed anew, it would be on h2

    Hosts that can take it, the best first
      HOST  LESS IS BETTER, THE FIRST THAT DIFFERS DECIDES
      h2    vms_on_host 1
      h1    vms_on_host 4
    ");
}

#[test]
fn capacity_says_how_many_more_or_why_not_one() {
    let hosts = vec![v1::HostRoom { host: "h1".into(), count: 3 }, v1::HostRoom { host: "h2".into(), count: 1 }];
    let wire = v1::GetCapacityResponse { count: 4, hosts, ..v1::GetCapacityResponse::default() };
    assert_snapshot!(room::capacity(&CapacityView::from(wire), style()), @r"
    4 more fit, on 2 hosts
      HOST  MORE
      h1    3
      h2    1
    ");
    let refusals = vec![v1::HostRefusal { host: "h1".into(), why: "is cordoned".into() }];
    let wire = v1::GetCapacityResponse { refusals, ..v1::GetCapacityResponse::default() };
    assert_snapshot!(room::capacity(&CapacityView::from(wire), style()), @r"
    not one more fits
      HOST  WHY NOT
      h1    is cordoned
    ");
}

#[test]
fn the_loss_of_a_host_names_what_would_be_stranded() {
    let loss = |host: &str, stranded, first: &[&str]| v1::HostLoss {
        host: host.into(),
        vms: 5,
        stranded,
        first: first.iter().map(|name| v1::Stranded { project: "default".into(), name: (*name).into() }).collect(),
    };
    let hosts = vec![loss("h2", 2, &["db-1", "db-2"]), loss("h1", 0, &[])];
    let wire = v1::GetSurvivalResponse { survives: false, hosts, revision: 3 };
    assert_snapshot!(room::survival(&SurvivalView::from(wire), style()), @r"
    the loss of 1 of 2 hosts would strand VMs
      HOST LOST  VMS  STRANDED  SUCH AS
      h2         5    2         default/db-1, default/db-2
      h1         5    0
    ");
}

#[test]
fn proposals_say_from_where_to_where_and_why() {
    let wire = v1::Proposal {
        vm: "u".into(),
        project: "default".into(),
        name: "web-1".into(),
        from: "h1".into(),
        to: "h2".into(),
        why: "h1 carries 8 VMs, h2 none".into(),
        since_ms: super::NOW - 60_000,
    };
    assert_snapshot!(room::proposals(&[ProposalView::from(wire)], style()), @r"
    VM             FROM  TO  SINCE  WHY
    default/web-1  h1    h2  60s    h1 carries 8 VMs, h2 none
    ");
}

fn thread(number: u32, core: u32, node: u32, role: v1::ThreadRole, called: &str) -> v1::ThreadRoom {
    let called = called.to_owned();
    v1::ThreadRoom { thread: number, core, cache: node, node, socket: node, role: role.into(), called }
}

fn one_room() -> v1::HostRoomInDetail {
    use v1::ThreadRole::{Dedicated, Held, Idle, Reserved, Unspecified, Vcpu};
    let pages = |booked| {
        let small = v1::PageRoom { page: v1::PageSize::PageSize4k.into(), total: 2_097_152, booked: 0 };
        vec![small, v1::PageRoom { page: v1::PageSize::PageSize2m.into(), total: 512, booked }]
    };
    let node = |node, threads_reserved, threads_booked, threads_on_free_cores, booked| v1::NodeRoom {
        node,
        threads_total: 6,
        threads_reserved,
        threads_booked,
        threads_on_free_cores,
        pages: pages(booked),
    };
    v1::HostRoomInDetail {
        host: "h1".into(),
        takes: true,
        vms: 2,
        nodes: vec![node(0, 2, 4, 0, 128), node(1, 0, 2, 4, 0)],
        threads: vec![
            thread(0, 0, 0, Reserved, ""),
            thread(1, 1, 0, Vcpu, "default/web-1"),
            thread(2, 2, 0, Dedicated, "default/web-1"),
            thread(3, 3, 1, Vcpu, "default/db-1"),
            thread(4, 4, 1, Unspecified, ""),
            thread(5, 5, 1, Unspecified, ""),
            thread(6, 0, 0, Reserved, ""),
            thread(7, 1, 0, Vcpu, "default/web-1"),
            thread(8, 2, 0, Idle, "default/web-1"),
            thread(9, 3, 1, Held, ""),
            thread(10, 4, 1, Unspecified, ""),
            thread(11, 5, 1, Unspecified, ""),
        ],
        shared_cpu_booked: 1500,
        shared_cpu_total: 4000,
        ordinary_bytes_total: 16 << 30,
        ordinary_bytes_booked: 1 << 30,
        devices_total: 2,
        devices_booked: 1,
        scattered_percent: 0,
        ..v1::HostRoomInDetail::default()
    }
}

#[test]
fn the_room_of_a_host_is_a_picture_of_its_nodes_and_threads() {
    assert_snapshot!(room::host(&HostRoomView::from(one_room())), @r"
    Host:           h1
    Takes new VMs:  yes
    VMs:            2
    Shared CPU:     1.5 of 4.0 threads promised to VMs whose CPUs float
    Memory:         1GiB booked of 16GiB
    PCI devices:    1 booked of 2
    Scattered:      0 % of the free threads are not on the node that has most of them

    node 0: 0 threads free, 0 of them on free cores; 4 booked, 2 reserved
      4KiB pages  [....................] 2097152 free of 2097152
      2MiB pages  [#####...............] 384 free of 512
      cache 0   from thread 0    [##] [aa] [a-]

    node 1: 4 threads free, 4 of them on free cores; 2 booked, 0 reserved
      4KiB pages  [....................] 2097152 free of 2097152
      2MiB pages  [....................] 512 free of 512
      cache 1   from thread 3    [b?] [..] [..]

    a core each [], a thread each letter: . free, # reserved for the host, - idle beside its VM, ? held by what the cluster did not place
      a default/web-1
      b default/db-1
    ");
}

#[test]
fn the_room_of_all_hosts_is_a_line_each() {
    let closed = v1::HostRoomInDetail {
        host: "h2".into(),
        takes: false,
        why_not: "it is cordoned".into(),
        ..v1::HostRoomInDetail::default()
    };
    let rooms = [HostRoomView::from(one_room()), HostRoomView::from(closed)];
    assert_snapshot!(room::hosts(&rooms, style()), @r"
    NAME  VMS  THREADS FREE  SHARED CPU  HUGEPAGES FREE    MEMORY FREE  SCATTERED  TAKES
    h1    2    4/12          1.5 of 4.0  896/1024 of 2MiB  15.0GiB      0 %        yes
    h2    0    0/0           0.0 of 0.0  -                 0B           0 %        it is cordoned
    ");
}

#[test]
fn a_preference_is_listed_with_its_wishes() {
    let tuning = v1::Tuning {
        pages: v1::PageSize::PageSize1g.into(),
        smt: v1::SmtPolicy::Isolate.into(),
        dedicated_emulator: Some(true),
        ..v1::Tuning::default()
    };
    let wire = v1::Preference { meta: Some(meta("fast", "p")), tuning: Some(tuning), built_in: false };
    assert_snapshot!(preference::list(&[PreferenceView::from(wire)], style()), @r"
    NAME  BUILT IN  WISHES
    fast  no        pages 1GiB, smt isolate, dedicated emulator yes
    ");
}

#[test]
fn a_change_of_a_host_is_answered_with_all_of_its_marks() {
    let taint = v1::Taint { key: "gpu".into(), value: "a100".into(), effect: v1::TaintEffect::NoSchedule.into() };
    let mut wire = v1::Host {
        cordoned: true,
        zone: "a".into(),
        groups: vec!["prod".into()],
        taints: vec![taint],
        overcommit: Some(v1::Overcommit { cpu_percent: 400, memory_percent: 125 }),
        ..one_host()
    };
    wire.meta.as_mut().unwrap().labels.insert("gpu".into(), "a100".into());
    let line = host::changed(&HostView::from(wire));
    assert_snapshot!(line, @"h1: takes no new VMs (cordoned); zone a; groups prod; taints gpu=a100:NoSchedule; labels gpu=a100; CPU 400 %, memory 125 %");
}

#[test]
fn a_host_that_was_said_to_be_dead_shows_what_it_may_still_run() {
    let eviction = v1::Eviction {
        vm: "u".into(),
        called: "default/web-1".into(),
        incarnation: 1,
        epoch: 40,
        threads: "2-3".into(),
        with_disk: false,
    };
    let text = host::show(&HostView::from(v1::Host { evictions: vec![eviction], ..one_host() }), style());
    let shown = text.split("\nEnded").nth(1).unwrap().split("\n\n").next().unwrap();
    assert_snapshot!(shown, @r"
     without its word: it may still run these until it is heard of; what they hold is given to nobody
      VM             UID  EPOCH  THREADS
      default/web-1  u    40     2-3
    ");
}

#[test]
fn a_vm_shows_its_rules_and_a_floating_one_what_is_booked() {
    let mut wire = running();
    let spec = wire.spec.as_mut().unwrap();
    spec.performance = v1::Performance::Density.into();
    spec.devices = vec![v1::DeviceDemand { kind: "10de:2204".into(), count: 2 }];
    spec.rules = Some(v1::Rules { host_group: "prod".into(), priority: 5, ..v1::Rules::default() });
    let held = wire.assignment.as_mut().unwrap();
    (held.vcpus, held.shared_cpu) = (vec![], 500);
    held.devices = vec!["0000:3b:00.0".into()];
    let text = vm::show(&VmView::from(wire), style());
    for line in [
        "Performance:   density (over-subscribed; burstable)",
        "Device:        2 of 10de:2204",
        "Rule:          on hosts of the group prod",
        "Rule:          priority 5",
        "vCPUs:     float over the threads that no VM has for itself; 0.500 booked of them",
        "Device:    0000:3b:00.0; exclusive",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
