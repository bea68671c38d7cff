//! Keeps a member going when its disk fails: it says so, looks whether the disk works again, and opens itself anew.
//!
//! After a failed write nobody knows what is on the disk, so the consensus ends there and then, and what is really on the disk
//! is read afresh at the next opening. What a reopening cannot heal stays as it is: a state machine that does not understand
//! an entry, and a directory that is refused.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use openraft::async_runtime::WatchReceiver;

use crate::error::OpenError;
use crate::handle::Handle;
use crate::local::Local;
use crate::machine::StateMachine;
use crate::net::service::Service;
use crate::open::open_in;
use crate::options::Options;
use crate::slot::Slot;
use crate::status::State;
use crate::store::engine::Engine;
use crate::store::files;
use crate::store::log::blocking;

/// The first wait before the disk is looked at again, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Written, and brought to the disk, to see whether that works.
const PROBE_BYTES: usize = 1024 * 1024;

/// As [`open`](crate::open()), for as long as the program runs: the handle and the service outlive a failure of the store.
/// From then on the [`Status`](crate::Status) is [`State::Failed`] and every call is refused with the reason, until the disk
/// works again and the member has opened itself with a new state machine from `make_machine`.
///
/// # Errors
/// See [`OpenError`]: what is wrong at the first opening is the caller's to see.
pub async fn supervise<M, F>(options: Options, make_machine: F) -> Result<(Handle, Service), OpenError>
where
    M: StateMachine,
    F: Fn() -> M + Send + Sync + 'static,
{
    supervise_on(options, make_machine, |engine| engine).await
}

/// [`supervise`] on engines of the caller's choice: the seam at which tests make a disk fail.
pub(crate) async fn supervise_on<M: StateMachine>(
    options: Options,
    make_machine: impl Fn() -> M + Send + Sync + 'static,
    wrap: impl Fn(Arc<dyn Engine>) -> Arc<dyn Engine> + Send + Sync + 'static,
) -> Result<(Handle, Service), OpenError> {
    let slot = Slot::new();
    open_in(&slot, &options, Box::new(make_machine()), &wrap).await?;
    let handle = Handle::new(Arc::clone(&slot));
    tokio::spawn(watch(Arc::clone(&slot), options, make_machine, wrap));
    Ok((handle, Service { slot }))
}

/// Until the member is shut down, or lost for good.
async fn watch<M: StateMachine>(
    slot: Arc<Slot>,
    options: Options,
    make_machine: impl Fn() -> M,
    wrap: impl Fn(Arc<dyn Engine>) -> Arc<dyn Engine>,
) {
    loop {
        let local = slot.local();
        tokio::select! {
            () = slot.closed() => {
                // It may just have been opened again.
                local.close().await;
                return;
            }
            () = failed(&local) => {}
        }
        let State::Failed(reason) = local.state(&local.metrics()) else { return };
        tracing::error!(reason, "the replicated log has failed on this member");
        slot.fail(reason);
        // Whoever holds the old one gets errors from it; its directory is let go of.
        local.close().await;
        if local.is_beyond_help() {
            tracing::error!("opening it again would not help; this member takes no part until it is restarted");
            return;
        }
        drop(local);
        if !reopen(&slot, &options, &make_machine, &wrap).await {
            return;
        }
    }
}

/// Returns when the consensus has ended.
async fn failed(local: &Local) {
    let mut metrics = local.raft.metrics();
    while metrics.borrow_watched().running_state.is_ok() {
        if metrics.changed().await.is_err() {
            local.vanish();
            return;
        }
    }
}

/// Tries until the member is open again; `false` if that will never be.
async fn reopen<M: StateMachine>(
    slot: &Arc<Slot>,
    options: &Options,
    make_machine: &impl Fn() -> M,
    wrap: &impl Fn(Arc<dyn Engine>) -> Arc<dyn Engine>,
) -> bool {
    let mut pause = BACK_OFF.0;
    loop {
        tokio::select! {
            () = slot.closed() => return false,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(BACK_OFF.1);
        let directory = options.data_dir.clone();
        let needed = options.min_free_bytes;
        if let Err(error) = blocking(move || probe(&directory, needed)).await {
            slot.fail(format!("the disk under {} does not work: {error}", options.data_dir.display()));
            continue;
        }
        match open_in(slot, options, Box::new(make_machine()), wrap).await {
            Ok(()) => {
                slot.meters.reopened.fetch_add(1, Ordering::Relaxed);
                tracing::info!("the replicated log is open again on this member");
                return true;
            }
            // What another process or the disk does may pass; what is in the directory does not change by itself.
            Err(error @ (OpenError::Io { .. } | OpenError::InUse { .. } | OpenError::Start { .. })) => {
                tracing::warn!(%error, "the replicated log could not be opened again yet");
                slot.fail(error.to_string());
            }
            Err(error) => {
                tracing::error!(%error, "the replicated log cannot be opened again; this member takes no part");
                slot.fail(error.to_string());
                return false;
            }
        }
    }
}

/// Bytes that may still be written to the file system of a directory. Blocks.
pub(crate) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let stat = statvfs(directory)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Sees whether there is room, and whether what is written gets to the disk. Blocks.
fn probe(directory: &Path, needed: u64) -> io::Result<()> {
    let free = free_bytes(directory)?;
    if free < needed {
        let message = format!("{free} bytes are free, {needed} are needed; make room");
        return Err(io::Error::new(io::ErrorKind::StorageFull, message));
    }
    // Unfinished snapshots have such names, so an opening removes what a crash leaves of it.
    let path = directory.join("snapshots").join("probe.new");
    let written = files::create(&path).and_then(|mut file| {
        file.write_all(&vec![0x5a; PROBE_BYTES])?;
        file.sync_all()
    });
    let removed = fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests;
