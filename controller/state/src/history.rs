//! Who changed what, and every object as it was: a record for each revision, the last hundred thousand of them.
//!
//! A record does not hold the object but the way back: the bytes by which the object before the change differed from the
//! one after it. What was at a revision is found by walking back from what is now, so a change of some bytes costs some
//! bytes, and what is forgotten at the old end is never missed at the new one.
//!
//! ```text
//!   now ◀─ record 41 ─ record 40 ─ … ─ record 7        object at 20: now, without 41 … 21
//!          └ open, as written ┘ └ sealed blocks, compressed ┘
//! ```
//!
//! Records gather in an open block; a full one is compressed, sealed and shared by all clones and snapshots of the state.
//! What is forgotten depends on counts and on the uncompressed size alone, so it is the same on every member, whatever
//! library compressed it. Secrets are not in it: a record shows that there was user data and under which key.

mod query;

use std::sync::Arc;

use berth_model::host::Host;
use berth_model::image::Image;
use berth_model::instancetype::{InstanceType, Preference};
use berth_model::vm::{Vm, VmSpec};
use berth_model::{Actor, Meta, Name, RequestId, Revision, Sealed, Timestamp, Uid};
use imbl::Vector;

use crate::cluster::Cluster;
use crate::command::Command;
use crate::digest::{self, Part};
use crate::outcome::{Change, Object};
use crate::record::{self, RecordError};

pub use query::{Asked, NotAt, Question, Stored, Then, at, list};

/// The sorts of objects that the history knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ObjectKind {
    /// A VM.
    Vm,
    /// A host.
    Host,
    /// An image.
    Image,
    /// An instance type.
    InstanceType,
    /// A preference.
    Preference,
}

impl ObjectKind {
    /// Its name for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Host => "host",
            Self::Image => "image",
            Self::InstanceType => "instancetype",
            Self::Preference => "preference",
        }
    }
}

/// The way back from an object to what it was before a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Undo {
    /// The revision that the object was at.
    pub revision: Revision,
    /// The layout of the object's bytes: a version of the records.
    pub layout: u16,
    /// Bytes that the object begins with before and after.
    pub front: u32,
    /// Bytes that it ends with before and after.
    pub back: u32,
    /// What was between them before.
    pub middle: Vec<u8>,
}

/// One change of one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Drawn by this change alone.
    pub revision: Revision,
    /// When, by entry time.
    pub at: Timestamp,
    /// Who asked.
    pub actor: Actor,
    /// Under which name for the request.
    pub request: Option<RequestId>,
    /// The command's name.
    pub command: String,
    /// What sort of object.
    pub kind: ObjectKind,
    /// Its project.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// Its uid.
    pub uid: Uid,
    /// Whether it exists after the change.
    pub exists: bool,
    /// The way back; none if it did not exist before.
    pub undo: Option<Undo>,
}

/// Some records, as one piece. Immutable and shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    pub(crate) records: u64,
    pub(crate) first: Revision,
    pub(crate) last: Revision,
    /// Of the records, uncompressed.
    pub(crate) bytes: u64,
    /// The records one after another, compressed.
    pub(crate) packed: Vec<u8>,
}

impl Block {
    pub(crate) fn unpack(&self) -> Result<Vec<Record>, RecordError> {
        let broken = |why: String| RecordError::Incomplete(format!("history from revision {}: {why}", self.first));
        let size = usize::try_from(self.bytes).map_err(|error| broken(error.to_string()))?;
        let raw = zstd::bulk::decompress(&self.packed, size).map_err(|error| broken(error.to_string()))?;
        record::decode_history(&raw)
    }
}

/// The history of the replicated state. Cloning is cheap.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct History {
    pub(crate) blocks: Vector<Arc<Block>>,
    /// Records that are not sealed yet, encoded one by one.
    pub(crate) open: Vector<(Revision, Arc<[u8]>)>,
    pub(crate) open_bytes: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// All changes after this revision are here.
    pub(crate) complete_after: Revision,
}

/// Level 1 takes a third of the time of the usual one, and most of what it saves.
const COMPRESSION: i32 = 1;

impl History {
    /// Records that are kept at least, unless their bytes are too many.
    pub const RECORDS: u64 = 100_000;
    /// Bytes of records that are kept at most, before compression.
    pub const BYTES: u64 = 128 << 20;
    /// Records in a sealed block.
    const BLOCK_RECORDS: usize = 256;
    /// Bytes in a sealed block at most, and one record more.
    const BLOCK_BYTES: u64 = 1 << 20;

    /// A history that knows nothing up to this revision.
    pub(crate) fn after(revision: Revision) -> Self {
        Self { complete_after: revision, ..Self::default() }
    }

    /// The oldest revision at which objects can still be shown: all later changes are known.
    pub fn oldest(&self) -> Revision {
        self.complete_after
    }

    /// How many changes are known.
    pub fn len(&self) -> u64 {
        self.records
    }

    /// Whether no change is known.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The size of what is kept, uncompressed, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The memory that what is kept takes, in bytes: less than [`History::bytes`], and another on each member.
    pub fn packed_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.packed.len() as u64).sum::<u64>() + self.open_bytes
    }

    pub(crate) fn push(&mut self, record: &Record) {
        let encoded: Arc<[u8]> = record::encode_history(record).into();
        let length = encoded.len() as u64;
        self.open.push_back((record.revision, encoded));
        self.open_bytes += length;
        self.bytes += length;
        self.records += 1;
        if self.open.len() >= Self::BLOCK_RECORDS || self.open_bytes >= Self::BLOCK_BYTES {
            self.seal();
            self.evict(Self::RECORDS, Self::BYTES);
        }
    }

    pub(crate) fn seal(&mut self) {
        let (Some((first, _)), Some((last, _))) = (self.open.front(), self.open.back()) else { return };
        let (first, last) = (*first, *last);
        let mut raw = Vec::with_capacity(usize::try_from(self.open_bytes).unwrap_or_default());
        self.open.iter().for_each(|(_, encoded)| raw.extend_from_slice(encoded));
        let packed = zstd::bulk::compress(&raw, COMPRESSION).expect("compressing from memory to memory cannot fail");
        let records = self.open.len() as u64;
        self.blocks.push_back(Arc::new(Block { records, first, last, bytes: self.open_bytes, packed }));
        self.open.clear();
        self.open_bytes = 0;
    }

    /// Forgets the oldest blocks beyond these bounds. The bytes win: fewer records are kept then.
    fn evict(&mut self, records: u64, bytes: u64) {
        while let Some(oldest) = self.blocks.front() {
            if self.records - oldest.records < records && self.bytes <= bytes {
                break;
            }
            self.records -= oldest.records;
            self.bytes -= oldest.bytes;
            self.complete_after = oldest.last;
            self.blocks.pop_front();
        }
    }
}

/// An object of any kind, borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Held<'a> {
    Vm(&'a Vm),
    Host(&'a Host),
    Image(&'a Image),
    InstanceType(&'a InstanceType),
    Preference(&'a Preference),
}

impl<'a> Held<'a> {
    pub(crate) const fn kind(&self) -> ObjectKind {
        match self {
            Self::Vm(_) => ObjectKind::Vm,
            Self::Host(_) => ObjectKind::Host,
            Self::Image(_) => ObjectKind::Image,
            Self::InstanceType(_) => ObjectKind::InstanceType,
            Self::Preference(_) => ObjectKind::Preference,
        }
    }

    pub(crate) const fn part(&self) -> Part {
        match self {
            Self::Vm(_) => Part::Vm,
            Self::Host(_) => Part::Host,
            Self::Image(_) => Part::Image,
            Self::InstanceType(_) => Part::InstanceType,
            Self::Preference(_) => Part::Preference,
        }
    }

    pub(crate) const fn meta(&self) -> &'a Meta {
        match self {
            Self::Vm(vm) => &vm.meta,
            Self::Host(host) => &host.meta,
            Self::Image(image) => &image.meta,
            Self::InstanceType(instance_type) => &instance_type.meta,
            Self::Preference(preference) => &preference.meta,
        }
    }

    pub(crate) const fn sealed(&self) -> Option<&'a Sealed> {
        match self {
            Self::Vm(vm) => vm.spec.user_data.as_ref(),
            Self::Host(_) | Self::Image(_) | Self::InstanceType(_) | Self::Preference(_) => None,
        }
    }

    /// Its bytes without its revision and without its secret: what two versions of it differ in is short.
    pub(crate) fn body(&self) -> Vec<u8> {
        match self {
            Self::Vm(vm) => record::vm_body(without_secret(vm)),
            Self::Host(host) => record::host_body(Host { meta: unversioned(&host.meta), ..Host::clone(host) }),
            Self::Image(image) => record::image_body(Image { meta: unversioned(&image.meta), spec: image.spec }),
            Self::InstanceType(held) => {
                record::instance_type_body(InstanceType { meta: unversioned(&held.meta), spec: held.spec })
            }
            Self::Preference(held) => {
                record::preference_body(Preference { meta: unversioned(&held.meta), spec: held.spec })
            }
        }
    }
}

fn unversioned(meta: &Meta) -> Meta {
    Meta { revision: Revision::default(), ..meta.clone() }
}

fn without_secret(vm: &Vm) -> Vm {
    let Vm { meta, spec, restart_count, power, assignment, unplaced, observed } = vm;
    let VmSpec {
        instance_type,
        preference,
        cpus,
        memory,
        performance,
        tuning,
        devices,
        rules,
        image,
        disk_size,
        run,
        grace,
        user_data,
    } = spec;
    let emptied = |sealed: &Sealed| Sealed { key_id: sealed.key_id.clone(), nonce: Vec::new(), ciphertext: Vec::new() };
    Vm {
        meta: unversioned(meta),
        spec: VmSpec {
            instance_type: instance_type.clone(),
            preference: preference.clone(),
            cpus: *cpus,
            memory: *memory,
            performance: *performance,
            tuning: *tuning,
            devices: devices.clone(),
            rules: rules.clone(),
            image: image.clone(),
            disk_size: *disk_size,
            run: *run,
            grace: *grace,
            user_data: user_data.as_ref().map(emptied),
        },
        restart_count: *restart_count,
        power: *power,
        assignment: assignment.clone(),
        unplaced: unplaced.clone(),
        observed: observed.clone(),
    }
}

fn sides(object: &Object) -> (Option<Held<'_>>, Option<Held<'_>>) {
    match object {
        Object::Vm { before, after } => (before.as_deref().map(Held::Vm), after.as_deref().map(Held::Vm)),
        Object::Host { before, after } => (before.as_deref().map(Held::Host), after.as_deref().map(Held::Host)),
        Object::Image { before, after } => (before.as_deref().map(Held::Image), after.as_deref().map(Held::Image)),
        Object::Preference { before, after } => {
            (before.as_deref().map(Held::Preference), after.as_deref().map(Held::Preference))
        }
        Object::InstanceType { before, after } => {
            (before.as_deref().map(Held::InstanceType), after.as_deref().map(Held::InstanceType))
        }
    }
}

/// What every change of an object does besides: the digest follows it, and the history gets its record.
pub(crate) fn note(cluster: &mut Cluster, command: &Command, at: Timestamp, changes: &[Change]) {
    for change in changes {
        let (before, after) = sides(&change.object);
        let (old, new) = (before.map(|held| held.body()), after.map(|held| held.body()));
        if let (Some(held), Some(body)) = (&before, &old) {
            digest::remove_object(&mut cluster.sum, held, body);
        }
        if let (Some(held), Some(body)) = (&after, &new) {
            digest::add_object(&mut cluster.sum, held, body);
        }
        digest::change_secret(&mut cluster.sum, before.as_ref(), after.as_ref());
        let Some(held) = after.or(before) else { continue };
        let undo =
            before.zip(old).map(|(held, old)| way_back(held.meta().revision, &old, new.as_deref().unwrap_or(&[])));
        let meta = held.meta();
        cluster.history.push(&Record {
            revision: change.revision,
            at,
            actor: command.actor.clone(),
            request: command.request.map(|(id, _)| id),
            command: command.body.name().to_owned(),
            kind: held.kind(),
            project: meta.project.clone(),
            name: meta.name.clone(),
            uid: meta.uid,
            exists: after.is_some(),
            undo,
        });
    }
}

/// What leads from `new` back to `old`: everything between what both begin with and what both end with.
fn way_back(revision: Revision, old: &[u8], new: &[u8]) -> Undo {
    let front = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let back = old[front..].iter().rev().zip(new[front..].iter().rev()).take_while(|(a, b)| a == b).count();
    let length = |bytes: usize| u32::try_from(bytes).expect("an object is far below 4 GiB: a log entry bounds it");
    Undo {
        revision,
        layout: record::LAYOUT,
        front: length(front),
        back: length(back),
        middle: old[front..old.len() - back].to_vec(),
    }
}

impl Undo {
    /// The bytes before, from the bytes after.
    fn applied_to(&self, new: &[u8]) -> Option<Vec<u8>> {
        let (front, back) = (self.front as usize, self.back as usize);
        let head = new.get(..front)?;
        let tail = new.get(new.len().checked_sub(back).filter(|start| *start >= front)?..)?;
        Some([head, &self.middle, tail].concat())
    }
}

#[cfg(test)]
mod tests;
