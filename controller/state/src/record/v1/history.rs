//! The history's records, the bodies of objects that they lead back through, and what the digest is taken of.

use berth_model::{HostUid, Name, RequestId, Revision, Timestamp, Uid};
use serde::{Deserialize, Serialize};

use super::{
    Actor, Holding, Host, Image, Info, InstanceType, Mirror, Preference, Proposal, RecordError, RememberedRequest, Vm,
    frozen_enum, frozen_struct,
};
use crate::cluster::Cluster;
use crate::history::{self, Stored};
use crate::requests;
use berth_model as model;

frozen_enum! {
    ObjectKind = history::ObjectKind { Vm, Host, Image, InstanceType, Preference }
}

frozen_struct! {
    Undo = history::Undo { revision: Revision, layout: u16, front: u32, back: u32, middle: Vec<u8> }
    Record = history::Record {
        revision: Revision,
        at: Timestamp,
        actor: Actor,
        request: Option<RequestId>,
        command: String,
        kind: ObjectKind,
        project: Name,
        name: Name,
        uid: Uid,
        exists: bool,
        undo: Option<Undo>,
    }
}

/// What the state holds beside its objects and requests, for the digest.
#[derive(Debug, Serialize, Deserialize)]
struct Singles {
    info: Option<Info>,
    revision: Revision,
    last_at: Timestamp,
    request_horizon: Timestamp,
    next_request: u64,
}

fn written<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("postcard writes each of these values into memory")
}

pub(in crate::record) fn encode_history(record: &history::Record) -> Vec<u8> {
    written(&Record::freeze(record.clone()))
}

pub(in crate::record) fn decode_history(mut bytes: &[u8]) -> Result<Vec<history::Record>, RecordError> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (record, rest) = postcard::take_from_bytes::<Record>(bytes)
            .map_err(|error| RecordError::Incomplete(format!("a record of the history cannot be read: {error}")))?;
        records.push(record.thaw());
        bytes = rest;
    }
    Ok(records)
}

pub(in crate::record) fn vm_body(vm: model::vm::Vm) -> Vec<u8> {
    written(&Vm::freeze(vm))
}

pub(in crate::record) fn host_body(host: model::host::Host) -> Vec<u8> {
    written(&Host::freeze(host))
}

pub(in crate::record) fn image_body(image: model::image::Image) -> Vec<u8> {
    written(&Image::freeze(image))
}

pub(in crate::record) fn instance_type_body(held: model::instancetype::InstanceType) -> Vec<u8> {
    written(&InstanceType::freeze(held))
}

pub(in crate::record) fn preference_body(held: model::instancetype::Preference) -> Vec<u8> {
    written(&Preference::freeze(held))
}

pub(in crate::record) fn proposal_body(held: &model::placement::Proposal) -> Vec<u8> {
    written(&Proposal::freeze(held.clone()))
}

pub(in crate::record) fn thaw_body(kind: history::ObjectKind, body: &[u8]) -> Result<Stored, RecordError> {
    fn read<'a, F: Mirror<M> + Deserialize<'a>, M>(body: &'a [u8]) -> Result<Box<M>, RecordError> {
        let frozen: F = postcard::from_bytes(body)
            .map_err(|error| RecordError::Incomplete(format!("an object of the history cannot be read: {error}")))?;
        Ok(Box::new(frozen.thaw()))
    }
    Ok(match kind {
        history::ObjectKind::Vm => Stored::Vm(read::<Vm, _>(body)?),
        history::ObjectKind::Host => Stored::Host(read::<Host, _>(body)?),
        history::ObjectKind::Image => Stored::Image(read::<Image, _>(body)?),
        history::ObjectKind::Preference => Stored::Preference(read::<Preference, _>(body)?),
        history::ObjectKind::InstanceType => Stored::InstanceType(read::<InstanceType, _>(body)?),
    })
}

pub(in crate::record) fn encode_holding(host: HostUid, held: &model::session::Holding) -> Vec<u8> {
    written(&(host, Holding::freeze(held.clone())))
}

pub(in crate::record) fn decode_holding(body: &[u8]) -> Result<(HostUid, model::session::Holding), RecordError> {
    let (host, frozen): (HostUid, Holding) = postcard::from_bytes(body)
        .map_err(|error| RecordError::Incomplete(format!("an orphan's holding cannot be read: {error}")))?;
    Ok((host, frozen.thaw()))
}

pub(in crate::record) fn request_body(id: RequestId, held: &requests::Remembered) -> Vec<u8> {
    written(&(id, RememberedRequest::freeze(held.clone())))
}

pub(in crate::record) fn singles(cluster: &Cluster) -> Vec<u8> {
    written(&Singles {
        info: Mirror::freeze(cluster.info),
        revision: cluster.revision,
        last_at: cluster.last_at,
        request_horizon: cluster.requests.horizon,
        next_request: cluster.requests.next_sequence,
    })
}
