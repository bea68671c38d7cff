//! The handle behind every door: first answers, repetitions, members that lag, answers that are lost.

use std::time::Duration;

use berth_model::Revision;
use berth_model::testing::{Machine, vm_uid};
use berth_model::vm::{RunStrategy, VmPhase};
use berth_state::testing::{World, create_image, create_vm, delete_vm};

use crate::admit::{CreateImage, CreateVm, Target};
use crate::error::Kind;
use crate::handle::Consistency;
use crate::ports::ConsensusError;
use crate::testing::{Fate, Member, anyone, asking, led_by_another, led_by_none, target, wanted};

#[tokio::test(start_paused = true)]
async fn a_vm_is_created_and_shown_as_it_is_after_that() {
    let member = Member::new();
    let before = member.agreed().revision;
    let answer = member.control.create_vm(&anyone(), &wanted("web")).await.unwrap();
    assert_eq!(answer.revision, before.next());
    let (vm, status) = answer.vm().unwrap();
    assert_eq!((vm.meta.name.as_str(), status.phase), ("web", VmPhase::Pending));
    assert_eq!(vm.meta.revision, answer.revision);
}

#[tokio::test(start_paused = true)]
async fn the_same_request_is_answered_as_before_and_nothing_moves() {
    let member = Member::new();
    let first = member.control.create_vm(&asking(1, 1), &wanted("web")).await.unwrap();
    let (agreed, proposed) = (member.agreed(), member.proposed().len());
    let again = member.control.create_vm(&asking(1, 1), &wanted("web")).await.unwrap();
    assert_eq!((again.revision, again.outcome), (first.revision, first.outcome));
    assert_eq!(again.vm().unwrap().0.uid(), first.vm().unwrap().0.uid());
    assert!(member.agreed() == agreed);
    assert_eq!(member.proposed().len(), proposed, "the log is not even asked");
}

#[tokio::test(start_paused = true)]
async fn the_id_of_another_request_is_refused_and_nothing_moves() {
    let member = Member::new();
    member.control.create_vm(&asking(1, 1), &wanted("web")).await.unwrap();
    let before = member.agreed().revision;
    let error = member.control.create_vm(&asking(1, 2), &wanted("other")).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Conflict, "BE-2005"));
    assert_eq!(member.agreed().revision, before);
}

#[tokio::test(start_paused = true)]
async fn a_repetition_through_a_member_that_lags_is_not_carried_out_again() {
    let member = Member::new();
    member.lag();
    let creating = member.control.clone();
    let first = tokio::spawn(async move { creating.create_vm(&asking(1, 1), &wanted("web")).await.unwrap() });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!first.is_finished(), "this member cannot show it yet");
    assert_eq!(member.proposed(), ["CreateVm"]);
    let before = member.agreed();
    member.lead(led_by_another(2));
    let again = member.control.create_vm(&asking(1, 1), &wanted("web")).await.unwrap();
    assert_eq!(first.await.unwrap().revision, again.revision);
    assert!(member.agreed() == before);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_lags_refuses_nothing_before_it_looked_again() {
    let member = Member::new();
    member.lag();
    member.elsewhere(create_image("fresh", 5));
    let answer = {
        let (control, request) = (member.control.clone(), CreateVm { image: "fresh".into(), ..wanted("web") });
        tokio::spawn(async move { control.create_vm(&anyone(), &request).await })
    };
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(member.barriers(), 1);
    member.catch_up();
    assert!(answer.await.unwrap().is_ok());
    let error = member.control.stop_vm(&anyone(), &target("nobody"), false).await.unwrap_err();
    assert_eq!(
        (error.code, member.barriers()),
        ("BE-2002", 2),
        "a refusal costs one look, however busy the cluster is"
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_means_by_a_name_what_the_cluster_means_by_it() {
    let mut world = World::new();
    let old = world.vm(1, berth_model::testing::vm_spec(1, berth_model::Bytes::mib(64)));
    let member = Member::of(world);
    member.lead(led_by_another(1));
    member.lag();
    member.elsewhere(delete_vm(old));
    let berth_state::Body::CreateVm { project, name, labels, annotations, spec, .. } =
        create_vm(1, berth_model::testing::vm_spec(1, berth_model::Bytes::mib(64)))
    else {
        unreachable!()
    };
    member.elsewhere(berth_state::Body::CreateVm { uid: vm_uid(50), project, name, labels, annotations, spec });
    let waiting = {
        let control = member.control.clone();
        tokio::spawn(async move { control.stop_vm(&anyone(), &target("vm-1"), false).await })
    };
    tokio::time::sleep(Duration::from_millis(10)).await;
    member.catch_up();
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.vm().unwrap().0.uid(), vm_uid(50));
}

#[tokio::test(start_paused = true)]
async fn an_answer_waits_until_this_member_shows_it_and_not_for_ever() {
    let member = Member::new();
    member.lag();
    let error = member.control.create_vm(&anyone(), &wanted("web")).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unavailable, "BE-5004"));
    let revision = member.agreed().revision;
    assert!(error.message.starts_with(&format!("the change was made at revision {revision}")), "{}", error.message);
    assert!(member.agreed().vm_by_name(&"default".parse().unwrap(), &"web".parse().unwrap()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_said_to_be_unknown_and_the_same_request_finds_out() {
    let member = Member::new();
    member.fate(Fate::AnswerLost);
    let error = member.control.create_vm(&asking(1, 1), &wanted("web")).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unknown, "BE-5002"));
    let advice = "repeat with the same request id: it is never carried out twice";
    assert_eq!(error.hint.as_deref(), Some(advice));
    let before = member.agreed().revision;
    let answer = member.control.create_vm(&asking(1, 1), &wanted("web")).await.unwrap();
    assert_eq!((answer.revision, member.agreed().revision), (before, before));
}

#[tokio::test(start_paused = true)]
async fn what_the_log_refuses_is_passed_on() {
    let member = Member::new();
    let table = [
        (ConsensusError::NoLeader, "BE-5001"),
        (ConsensusError::Stopped("the disk failed".into()), "BE-5003"),
        (ConsensusError::TooLarge { bytes: 2, limit: 1 }, "BE-1009"),
    ];
    for (failure, code) in table {
        member.fate(Fate::Fails(failure));
        let error = member.control.create_vm(&asking(1, 1), &wanted("web")).await.unwrap_err();
        assert_eq!(error.code, code);
    }
    assert!(member.agreed().vms.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_stale_reads_are_answered_and_nothing_else() {
    let member = Member::new();
    member.lead(led_by_none(1));
    assert!(member.control.view(Consistency::Stale).await.is_ok());
    let read = member.control.view(Consistency::Linearizable).await.unwrap_err();
    let write = member.control.create_vm(&anyone(), &wanted("web")).await.unwrap_err();
    assert_eq!((read.code, write.code), ("BE-5001", "BE-5001"));
    assert_eq!(write.message, "the cluster has no leader at present; nothing was changed");
}

#[tokio::test(start_paused = true)]
async fn before_the_bootstrap_a_client_is_asked_to_wait_whatever_it_wants() {
    let member = Member::of(World::empty());
    let error = member.control.create_vm(&anyone(), &wanted("web")).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Unavailable, "BE-5001"));
    assert!(member.proposed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_change_reaches_the_state_and_each_wrong_target_is_refused() {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    let member = Member::of(world);
    let control = &member.control;
    control.create_vm(&anyone(), &wanted("web")).await.unwrap();
    let halted = control.stop_vm(&anyone(), &target("web"), false).await.unwrap();
    assert_eq!(halted.vm().unwrap().0.spec.run, RunStrategy::Halted);
    let error = control.restart_vm(&anyone(), &target("web"), false).await.unwrap_err();
    assert_eq!((error.code, error.hint.as_deref()), ("BE-2008", Some("start it with 'berth vm start'")));
    let stale = Target { revision: Some(halted.revision.0 - 1), ..target("web") };
    assert_eq!(control.start_vm(&anyone(), &stale).await.unwrap_err().code, "BE-2003");
    control.start_vm(&anyone(), &target("web")).await.unwrap();
    let restarted = control.restart_vm(&anyone(), &target("web"), false).await.unwrap();
    assert_eq!(restarted.vm().unwrap().0.restart_count, 1);
    assert_eq!(control.delete_image(&anyone(), "tiny").await.unwrap_err().code, "BE-2009");
    let deleted = control.delete_vm(&anyone(), &target("web")).await.unwrap();
    assert!(deleted.vm().is_none());
    control.delete_image(&anyone(), "tiny").await.unwrap();
    assert_eq!(control.delete_image(&anyone(), "tiny").await.unwrap_err().code, "BE-2002");
    let image = CreateImage {
        name: "tiny".into(),
        sha256: berth_model::testing::digest(1).to_string(),
        virtual_size: 1 << 20,
        ..CreateImage::default()
    };
    let made = control.create_image(&anyone(), &image).await.unwrap();
    assert!(made.view.images.contains_key("tiny") && made.vm().is_none());
    assert!(made.revision > Revision(0));
}

#[tokio::test(start_paused = true)]
async fn what_admission_could_not_know_is_refused_where_it_is_carried_out() {
    let member = Member::new();
    member.lag();
    member.elsewhere(create_vm(1, berth_model::testing::vm_spec(1, berth_model::Bytes::mib(64))));
    let error = member.control.create_vm(&anyone(), &wanted("vm-1")).await.unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::AlreadyExists, "BE-2001"));
    assert_eq!((member.barriers(), member.proposed().len()), (0, 2), "admission let it through");
}
