//! Tests of the store: openraft's own suite, what survives a restart, when a callback may come, and what is refused.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{RaftLogReader, StorageError};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::directory::{self, Directory};
use super::engine::{Batch, Engine, Visit};
use super::log::{Closer, LogStore};
use super::tail::Tail;
use super::wal::Sizes;
use crate::apply::Machine;
use crate::error::OpenError;
use crate::machine::{BoxError, Entry, StateMachine};
use crate::snapshot::SnapshotStore;
use crate::types::{LogEntry, LogId, LogPayload, Payload, Types, Vote, log_id};

mod corruption;
mod crashes;
#[cfg(feature = "testing")]
mod memory;

/// A machine that counts.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Snapshot = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes> {
        entries.iter().map(|_| Bytes::new()).inspect(|_| self.0 += 1).collect()
    }

    fn snapshot(&self) -> u64 {
        self.0
    }

    fn write(snapshot: &u64, out: &mut dyn io::Write) -> Result<(), BoxError> {
        Ok(out.write_all(&snapshot.to_le_bytes())?)
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> Result<(), BoxError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, (TempDir, Closer)> for Builder {
    async fn build(&self) -> Result<((TempDir, Closer), LogStore, Machine), StorageError<Types>> {
        let root = tempfile::tempdir().unwrap();
        let (store, closer, snapshots) = open(root.path());
        let machine = Machine::new(Box::new(Counter::default()), None, Arc::new(snapshots));
        Ok(((root, closer), store, machine))
    }
}

/// Files so small that every test uses several.
const SMALL: Sizes = Sizes { first: 16 * 1024, most: 64 * 1024 };

fn open(root: &Path) -> (LogStore, Closer, SnapshotStore) {
    open_with_sizes(root, SMALL)
}

fn open_with_sizes(root: &Path, sizes: Sizes) -> (LogStore, Closer, SnapshotStore) {
    let Directory { engine, tail, snapshots, lock, .. } = directory::open_sized(root, 1, sizes).unwrap();
    let snapshots = SnapshotStore::open(&snapshots).unwrap();
    let (store, closer) = LogStore::start(engine, tail, Box::new(lock)).unwrap();
    (store, closer, snapshots)
}

fn refused(root: &Path) -> OpenError {
    match directory::open(root, 1) {
        Err(error) => error,
        Ok(_) => panic!("the directory was opened"),
    }
}

fn entry(term: u64, index: u64, payload: impl Into<Bytes>) -> LogEntry {
    LogEntry { log_id: log_id(term, index), payload: LogPayload::Normal(Payload(payload.into())) }
}

async fn append(store: &mut LogStore, entries: impl IntoIterator<Item = LogEntry> + Send) {
    let entries: Vec<_> = entries.into_iter().collect();
    let (done, flushed) = Types::oneshot();
    store.append(entries, IOFlushed::signal(done)).await.unwrap();
    flushed.await.unwrap().unwrap();
}

async fn read(store: &mut LogStore) -> Vec<LogEntry> {
    store.get_log_reader().await.try_get_log_entries(..).await.unwrap()
}

/// A closed store with a vote and entries 0 to 9.
async fn filled() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let (mut store, closer, _) = open(root.path());
    store.save_vote(&Vote::new_committed(2, 1)).await.unwrap();
    append(&mut store, (0..10).map(|index| entry(2, index, format!("payload {index}")))).await;
    store.save_committed(Some(log_id(2, 9))).await.unwrap();
    closer.close().await;
    root
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_of_openraft_passes() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn vote_log_and_commitment_survive_a_restart() {
    let root = filled().await;
    let (mut store, closer, _) = open(root.path());
    let mut reader = store.get_log_reader().await;
    assert_eq!(reader.read_vote().await.unwrap(), Some(Vote::new_committed(2, 1)));
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(2, 9)));
    let expected: Vec<_> = (0..10).map(|index| entry(2, index, format!("payload {index}"))).collect();
    assert_eq!(read(&mut store).await, expected);
    closer.close().await;
}

#[tokio::test]
async fn truncating_and_purging_survive_a_restart() {
    let root = filled().await;
    let (mut store, closer, _) = open(root.path());
    store.truncate_after(Some(log_id(2, 6))).await.unwrap();
    store.purge(log_id(2, 3)).await.unwrap();
    append(&mut store, [entry(2, 7, "again")]).await;
    store.save_committed(Some(log_id(2, 7))).await.unwrap();
    closer.close().await;

    let (mut store, closer, _) = open(root.path());
    let state = store.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(2, 3)), Some(log_id(2, 7))));
    let entries = read(&mut store).await;
    assert_eq!(entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [4, 5, 6, 7]);
    assert_eq!(entries[3], entry(2, 7, "again"));
    store.truncate_after(None).await.unwrap();
    closer.close().await;
}

#[tokio::test]
async fn a_log_purged_beyond_its_end_goes_on_after_that() {
    let root = filled().await;
    let (mut store, closer, _) = open(root.path());
    store.save_vote(&Vote::new_committed(3, 2)).await.unwrap();
    store.purge(log_id(3, 20)).await.unwrap();
    append(&mut store, [entry(3, 21, "after")]).await;
    closer.close().await;
    let (mut store, closer, _) = open(root.path());
    assert_eq!(read(&mut store).await, [entry(3, 21, "after")]);
    closer.close().await;
}

#[tokio::test]
async fn an_entry_larger_than_a_file_of_the_log_is_read_back_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let (mut store, closer, _) = open(root.path());
    store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    let large: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).take(1_000_000).collect();
    let entries = [entry(1, 0, "small"), entry(1, 1, large), entry(1, 2, "small")];
    append(&mut store, entries.clone()).await;
    closer.close().await;
    let (mut store, closer, _) = open(root.path());
    assert_eq!(read(&mut store).await, entries);
    closer.close().await;
}

#[tokio::test]
async fn entries_behind_purged_ones_are_not_sent_in_their_place() {
    let root = filled().await;
    let (mut store, closer, _) = open(root.path());
    store.purge(log_id(2, 4)).await.unwrap();
    let mut reader = store.get_log_reader().await;
    assert_eq!(reader.limited_get_log_entries(3, 9).await.unwrap(), [], "a hole would be stored at the other end");
    assert_eq!(reader.limited_get_log_entries(5, 9).await.unwrap().len(), 4);
    closer.close().await;
}

#[tokio::test]
async fn entries_that_left_memory_are_read_from_the_disk() {
    let root = filled().await;
    let Directory { engine, tail, lock, .. } = directory::open(root.path(), 1).unwrap();
    let (mut store, closer) = LogStore::start(engine, tail.with_limit(1000), Box::new(lock)).unwrap();
    append(&mut store, (10..100).map(|index| entry(2, index, vec![7; 100]))).await;
    let mut reader = store.get_log_reader().await;
    let indexes = |entries: &[LogEntry]| entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>();
    assert_eq!(indexes(&reader.try_get_log_entries(..).await.unwrap()), (0..100).collect::<Vec<_>>());
    assert_eq!(indexes(&reader.try_get_log_entries(5..97).await.unwrap()), (5..97).collect::<Vec<_>>());
    assert_eq!(indexes(&reader.limited_get_log_entries(3, 200).await.unwrap()), (3..100).collect::<Vec<_>>());
    let streamed: Vec<_> = reader.entries_stream(2..).await.map(Result::unwrap).collect().await;
    assert_eq!(indexes(&streamed), (2..100).collect::<Vec<_>>());
    closer.close().await;
}

/// An engine in memory that keeps a diary, and whose barriers wait to be let through.
struct Diary {
    events: Mutex<Vec<String>>,
    barriers: Mutex<std_mpsc::Receiver<std::io::Result<()>>>,
}

impl Engine for Diary {
    fn write(&self, batch: Batch) -> std::io::Result<()> {
        let changes: usize = batch.frames.iter().map(|frame| frame.changes.len()).sum();
        self.events.lock().unwrap().push(format!("write {changes}"));
        Ok(())
    }

    fn barrier(&self) -> std::io::Result<()> {
        let result = self.barriers.lock().unwrap().recv().unwrap();
        self.events.lock().unwrap().push("barrier".to_owned());
        result
    }

    fn read(&self, _: u64, _: u64, _: &mut Visit<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn begin(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn size(&self) -> u64 {
        0
    }

    fn seal(&self) -> std::io::Result<()> {
        Ok(())
    }
}

fn diary() -> (Arc<Diary>, std_mpsc::Sender<std::io::Result<()>>, LogStore, Closer) {
    let (allow, barriers) = std_mpsc::channel();
    let diary = Arc::new(Diary { events: Mutex::default(), barriers: Mutex::new(barriers) });
    let engine: Arc<dyn Engine> = Arc::clone(&diary) as _;
    let (store, closer) = LogStore::start(engine, Tail::new(None, None, None), Box::new(())).unwrap();
    (diary, allow, store, closer)
}

#[tokio::test]
async fn nothing_is_acknowledged_before_the_barrier_and_many_appends_share_one() {
    let (diary, allow, mut store, closer) = diary();
    let mut flushed = Vec::new();
    for index in 0..50 {
        let (done, answer) = Types::oneshot();
        store.append([entry(1, index, "x")], IOFlushed::signal(done)).await.unwrap();
        flushed.push(answer);
    }
    assert_eq!(read(&mut store).await.len(), 50, "entries are readable at once");
    assert!(
        flushed.iter_mut().all(|answer| answer.now_or_never().is_none()),
        "no barrier was passed, so nothing may be told"
    );
    // The first batch holds what had queued up when the writer looked; the second one all the rest.
    allow.send(Ok(())).unwrap();
    allow.send(Ok(())).unwrap();
    for answer in flushed {
        answer.await.unwrap().unwrap();
    }
    let events = diary.events.lock().unwrap().clone();
    assert!(events.iter().filter(|event| *event == "barrier").count() <= 2, "{events:?}");
    assert_eq!(events.last().unwrap(), "barrier");
    drop(allow.send(Ok(())));
    closer.close().await;
}

#[tokio::test]
async fn a_vote_is_saved_only_after_the_barrier() {
    let (diary, allow, mut store, closer) = diary();
    let mut reader = store.get_log_reader().await;
    let vote = Vote::new(3, 1);
    let saving = tokio::spawn(async move {
        store.save_vote(&vote).await.unwrap();
        store
    });
    while diary.events.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!saving.is_finished());
    assert_eq!(reader.read_vote().await.unwrap(), None);
    allow.send(Ok(())).unwrap();
    drop(saving.await.unwrap());
    assert_eq!(reader.read_vote().await.unwrap(), Some(vote));
    assert_eq!(*diary.events.lock().unwrap(), ["write 1", "barrier"]);
    drop(allow.send(Ok(())));
    closer.close().await;
}

#[tokio::test]
async fn after_a_failed_barrier_nothing_is_accepted_any_more() {
    let (_, allow, mut store, closer) = diary();
    let (done, answer) = Types::oneshot();
    store.append([entry(1, 0, "x")], IOFlushed::signal(done)).await.unwrap();
    allow.send(Err(std::io::Error::other("the disk is gone"))).unwrap();
    assert_eq!(answer.await.unwrap().unwrap_err().to_string(), "the disk is gone");
    assert_eq!(store.save_vote(&Vote::new(1, 1)).await.unwrap_err().to_string(), "the disk is gone");
    let (done, _) = Types::oneshot();
    assert!(store.append([entry(1, 1, "x")], IOFlushed::signal(done)).await.is_err());
    closer.close().await;
}

fn check_snapshot(directory: &Directory, snapshot: Option<LogId>) -> Result<(), OpenError> {
    directory::check_snapshot(&directory.tail, &directory.snapshots, &directory.log, snapshot)
}

#[tokio::test]
async fn a_purged_log_without_its_snapshot_is_refused() {
    let root = filled().await;
    let (mut store, closer, _) = open(root.path());
    store.purge(log_id(2, 5)).await.unwrap();
    closer.close().await;
    let directory = directory::open(root.path(), 1).unwrap();
    assert!(check_snapshot(&directory, Some(log_id(2, 5))).is_ok());
    let error = check_snapshot(&directory, Some(log_id(2, 4))).unwrap_err();
    assert!(error.to_string().contains("snapshots"), "{error}");
}

#[tokio::test]
async fn a_missing_or_damaged_current_is_refused() {
    let root = filled().await;
    let current = root.path().join("CURRENT");
    let good = fs::read(&current).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(&current, &bad).unwrap();
    let error = refused(root.path());
    assert!(matches!(&error, OpenError::Damaged { file, .. } if *file == current), "{error}");
    fs::remove_file(&current).unwrap();
    let error = refused(root.path());
    assert!(matches!(&error, OpenError::Incomplete { file, .. } if *file == current), "{error}");
    fs::write(&current, &good).unwrap();
    drop(directory::open(root.path(), 1).unwrap());
}

#[tokio::test]
async fn a_crash_during_the_first_opening_is_made_good() {
    let root = tempfile::tempdir().unwrap();
    drop(directory::open(root.path(), 1).unwrap());
    fs::remove_file(root.path().join("CURRENT")).unwrap();
    drop(directory::open(root.path(), 1).unwrap());
    fs::remove_file(root.path().join("CURRENT")).unwrap();
    fs::rename(root.path().join("gen-1"), root.path().join("new-gen-1")).unwrap();
    assert!(directory::open(root.path(), 1).unwrap().is_pristine);
}

#[tokio::test]
async fn the_directory_of_another_program_or_member_is_refused() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("postgresql.conf"), b"port = 5432").unwrap();
    let error = refused(root.path());
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("postgresql.conf"), "{error}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing was added");

    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("CURRENT"), b"MANIFEST-000001\n").unwrap();
    assert!(matches!(refused(root.path()), OpenError::Foreign { .. }));

    let root = tempfile::tempdir().unwrap();
    drop(directory::open(root.path(), 2).unwrap());
    let error = refused(root.path());
    assert!(matches!(error, OpenError::OtherMember { found: 2, expected: 1, .. }), "{error}");
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let opened = directory::open(root.path(), 1).unwrap();
    assert!(matches!(refused(root.path()), OpenError::InUse { .. }));
    drop(opened);
    drop(directory::open(root.path(), 1).unwrap());
}

/// What may happen to a log, as sizes and counts that fit whatever the log holds by then.
#[derive(Debug, Clone)]
enum Step {
    Append { count: u64, bytes: usize },
    Truncate { from_end: u64 },
    Purge { from_start: u64 },
    Reopen,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..8_u64, 0..20_000_usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        1 => (0..6_u64).prop_map(|from_end| Step::Truncate { from_end }),
        1 => (0..6_u64).prop_map(|from_start| Step::Purge { from_start }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

/// Does the steps to a store and to a list, and compares the two after each.
async fn compare_with_a_list(steps: Vec<Step>) {
    let scratch = tempfile::tempdir().unwrap();
    let mut root = scratch.path().join("0");
    let open = |root: &Path| {
        let Directory { engine, tail, lock, .. } = directory::open_sized(root, 1, SMALL).unwrap();
        // So little memory that most of the log is read from the disk.
        LogStore::start(engine, tail.with_limit(10_000), Box::new(lock)).unwrap()
    };
    let (mut store, mut closer) = open(&root);
    let mut list: Vec<LogEntry> = Vec::new();
    let mut purged = None;
    let mut term = 1;
    store.save_vote(&Vote::new_committed(1000, 1)).await.unwrap();
    for (number, step) in steps.into_iter().enumerate() {
        let end = list.last().map(|entry| entry.log_id).or(purged);
        match step {
            Step::Append { count, bytes } => {
                let first = end.map_or(0, |end| end.index + 1);
                let added = (first..first + count).map(|index| entry(term, index, vec![index.to_le_bytes()[0]; bytes]));
                let added: Vec<_> = added.collect();
                append(&mut store, added.clone()).await;
                list.extend(added);
            }
            Step::Truncate { from_end } => {
                list.truncate(list.len().saturating_sub(usize::try_from(from_end).unwrap()));
                term += 1;
                store.truncate_after(list.last().map(|entry| entry.log_id).or(purged)).await.unwrap();
            }
            Step::Purge { from_start } => {
                let count = list.len().min(usize::try_from(from_start).unwrap());
                if let Some(upto) = list.drain(..count).next_back().map(|entry| entry.log_id) {
                    purged = Some(upto);
                    store.purge(upto).await.unwrap();
                }
            }
            Step::Reopen => {
                drop(store);
                closer.close().await;
                (store, closer) = open(&root);
            }
            Step::Kill => {
                // What a killed process leaves are the files as they are at that moment.
                let left = scratch.path().join((number + 1).to_string());
                corruption::copy(&root, &left);
                drop(store);
                closer.close().await;
                root = left;
                (store, closer) = open(&root);
            }
        }
        assert_eq!(read(&mut store).await, list);
        let state = store.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, purged);
        assert_eq!(state.last_log_id, list.last().map(|entry| entry.log_id).or(purged));
    }
    closer.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_store_does_what_a_list_does(steps in vec(step(), 1..25)) {
        tokio::runtime::Runtime::new().unwrap().block_on(compare_with_a_list(steps));
    }
}
