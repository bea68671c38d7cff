//! Members come and go while the log runs: growing, shrinking, replacing, and who must not come back.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::time::Duration;

use berth_raft::{
    Bytes, Member, MembershipError, NewMember, ProposeError, ReadMode, RefusalKind, Role, SnapshotPolicy, State,
    TransferError, Warning,
};
use support::{Cluster, Node, PATIENCE, eventually, same_everywhere, split, stop_all};

fn late(name: &str) -> NewMember {
    NewMember { name: name.to_owned(), raft_addr: format!("raft-{name}"), ..NewMember::default() }
}

/// Adds a member through any other one, starts it, and gives it its vote.
async fn grow(cluster: &Cluster, through: &Node, name: &str) -> Node {
    let member = through.handle.add_member(late(name), PATIENCE).await.unwrap();
    let node = cluster.start_late(&member).await;
    through.handle.promote(member.id, PATIENCE).await.unwrap();
    node
}

/// Names of voters and of learners, as a member knows them.
fn roles(node: &Node) -> (Vec<String>, Vec<String>) {
    let members = node.handle.status().members;
    let with = |role| members.iter().filter(|one| one.role == role).map(|one| one.member.name.clone()).collect();
    (with(Role::Voter), with(Role::Learner))
}

async fn excluded(node: &Node) -> String {
    eventually("the exclusion", || matches!(node.handle.status().state, State::Excluded(_))).await;
    let State::Excluded(reason) = node.handle.status().state else { unreachable!() };
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_to_five_and_shrinks_to_three_with_the_same_data() {
    let mut cluster = Cluster::new(1);
    // So that some members come by snapshot and others by entries.
    cluster.snapshots = SnapshotPolicy { entries_between: 30, entries_kept: 5, ..SnapshotPolicy::default() };
    let mut nodes = vec![cluster.start(1).await];
    let mut expected = Vec::new();
    for round in 0..5_usize {
        for number in 0..40 {
            expected.push(format!("{round}-{number}"));
            nodes[round % nodes.len()].propose(expected.last().unwrap()).await.unwrap();
        }
        if nodes.len() < 5 {
            let node = grow(&cluster, &nodes[round % nodes.len()], &format!("late-{round}")).await;
            nodes.push(node);
        }
        same_everywhere(&nodes.iter().collect::<Vec<_>>(), &expected).await;
    }
    assert_eq!(roles(&nodes[4]).0.len(), 5);
    let ids: Vec<_> = nodes.iter().map(|node| node.id).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "no id is used twice: {ids:?}");
    // The first one leads, and goes first.
    for _ in 0..2 {
        let gone = nodes.remove(0);
        nodes[0].handle.remove(gone.id, false, PATIENCE).await.unwrap();
        expected.push(format!("without {}", gone.id));
        nodes[1].propose(expected.last().unwrap()).await.unwrap();
        same_everywhere(&nodes.iter().collect::<Vec<_>>(), &expected).await;
        gone.stop().await;
    }
    assert_eq!(roles(&nodes[0]), (vec!["late-1".to_owned(), "late-2".to_owned(), "late-3".to_owned()], Vec::new()));
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_replaced_in_one_call_and_the_new_one_takes_its_place_by_itself() {
    let cluster = Cluster::new(3);
    let (leader, mut others) = split(cluster.start_all().await).await;
    leader.propose("before").await.unwrap();
    let dead = others.remove(0);
    let (dead_id, through) = (dead.id, &others[0]);
    cluster.kill(dead).await;
    let member = through.handle.replace(dead_id, late("x"), PATIENCE).await.unwrap();
    assert_eq!(through.handle.replace(dead_id, late("x"), PATIENCE).await.unwrap(), member, "asked twice");
    eventually("the intention", || {
        let members = through.handle.status().members;
        members
            .iter()
            .any(|one| one.member.id == member.id && one.replaces == Some(dead_id) && one.role == Role::Learner)
    })
    .await;
    let node = cluster.start_late(&member).await;
    let is_done = || {
        let (voters, learners) = roles(through);
        learners.is_empty() && voters.contains(&"x".to_owned()) && !voters.contains(&format!("member-{dead_id}"))
    };
    eventually("the replacement", is_done).await;
    node.propose("after").await.unwrap();
    same_everywhere(&[&leader, through, &node], &["before".to_owned(), "after".to_owned()]).await;
    stop_all(others.into_iter().chain([leader, node])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_lose_the_quorum_is_refused_with_the_reason() {
    let cluster = Cluster::new(3);
    let (leader, mut others) = split(cluster.start_all().await).await;
    leader.propose("before").await.unwrap();
    let dead = others.remove(0);
    let dead_id = dead.id;
    cluster.kill(dead).await;
    let is_silent = || {
        let members = leader.handle.status().members;
        members.iter().any(|one| one.member.id == dead_id && one.silent_ms.is_some_and(|silent| silent > 1500))
    };
    eventually("the silence", is_silent).await;
    let refused = others[0].handle.remove(others[0].id, false, PATIENCE).await.unwrap_err();
    let MembershipError::Refused(refusal) = refused else { panic!("{refused}") };
    assert_eq!(refusal.kind, RefusalKind::WouldLoseQuorum);
    assert!(refusal.reason.contains(&format!("member-{dead_id} does not")), "{}", refusal.reason);
    let unknown = others[0].handle.promote(77, PATIENCE).await;
    assert!(matches!(unknown, Err(MembershipError::Refused(refusal)) if refusal.kind == RefusalKind::UnknownMember));
    // A learner that nobody has started is not given a vote, and does no harm.
    let learner = leader.handle.add_member(late("x"), PATIENCE).await.unwrap();
    let refused = leader.handle.promote(learner.id, Duration::from_millis(300)).await;
    assert!(matches!(refused, Err(MembershipError::Refused(refusal)) if refusal.kind == RefusalKind::Silent));
    // What is dead may go.
    others[0].handle.remove(dead_id, false, PATIENCE).await.unwrap();
    leader.propose("after").await.unwrap();
    stop_all(others.into_iter().chain([leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_removed_while_it_was_away_learns_it_and_disturbs_nobody() {
    let cluster = Cluster::new(3);
    let (leader, others) = split(cluster.start_all().await).await;
    leader.propose("before").await.unwrap();
    let away = &others[0];
    cluster.cut(away.id, true);
    leader.handle.remove(away.id, false, PATIENCE).await.unwrap();
    let term = leader.handle.status().term;
    cluster.cut(away.id, false);
    let reason = excluded(away).await;
    assert!(reason.contains("was removed from the cluster"), "{reason}");
    let answer = away.handle.propose(Bytes::from_static(b"never"), PATIENCE).await;
    assert!(matches!(answer, Err(ProposeError::Stopped { .. })), "{answer:?}");
    assert_eq!((leader.handle.status().term, leader.handle.leadership().borrow().is_leader), (term, true));
    stop_all(others.into_iter().chain([leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_hands_over_and_learns_that_it_is_out() {
    let cluster = Cluster::new(3);
    let (leader, others) = split(cluster.start_all().await).await;
    leader.propose("before").await.unwrap();
    others[0].handle.remove(leader.id, false, PATIENCE).await.unwrap();
    others[0].propose("after").await.unwrap();
    others[1].leadership(|now| now.leader.as_ref().is_some_and(|next| next.id != leader.id)).await;
    let reason = excluded(&leader).await;
    assert!(reason.contains("was removed"), "{reason}");
    stop_all(others.into_iter().chain([leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_with_an_empty_directory_gets_no_say_until_it_is_added_anew() {
    let cluster = Cluster::new(3);
    let (leader, mut others) = split(cluster.start_all().await).await;
    leader.propose("kept").await.unwrap();
    let is_seated = || leader.handle.status().members.iter().all(|one| one.replicated > Some(3));
    leader.propose("kept too").await.unwrap();
    eventually("the seats", is_seated).await;
    let wiped = others.remove(0);
    let id = wiped.id;
    wiped.stop().await;
    fs::remove_dir_all(cluster.data_dir(id)).unwrap();
    let back = cluster.start(id).await;
    let reason = excluded(&back).await;
    assert!(reason.contains("remove it and add it anew"), "{reason}");
    let warning = Warning::HasForgotten { member: format!("member-{id}") };
    eventually("the warning", || leader.handle.status().warnings.contains(&warning)).await;
    // With the leader gone, one of three remembers: that must not be enough, although two are there.
    let leader_id = leader.id;
    cluster.kill(leader).await;
    let alone = others[0].handle.propose(Bytes::from_static(b"never"), Duration::from_secs(4)).await;
    // Unknown, if it was just on its way to the leader that died: in any case it is not acknowledged.
    assert!(matches!(alone, Err(ProposeError::NoLeader | ProposeError::Unknown { .. })), "{alone:?}");
    let leader = cluster.start(leader_id).await;
    others[0].propose("again").await.unwrap();
    // The way out.
    others[0].handle.remove(id, false, PATIENCE).await.unwrap();
    back.stop().await;
    fs::remove_dir_all(cluster.data_dir(id)).unwrap();
    let fresh = grow(&cluster, &others[0], "anew").await;
    fresh.propose("complete").await.unwrap();
    let expected = ["kept", "kept too", "again", "complete"].map(str::to_owned);
    same_everywhere(&[&fresh, &leader, &others[0]], &expected).await;
    stop_all(others.into_iter().chain([leader, fresh])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_slept_while_all_others_were_replaced_finds_back() {
    let cluster = Cluster::new(3);
    let (leader, mut others) = split(cluster.start_all().await).await;
    leader.propose("old").await.unwrap();
    let sleeper = others.remove(0);
    let (sleeper_id, second) = (sleeper.id, others.remove(0));
    sleeper.stop().await;
    let a = grow(&cluster, &leader, "a").await;
    let b = grow(&cluster, &leader, "b").await;
    a.handle.remove(second.id, false, PATIENCE).await.unwrap();
    a.handle.remove(leader.id, false, PATIENCE).await.unwrap();
    a.propose("new").await.unwrap();
    stop_all([leader, second]).await;
    let back = cluster.start(sleeper_id).await;
    same_everywhere(&[&a, &b], &["old".to_owned(), "new".to_owned()]).await;
    eventually("the sleeper", || back.machine.seen() == ["old", "new"]).await;
    back.handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
    stop_all([a, b, back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_during_which_the_leader_dies_is_finished_by_the_next_one() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    for round in 0..4_u64 {
        let (leader, mut others) = split(nodes).await;
        let name = format!("late-{round}");
        let member = others[0].handle.add_member(late(&name), PATIENCE).await.unwrap();
        others.push(cluster.start_late(&member).await);
        let leader_id = leader.id;
        let change = async {
            others[0].handle.promote(member.id, PATIENCE).await.unwrap();
        };
        let death = async {
            // Somewhere in the course of it, and elsewhere each time.
            eventually("some progress", || {
                let status = leader.handle.status();
                status.members.iter().any(|one| one.member.id == member.id && one.replicated.is_some())
            })
            .await;
            tokio::time::sleep(Duration::from_millis(round * 7)).await;
            cluster.kill(leader).await;
        };
        tokio::join!(change, death);
        let through = &others[0];
        let settled = || !through.handle.status().warnings.contains(&Warning::Changing);
        eventually("the end of the change", settled).await;
        through.handle.remove(leader_id, false, PATIENCE).await.unwrap();
        through.propose(&name).await.unwrap();
        nodes = others;
    }
    let expected: Vec<_> = (0..4).map(|round| format!("late-{round}")).collect();
    same_everywhere(&nodes.iter().collect::<Vec<_>>(), &expected).await;
    assert_eq!(roles(&nodes[0]).0.len(), 3);
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_moves_to_a_named_member_whoever_is_asked() {
    let cluster = Cluster::new(3);
    let (leader, others) = split(cluster.start_all().await).await;
    leader.propose("before").await.unwrap();
    let to = others[1].id;
    let next = others[0].handle.move_leadership(Some(to), PATIENCE).await.unwrap();
    assert_eq!(next.id, to);
    others[1].leadership(|now| now.is_leader).await;
    others[0].propose("after").await.unwrap();
    let nobody = others[0].handle.move_leadership(Some(99), PATIENCE).await.unwrap_err();
    assert_eq!(nobody, TransferError::NoCandidate { to: Some(99) });
    // One that is silent would only leave the cluster without a leader for a while.
    cluster.cut(leader.id, true);
    let silent = leader.id;
    let is_silent = || {
        let members = others[1].handle.status().members;
        members.iter().any(|one| one.member.id == silent && one.silent_ms.is_some_and(|silent| silent > 1500))
    };
    eventually("the silence", is_silent).await;
    let refusal = others[0].handle.move_leadership(Some(silent), PATIENCE).await.unwrap_err();
    assert!(matches!(refusal, TransferError::NotReady { .. }), "{refusal}");
    cluster.cut(leader.id, false);
    stop_all(others.into_iter().chain([leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_that_share_a_failure_domain_are_warned_of_until_one_is_moved() {
    let mut cluster = Cluster::new(3);
    cluster.members[0].domain = "rack 1".to_owned();
    cluster.members[1].domain = "rack 2".to_owned();
    cluster.members[2].domain = "rack 1".to_owned();
    let nodes = cluster.start_all().await;
    nodes[0].propose("first").await.unwrap();
    let shared = Warning::SharedDomain {
        domain: "rack 1".to_owned(),
        members: vec!["member-1".to_owned(), "member-3".to_owned()],
    };
    assert_eq!(nodes[1].handle.status().warnings, [shared]);
    let moved = Member { domain: "rack 3".to_owned(), ..cluster.members[2].clone() };
    nodes[1].handle.update_member(moved, PATIENCE).await.unwrap();
    eventually("no warning", || nodes.iter().all(|node| node.handle.status().warnings.is_empty())).await;
    stop_all(nodes).await;
}
