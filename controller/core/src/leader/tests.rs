//! The leader's loop under a clock that the tests hold.

use std::time::Duration;

use berth_model::Bytes;
use berth_model::host::Liveness;
use berth_model::session::{ToController, ToHost};
use berth_model::testing::{Machine, cluster_id, host_uid, vm_spec, vm_uid};
use berth_state::testing::{World, create_vm};

use crate::leader;
use crate::liveness::{LOST_AFTER, SUSPECT_AFTER};
use crate::ports::ConsensusError;
use crate::testing::{Fate, HostEnd, Member, first_report, led_by_another, led_by_us};

fn leading(member: &Member) -> tokio::task::JoinHandle<()> {
    tokio::spawn(leader::run(member.control.clone(), cluster_id()))
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn liveness(member: &Member) -> Liveness {
    member.agreed().hosts[&host_uid(1)].liveness
}

/// A host that sends a heartbeat every two seconds until its task is ended.
async fn living(member: &Member) -> tokio::task::JoinHandle<()> {
    let mut host = member.connect(1).await;
    assert!(matches!(host.word().await, ToHost::Welcome(_)));
    assert!(matches!(host.word().await, ToHost::DesiredSet { .. }));
    host.report(first_report()).await;
    tokio::spawn(async move {
        let HostEnd { to, mut from, task: _task } = host;
        for number in 1.. {
            if to.send(ToController::Heartbeat { number }).await.is_err() {
                return;
            }
            let quiet = tokio::time::sleep(Duration::from_secs(2));
            tokio::pin!(quiet);
            loop {
                tokio::select! {
                    () = &mut quiet => break,
                    word = from.recv() => if matches!(word, None | Some(ToHost::Redirect { .. })) { return },
                }
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_first_leader_gives_the_cluster_its_identity() {
    let member = Member::of(World::empty());
    let task = leading(&member);
    pass(1).await;
    assert_eq!(member.agreed().info.unwrap().id, cluster_id());
    assert_eq!(member.proposed(), ["Bootstrap"]);
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_bootstrap_that_failed_is_tried_again() {
    let member = Member::of(World::empty());
    member.fate_as_leader(Fate::Fails(ConsensusError::Unknown("no majority".into())));
    leading(&member);
    pass(3).await;
    assert_eq!(member.proposed(), ["Bootstrap", "Bootstrap"]);
    assert!(member.agreed().info.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_vm_is_placed_without_delay_and_then_nothing_more_is_proposed() {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    let member = Member::of(world);
    let host = living(&member).await;
    leading(&member);
    pass(5).await;
    member.elsewhere(create_vm(1, vm_spec(2, Bytes::mib(128))));
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(member.agreed().vms[&vm_uid(1)].assignment.is_some());
    let proposed = member.proposed().len();
    pass(600).await;
    assert_eq!(member.proposed().len(), proposed, "{:?}", member.proposed());
    host.abort();
}

#[tokio::test(start_paused = true)]
async fn reasons_for_waiting_are_noted_once_and_the_vm_is_placed_when_a_host_comes() {
    let member = Member::new();
    leading(&member);
    member.elsewhere(create_vm(1, vm_spec(2, Bytes::mib(128))));
    pass(600).await;
    assert_eq!(member.proposed(), ["CreateVm", "NoteUnplaced"]);
    let host = living(&member).await;
    pass(1).await;
    assert!(member.agreed().vms[&vm_uid(1)].assignment.is_some(), "{:?}", member.proposed());
    host.abort();
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_could_not_be_proposed_is_made_again() {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    let member = Member::of(world);
    leading(&member);
    pass(1).await;
    for _ in 0..2 {
        member.fate_as_leader(Fate::Fails(ConsensusError::Unknown("no majority".into())));
    }
    member.elsewhere(create_vm(1, vm_spec(2, Bytes::mib(128))));
    pass(5).await;
    assert_eq!(member.proposed(), ["CreateVm", "Assign", "Assign", "Assign"]);
    assert!(member.agreed().vms[&vm_uid(1)].assignment.is_some());
}

#[tokio::test(start_paused = true)]
async fn more_vms_than_one_plan_takes_are_all_looked_at() {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    for number in 0..450 {
        world.vm(number, vm_spec(200, Bytes::mib(64)));
    }
    world.vm(999, vm_spec(1, Bytes::mib(64)));
    let member = Member::of(world);
    leading(&member);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let agreed = member.agreed();
    assert!(agreed.vms[&vm_uid(999)].assignment.is_some(), "it is not kept back by those that never fit");
    assert!(agreed.waiting().all(|vm| vm.unplaced.is_some()));
    let proposed = member.proposed().len();
    pass(5).await;
    assert_eq!(member.proposed().len(), proposed);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_falls_silent_is_suspect_then_lost_and_alive_when_it_returns() {
    let member = Member::new();
    leading(&member);
    let host = living(&member).await;
    pass(30).await;
    assert_eq!(liveness(&member), Liveness::Alive);
    host.abort();
    pass(SUSPECT_AFTER.0 / 1000 + 2).await;
    assert_eq!(liveness(&member), Liveness::Suspect);
    pass((LOST_AFTER.0 - SUSPECT_AFTER.0) / 1000).await;
    assert_eq!(liveness(&member), Liveness::Lost);
    let host = living(&member).await;
    pass(2).await;
    assert_eq!(liveness(&member), Liveness::Alive);
    pass(300).await;
    let changes = member.proposed().into_iter().filter(|name| *name == "SetLiveness").count();
    assert_eq!(changes, 2, "Suspect and Lost; its report made it alive");
    host.abort();
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_wall_clock_loses_no_host() {
    let member = Member::new();
    leading(&member);
    let host = living(&member).await;
    pass(10).await;
    for step in [86_400_000, -2 * 86_400_000, 3_600_000] {
        member.clock.set(step);
        pass(20).await;
    }
    assert!(!member.proposed().contains(&"SetLiveness"), "{:?}", member.proposed());
    host.abort();
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_warms_up_before_it_calls_anyone_silent() {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    let member = Member::of(world);
    member.lead(led_by_another(1));
    leading(&member);
    pass(600).await;
    assert!(member.proposed().is_empty(), "who does not lead says nothing");
    member.lead(led_by_us(2));
    pass(6).await;
    assert_eq!(liveness(&member), Liveness::Alive);
    pass(4).await;
    assert_eq!(liveness(&member), Liveness::Suspect);
}

#[tokio::test(start_paused = true)]
async fn who_leads_no_more_proposes_nothing_more() {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    let member = Member::of(world);
    leading(&member);
    pass(1).await;
    member.lead(led_by_another(2));
    pass(1).await;
    member.elsewhere(create_vm(1, vm_spec(2, Bytes::mib(128))));
    pass(100).await;
    assert_eq!(member.proposed(), ["CreateVm"]);
    member.lead(led_by_us(3));
    pass(1).await;
    assert!(member.agreed().vms[&vm_uid(1)].assignment.is_some());
}
