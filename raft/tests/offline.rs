//! What a directory holds, and a new cluster from it.

mod support;

use std::time::{Duration, Instant};

use berth_raft::{NewMember, OpenError, SnapshotPolicy, StateMachine, recover, seed};
use support::{Cluster, Journal, PATIENCE, eventually, same_everywhere, split, stop_all};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_survivor_holds_becomes_a_new_cluster_that_grows_and_ignores_the_old_one() {
    let mut cluster = Cluster::new(3);
    cluster.snapshots = SnapshotPolicy { entries_between: 20, entries_kept: 5, ..SnapshotPolicy::default() };
    let (leader, others) = split(cluster.start_all().await).await;
    let mut expected = Vec::new();
    for round in 0..50 {
        expected.push(format!("old {round}"));
        leader.propose(expected.last().unwrap()).await.unwrap();
    }
    eventually("a snapshot", || leader.handle.status().snapshot.is_some()).await;
    let survivor = leader.id;
    leader.stop().await;
    // The others go on without it, which it must not learn of later.
    others[0].propose("in the old cluster").await.unwrap();

    let found = recover(&cluster.data_dir(survivor), survivor, Journal::default()).unwrap();
    assert_eq!(found.machine.seen(), expected);
    assert_eq!(found.members.len(), 3);
    let again = recover(&cluster.data_dir(survivor), survivor, Journal::default()).unwrap();
    assert_eq!((again.last_index, again.last_term), (found.last_index, found.last_term), "reading changes nothing");

    let member = cluster.members.iter().find(|member| member.id == survivor).unwrap().clone();
    let state = found.machine.snapshot();
    let fresh = cluster.directory.path().join("fresh");
    let base = (found.last_term + 1, found.last_index + 1000);
    seed(&fresh, &member, base, 77, move |out| Journal::write(&state, out)).unwrap();
    let taken = seed(&fresh, &member, base, 77, |_| Ok(())).unwrap_err();
    assert!(matches!(taken, OpenError::Foreign { .. }), "{taken}");

    let mut options = cluster.options(survivor);
    options.data_dir = fresh;
    let node = cluster.start_with(options).await.unwrap();
    expected.push("new".to_owned());
    node.propose("new").await.unwrap();
    same_everywhere(&[&node], &expected).await;
    let status = node.handle.status();
    assert_eq!(status.members.len(), 1);
    assert!(status.last_log.is_some_and(|last| last > base.1) && status.term > base.0, "{status:?}");

    // Members of the old cluster call it, and are not heard.
    let term = node.handle.status().term;
    // Long enough for many heartbeats.
    let until = Instant::now() + Duration::from_secs(2);
    eventually("two seconds", || Instant::now() > until).await;
    others[0].propose("still in the old cluster").await.unwrap();
    assert_eq!((node.handle.status().term, node.handle.status().members.len()), (term, 1));

    let new = NewMember { name: "late".to_owned(), raft_addr: "raft-late".to_owned(), ..NewMember::default() };
    let late = node.handle.add_member(new, PATIENCE).await.unwrap();
    assert!(late.id > base.1, "ids of the old cluster are not given again");
    let late = cluster.start_late(&late).await;
    node.handle.promote(late.id, PATIENCE).await.unwrap();
    same_everywhere(&[&node, &late], &expected).await;
    stop_all(others.into_iter().chain([node, late])).await;
}
