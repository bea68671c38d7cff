//! A disk that fails and works again.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::*;
use crate::breakable::{Alone, Breakable, Journal};
use crate::error::{ProposeError, ReadError};
use crate::handle::ReadMode;
use crate::options::Member;

const PATIENCE: Duration = Duration::from_secs(30);

fn options(root: &Path) -> Options {
    let only = Member { id: 1, name: "only".to_owned(), ..Member::default() };
    Options::new(1, root, vec![only], Arc::new(Alone))
}

/// A supervised member whose disk can be broken, and the machine that it has at the moment.
async fn supervised(root: &Path) -> (Handle, Arc<AtomicBool>, Journal) {
    let is_broken = Arc::new(AtomicBool::new(false));
    let breaking = Arc::clone(&is_broken);
    let wrap = move |engine| Arc::new(Breakable { engine, is_broken: Arc::clone(&breaking) }) as Arc<dyn Engine>;
    let journal = Journal::default();
    let machine = journal.clone();
    let make = move || {
        machine.0.lock().unwrap().clear();
        machine.clone()
    };
    let (handle, _service) = supervise_on(options(root), make, wrap).await.unwrap();
    (handle, is_broken, journal)
}

async fn propose(handle: &Handle, text: &'static str) -> Result<(), ProposeError> {
    handle.propose(Bytes::from_static(text.as_bytes()), PATIENCE).await.map(drop)
}

async fn failed_with(handle: &Handle) -> String {
    let mut leadership = handle.leadership();
    tokio::time::timeout(PATIENCE, leadership.wait_for(|now| now.leader.is_none())).await.unwrap().unwrap();
    let State::Failed(reason) = handle.status().state else { panic!("{:?}", handle.status()) };
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_fails_says_so_and_opens_itself_again_when_it_works() {
    let root = tempfile::tempdir().unwrap();
    let (handle, is_broken, journal) = supervised(root.path()).await;
    let mut leadership = handle.leadership();
    for round in 1..=2 {
        propose(&handle, "kept").await.unwrap();
        is_broken.store(true, Ordering::Relaxed);
        let answer = propose(&handle, "in doubt").await;
        assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
        let reason = failed_with(&handle).await;
        assert!(reason.contains("no space left on the device"), "{reason}");
        let answer = propose(&handle, "refused").await;
        assert!(matches!(answer, Err(ProposeError::Stopped { .. })), "{answer:?}");
        let read = handle.read_barrier(ReadMode::Index, PATIENCE).await;
        assert!(matches!(read, Err(ReadError::Stopped { .. })), "{read:?}");

        is_broken.store(false, Ordering::Relaxed);
        tokio::time::timeout(PATIENCE, leadership.wait_for(|now| now.is_leader)).await.unwrap().unwrap();
        assert_eq!(handle.status().state, State::Running);
        propose(&handle, "again").await.unwrap();
        handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
        let seen = journal.0.lock().unwrap().clone();
        let times = |text: &'static str| seen.iter().filter(|one| **one == Bytes::from_static(text.as_bytes())).count();
        assert_eq!((times("kept"), times("again"), times("refused")), (round, round, 0), "{seen:?}");
        assert_eq!(handle.metrics().reopened(), u64::try_from(round).unwrap());
    }
    handle.shutdown().await;
    assert_eq!(handle.status().state, State::Stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_does_not_understand_an_entry_is_not_started_again() {
    let root = tempfile::tempdir().unwrap();
    let (handle, _, journal) = supervised(root.path()).await;
    propose(&handle, "kept").await.unwrap();
    let answer = propose(&handle, "unknown").await;
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
    let reason = failed_with(&handle).await;
    assert!(reason.contains("a record from the future"), "{reason}");
    // The supervisor has let go of the directory, and has no more to do.
    let lock = fs::File::open(root.path().join("LOCK")).unwrap();
    let released = async {
        while lock.try_lock().is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, released).await.unwrap();
    assert_eq!(handle.metrics().reopened(), 0);
    assert_eq!(journal.0.lock().unwrap().len(), 1);
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_the_waiting_for_the_disk_too() {
    let root = tempfile::tempdir().unwrap();
    let (handle, is_broken, _) = supervised(root.path()).await;
    is_broken.store(true, Ordering::Relaxed);
    let _ = propose(&handle, "in doubt").await;
    failed_with(&handle).await;
    handle.shutdown().await;
    is_broken.store(false, Ordering::Relaxed);
    let (again, _service) = crate::open(options(root.path()), Journal::default()).await.unwrap();
    propose(&again, "mine").await.unwrap();
    again.shutdown().await;
}
