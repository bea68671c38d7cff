//! What people see: goldens of every view, made from answers of the wire.

use std::collections::BTreeMap;

use berth_model::Timestamp;
use berth_proto::v1;
use insta::assert_snapshot;

use super::{Style, cluster, host, image, instancetype, output, vm};

mod room;
use crate::args::Output;
use crate::view::cluster::MemberView;
use crate::view::{ClusterView, HostView, ImageView, InstanceTypeView, ListView, VmView};

const NOW: u64 = 1_795_252_662_000;
const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn style() -> Style {
    Style { colour: false, now: Timestamp::from_millis(NOW) }
}

fn meta(name: &str, uid: &str) -> v1::Meta {
    v1::Meta {
        project: "default".into(),
        name: name.into(),
        uid: uid.into(),
        generation: 1,
        created_at_ms: NOW - 180_000,
        revision: 42,
        ..v1::Meta::default()
    }
}

fn condition(kind: &str, holds: bool, reason: &str, message: &str) -> v1::Condition {
    let status = if holds { v1::ConditionStatus::True } else { v1::ConditionStatus::False };
    v1::Condition {
        kind: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        since_ms: NOW - 60_000,
    }
}

fn spec() -> v1::VmSpec {
    v1::VmSpec {
        cpus: Some(2),
        memory_bytes: Some(256 << 20),
        performance: v1::Performance::High.into(),
        image: "tiny".into(),
        disk_size_bytes: Some(64 << 20),
        run_strategy: v1::RunStrategy::Always.into(),
        grace_ms: Some(30_000),
        image_sha256: DIGEST.into(),
        image_virtual_size_bytes: 64 << 20,
        ..v1::VmSpec::default()
    }
}

fn running() -> v1::Vm {
    let mut meta = meta("web-1", "0a1b2c3d4e5f6g7h8j9k");
    meta.labels = BTreeMap::from([("app".into(), "web".into()), ("tier".into(), "front".into())]);
    v1::Vm {
        meta: Some(meta),
        spec: Some(spec()),
        restart_count: 1,
        assignment: Some(v1::Assignment {
            host: "h0st00000000000000uid".into(),
            epoch: 40,
            vcpus: vec![2, 3],
            emulator: "0-1".into(),
            iothread: "0-1".into(),
            memory: vec![v1::NodePages { node: 0, page: v1::PageSize::PageSize2m.into(), count: 128 }],
            overhead_bytes: 112 << 20,
            at_ms: NOW - 170_000,
            ..v1::Assignment::default()
        }),
        unplaced: None,
        observed: Some(v1::Observed {
            epoch: 40,
            state: v1::DomainState::Running.into(),
            accelerator: Some(v1::Accelerator::Tcg.into()),
            restart_count: 1,
            degraded: vec!["libvirt 9.0 has no virtqueue mapping; one IOThread serves all queues".into()],
            since_ms: NOW - 60_000,
            ..v1::Observed::default()
        }),
        status: Some(v1::VmStatus {
            phase: v1::VmPhase::Running.into(),
            host: "h0st00000000000000uid".into(),
            host_name: "h1".into(),
            conditions: vec![
                condition(
                    "Accelerated",
                    false,
                    "Tcg",
                    "runs under software emulation (TCG), many times slower than KVM",
                ),
                condition("Placed", true, "Assigned", ""),
                condition("Ready", true, "Running", ""),
            ],
            accelerator: Some(v1::Accelerator::Tcg.into()),
            ..v1::VmStatus::default()
        }),
        power: None,
    }
}

fn pending() -> v1::Vm {
    let message = "none of 2 hosts can take it: h1 has 1 free thread, 2 are needed; h2 is cordoned";
    v1::Vm {
        meta: Some(meta("web-2", "1a1b2c3d4e5f6g7h8j9k")),
        spec: Some(spec()),
        unplaced: Some(v1::Unplaced {
            since_ms: NOW - 30_000,
            hosts: 3,
            refusals: vec![
                v1::HostRefusal { host: "h1".into(), why: "has 1 free thread, 2 are needed".into() },
                v1::HostRefusal { host: "h2".into(), why: "is cordoned".into() },
            ],
        }),
        status: Some(v1::VmStatus {
            phase: v1::VmPhase::Pending.into(),
            message: message.into(),
            conditions: vec![condition("Placed", false, "NoHostFits", message)],
            ..v1::VmStatus::default()
        }),
        ..v1::Vm::default()
    }
}

fn one_host() -> v1::Host {
    let thread = |id, core| v1::Thread { id, core, socket: 0, node: 0, cache: 0 };
    v1::Host {
        meta: Some(meta("h1", "h0st00000000000000uid")),
        address: "10.88.0.21:7443".into(),
        boot: "b00t".into(),
        liveness: v1::Liveness::Alive.into(),
        liveness_since_ms: NOW - 90_000,
        inventory: Some(v1::Inventory {
            topology: Some(v1::Topology {
                threads: vec![thread(0, 0), thread(1, 1), thread(2, 2), thread(3, 3), thread(4, 0), thread(5, 1)],
            }),
            reserve: "0,4".into(),
            accelerator: Some(v1::AcceleratorReport {
                accelerator: v1::Accelerator::Tcg.into(),
                failed_step: Some("movaps".into()),
                detail: Some("the kernel gave up with an internal error".into()),
            }),
            versions: vec!["libvirt 11.3.0".into(), "QEMU 10.0.2".into()],
            overlap: true,
            ..v1::Inventory::default()
        }),
        conditions: vec![condition("Ready", true, "Reporting", "")],
        images: BTreeMap::from([
            (
                DIGEST.into(),
                v1::ImageOnHost { found: Some(v1::image_on_host::Found::VerifiedVirtualSizeBytes(64 << 20)) },
            ),
            (
                DIGEST.replace("00", "ff"),
                v1::ImageOnHost { found: Some(v1::image_on_host::Found::Refused("it has a backing file".into())) },
            ),
        ]),
        orphans: vec![v1::Orphan { vm: "zzz".into(), called: "default/lost".into(), running: true }],
        holdings: Vec::new(),
        r#use: Some(v1::HostUse {
            booked: vec![
                v1::BookedThread { thread: 2, vm: "x".into(), called: "default/web-1".into(), vcpu: 0, role: 1 },
                v1::BookedThread { thread: 3, vm: "x".into(), called: "default/web-1".into(), vcpu: 1, role: 1 },
            ],
            hugepages: vec![v1::HugepageUse {
                node: 0,
                page: v1::PageSize::PageSize2m.into(),
                total: 512,
                booked: 128,
            }],
            ordinary_bytes_total: 1 << 30,
            ordinary_bytes_booked: 112 << 20,
            vms: 1,
            ..v1::HostUse::default()
        }),
        ..v1::Host::default()
    }
}

#[test]
fn vms_are_listed_with_what_hinders_them() {
    let vms = [running().into(), pending().into()];
    assert_snapshot!(vm::list(&vms, false, style()), @r"
    NAME   PHASE    HOST  CPUS  MEMORY  IMAGE  AGE  MESSAGE
    web-1  Running  h1    2     256MiB  tiny   3m
    web-2  Pending  -     2     256MiB  tiny   3m   none of 2 hosts can take it: h1 has 1 free thread, 2 are needed; h2 is cordoned
    ");
    assert_snapshot!(vm::list(&vms, true, style()).lines().next().unwrap(), @"PROJECT  NAME   PHASE    HOST  CPUS  MEMORY  IMAGE  AGE  MESSAGE");
    assert_eq!(vm::list(&[], false, style()), "");
}

#[test]
fn a_change_of_labels_is_answered_with_all_of_them() {
    let mut vm = running().into();
    assert_snapshot!(vm::labelled(&vm), @"web-1 has app=web, tier=front");
    vm.metadata.labels.clear();
    assert_snapshot!(vm::labelled(&vm), @"web-1 has no labels");
}

#[test]
fn a_running_vm_shows_its_threads_and_pages() {
    assert_snapshot!(vm::show(&running().into(), style()), @r"
    Name:      web-1
    Project:   default
    Uid:       0a1b2c3d4e5f6g7h8j9k
    Phase:     Running
    Host:      h1
    Created:   2026-11-21T09:14:42.000Z (3m ago)
    Labels:    app=web, tier=front
    Revision:  42 (spec generation 1)

    Spec
      CPUs:          2
      Memory:        256MiB
      Performance:   high (CPU threads of its own; guaranteed)
      Image:         tiny (sha256 001122334455, 64MiB)
      Disk:          64MiB
      Run strategy:  Always
      Grace:         30 s
      User data:     none

    Placement
      Host:      h1 (uid h0st00000000000000uid), epoch 40
      Since:     2026-11-21T09:14:52.000Z (2m ago)
      vCPUs:     0 on thread 2, 1 on thread 3; exclusive
      Emulator:  threads 0-1; shared
      IOThread:  threads 0-1; shared
      Memory:    128 pages of 2MiB on node 0; exclusive
      Overhead:  112MiB of ordinary memory

    Seen by the host
      Domain:       Running
      Since:        2026-11-21T09:16:42.000Z (60s ago)
      Accelerator:  TCG (slow: the host's KVM is not usable)
      Epoch:        40
      Runs:         1 of 1 more asked for
      Degraded:     libvirt 9.0 has no virtqueue mapping; one IOThread serves all queues

    Conditions
      TYPE         STATUS  REASON    SINCE  MESSAGE
      Accelerated  False   Tcg       60s    runs under software emulation (TCG), many times slower than KVM
      Placed       True    Assigned  60s
      Ready        True    Running   60s
    ");
}

#[test]
fn a_pending_vm_shows_why_each_host_refused() {
    assert_snapshot!(vm::show(&pending().into(), style()), @r"
    Name:      web-2
    Project:   default
    Uid:       1a1b2c3d4e5f6g7h8j9k
    Phase:     Pending
    Message:   none of 2 hosts can take it: h1 has 1 free thread, 2 are needed; h2 is cordoned
    Created:   2026-11-21T09:14:42.000Z (3m ago)
    Revision:  42 (spec generation 1)

    Spec
      CPUs:          2
      Memory:        256MiB
      Performance:   high (CPU threads of its own; guaranteed)
      Image:         tiny (sha256 001122334455, 64MiB)
      Disk:          64MiB
      Run strategy:  Always
      Grace:         30 s
      User data:     none

    Not placed: none of 3 hosts fits, since 2026-11-21T09:17:12.000Z (30s ago)
      HOST  WHY NOT
      h1    has 1 free thread, 2 are needed
      h2    is cordoned
      and 1 more

    Conditions
      TYPE    STATUS  REASON      SINCE  MESSAGE
      Placed  False   NoHostFits  60s    none of 2 hosts can take it: h1 has 1 free thread, 2 are needed; h2 is cordoned
    ");
}

#[test]
fn hosts_are_listed_with_what_is_free() {
    assert_snapshot!(host::list(&[one_host().into()], style()), @r"
    NAME  LIVENESS  VMS  THREADS FREE  HUGEPAGES FREE   ACCELERATOR  ADDRESS
    h1    Alive     1    2/6           384/512 of 2MiB  TCG          10.88.0.21:7443
    ");
}

#[test]
fn a_host_shows_its_threads_as_a_picture_and_why_kvm_is_not_used() {
    assert_snapshot!(host::show(&one_host().into(), style()), @r"
    Name:         h1
    Uid:          h0st00000000000000uid
    Liveness:     Alive since 2026-11-21T09:16:12.000Z (90s ago)
    Address:      10.88.0.21:7443
    Accelerator:  KVM: not usable (step movaps failed: the kernel gave up with an internal error); VMs run under TCG (slow)
    Versions:     libvirt 11.3.0, QEMU 10.0.2
    VMs:          1
    Cordoned:     no
    Shared:       its threads belong to other hosts on the same machine too (a lab)

    Threads: 6, of which 2 reserved for the host, 2 booked, 2 free
      node 0, socket 0
        core 0   [0 reserved            ] [4 reserved            ]
        core 1   [1 free                ] [5 free                ]
        core 2   [2 default/web-1 vCPU 0]
        core 3   [3 default/web-1 vCPU 1]

    Memory
      Hugepages:  128 booked of 512, 2MiB each, on node 0
      Ordinary:   112MiB booked of 1GiB

    Images
      SHA256        SIZE   STATE
      001122334455  64MiB  verified
      ff1122334455  -      refused: it has a backing file

    Orphans: marked as ours, not known to the cluster, left as they are
      VM            UID  STATE
      default/lost  zzz  running

    Conditions
      TYPE   STATUS  REASON     SINCE  MESSAGE
      Ready  True    Reporting  60s
    ");
}

#[test]
fn a_cluster_shows_its_members_even_those_out_of_reach_and_what_needs_a_look() {
    let status = one_cluster();
    assert_snapshot!(cluster::status(&ClusterView::from(status.clone()), style()), @r"
    Cluster:   0abc (incarnation 1, version 1)
    Leader:    c2
    Revision:  57, as c1 knows
    Hosts:     1 alive of 2
    VMs:       1

    MEMBER  ROLE      DOMAIN  TERM  APPLIED  LAG                  STORE      REACHABLE  VERSION  ADDRESS          TROUBLE
    c1      Follower  rack-1  3     120      0                    6MiB       yes        0.1.0    10.88.0.11:7440
    c2      Leader    rack-1  3     120      0                    6MiB       yes        0.1.0    10.88.0.12:7440
    c3      Unknown   rack-1  -     -        -                    -          no         -        10.88.0.13:7440  connection refused
    c9      Learner   -       3     120      snapshot 40/130 MiB  6MiB/2GiB  yes        0.1.0    10.88.0.19:7440

    Warnings
      KIND          MEMBER  WHAT
      MemberSilent  c3      it has not answered for 12 s; one more loss stops the cluster
      EvenVoters    -       4 members vote
    ");
    let members: Vec<_> = status.members.into_iter().map(MemberView::from).collect();
    assert_snapshot!(cluster::members(&members, style()), @r"
    MEMBER  ID  ROLE      DOMAIN  LAG                  REACHABLE  ADDRESS          RAFT ADDRESS
    c1      1   Follower  rack-1  0                    yes        10.88.0.11:7440  10.88.0.11:7441
    c2      2   Leader    rack-1  0                    yes        10.88.0.12:7440  10.88.0.12:7441
    c3      3   Unknown   rack-1  -                    no         10.88.0.13:7440  10.88.0.13:7441
    c9      9   Learner   -       snapshot 40/130 MiB  yes        10.88.0.19:7440  10.88.0.19:7441
    ");
}

fn one_cluster() -> v1::ClusterStatus {
    let member = |id: u64, role: v1::MemberRole, reachable: bool| v1::Member {
        id,
        name: format!("c{id}"),
        api_address: format!("10.88.0.1{id}:7440"),
        raft_address: format!("10.88.0.1{id}:7441"),
        role: role.into(),
        voter: role != v1::MemberRole::Learner,
        domain: "rack-1".into(),
        term: 3,
        committed: 120,
        applied: 120,
        lag: reachable.then_some(0),
        store_bytes: reachable.then_some((5 << 20) + 1),
        reachable,
        version: if reachable { "0.1.0".into() } else { String::new() },
        ..v1::Member::default()
    };
    let learner = v1::Member {
        domain: String::new(),
        snapshot: Some(v1::SnapshotProgress { sent_bytes: 40 << 20, total_bytes: 130 << 20 }),
        store_limit_bytes: Some(2 << 30),
        ..member(9, v1::MemberRole::Learner, true)
    };
    v1::ClusterStatus {
        cluster: "0abc".into(),
        incarnation: 1,
        revision: 57,
        cluster_version: 1,
        leader: "c2".into(),
        answered_by: "c1".into(),
        members: vec![
            member(1, v1::MemberRole::Follower, true),
            member(2, v1::MemberRole::Leader, true),
            v1::Member { trouble: "connection refused".into(), ..member(3, v1::MemberRole::Unspecified, false) },
            learner,
        ],
        hosts: 2,
        hosts_alive: 1,
        vms: 1,
        warnings: vec![
            v1::Warning {
                kind: "MemberSilent".into(),
                member: "c3".into(),
                message: "it has not answered for 12 s; one more loss stops the cluster".into(),
            },
            v1::Warning { kind: "EvenVoters".into(), member: String::new(), message: "4 members vote".into() },
        ],
    }
}

fn one_image() -> v1::Image {
    let copy =
        |host: &str, found| v1::ImageCopy { host: host.into(), found: Some(v1::ImageOnHost { found: Some(found) }) };
    v1::Image {
        meta: Some(meta("tiny", "1mage")),
        spec: Some(v1::ImageSpec { sha256: DIGEST.into(), virtual_size_bytes: 64 << 20 }),
        copies: vec![
            copy("h1", v1::image_on_host::Found::VerifiedVirtualSizeBytes(64 << 20)),
            copy("h2", v1::image_on_host::Found::Refused("its digest is another".into())),
        ],
    }
}

#[test]
fn images_and_instance_types_are_listed() {
    assert_snapshot!(image::list(&[ImageView::from(one_image())], style()), @r"
    NAME  SIZE   SHA256        HOSTS             AGE
    tiny  64MiB  001122334455  h1, h2 (refused)  3m
    ");
    assert_snapshot!(image::show(&ImageView::from(one_image()), style()), @r"
    Name:      tiny
    Uid:       1mage
    Sha256:    00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
    Size:      64MiB
    Created:   2026-11-21T09:14:42.000Z (3m ago)
    Revision:  42

    Copies
      HOST  STATE
      h1    verified
      h2    refused: its digest is another
    ");
    let size = v1::InstanceType { meta: Some(meta("standard-2", "t")), cpus: 2, memory_bytes: 8 << 30, built_in: true };
    assert_snapshot!(instancetype::list(&[InstanceTypeView::from(size)], style()), @r"
    NAME        CPUS  MEMORY  BUILT IN
    standard-2  2     8GiB    yes
    ");
}

#[test]
fn json_and_yaml_hold_the_same_in_the_words_of_a_manifest() {
    let vm = VmView::from(running());
    assert_snapshot!(output(Output::Json, &vm, String::new).unwrap(), @r#"
    {
      "apiVersion": "berth/v1",
      "kind": "VirtualMachine",
      "metadata": {
        "name": "web-1",
        "project": "default",
        "uid": "0a1b2c3d4e5f6g7h8j9k",
        "labels": {
          "app": "web",
          "tier": "front"
        },
        "generation": 1,
        "revision": 42,
        "createdAt": "2026-11-21T09:14:42.000Z"
      },
      "spec": {
        "cpus": 2,
        "memory": "256MiB",
        "performance": "high",
        "image": "tiny",
        "diskSize": "64MiB",
        "runStrategy": "Always",
        "graceSeconds": 30
      },
      "status": {
        "phase": "Running",
        "host": "h1",
        "accelerator": "TCG",
        "imageSha256": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        "imageVirtualSize": "64MiB",
        "hasUserData": false,
        "restartCount": 1,
        "placement": {
          "hostUid": "h0st00000000000000uid",
          "epoch": 40,
          "vcpus": [
            2,
            3
          ],
          "emulator": "0-1",
          "iothread": "0-1",
          "sharedCpu": 0,
          "memory": [
            {
              "node": 0,
              "pageSize": "2MiB",
              "count": 128
            }
          ],
          "overhead": "112MiB",
          "at": "2026-11-21T09:14:52.000Z"
        },
        "observed": {
          "state": "Running",
          "accelerator": "TCG",
          "epoch": 40,
          "restartCount": 1,
          "failures": 0,
          "degraded": [
            "libvirt 9.0 has no virtqueue mapping; one IOThread serves all queues"
          ],
          "since": "2026-11-21T09:16:42.000Z"
        },
        "conditions": [
          {
            "type": "Accelerated",
            "status": "False",
            "reason": "Tcg",
            "message": "runs under software emulation (TCG), many times slower than KVM",
            "since": "2026-11-21T09:16:42.000Z"
          },
          {
            "type": "Placed",
            "status": "True",
            "reason": "Assigned",
            "since": "2026-11-21T09:16:42.000Z"
          },
          {
            "type": "Ready",
            "status": "True",
            "reason": "Running",
            "since": "2026-11-21T09:16:42.000Z"
          }
        ]
      }
    }
    "#);
    assert_snapshot!(output(Output::Yaml, &vm, String::new).unwrap(), @r#"
    apiVersion: berth/v1
    kind: VirtualMachine
    metadata:
      name: web-1
      project: default
      uid: 0a1b2c3d4e5f6g7h8j9k
      labels:
        app: web
        tier: front
      generation: 1
      revision: 42
      createdAt: "2026-11-21T09:14:42.000Z"
    spec:
      cpus: 2
      memory: 256MiB
      performance: high
      image: tiny
      diskSize: 64MiB
      runStrategy: Always
      graceSeconds: 30
    status:
      phase: Running
      host: h1
      accelerator: TCG
      imageSha256: 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
      imageVirtualSize: 64MiB
      hasUserData: false
      restartCount: 1
      placement:
        hostUid: h0st00000000000000uid
        epoch: 40
        vcpus:
        - 2
        - 3
        emulator: 0-1
        iothread: 0-1
        sharedCpu: 0
        memory:
        - node: 0
          pageSize: 2MiB
          count: 128
        overhead: 112MiB
        at: "2026-11-21T09:14:52.000Z"
      observed:
        state: Running
        accelerator: TCG
        epoch: 40
        restartCount: 1
        failures: 0
        degraded:
        - libvirt 9.0 has no virtqueue mapping; one IOThread serves all queues
        since: "2026-11-21T09:16:42.000Z"
      conditions:
      - type: Accelerated
        status: "False"
        reason: Tcg
        message: runs under software emulation (TCG), many times slower than KVM
        since: "2026-11-21T09:16:42.000Z"
      - type: Placed
        status: "True"
        reason: Assigned
        since: "2026-11-21T09:16:42.000Z"
      - type: Ready
        status: "True"
        reason: Running
        since: "2026-11-21T09:16:42.000Z"
    "#);
    let list = ListView::new("Host", 57, vec![HostView::from(one_host())]);
    let json: serde_json::Value = serde_json::from_str(&output(Output::Json, &list, String::new).unwrap()).unwrap();
    assert_eq!(json["kind"], "HostList");
    assert_eq!(json["revision"], 57);
    assert_eq!(json["items"][0]["status"]["threads"][2]["use"], "booked");
    assert_eq!(json["items"][0]["status"]["threads"][2]["vm"], "default/web-1");
}

#[test]
fn a_word_that_a_newer_server_says_is_shown_as_its_number() {
    let mut vm = running();
    vm.status.as_mut().unwrap().phase = 99;
    assert_eq!(VmView::from(vm).status.phase, "Value99");
}
