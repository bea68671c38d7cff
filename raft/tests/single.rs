//! One member alone: the smallest cluster.

mod support;

use std::fs;

use berth_raft::{Bytes, NewMember, OpenError, ProposeError, ReadError, ReadMode, SnapshotPolicy, State};
use support::{Cluster, PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_leads_itself_and_answers() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    assert_eq!(node.propose("a").await.unwrap(), 1);
    assert_eq!(node.propose("b").await.unwrap(), 2);
    node.handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
    assert_eq!(node.machine.seen(), ["a", "b"]);
    let status = node.handle.status();
    assert_eq!(status.state, State::Running);
    assert_eq!(status.leader.unwrap().name, "member-1");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_what_was_acknowledged() {
    let cluster = Cluster::new(1);
    for round in 0..3 {
        let node = cluster.start(1).await;
        assert_eq!(node.propose(&format!("round {round}")).await.unwrap(), round + 1);
        let term = node.handle.status().term;
        assert!(term > round, "the vote was kept, so each start has a later term");
        node.stop().await;
    }
    let node = cluster.start(1).await;
    node.handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
    assert_eq!(node.machine.seen(), ["round 0", "round 1", "round 2"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_at_once_all_get_their_own_answer() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    let answers = futures::future::join_all((0..500).map(|number| {
        let handle = node.handle.clone();
        async move { handle.propose(Bytes::from(number.to_string()), PATIENCE).await.unwrap() }
    }))
    .await;
    let mut answers: Vec<u64> =
        answers.iter().map(|answer| std::str::from_utf8(answer).unwrap().parse().unwrap()).collect();
    answers.sort_unstable();
    assert_eq!(answers, (1..=500).collect::<Vec<_>>());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_compacted_and_a_restart_begins_with_the_snapshot() {
    let mut cluster = Cluster::new(1);
    cluster.snapshots = SnapshotPolicy { entries_between: 20, entries_kept: 5, ..SnapshotPolicy::default() };
    let node = cluster.start(1).await;
    for number in 1..=100 {
        assert_eq!(node.propose(&format!("write {number}")).await.unwrap(), number);
    }
    eventually("purging", || node.handle.status().purged.is_some_and(|purged| purged > 60)).await;
    node.stop().await;
    let node = cluster.start(1).await;
    node.handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
    assert_eq!(node.machine.seen().len(), 100);
    assert_eq!(node.propose("one more").await.unwrap(), 101);
    node.stop().await;

    // A damaged snapshot is refused with its name, and left where it is.
    let snapshots = cluster.data_dir(1).join("snapshots");
    let file = fs::read_dir(&snapshots).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 4;
    fs::write(&file, &bad).unwrap();
    let error = cluster.try_start(1).await.err().unwrap();
    assert!(matches!(&error, OpenError::Damaged { file: named, .. } if *named == file), "{error}");
    fs::write(&file, &good[..good.len() - 1]).unwrap();
    assert!(matches!(cluster.try_start(1).await.err().unwrap(), OpenError::Damaged { .. }));
    fs::remove_file(&file).unwrap();
    let error = cluster.try_start(1).await.err().unwrap();
    assert!(matches!(&error, OpenError::Incomplete { file: named, .. } if *named == snapshots), "{error}");
    fs::write(&file, &good).unwrap();
    let node = cluster.start(1).await;
    assert_eq!(node.propose("as if nothing had been").await.unwrap(), 102);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_above_the_limit_is_refused_and_one_at_the_limit_is_taken() {
    let cluster = Cluster::new(1);
    let mut options = cluster.options(1);
    options.max_payload_bytes = 100_000;
    let node = cluster.start_with(options).await.unwrap();
    let refusal = node.propose(&"x".repeat(100_001)).await.unwrap_err();
    assert_eq!(refusal, ProposeError::TooLarge { size: 100_001, limit: 100_000 });
    assert_eq!(node.propose(&"x".repeat(100_000)).await.unwrap(), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_machine_that_panics_stops_the_member_and_not_the_process() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    node.propose("good").await.unwrap();
    let answer = node.handle.propose(Bytes::from_static(b"\xff not text"), PATIENCE).await;
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
    node.leadership(|now| now.leader.is_none()).await;
    let State::Failed(reason) = node.handle.status().state else { panic!("{:?}", node.handle.status()) };
    assert!(reason.contains("the state machine panicked while applying entries"), "{reason}");
    let answer = node.propose("more").await;
    assert!(matches!(answer, Err(ProposeError::Stopped { .. })), "{answer:?}");
    assert!(matches!(node.handle.read_barrier(ReadMode::Index, PATIENCE).await, Err(ReadError::Stopped { .. })));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_shutdown_every_question_is_answered_with_it() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    let handle = node.handle.clone();
    node.stop().await;
    assert_eq!(handle.status().state, State::Stopped);
    let answer = handle.propose(Bytes::from_static(b"late"), PATIENCE).await;
    assert_eq!(answer, Err(ProposeError::Stopped { reason: "it was shut down".to_owned() }));
    assert!(matches!(handle.read_barrier(ReadMode::Index, PATIENCE).await, Err(ReadError::Stopped { .. })));
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_above_its_quota_refuses_proposals_changes_nothing_and_goes_on() {
    let mut cluster = Cluster::new(1);
    cluster.snapshots = SnapshotPolicy { entries_between: 1_000_000, ..SnapshotPolicy::default() };
    let mut options = cluster.options(1);
    options.max_store_bytes = 40 * 1024 * 1024;
    let node = cluster.start_with(options).await.unwrap();
    let mut made = 0;
    let refusal = loop {
        match node.propose(&"x".repeat(1_000_000)).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 200, "the quota is never reached");
    };
    assert!(matches!(&refusal, ProposeError::Full { reason } if reason.contains("may take 41943040")), "{refusal}");
    node.handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
    assert_eq!(node.machine.seen().len(), made);
    let status = node.handle.status();
    assert_eq!((status.state, status.full.is_some()), (State::Running, true));
    let new = NewMember { name: "late".to_owned(), raft_addr: "raft-late".to_owned(), ..NewMember::default() };
    node.handle.add_member(new, PATIENCE).await.unwrap();
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_told_under_their_names() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    node.propose("one").await.unwrap();
    let metrics = node.handle.metrics();
    assert_eq!(metrics.proposals().0, 1);
    assert!(metrics.barriers().0 > 0);
    let mut registry = prometheus_client::registry::Registry::with_prefix("berth");
    metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in
        ["berth_raft_is_leader 1", "berth_raft_proposal_seconds_count 1", "berth_raft_full 0", "berth_raft_slow_disk 0"]
    {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
    for name in [
        "term",
        "committed_index",
        "applied_index",
        "apply_lag_entries",
        "log_bytes",
        "snapshot_bytes",
        "barrier_seconds_sum",
    ] {
        assert!(text.contains(&format!("\nberth_raft_{name} ")), "{name} is not in\n{text}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_contradict_themselves_are_refused() {
    let cluster = Cluster::new(2);
    let mut options = cluster.options(1);
    options.bootstrap.remove(0);
    assert!(matches!(cluster.start_with(options).await.err(), Some(OpenError::Options { id: 1, .. })));
    let mut options = cluster.options(1);
    options.bootstrap[1].name = "member-1".to_owned();
    assert!(matches!(cluster.start_with(options).await.err(), Some(OpenError::Options { id: 1, .. })));
    let mut options = cluster.options(1);
    options.timing.election.1 = options.timing.election.0;
    assert!(matches!(cluster.start_with(options).await.err(), Some(OpenError::Options { id: 1, .. })));
}
