//! Puts a member together: directory, log, state machine, consensus and transport.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};

use crate::apply::Machine;
use crate::error::OpenError;
use crate::handle::Handle;
use crate::local::{Local, Parts, Room};
use crate::machine::{AnyMachine, StateMachine};
use crate::net::client::Factory;
use crate::net::peers::Peers;
use crate::net::service::Service;
use crate::options::{self, MAX_PAYLOAD_BYTES, Options};
use crate::slot::Slot;
use crate::snapshot::SnapshotStore;
use crate::store::directory::{self, Directory, failed};
use crate::store::engine::Engine;
use crate::store::log::{Closer, LogStore};
use crate::store::tail::Tail;
use crate::types::{Address, Raft, Snapshot, SnapshotMeta};

/// Entries in one message to a follower at most; their bytes are bounded besides.
const ENTRIES_PER_MESSAGE: u64 = 512;

/// Waits between attempts to reach a member that is away: short, because members are few and near.
const BACKOFF: &str = "50ms 100ms 200ms ...500ms";

/// By how much longer than lease and election a leader that hears nobody stays silent, in milliseconds.
const PROBE_MARGIN_MS: u64 = 100;

/// Opens a member's data directory, restores its state machine, and starts to take part.
///
/// A directory that is pristine becomes a member of the cluster that [`Options::bootstrap`] describes. The returned service
/// must be run for the other members to be answered; a cluster of one needs it not.
///
/// # Errors
/// See [`OpenError`]. Whatever is wrong with the directory, nothing in it is removed.
pub async fn open<M: StateMachine>(options: Options, state_machine: M) -> Result<(Handle, Service), OpenError> {
    open_on(options, state_machine, |engine| engine).await
}

/// [`open`] on an engine of the caller's choice: the seam at which tests make a disk fail.
async fn open_on<M: StateMachine>(
    options: Options,
    state_machine: M,
    wrap: impl FnOnce(Arc<dyn Engine>) -> Arc<dyn Engine>,
) -> Result<(Handle, Service), OpenError> {
    let slot = Slot::new();
    open_in(&slot, &options, Box::new(state_machine), wrap).await?;
    Ok((Handle::new(Arc::clone(&slot)), Service { slot }))
}

/// Opens a member, perhaps not for the first time, and puts it where handle and service find it.
pub(crate) async fn open_in(
    slot: &Arc<Slot>,
    options: &Options,
    state_machine: Box<dyn AnyMachine>,
    wrap: impl FnOnce(Arc<dyn Engine>) -> Arc<dyn Engine>,
) -> Result<(), OpenError> {
    check(options)?;
    let (id, data_dir, policy) = (options.id, options.data_dir.clone(), options.snapshots.clone());
    let start_failed = |reason: String| OpenError::Start { id, reason };
    let opening = tokio::task::spawn_blocking(move || load(&data_dir, id, policy, state_machine));
    let Opened { directory, machine, snapshots, meta } =
        opening.await.map_err(|error| start_failed(error.to_string()))??;
    let is_pristine = directory.is_pristine && meta.is_none();
    let machine = Machine::new(machine, meta, Arc::clone(&snapshots));
    let Directory { engine, tail, lock, .. } = directory;
    let meters = Arc::clone(&slot.meters);
    let observer = Box::new(move |took| meters.barrier(took));
    let engine = wrap(engine);
    // What a crash left is put in order first, which blocks.
    let starting =
        tokio::task::spawn_blocking(move || LogStore::start_observed(engine, tail, Box::new(lock), observer));
    let started = starting.await.map_err(|error| start_failed(error.to_string()))?;
    let (log, closer) = started.map_err(failed("start the log in", &options.data_dir))?;
    tracing::info!(member = id, log_bytes = log.gauge().bytes(), "the log is open");
    join(slot, options, Loaded { machine, snapshots, log, closer, is_pristine }).await
}

/// A member's own half, before it speaks to anyone.
pub(crate) struct Loaded {
    pub(crate) machine: Machine,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) log: LogStore,
    pub(crate) closer: Closer,
    /// Whether nothing has ever been stored.
    pub(crate) is_pristine: bool,
}

/// Starts to take part with what was loaded.
pub(crate) async fn join(slot: &Arc<Slot>, options: &Options, loaded: Loaded) -> Result<(), OpenError> {
    let config = config(options)?;
    let Options { id, data_dir, bootstrap, links, timing, snapshots: _, max_payload_bytes, .. } = options.clone();
    let room = Room { data_dir, max_store_bytes: options.max_store_bytes, min_free_bytes: options.min_free_bytes };
    let Loaded { machine, snapshots, log, closer, is_pristine } = loaded;
    let start_failed = |reason: String| OpenError::Start { id, reason };
    let (applied, is_beyond_help, gauge) = (machine.applied_index(), machine.has_given_up(), log.gauge());
    let peers = Arc::new(Peers::new(links));
    let factory = Factory { peers: Arc::clone(&peers) };
    let raft = Raft::new(id, Arc::new(config), factory, log, machine)
        .await
        .map_err(|fatal| start_failed(fatal.to_string()))?;
    peers.open_book(raft.server_metrics());
    if is_pristine && !bootstrap.is_empty() {
        let members: BTreeMap<u64, Address> = bootstrap.iter().map(|member| (member.id, member.into())).collect();
        match raft.initialize(members).await {
            // A member that was quicker may have told us already.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(start_failed(error.to_string())),
        }
    } else if raft.voter_ids().eq([id]) {
        // Alone there is nobody to wait for.
        raft.trigger().elect(false).await.map_err(|fatal| start_failed(fatal.to_string()))?;
    }
    let election = timing.election.1;
    slot.fill(Arc::new(Local::new(Parts {
        id,
        raft,
        snapshots,
        peers,
        max_payload_bytes,
        election,
        closer,
        applied,
        meters: Arc::clone(&slot.meters),
        is_beyond_help,
        gauge,
        room,
    })));
    Ok(())
}

/// What the disk gave.
struct Opened {
    directory: Directory,
    machine: Box<dyn AnyMachine>,
    snapshots: Arc<SnapshotStore>,
    meta: Option<SnapshotMeta>,
}

fn load(
    data_dir: &Path,
    id: u64,
    policy: options::SnapshotPolicy,
    mut machine: Box<dyn AnyMachine>,
) -> Result<Opened, OpenError> {
    let directory = directory::open(data_dir, id)?;
    let Directory { tail, snapshots, log, .. } = &directory;
    let (snapshots, meta) = restore(tail, snapshots, policy, log, machine.as_mut())?;
    Ok(Opened { directory, machine, snapshots: Arc::new(snapshots), meta })
}

/// Gives the machine the state of the newest snapshot, which must meet the log.
pub(crate) fn restore(
    tail: &Tail,
    snapshots: &Path,
    policy: options::SnapshotPolicy,
    log: &Path,
    machine: &mut dyn AnyMachine,
) -> Result<(SnapshotStore, Option<SnapshotMeta>), OpenError> {
    let store = SnapshotStore::open_paced(snapshots, policy)?;
    let current = store.current();
    let last = current.as_ref().and_then(|current| current.meta.last_log_id);
    directory::check_snapshot(tail, snapshots, log, last)?;
    let meta = match current {
        Some(Snapshot { meta, snapshot: file }) => {
            file.restore(|from| machine.restore(from))
                .map_err(|source| OpenError::Restore { file: file.path().to_owned(), source })?;
            Some(meta)
        }
        None => None,
    };
    Ok((store, meta))
}

pub(crate) fn check(options: &Options) -> Result<(), OpenError> {
    let Options { id, bootstrap, max_payload_bytes, .. } = options;
    let wrong = |reason: String| Err(OpenError::Options { id: *id, reason });
    if !bootstrap.is_empty() && bootstrap.iter().all(|member| member.id != *id) {
        return wrong("the first members do not include it; all members need the same whole list".to_owned());
    }
    let ids: BTreeSet<_> = bootstrap.iter().map(|member| member.id).collect();
    let names: BTreeSet<_> = bootstrap.iter().map(|member| &member.name).collect();
    if ids.len() < bootstrap.len() || names.len() < bootstrap.len() {
        return wrong("two of the first members have the same id or name".to_owned());
    }
    if *max_payload_bytes > MAX_PAYLOAD_BYTES {
        return wrong(format!(
            "payloads of {max_payload_bytes} bytes are above the limit of {MAX_PAYLOAD_BYTES} bytes"
        ));
    }
    Ok(())
}

fn config(options: &Options) -> Result<Config, OpenError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let Options { id, timing, snapshots, .. } = options;
    let config = Config {
        cluster_name: "berth".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election.0),
        election_timeout_max: millis(timing.election.1),
        install_snapshot_timeout: millis(timing.install_snapshot),
        max_payload_entries: ENTRIES_PER_MESSAGE,
        // The steward decides: entries alone say little about what a snapshot costs.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: snapshots.entries_kept,
        // What is still in the log is sent as entries, however much it is.
        replication_lag_threshold: u64::MAX / 2,
        backoff: BACKOFF.to_owned(),
        // A leader that is heard but hears nobody falls silent, so that the others can elect one that hears them.
        quorum_loss_probe_interval: Some(millis(timing.election.1).saturating_mul(2).saturating_add(PROBE_MARGIN_MS)),
        // A member that cannot win does not make the others vote.
        enable_pre_vote: Some(true),
        // The state machine is in memory: a leader that restarts is elected again before it leads.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|error| OpenError::Options { id: *id, reason: error.to_string() })
}

#[cfg(test)]
mod tests;
