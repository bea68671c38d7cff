//! Members for simulations: on disks in memory, with dice from a seed, and with no thread of their own.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::apply::Machine;
use crate::error::OpenError;
use crate::handle::Handle;
use crate::machine::StateMachine;
use crate::net::service::Service;
use crate::open::{Loaded, check, join, restore};
use crate::options::Options;
use crate::slot::Slot;
use crate::snapshot::SnapshotStore;
use crate::store::directory::failed;
use crate::store::log::LogStore;

pub use crate::store::memory::{Ballot, Disk, Flaw, Logged};

/// Makes this thread a simulation: all that the consensus leaves to chance is drawn from `seed`, and work that blocks is
/// done in its place instead of on another thread.
pub fn simulate(seed: u64) {
    crate::runtime::simulate(seed);
}

/// [`open`](crate::open()) with log and vote on `disk`. Snapshots go to [`Options::data_dir`], which should be in memory.
///
/// # Errors
/// See [`OpenError`].
pub async fn open_with<M: StateMachine>(
    options: Options,
    state_machine: M,
    disk: &Disk,
) -> Result<(Handle, Service), OpenError> {
    check(&options)?;
    let directory = options.data_dir.join("snapshots");
    fs::create_dir_all(&directory).map_err(failed("make the directory", &directory))?;
    let log = Path::new("the simulated disk");
    let tail = disk.load().map_err(failed("read", log))?;
    let mut machine: Box<dyn crate::machine::AnyMachine> = Box::new(state_machine);
    let (snapshots, meta) = restore(&tail, &directory, options.snapshots.clone(), log, machine.as_mut())?;
    let snapshots: Arc<SnapshotStore> = Arc::new(snapshots);
    let is_pristine = disk.is_pristine() && meta.is_none();
    let machine = Machine::new(machine, meta, Arc::clone(&snapshots));
    let pace = disk.clone();
    let (log, closer) = LogStore::start_simulated(Arc::new(disk.clone()), tail, move || pace.pace());
    let slot = Slot::new();
    join(&slot, &options, Loaded { machine, snapshots, log, closer, is_pristine }).await?;
    Ok((Handle::new(Arc::clone(&slot)), Service { slot }))
}
