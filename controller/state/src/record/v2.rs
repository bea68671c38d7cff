//! Version 2 of a snapshot: besides the objects it holds the digest, the checkpoints and the history. Golden tests hold the
//! bytes (decision 0007).

use std::io::Write;
use std::sync::Arc;

use berth_model::{Revision, Timestamp};
use serde::{Deserialize, Serialize};

use super::{RecordError, kind, v1};
use crate::cluster::Cluster;
use crate::digest::{Checkpoint, Digest};
use crate::history::{Block, History};
use crate::requests::Requests;

pub(super) const VERSION: u16 = 2;

/// The first record of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct SnapshotHead {
    info: Option<v1::Info>,
    revision: Revision,
    last_at: Timestamp,
    request_horizon: Timestamp,
    next_request: u64,
    /// Of the state: what is read must come to it again.
    digest: [u64; 4],
    checkpoints: Vec<FrozenCheckpoint>,
    history_after: Revision,
}

#[derive(Debug, Serialize, Deserialize)]
struct FrozenCheckpoint {
    number: u64,
    revision: Revision,
    digest: [u64; 4],
}

/// A sealed piece of the history.
#[derive(Debug, Serialize, Deserialize)]
struct HistoryBlock {
    records: u64,
    first: Revision,
    last: Revision,
    bytes: u64,
    /// By zstd.
    packed: Vec<u8>,
}

/// A record of the history that is in no sealed piece yet.
#[derive(Debug, Serialize, Deserialize)]
struct HistoryOpen {
    revision: Revision,
    record: Vec<u8>,
}

pub(super) fn write_snapshot(cluster: &Cluster, out: &mut dyn Write) -> Result<(), RecordError> {
    let checkpoint =
        |held: &Checkpoint| FrozenCheckpoint { number: held.number, revision: held.revision, digest: held.digest.0 };
    let head = SnapshotHead {
        info: v1::info(cluster.info),
        revision: cluster.revision,
        last_at: cluster.last_at,
        request_horizon: cluster.requests.horizon,
        next_request: cluster.requests.next_sequence,
        digest: cluster.digest().0,
        checkpoints: cluster.checkpoints.iter().map(checkpoint).collect(),
        history_after: cluster.history.complete_after,
    };
    out.write_all(&berth_frame::encode_value(kind::SNAPSHOT_HEAD, VERSION, &head)?)?;
    let mut written = v1::write_objects(cluster, out)?;
    for ((host, _), holding) in &cluster.holdings {
        let body = v1::encode_holding(*host, holding);
        out.write_all(&berth_frame::encode(kind::SNAPSHOT_HOLDING, v1::VERSION, &body)?)?;
        written += 1;
    }
    for block in &cluster.history.blocks {
        let Block { records, first, last, bytes, packed } = &**block;
        let frozen =
            HistoryBlock { records: *records, first: *first, last: *last, bytes: *bytes, packed: packed.clone() };
        out.write_all(&berth_frame::encode_value(kind::SNAPSHOT_HISTORY_BLOCK, v1::VERSION, &frozen)?)?;
        written += 1;
    }
    for (revision, record) in &cluster.history.open {
        let frozen = HistoryOpen { revision: *revision, record: record.to_vec() };
        out.write_all(&berth_frame::encode_value(kind::SNAPSHOT_HISTORY_OPEN, v1::VERSION, &frozen)?)?;
        written += 1;
    }
    out.write_all(&v1::end(written)?)?;
    Ok(())
}

/// What the first record says: a state without objects, and the digest that it must come to with them.
pub(super) fn read_head(body: &[u8]) -> Result<(Cluster, Digest), RecordError> {
    let head: SnapshotHead = berth_frame::decode_body(kind::SNAPSHOT_HEAD, body)?;
    let checkpoint = |held: FrozenCheckpoint| Checkpoint {
        number: held.number,
        revision: held.revision,
        digest: Digest(held.digest),
    };
    let cluster = Cluster {
        info: v1::thaw_info(head.info),
        revision: head.revision,
        last_at: head.last_at,
        requests: Requests { horizon: head.request_horizon, next_sequence: head.next_request, ..Requests::default() },
        checkpoints: head.checkpoints.into_iter().map(checkpoint).collect(),
        history: History::after(head.history_after),
        ..Cluster::default()
    };
    Ok((cluster, Digest(head.digest)))
}

/// Puts one piece of the history in place; whether the record was one.
pub(super) fn take_in(cluster: &mut Cluster, record_kind: u16, body: &[u8]) -> Result<bool, RecordError> {
    let history = &mut cluster.history;
    match record_kind {
        kind::SNAPSHOT_HOLDING => {
            let (host, holding) = v1::decode_holding(body)?;
            cluster.holdings.insert((host, holding.vm), Arc::new(holding));
        }
        kind::SNAPSHOT_HISTORY_BLOCK => {
            let HistoryBlock { records, first, last, bytes, packed } = berth_frame::decode_body(record_kind, body)?;
            history.records = history.records.saturating_add(records);
            history.bytes = history.bytes.saturating_add(bytes);
            history.blocks.push_back(Arc::new(Block { records, first, last, bytes, packed }));
        }
        kind::SNAPSHOT_HISTORY_OPEN => {
            let HistoryOpen { revision, record } = berth_frame::decode_body(record_kind, body)?;
            let length = record.len() as u64;
            history.records += 1;
            history.bytes = history.bytes.saturating_add(length);
            history.open_bytes = history.open_bytes.saturating_add(length);
            history.open.push_back((revision, record.into()));
        }
        _ => return Ok(false),
    }
    Ok(true)
}
