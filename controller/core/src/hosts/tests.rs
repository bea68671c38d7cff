//! A host's session from end to end, with the far end played by the test.

use std::time::Duration;

use berth_model::session::{DesiredEntry, Report, ToController, ToHost};
use berth_model::testing::{Machine, host_uid, vm_spec};
use berth_model::{Bytes, Millis, Term};
use berth_state::testing::{World, delete_vm};

use crate::error::Kind;
use crate::liveness::MAY_START_FOR;
use crate::ports::ConsensusError;
use crate::testing::{Fate, HostEnd, Member, first_report, hello, led_by_another, led_by_us};

/// Past the welcome and the first set.
async fn served(member: &Member) -> HostEnd {
    let mut host = member.connect(1).await;
    assert!(matches!(host.word().await, ToHost::Welcome(_)));
    assert!(matches!(host.word().await, ToHost::DesiredSet { .. }));
    host
}

#[tokio::test(start_paused = true)]
async fn a_host_is_welcomed_told_its_set_and_acknowledged_after_the_commit() {
    let member = Member::new();
    let barriers = member.barriers();
    let mut host = served(&member).await;
    assert_eq!(member.barriers(), barriers + 1, "the set was read after the host's first word");
    host.report(first_report()).await;
    assert_eq!(host.word().await, ToHost::ReportAck { number: 1 });
    assert!(member.agreed().hosts.contains_key(&host_uid(1)));
    host.to.send(ToController::Heartbeat { number: 1 }).await.unwrap();
    assert_eq!(host.word().await, ToHost::HeartbeatAck { number: 1, may_start_for: MAY_START_FOR });
    assert_eq!(member.led(), 1, "what a leader says of a host is never forwarded");
    drop(host.to);
    host.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn changes_of_its_set_reach_the_host_as_they_happen() {
    let mut world = World::new();
    let uid = world.host(1, Machine::cores(8).inventory());
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    let body = world.assignment(vm, uid, world.berth(vm, uid, [0], 0));
    let member = Member::of(world);
    let mut host = served(&member).await;
    member.elsewhere(body);
    let ToHost::DesiredDelta { entries, .. } = host.word().await else { panic!("a delta") };
    assert!(matches!(&entries[..], [DesiredEntry::Present(present, _)] if present.vm == vm));
    member.elsewhere(delete_vm(vm));
    let ToHost::DesiredDelta { entries, .. } = host.word().await else { panic!("a delta") };
    assert!(matches!(&entries[..], [DesiredEntry::Absent(absent)] if absent.vm == vm));
}

#[tokio::test(start_paused = true)]
async fn a_host_is_told_where_the_controllers_are_and_again_when_they_changed() {
    let member = Member::new();
    member.seat(&["c2:1", "c1:1"]);
    let mut host = served(&member).await;
    let told =
        |addresses: &[&str]| ToHost::Controllers { addresses: addresses.iter().map(|one| (*one).into()).collect() };
    assert_eq!(host.word().await, told(&["c1:1", "c2:1"]));
    for (number, seats, wanted) in [
        (1, &["c1:1", "c2:1"][..], None),
        (2, &["c2:1", "c3:1"], Some(told(&["c2:1", "c3:1"]))),
        // A member that knows of none, not even itself, has not heard enough to tell.
        (3, &[], None),
    ] {
        member.seat(seats);
        host.to.send(ToController::Heartbeat { number }).await.unwrap();
        assert_eq!(host.word().await, ToHost::HeartbeatAck { number, may_start_for: Millis(0) }, "it is not known yet");
        if let Some(wanted) = wanted {
            assert_eq!(host.word().await, wanted);
        }
    }
    host.report(first_report()).await;
    assert_eq!(host.word().await, ToHost::ReportAck { number: 1 }, "and nothing before it");
}

#[tokio::test(start_paused = true)]
async fn a_newer_session_of_a_host_ends_the_older() {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    let member = Member::of(world);
    let older = served(&member).await;
    let mut newer = served(&member).await;
    older.task.await.unwrap().unwrap();
    newer.to.send(ToController::Heartbeat { number: 1 }).await.unwrap();
    assert_eq!(newer.word().await, ToHost::HeartbeatAck { number: 1, may_start_for: MAY_START_FOR });
}

#[tokio::test(start_paused = true)]
async fn a_host_that_asks_a_follower_is_sent_to_the_leader() {
    let member = Member::new();
    member.lead(led_by_another(3));
    let mut host = member.connect(1).await;
    assert_eq!(host.word().await, ToHost::Redirect { leader: Some("10.0.0.102:7440".into()) });
    host.task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_the_term_in_which_it_began() {
    for now in [led_by_another(2), led_by_us(2)] {
        let member = Member::new();
        let mut host = served(&member).await;
        member.lead(now.clone());
        assert_eq!(host.word().await, ToHost::Redirect { leader: now.leader_api });
        host.task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_obeyed_a_later_leader_is_welcome_only_after_a_majority_was_asked() {
    let member = Member::new();
    let mut ahead = hello(1);
    ahead.term = Term(9);
    let barriers = member.barriers();
    let mut host = member.connect_as(ahead).await;
    let ToHost::Welcome(welcome) = host.word().await else { panic!("a welcome") };
    assert_eq!((welcome.term, welcome.overrides), (Term(1), Some(Term(9))));
    assert_eq!(member.barriers(), barriers + 1);
}

#[tokio::test(start_paused = true)]
async fn reports_out_of_turn_end_the_session_rather_than_leave_the_host_waiting() {
    let member = Member::new();
    let mut host = served(&member).await;
    host.report(Report { number: 2, ..first_report() }).await;
    let ToHost::Refuse { code, message } = host.word().await else { panic!("a refusal") };
    assert_eq!((&code[..], &message[..]), ("BE-1007", "report 2 is out of turn in its session"));
    assert_eq!(host.task.await.unwrap().unwrap_err().kind, Kind::Invalid);
    assert!(member.proposed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_not_who_it_says_is_told_why_and_nothing_else() {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    let member = Member::of(world);
    let mut twin = hello(2);
    twin.name = "h1".parse().unwrap();
    let mut host = member.connect_as(twin).await;
    let ToHost::Refuse { code, message } = host.word().await else { panic!("a refusal") };
    assert_eq!((&code[..], message), ("BE-2001", format!("the name \"h1\" belongs to host {}", host_uid(1))));
    let mut thief = hello(1);
    thief.name = "h2".parse().unwrap();
    let mut host = member.connect_as(thief).await;
    let ToHost::Refuse { code, .. } = host.word().await else { panic!("no set of another host's VMs") };
    assert_eq!(code, "BE-4003");
}

#[tokio::test(start_paused = true)]
async fn when_the_log_fails_the_host_tries_another_member_and_nothing_is_acknowledged() {
    let member = Member::new();
    let mut host = served(&member).await;
    member.fate_as_leader(Fate::Fails(ConsensusError::Unknown("no majority".into())));
    host.report(first_report()).await;
    assert_eq!(host.word().await, ToHost::Redirect { leader: None });
    assert_eq!(host.task.await.unwrap().unwrap_err().code, "BE-5002");
}

#[tokio::test(start_paused = true)]
async fn a_session_begins_with_a_hello_and_has_one() {
    let member = Member::new();
    let mut host = served(&member).await;
    host.to.send(ToController::Hello(hello(1))).await.unwrap();
    assert!(matches!(host.word().await, ToHost::Refuse { .. }));
    let (to, mut inbound) = tokio::sync::mpsc::channel(1);
    let (outbound, _from) = tokio::sync::mpsc::channel(1);
    to.send(ToController::Heartbeat { number: 1 }).await.unwrap();
    let ended = member.control.serve_host("h1", &mut inbound, &outbound).await;
    assert_eq!(ended.unwrap_err().code, "BE-1012");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_read_holds_up_nobody_else() {
    let member = Member::new();
    let stuck = member.connect(1).await;
    for number in 1..100 {
        if tokio::time::timeout(Duration::from_millis(10), stuck.to.send(ToController::Heartbeat { number }))
            .await
            .is_err()
        {
            break;
        }
    }
    let mut other = member.connect(2).await;
    assert!(matches!(other.word().await, ToHost::Welcome(_)));
}
