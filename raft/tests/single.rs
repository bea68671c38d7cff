//! One member alone: the smallest cluster.

mod support;

use berth_raft::State;
use support::{Cluster, PATIENCE};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_leads_itself_and_answers() {
    let cluster = Cluster::new(1);
    let node = cluster.start(1).await;
    assert_eq!(node.propose("a").await.unwrap(), 1);
    assert_eq!(node.propose("b").await.unwrap(), 2);
    node.handle.read_barrier(PATIENCE).await.unwrap();
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
    node.handle.read_barrier(PATIENCE).await.unwrap();
    assert_eq!(node.machine.seen(), ["round 0", "round 1", "round 2"]);
    node.stop().await;
}
