//! What is done with data directories while no member runs: reading one to its end, and making one that begins with a state.
//!
//! Both are for the day after a disaster. What a survivor's directory holds is read as if everything in its log had been
//! committed; a directory that is made holds nothing but a snapshot, in which the one member makes up the whole cluster. From
//! there it grows as every cluster does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use openraft::EntryPayload;

use crate::error::OpenError;
use crate::machine::{BoxError, Entry, StateMachine};
use crate::open::restore;
use crate::options::{Member, SnapshotPolicy};
use crate::snapshot::SnapshotStore;
use crate::store::directory::{self, failed};
use crate::store::engine::Batch;
use crate::store::record;
use crate::types::{Address, Membership, Payload, SnapshotMeta, StoredMembership, Vote, log_id};

/// What a data directory held.
#[derive(Debug)]
pub struct Recovered<M> {
    /// The state machine after the last entry of the log, committed or not.
    pub machine: M,
    /// The index of the last entry.
    pub last_index: u64,
    /// Its term.
    pub last_term: u64,
    /// The members of the cluster, as far as this directory knows.
    pub members: Vec<Member>,
}

/// Reads the data directory of a member that does not run, to the end of its log, and changes nothing in it.
///
/// Entries that were not yet known to be committed are applied too: one of them may have been acknowledged.
///
/// # Errors
/// See [`OpenError`]; a directory that is not there or was never in service is [`OpenError::Incomplete`].
pub fn recover<M: StateMachine>(data_dir: &Path, id: u64, mut machine: M) -> Result<Recovered<M>, OpenError> {
    if !directory::was_in_service(data_dir) {
        let reason = "there is no data directory that was ever in service".to_owned();
        return Err(OpenError::Incomplete { file: data_dir.to_owned(), reason });
    }
    let directory = directory::open(data_dir, id)?;
    let (_, meta) =
        restore(&directory.tail, &directory.snapshots, SnapshotPolicy::default(), &directory.log, &mut machine)?;
    let SnapshotMeta { last_log_id, last_membership } = meta.unwrap_or_default();
    let mut last = last_log_id;
    let mut membership = last_membership.membership().clone();
    let mut problem = None;
    let first = last.map_or(0, |last| last.index + 1);
    let visit = &mut |index: u64, bytes: &[u8]| match record::decode_first_entry(bytes) {
        Ok(entry) => {
            last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(Payload(payload)) => {
                    machine.apply(&[Entry { index, term: entry.log_id.leader_id.term, payload }]);
                }
                EntryPayload::Membership(changed) => membership = changed,
                EntryPayload::Blank => {}
            }
            true
        }
        Err(source) => {
            problem = Some(directory::damaged(&directory.log, &format!("log entry {index}"), source));
            false
        }
    };
    directory.engine.read(first, u64::MAX, visit).map_err(failed("read", &directory.log))?;
    if let Some(problem) = problem {
        return Err(problem);
    }
    let members = membership.nodes().map(|(id, address)| address.member(*id)).collect();
    let (last_index, last_term) = last.map_or((0, 0), |last| (last.index, last.leader_id.term));
    Ok(Recovered { machine, last_index, last_term, members })
}

/// Makes a data directory that holds nothing but a state, and in which `member` is the whole cluster.
///
/// `base` is the term and the index that the state has: later than anything that its members' directories may still hold.
/// `lineage` tells this life of the cluster from earlier ones. The directory must be absent or empty.
///
/// # Errors
/// [`OpenError::Foreign`] if there is something in the directory; whatever keeps the state from being written.
pub fn seed(
    data_dir: &Path,
    member: &Member,
    base: (u64, u64),
    lineage: u64,
    state: impl FnOnce(&mut dyn Write) -> Result<(), BoxError> + Send + Sync + 'static,
) -> Result<(), OpenError> {
    refuse_used(data_dir)?;
    let (term, index) = base;
    let at = log_id(term, index);
    let address = Address { lineage, is_seated: true, ..Address::from(member) };
    let nodes = BTreeMap::from([(member.id, address)]);
    let wrong = |error: &dyn std::fmt::Display| OpenError::Options { id: member.id, reason: error.to_string() };
    let membership = Membership::new(vec![BTreeSet::from([member.id])], nodes).map_err(|error| wrong(&error))?;
    let meta = SnapshotMeta { last_log_id: Some(at), last_membership: StoredMembership::new(Some(at), membership) };
    let opened = directory::open(data_dir, member.id)?;
    let engine = opened.engine;
    let wrong_record = |error: berth_frame::FrameError| failed("write", &opened.log)(io::Error::other(error));
    let wrong_disk = failed("write", &opened.log);
    engine.begin().map_err(&wrong_disk)?;
    // The vote comes first: a directory that was left half-way is then not taken for one that never was in service.
    let mut batch = Batch::default();
    batch.vote(Vote::new(term, member.id)).map_err(wrong_record)?;
    engine.write(batch).and_then(|()| engine.barrier()).map_err(&wrong_disk)?;
    let snapshots = SnapshotStore::open(&opened.snapshots)?;
    snapshots.write(&meta, Box::new(state)).map_err(failed("write a snapshot in", &opened.snapshots))?;
    let mut batch = Batch::default();
    batch.purge(at).and_then(|()| batch.commit(at)).map_err(wrong_record)?;
    engine.write(batch).and_then(|()| engine.barrier()).and_then(|()| engine.seal()).map_err(&wrong_disk)
}

fn refuse_used(data_dir: &Path) -> Result<(), OpenError> {
    let mut entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list the directory", data_dir)(error)),
    };
    match entries.find(|entry| entry.as_ref().map_or(true, |entry| entry.file_name() != "lost+found")) {
        None => Ok(()),
        Some(found) => {
            let name = found.map_err(failed("list the directory", data_dir))?.file_name();
            let reason = format!("it is not empty: it contains {:?}", name.to_string_lossy());
            Err(OpenError::Foreign { path: data_dir.to_owned(), reason })
        }
    }
}

#[cfg(test)]
mod tests;
