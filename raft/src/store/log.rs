//! The log as the consensus uses it: append, read, truncate, purge, and the vote.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot};

use super::engine::Engine;
use super::tail::{Found, Tail, weight};
use super::writer::{self, Command, Writer};
use super::{panic_message, record};
use crate::status::LogWork;
use crate::types::{LogEntry, LogId, Types, Vote};

/// Commands that may wait for the writer. The consensus bounds what it has in flight itself; this only keeps a stuck disk
/// from growing the queue without end.
const QUEUE: usize = 1024;

/// Entries sent to a follower in one message, in bytes; roughly. A single entry may be larger.
pub(crate) const REPLICATION_BYTES: usize = 1024 * 1024;

/// Entries read at once to be applied, in bytes; roughly.
const APPLY_BYTES: usize = 4 * 1024 * 1024;

/// Hears how long each barrier took.
pub(crate) type Observer = Box<dyn Fn(Duration) + Send + Sync>;

/// What the log, its readers and its writer share.
pub(crate) struct Shared {
    tail: Mutex<Tail>,
    /// `None` once the store is closed. Readers hold the lock while they read, so closing waits for them.
    engine: RwLock<Option<Arc<dyn Engine>>>,
    failure: Mutex<Option<io::Error>>,
    /// Things that must outlive the engine, such as the lock on the directory.
    guard: Mutex<Option<Box<dyn std::any::Any + Send>>>,
    observer: Observer,
    /// What has been written since the store was opened.
    syncs: AtomicU64,
    bytes: AtomicU64,
}

impl Shared {
    /// The end of the log. A panic elsewhere leaves it as good as it was: every change is made in one go.
    pub(crate) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine, if the store is open.
    pub(crate) fn engine(&self) -> io::Result<Arc<dyn Engine>> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)
    }

    /// The error that ended all writing, if there was one.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(Ok(()), |error| Err(repeat(error)))
    }

    /// Ends all writing: after a failed barrier nobody can know what is on the disk.
    pub(crate) fn fail(&self, error: &io::Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| repeat(error));
    }

    /// Counts what was handed to the engine.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Tells how long a barrier took.
    pub(crate) fn observe(&self, took: Duration) {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        (self.observer)(took);
    }

    /// Lets go of the log and of the lock on the directory.
    pub(crate) fn close(&self) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = None;
        *self.guard.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Reads entries that are only on the disk, in order, up to about `max_bytes` but at least one; tells whether that
    /// was all of them.
    fn read_stored(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<(Vec<LogEntry>, bool)> {
        let guard = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let engine = guard.as_ref().ok_or_else(closed)?;
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut bytes = 0;
        let mut failure = None;
        let mut is_all = true;
        engine.read(start, end, &mut |index, record| match decode(index, record) {
            Ok(entry) => {
                bytes += weight(&entry);
                is_all = entries.is_empty() || bytes <= max_bytes;
                if is_all {
                    entries.push(entry);
                }
                is_all
            }
            Err(error) => {
                failure = Some(error);
                false
            }
        })?;
        failure.map_or(Ok((entries, is_all)), Err)
    }

    /// Reads entries from `start` up to but not including `end`, as far as there are any.
    async fn read(self: &Arc<Self>, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<LogEntry>> {
        let Found { stored, recent } = self.tail().find(start, end, max_bytes);
        let Some((from, to)) = stored else { return Ok(recent) };
        let shared = Arc::clone(self);
        let (mut entries, is_all) = blocking(move || shared.read_stored(from, to, max_bytes)).await?;
        if is_all {
            let mut bytes: usize = entries.iter().map(weight).sum();
            entries.extend(recent.into_iter().take_while(|entry| {
                bytes = bytes.saturating_add(weight(entry));
                bytes <= max_bytes
            }));
        }
        Ok(entries)
    }
}

fn decode(index: u64, record: &[u8]) -> io::Result<LogEntry> {
    let entry = record::decode_first_entry(record).map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidData, format!("log entry {index} on the disk is damaged: {error}"))
    })?;
    if entry.log_id.index == index {
        Ok(entry)
    } else {
        let found = entry.log_id.index;
        let message = format!("log entry {found} is stored in the place of entry {index}");
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

/// The log, owned by the consensus.
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// Tells how large the log is, beside its owner.
#[derive(Clone)]
pub(crate) struct Gauge {
    shared: Arc<Shared>,
}

impl Gauge {
    /// Bytes that the log takes up on the disk; 0 once it is closed.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.engine().map_or(0, |engine| engine.size())
    }

    /// What has been written since the store was opened.
    pub(crate) fn work(&self) -> LogWork {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogWork { syncs: read(&self.shared.syncs), bytes: read(&self.shared.bytes) }
    }
}

/// Closes the store from outside, when the consensus has ended.
pub(crate) struct Closer {
    commands: mpsc::Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl LogStore {
    /// [`start_observed`](Self::start_observed) with nobody who hears.
    #[cfg(test)]
    pub(crate) fn start(
        engine: Arc<dyn Engine>,
        tail: Tail,
        guard: Box<dyn std::any::Any + Send>,
    ) -> io::Result<(Self, Closer)> {
        Self::start_observed(engine, tail, guard, Box::new(|_| {}))
    }

    /// Starts the writer over an engine whose content is already in `tail`, with someone who hears how long each barrier takes.
    /// `guard` is dropped after the engine. Blocks for as long as the engine takes to put in order what a crash left.
    pub(crate) fn start_observed(
        engine: Arc<dyn Engine>,
        tail: Tail,
        guard: Box<dyn std::any::Any + Send>,
        observer: Observer,
    ) -> io::Result<(Self, Closer)> {
        engine.begin()?;
        let (store, receiver) = Self::new(engine, tail, guard, observer);
        let shared = Arc::clone(&store.shared);
        let writer = Writer::new(&shared);
        let thread = std::thread::Builder::new()
            .name("raft-writer".to_owned())
            .spawn(move || writer::run(receiver, &shared, writer))?;
        let closer = Closer { commands: store.commands.clone(), thread: Some(thread) };
        Ok((store, closer))
    }

    /// [`start`](Self::start) with the writer as a task instead of a thread: a disk that takes simulated time.
    #[cfg(feature = "testing")]
    pub(crate) fn start_simulated(
        engine: Arc<dyn Engine>,
        tail: Tail,
        pace: impl Fn() -> Duration + Send + 'static,
    ) -> (Self, Closer) {
        let (store, receiver) = Self::new(engine, tail, Box::new(()), Box::new(|_| {}));
        tokio::spawn(writer::run_simulated(receiver, Arc::clone(&store.shared), Writer::new(&store.shared), pace));
        let closer = Closer { commands: store.commands.clone(), thread: None };
        (store, closer)
    }

    fn new(
        engine: Arc<dyn Engine>,
        tail: Tail,
        guard: Box<dyn std::any::Any + Send>,
        observer: Observer,
    ) -> (Self, mpsc::Receiver<Command>) {
        let shared = Arc::new(Shared {
            tail: Mutex::new(tail),
            engine: RwLock::new(Some(engine)),
            failure: Mutex::new(None),
            guard: Mutex::new(Some(guard)),
            observer,
            syncs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let (commands, receiver) = mpsc::channel(QUEUE);
        (Self { shared, commands }, receiver)
    }

    /// What tells how large the log is.
    pub(crate) fn gauge(&self) -> Gauge {
        Gauge { shared: Arc::clone(&self.shared) }
    }

    async fn send(&self, command: Command) -> io::Result<()> {
        self.shared.check()?;
        self.commands.send(command).await.map_err(|_| closed())
    }

    async fn request(&self, command: impl FnOnce(writer::Done) -> Command) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(command(done)).await?;
        answer.await.map_err(|_| closed())?
    }
}

impl Closer {
    /// Writes out what is queued, waits for the disk, and lets go of the directory.
    pub(crate) async fn close(mut self) {
        let (done, answer) = oneshot::channel();
        if self.commands.send(Command::Close { done }).await.is_ok() {
            drop(answer.await);
        }
        if let Some(thread) = self.thread.take() {
            // The thread catches its panics; its end is all that is awaited.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// Reads the log beside its owner.
#[derive(Clone)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

impl RaftLogReader<Types> for LogReader {
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let shared = Arc::clone(&self.shared);
        stream::try_unfold(start, move |next| {
            let shared = Arc::clone(&shared);
            async move {
                if next >= end {
                    return Ok::<_, io::Error>(None);
                }
                let entries = shared.read(next, end, APPLY_BYTES).await?;
                Ok(entries.last().map(|last| last.log_id.index + 1).map(|after| (entries, after)))
            }
        })
        .map_ok(|entries| stream::iter(entries.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let (start, end) = bounds(&range);
        self.shared.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.tail().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        let entries = self.shared.read(start, end, REPLICATION_BYTES).await?;
        // What was asked for may have been purged meanwhile. Sent without it, what follows would leave a hole in the other
        // member's log; nothing at all is understood as "not now", and a snapshot follows.
        let is_whole = entries.first().is_some_and(|first| first.log_id.index == start);
        Ok(if is_whole { entries } else { Vec::new() })
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let tail = self.shared.tail();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.request(|done| Command::Vote { vote, done }).await?;
        self.shared.tail().vote = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // The writer takes it along when it writes next.
        self.shared.tail().committed = committed;
        self.shared.check()
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let tail = self.shared.tail();
        Ok(tail.committed.min(tail.last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        self.shared.check()?;
        self.shared.tail().append(&entries);
        self.send(Command::Append { entries, done: callback }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.shared.tail().truncate_after(last_log_id);
        self.request(|done| Command::Truncate { last: last_log_id, done }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.shared.tail().purge(log_id);
        self.request(|done| Command::Purge { upto: log_id, done }).await
    }
}

/// Runs blocking work away from the async workers; in a simulation in its place in the order of things.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if crate::runtime::is_simulated() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            let message = panic_message(error.into_panic().as_ref());
            Err(io::Error::other(format!("a blocking task panicked: {message}")))
        }
        Err(_) => Err(closed()),
    }
}

/// The same error once more, for the next who asks.
pub(crate) fn repeat(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log store is closed")
}

/// First and one past the last index of a range.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}
