//! The log in memory that loses what was not synced.

use std::sync::Arc;
use std::time::Duration;

use openraft::StorageError;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

use super::{Counter, append, entry, read};
use crate::apply::Machine;
use crate::snapshot::SnapshotStore;
use crate::store::log::{Closer, LogStore};
use crate::store::memory::Disk;
use crate::types::{Types, Vote, log_id};

/// Opens a disk whose barriers take a time that only the tests' clock knows.
fn open(disk: &Disk) -> (LogStore, Closer) {
    let tail = disk.load().unwrap();
    let pace = disk.clone();
    LogStore::start_simulated(Arc::new(disk.clone()), tail, move || pace.pace())
}

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, (TempDir, Closer)> for Builder {
    async fn build(&self) -> Result<((TempDir, Closer), LogStore, Machine), StorageError<Types>> {
        let root = tempfile::tempdir().unwrap();
        let (store, closer) = open(&Disk::default());
        let snapshots = SnapshotStore::open(root.path()).unwrap();
        let machine = Machine::new(Box::new(Counter::default()), None, Arc::new(snapshots));
        Ok(((root, closer), store, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_of_openraft_passes_in_memory() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn a_crash_loses_what_was_not_synced_and_nothing_else() {
    for kept in 0..=1 {
        let disk = Disk::default();
        let (mut store, closer) = open(&disk);
        store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        append(&mut store, (0..5).map(|index| entry(1, index, "synced"))).await;
        disk.set_latency(Duration::from_secs(5)..Duration::from_secs(6));
        let (done, flushed) = Types::oneshot();
        store.append((5..8).map(|index| entry(1, index, "not synced")), IOFlushed::signal(done)).await.unwrap();
        while disk.unsynced() == 0 {
            tokio::task::yield_now().await;
        }
        disk.crash(kept);
        // The machine is gone with all that ran on it.
        drop((store, closer, flushed));
        let (mut store, _) = open(&disk);
        let expected = if kept == 0 { 5 } else { 8 };
        assert_eq!(store.get_log_state().await.unwrap().last_log_id, Some(log_id(1, expected - 1)));
        assert_eq!(read(&mut store).await.len() as u64, expected);
    }
}

#[tokio::test]
async fn what_was_removed_and_closed_stays_removed() {
    let disk = Disk::default();
    let (mut store, closer) = open(&disk);
    store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    append(&mut store, (0..9).map(|index| entry(1, index, "x"))).await;
    store.truncate_after(Some(log_id(1, 6))).await.unwrap();
    store.purge(log_id(1, 2)).await.unwrap();
    store.save_committed(Some(log_id(1, 5))).await.unwrap();
    closer.close().await;
    disk.crash(0);
    let (mut store, _) = open(&disk);
    let indexes: Vec<_> = read(&mut store).await.iter().map(|entry| entry.log_id.index).collect();
    assert_eq!(indexes, [3, 4, 5, 6]);
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1, 5)));
}
