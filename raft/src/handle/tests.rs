//! A member that waits for a leader.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::breakable::{Alone, Journal};
use crate::open::open;
use crate::options::Options;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_leader_that_does_not_come_looks_now_and_then_and_not_all_the_time() {
    let root = tempfile::tempdir().unwrap();
    let members: Vec<_> = (1..=3).map(|id| Member { id, name: format!("member-{id}"), ..Member::default() }).collect();
    let options = Options::new(1, root.path(), members, Arc::new(Alone));
    let (handle, _service) = open(options, Journal::default()).await.unwrap();
    let looks = AtomicU32::new(0);
    let attempt = async |_, _| {
        looks.fetch_add(1, Ordering::Relaxed);
        Err(ProposeError::NoLeader)
    };
    let local = handle.slot.local();
    let is_leaderless = |error: &ProposeError| *error == ProposeError::NoLeader;
    let stopped = |reason| ProposeError::Stopped { reason };
    let waited = LOOK_AGAIN * 20;
    let answer: Result<(), _> = until_led(&local, waited, attempt, is_leaderless, stopped).await;
    assert_eq!(answer, Err(ProposeError::NoLeader));
    // One each time, and one for each step of the elections that this member stands for in vain meanwhile.
    let looks = looks.into_inner();
    assert!((2..60).contains(&looks), "{looks}");
    handle.shutdown().await;
}
