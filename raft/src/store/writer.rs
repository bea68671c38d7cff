//! The thread that writes: many changes, one barrier, then the callbacks in order.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::engine::{Batch, Engine};
use super::log::Shared;
use super::record::{self, kind};
use super::sled::panic_message;
use super::{keys, log};
use crate::types::{LogEntry, LogId, Types, Vote};

/// Commands taken into one batch at most. The consensus submits few and large appends, so this is about the smallest.
const GROUP: usize = 256;

/// What the writer is asked to do.
pub(crate) enum Command {
    /// Store entries; the callback wants them durable.
    Append { entries: Vec<LogEntry>, done: IOFlushed<Types> },
    /// Store the vote.
    Vote { vote: Vote, done: Done },
    /// Note how far the log is committed; nobody waits for it, it rides with the next batch.
    Committed { id: Option<LogId> },
    /// Remove the entries from this index on.
    Truncate { from: u64, done: Done },
    /// Remove the entries up to this one.
    Purge { upto: LogId, done: Done },
    /// Finish, and let go of the database.
    Close { done: oneshot::Sender<()> },
}

/// Answers a command.
pub(crate) type Done = oneshot::Sender<io::Result<()>>;

/// What is to be stored, apart from who waits for it: the part that may fail.
enum Change {
    Append(Vec<LogEntry>),
    Vote(Vote),
    Committed(Option<LogId>),
    Truncate(u64),
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

/// What is written together, and who waits for it.
#[derive(Default)]
struct Group {
    changes: Vec<Change>,
    waiting: Vec<Waiting>,
    closers: Vec<oneshot::Sender<()>>,
}

impl Group {
    /// Takes a command and whatever else has queued up.
    fn gather(first: Command, commands: &mut mpsc::Receiver<Command>) -> Self {
        let mut group = Self::default();
        let mut next = Some(first);
        while let Some(command) = next.take() {
            let (change, waits) = match command {
                Command::Append { entries, done } => (Change::Append(entries), Some(Waiting::Flushed(done))),
                Command::Vote { vote, done } => (Change::Vote(vote), Some(Waiting::Done(done))),
                Command::Committed { id } => (Change::Committed(id), None),
                Command::Truncate { from, done } => (Change::Truncate(from), Some(Waiting::Done(done))),
                Command::Purge { upto, done } => (Change::Purge(upto), Some(Waiting::Done(done))),
                Command::Close { done } => {
                    group.closers.push(done);
                    break;
                }
            };
            group.changes.push(change);
            group.waiting.extend(waits);
            if group.changes.len() < GROUP {
                next = commands.try_recv().ok();
            }
        }
        group
    }

    /// Whether anyone waits for the disk.
    fn needs_barrier(&self) -> bool {
        !self.waiting.is_empty() || !self.closers.is_empty()
    }

    /// Makes the changes visible.
    fn write(&mut self, shared: &Shared) -> io::Result<Option<u64>> {
        let changes = std::mem::take(&mut self.changes);
        shared.check().and_then(|()| guarded(|| write(shared, changes)))
    }

    /// Waits for the disk if anyone else does, and answers who waits.
    fn complete(self, shared: &Shared, written: io::Result<Option<u64>>) -> Vec<oneshot::Sender<()>> {
        let barrier = self.needs_barrier();
        let result = written.and_then(|written| guarded(|| finish(shared, written, barrier)));
        if let Err(error) = &result {
            shared.fail(error);
        }
        for waits in self.waiting {
            waits.complete(result.as_ref().copied().map_err(log::repeat));
        }
        self.closers
    }
}

/// Writes until it is told to close, or until nobody can tell it anything any more. The last thing it does is to let go of
/// the database, so that the directory can be opened again.
pub(crate) fn run(mut commands: mpsc::Receiver<Command>, shared: &Arc<Shared>) {
    let mut closers = Vec::new();
    while closers.is_empty()
        && let Some(first) = commands.blocking_recv()
    {
        let mut group = Group::gather(first, &mut commands);
        let written = group.write(shared);
        closers = group.complete(shared, written);
    }
    close(&mut commands, shared, closers);
}

/// [`run`] as a task: between the write and the barrier lies the time that `pace` says, in which a crash finds what is
/// written and not yet durable.
#[cfg(feature = "testing")]
pub(crate) async fn run_simulated(
    mut commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    pace: impl Fn() -> std::time::Duration,
) {
    let mut closers = Vec::new();
    while closers.is_empty()
        && let Some(first) = commands.recv().await
    {
        let mut group = Group::gather(first, &mut commands);
        let written = group.write(&shared);
        if group.needs_barrier() {
            tokio::time::sleep(pace()).await;
        }
        closers = group.complete(&shared, written);
    }
    close(&mut commands, &shared, closers);
}

/// Lets go of the database.
fn close(commands: &mut mpsc::Receiver<Command>, shared: &Shared, closers: Vec<oneshot::Sender<()>>) {
    // Whoever comes later gets an error, not silence.
    commands.close();
    shared.close();
    for done in closers {
        // Who gave up waiting need not be told.
        let _ = done.send(());
    }
}

/// Turns a panic into an error: a waiting consensus must hear of it.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(io::Error::other(format!("writing the log panicked: {}", panic_message(panic.as_ref()))))
    })
}

/// Makes changes visible in their order, and returns the index of the last entry among them that stays.
fn write(shared: &Shared, changes: Vec<Change>) -> io::Result<Option<u64>> {
    let engine = shared.engine()?;
    let mut batch = Batch::default();
    let mut written = None;
    for change in changes {
        match change {
            Change::Append(entries) => {
                for entry in &entries {
                    let index = entry.log_id.index;
                    let record = record::encode_entry(entry).map_err(io::Error::other)?;
                    for (number, piece) in keys::pieces(&record) {
                        batch.put(keys::piece(index, number), piece.to_vec());
                    }
                    written = Some(index);
                }
            }
            Change::Vote(vote) => {
                batch.put(keys::VOTE.to_vec(), record::encode_vote(vote).map_err(io::Error::other)?);
            }
            Change::Committed(Some(id)) => {
                let record = record::encode_log_id(kind::COMMITTED, id).map_err(io::Error::other)?;
                batch.put(keys::COMMITTED.to_vec(), record);
            }
            Change::Committed(None) => batch.remove(keys::COMMITTED.to_vec()),
            Change::Truncate(from) => {
                // What is to be removed must be visible to the scan, whatever part of it is only in this batch.
                flush_batch(engine.as_ref(), &mut batch)?;
                remove(engine.as_ref(), &keys::from(from), keys::LOG_END, &mut batch)?;
                flush_batch(engine.as_ref(), &mut batch)?;
                shared.tail().truncated(from);
                written = None;
            }
            Change::Purge(upto) => {
                flush_batch(engine.as_ref(), &mut batch)?;
                let record = record::encode_log_id(kind::PURGED, upto).map_err(io::Error::other)?;
                batch.put(keys::PURGED.to_vec(), record);
                remove(engine.as_ref(), &keys::from(0), &keys::from(upto.index.saturating_add(1)), &mut batch)?;
            }
        }
    }
    flush_batch(engine.as_ref(), &mut batch)?;
    Ok(written)
}

/// Waits for the disk if anyone does, and lets memory go of what the database holds.
fn finish(shared: &Shared, written: Option<u64>, barrier: bool) -> io::Result<()> {
    if barrier {
        shared.engine()?.barrier()?;
    }
    if let Some(index) = written {
        shared.tail().written(index);
    }
    Ok(())
}

fn flush_batch(engine: &dyn Engine, batch: &mut Batch) -> io::Result<()> {
    if batch.is_empty() { Ok(()) } else { engine.write(std::mem::take(batch)) }
}

/// Adds the removal of a range of keys to a batch.
fn remove(engine: &dyn Engine, start: &[u8], end: &[u8], batch: &mut Batch) -> io::Result<()> {
    engine.scan(start, end, &mut |key, _| {
        batch.remove(key.to_vec());
        true
    })
}
