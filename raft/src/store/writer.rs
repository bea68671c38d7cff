//! What writes: many changes, one barrier, then the callbacks in order.
//!
//! Mostly that is a thread. A simulation has it done by a task instead, which takes time between writing and the barrier only
//! as the simulation says.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::engine::Batch;
use super::log::{self, Shared};
use super::panic_message;
use crate::types::{LogEntry, LogId, Types, Vote};

/// Commands taken into one batch at most. The consensus submits few and large appends, so this is about the smallest.
const GROUP: usize = 256;

/// What the writer is asked to do.
pub(crate) enum Command {
    /// Store entries; the callback wants them durable.
    Append { entries: Vec<LogEntry>, done: IOFlushed<Types> },
    /// Store the vote.
    Vote { vote: Vote, done: Done },
    /// Remove the entries after this one.
    Truncate { last: Option<LogId>, done: Done },
    /// Remove the entries up to this one.
    Purge { upto: LogId, done: Done },
    /// Finish, and let go of the log.
    Close { done: oneshot::Sender<()> },
}

/// Answers a command.
pub(crate) type Done = oneshot::Sender<io::Result<()>>;

/// What is to be stored, apart from who waits for it: the part that may fail.
enum Change {
    Append(Vec<LogEntry>),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// Who waits for a batch.
enum Waiting {
    Flushed(IOFlushed<Types>),
    Done(Done),
}

impl Waiting {
    fn complete(self, result: io::Result<()>) {
        match self {
            Self::Flushed(callback) => callback.io_completed(result),
            // Who gave up waiting need not be told.
            Self::Done(done) => drop(done.send(result)),
        }
    }
}

/// Commands that are carried out together.
#[derive(Default)]
struct Group {
    changes: Vec<Change>,
    waiting: Vec<Waiting>,
    closers: Vec<oneshot::Sender<()>>,
}

impl Group {
    /// Takes the first command and whatever has queued up behind it.
    fn collect(first: Command, commands: &mut mpsc::Receiver<Command>) -> Self {
        let mut group = Self::default();
        let mut next = Some(first);
        while let Some(command) = next.take() {
            let (change, waits) = match command {
                Command::Append { entries, done } => (Change::Append(entries), Waiting::Flushed(done)),
                Command::Vote { vote, done } => (Change::Vote(vote), Waiting::Done(done)),
                Command::Truncate { last, done } => (Change::Truncate(last), Waiting::Done(done)),
                Command::Purge { upto, done } => (Change::Purge(upto), Waiting::Done(done)),
                Command::Close { done } => {
                    group.closers.push(done);
                    break;
                }
            };
            group.changes.push(change);
            group.waiting.push(waits);
            if group.changes.len() < GROUP {
                next = commands.try_recv().ok();
            }
        }
        group
    }

    /// Tells everyone who waits.
    fn complete(self, result: &io::Result<()>) {
        for waits in self.waiting {
            waits.complete(result.as_ref().copied().map_err(log::repeat));
        }
    }
}

/// What the writer remembers from one group to the next.
pub(crate) struct Writer {
    /// The last entry that was handed to the engine.
    last: Option<LogId>,
    /// How far the log is committed according to the engine. Nobody waits for that to be known: it rides with the next batch.
    committed: Option<LogId>,
}

impl Writer {
    /// For an engine that has what the tail has, before anything is added to either.
    pub(crate) fn new(shared: &Shared) -> Self {
        let tail = shared.tail();
        Self { last: tail.last, committed: tail.committed }
    }

    /// Hands changes to the engine in their order.
    fn write(&mut self, shared: &Shared, changes: Vec<Change>, is_last: bool) -> io::Result<Written> {
        shared.check()?;
        guarded(|| {
            let mut batch = Batch::default();
            let mut written = None;
            for change in changes {
                match change {
                    Change::Append(entries) => {
                        for entry in &entries {
                            batch.append(entry).map_err(io::Error::other)?;
                            written = Some(entry.log_id.index);
                            self.last = Some(entry.log_id);
                        }
                    }
                    Change::Vote(vote) => batch.vote(vote).map_err(io::Error::other)?,
                    Change::Truncate(last) => {
                        batch.truncate(last).map_err(io::Error::other)?;
                        self.last = last;
                        let from = last.map_or(0, |last| last.index.saturating_add(1));
                        shared.tail().truncated(from);
                        written = written.filter(|&index| index < from);
                    }
                    Change::Purge(upto) => {
                        batch.purge(upto).map_err(io::Error::other)?;
                        self.last = self.last.max(Some(upto));
                    }
                }
            }
            // Behind the entries: if this is torn, what is left must not speak of entries that are not there.
            let committed = shared.tail().committed.min(self.last);
            if (is_last || !batch.is_empty()) && committed > self.committed {
                batch.commit(committed.expect("it is above something")).map_err(io::Error::other)?;
                self.committed = committed;
            }
            let is_empty = batch.is_empty();
            if !is_empty {
                let bytes = batch.bytes();
                shared.engine()?.write(batch)?;
                shared.wrote(bytes);
            }
            Ok(Written { last: written, is_empty })
        })
    }
}

/// Writes until it is told to close, or until nobody can tell it anything any more. The last thing it does is to let go of
/// the log, so that the directory can be opened again.
pub(crate) fn run(mut commands: mpsc::Receiver<Command>, shared: &Arc<Shared>, mut writer: Writer) {
    let mut closers = Vec::new();
    while closers.is_empty()
        && let Some(first) = commands.blocking_recv()
    {
        let mut group = Group::collect(first, &mut commands);
        closers.append(&mut group.closers);
        let changes = std::mem::take(&mut group.changes);
        let result = writer.write(shared, changes, !closers.is_empty());
        let result = result.and_then(|written| finish(shared, written));
        complete(shared, group, &result);
    }
    close(commands, shared, closers, &mut writer);
}

/// [`run`] as a task: between the write and the barrier lies the time that `pace` says, in which a crash finds what is
/// written and not yet durable.
#[cfg(feature = "testing")]
pub(crate) async fn run_simulated(
    mut commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    mut writer: Writer,
    pace: impl Fn() -> std::time::Duration,
) {
    let mut closers = Vec::new();
    while closers.is_empty()
        && let Some(first) = commands.recv().await
    {
        let mut group = Group::collect(first, &mut commands);
        closers.append(&mut group.closers);
        let changes = std::mem::take(&mut group.changes);
        let result = match writer.write(&shared, changes, !closers.is_empty()) {
            Ok(written) => {
                tokio::time::sleep(pace()).await;
                finish(&shared, written)
            }
            Err(error) => Err(error),
        };
        complete(&shared, group, &result);
    }
    close(commands, &shared, closers, &mut writer);
}

/// Remembers an error, and tells everyone who waits how it went.
fn complete(shared: &Shared, group: Group, result: &io::Result<()>) {
    if let Err(error) = result {
        shared.fail(error);
    }
    group.complete(result);
}

/// Seals a log that never failed, and lets go of it.
fn close(
    mut commands: mpsc::Receiver<Command>,
    shared: &Shared,
    closers: Vec<oneshot::Sender<()>>,
    writer: &mut Writer,
) {
    // Whoever comes later gets an error, not silence.
    commands.close();
    if shared.check().is_ok() {
        let sealed = writer
            .write(shared, Vec::new(), true)
            .and_then(|written| finish(shared, written))
            .and_then(|()| guarded(|| shared.engine()?.seal()));
        if let Err(error) = sealed {
            // Everything that was acknowledged is on the disk; the next opening takes the log for one that was killed.
            tracing::warn!(%error, "the log could not be sealed");
        }
    }
    shared.close();
    for done in closers {
        // Who gave up waiting need not be told.
        let _ = done.send(());
    }
}

/// What a write leaves to be done after the barrier.
#[derive(Clone, Copy, Default)]
struct Written {
    /// Index of the last entry that the engine holds now.
    last: Option<u64>,
    is_empty: bool,
}

/// Waits for the disk, then notes what it has.
fn finish(shared: &Shared, written: Written) -> io::Result<()> {
    if written.is_empty {
        return Ok(());
    }
    guarded(|| {
        let begun = Instant::now();
        slow_disk();
        shared.engine()?.barrier()?;
        shared.observe(begun.elapsed());
        if let Some(index) = written.last {
            shared.tail().written(index);
        }
        Ok(())
    })
}

/// Makes the disk as slow as a test wants it: the file that this variable names holds milliseconds, and is read each time.
#[cfg(debug_assertions)]
fn slow_disk() {
    use std::sync::LazyLock;

    static FILE: LazyLock<Option<std::ffi::OsString>> = LazyLock::new(|| std::env::var_os("BERTH_TEST_SLOW_DISK"));
    let wanted = FILE.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    let millis = wanted.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if millis > 0 {
        std::thread::sleep(std::time::Duration::from_millis(millis));
    }
}

#[cfg(not(debug_assertions))]
fn slow_disk() {}

/// Runs what touches the engine, with a panic turned into an error: a waiting consensus must hear of it.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(io::Error::other(format!("writing the log panicked: {}", panic_message(panic.as_ref()))))
    })
}
