//! A member whose disk fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::breakable::{Alone, Breakable, Journal};
use crate::error::{ProposeError, ReadError};
use crate::handle::ReadMode;
use crate::options::Member;
use crate::status::State;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_stops_the_member_with_the_reason_and_it_can_be_opened_again() {
    let root = tempfile::tempdir().unwrap();
    let only = Member { id: 1, name: "only".to_owned(), ..Member::default() };
    let options = Options::new(1, root.path(), vec![only], Arc::new(Alone));
    let is_broken = Arc::new(AtomicBool::new(false));
    let wrap = |engine| Arc::new(Breakable { engine, is_broken: Arc::clone(&is_broken) }) as Arc<dyn Engine>;
    let (handle, _service) = open_on(options.clone(), Journal::default(), wrap).await.unwrap();
    handle.propose(Bytes::from_static(b"kept"), PATIENCE).await.unwrap();

    is_broken.store(true, Ordering::Relaxed);
    let answer = handle.propose(Bytes::from_static(b"in doubt"), PATIENCE).await;
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
    handle.leadership().wait_for(|now| now.leader.is_none()).await.unwrap();
    let State::Failed(reason) = handle.status().state else { panic!("{:?}", handle.status()) };
    assert!(reason.contains("no space left on the device"), "{reason}");
    let answer = handle.propose(Bytes::from_static(b"refused"), PATIENCE).await;
    assert!(matches!(&answer, Err(ProposeError::Stopped { reason }) if reason.contains("no space left")), "{answer:?}");
    assert!(matches!(handle.read_barrier(ReadMode::Index, PATIENCE).await, Err(ReadError::Stopped { .. })));
    handle.shutdown().await;

    let journal = Journal::default();
    let (handle, _service) = open(options, journal.clone()).await.unwrap();
    handle.propose(Bytes::from_static(b"again"), PATIENCE).await.unwrap();
    let seen = journal.0.lock().unwrap().clone();
    assert_eq!(
        (seen.first().unwrap(), seen.last().unwrap()),
        (&Bytes::from_static(b"kept"), &Bytes::from_static(b"again"))
    );
    assert!(!seen.contains(&Bytes::from_static(b"refused")));
    handle.shutdown().await;
}
