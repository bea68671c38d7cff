//! A snapshot on its way to another member: offered, gone on with where an earlier attempt broke, checked piece by piece.
//!
//! It goes over a connection of its own and is written in small portions, so that no heartbeat and no barrier waits behind it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::transport::Channel;

use super::convert::{self, id_from_wire, id_to_wire};
use super::peers::Peers;
use super::proto;
use super::proto::raft_client::RaftClient;
use crate::local::Local;
use crate::snapshot::{Identity, SnapshotFile};
use crate::status::Progress;
use crate::store::log::blocking;
use crate::types::{Snapshot, Vote};

/// Bytes of a snapshot in one message.
const MESSAGE_BYTES: usize = 512 * 1024;

/// Messages read ahead of the connection, and answers that may wait for it.
const AHEAD: usize = 2;

/// A snapshot that is sent.
pub(super) struct Outgoing {
    pub(super) peers: Arc<Peers>,
    pub(super) target: u64,
    pub(super) belief: proto::Belief,
    pub(super) vote: Vote,
    pub(super) snapshot: Snapshot,
    /// How long nothing may happen.
    pub(super) patience: Duration,
    /// Whether it has been installed, or is not wanted.
    pub(super) is_there: bool,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.peers.sent(self.target, self.is_there);
    }
}

impl Outgoing {
    /// Sends it, and returns the receiver's vote once it has installed it.
    pub(super) async fn send(mut self, mut client: RaftClient<Channel>) -> Result<Vote, Status> {
        let storing = |error: io::Error| Status::internal(format!("the snapshot cannot be read: {error}"));
        let file = self.snapshot.snapshot.clone();
        let reader = file.clone();
        let last = self.snapshot.meta.last_log_id;
        let Identity { last, length, digest } = blocking(move || reader.identity(last)).await.map_err(storing)?;
        let offer = proto::SnapshotOffer {
            ballot: Some(convert::ballot_to_wire(self.vote)),
            belief: Some(self.belief),
            last: last.map(id_to_wire),
            length,
            digest,
        };
        let (sender, receiver) = mpsc::channel(AHEAD);
        let first = proto::SnapshotChunk { offer: Some(offer), ..proto::SnapshotChunk::default() };
        sender.send(first).await.expect("the receiver is still held");
        let late = || Status::deadline_exceeded("the receiver of a snapshot made no progress");
        let call = timeout(self.patience, client.install_snapshot(ReceiverStream::new(receiver)));
        let mut answers = call.await.map_err(|_| late())??.into_inner();
        let mut sender = Some(sender);
        let mut _reading = None;
        loop {
            let answer = timeout(self.patience, answers.message()).await.map_err(|_| late())??;
            let Some(proto::SnapshotProgress { received, installed }) = answer else {
                return Err(Status::data_loss("the receiver of a snapshot ended without a word"));
            };
            if installed.is_some() {
                self.is_there = true;
                return convert::ballot(installed);
            }
            self.peers.set_sending(self.target, Progress { bytes: received, of: length });
            if let Some(sender) = sender.take() {
                // The first answer says where to begin.
                _reading = Some(AbortOnDropHandle::new(tokio::spawn(read_chunks(file.clone(), received, sender))));
            }
        }
    }
}

/// Reads a snapshot file ahead of the connection.
async fn read_chunks(file: SnapshotFile, from: u64, sender: mpsc::Sender<proto::SnapshotChunk>) {
    let mut offset = from;
    loop {
        let reader = file.clone();
        let data = match blocking(move || reader.read_at(offset, MESSAGE_BYTES)).await {
            Ok(data) => Bytes::from(data),
            Err(error) => {
                // The receiver finds the end missing, so this attempt fails there.
                tracing::error!(%error, "a snapshot could not be read to be sent");
                return;
            }
        };
        if data.is_empty() {
            return;
        }
        let length = u64::try_from(data.len()).expect("a message's length fits into 64 bits");
        let crc32 = berth_frame::crc32(&data);
        if sender.send(proto::SnapshotChunk { offer: None, offset, data, crc32 }).await.is_err() {
            return;
        }
        offset += length;
    }
}

/// Chunks as they come in.
pub(super) type Chunks = BoxStream<'static, Result<proto::SnapshotChunk, Status>>;

/// Receives a snapshot and installs it; the stream tells how far it is.
pub(super) fn receive(
    local: Arc<Local>,
    offer: proto::SnapshotOffer,
    vote: Vote,
    chunks: Chunks,
) -> BoxStream<'static, Result<proto::SnapshotProgress, Status>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let last = match take_in(&local, offer, vote, chunks, &sender).await {
            Ok(vote) => {
                Ok(proto::SnapshotProgress { received: offer.length, installed: Some(convert::ballot_to_wire(vote)) })
            }
            Err(status) => Err(status),
        };
        // Who is gone need not be told.
        let _ = sender.send(last).await;
    });
    ReceiverStream::new(receiver).boxed()
}

async fn take_in(
    local: &Local,
    offer: proto::SnapshotOffer,
    vote: Vote,
    mut chunks: Chunks,
    answers: &mpsc::Sender<Result<proto::SnapshotProgress, Status>>,
) -> Result<Vote, Status> {
    let storing = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => Status::data_loss(error.to_string()),
        _ => Status::internal(format!("the snapshot cannot be stored: {error}")),
    };
    let own = local.metrics().vote;
    if own > vote {
        // It comes from a leader of the past; the vote tells it so.
        return Ok(own);
    }
    let proto::SnapshotOffer { last, length, digest, .. } = offer;
    let identity = Identity { last: last.map(id_from_wire), length, digest };
    let snapshots = Arc::clone(&local.snapshots);
    let mut incoming = blocking(move || snapshots.receive(identity)).await.map_err(storing)?;
    loop {
        let received = incoming.received();
        if answers.send(Ok(proto::SnapshotProgress { received, installed: None })).await.is_err() {
            return Err(Status::cancelled("the sender is gone"));
        }
        if received == length {
            break;
        }
        let Some(chunk) = chunks.next().await else {
            return Err(Status::data_loss(format!("the snapshot ended after {received} of {length} bytes")));
        };
        local.hear();
        let proto::SnapshotChunk { offer: _, offset, data, crc32 } = chunk?;
        // What came before a damaged chunk stays: the guard in `incoming` keeps it.
        incoming = blocking(move || incoming.push(offset, &data, crc32).map(|()| incoming)).await.map_err(storing)?;
    }
    let snapshot = blocking(move || incoming.finish()).await.map_err(storing)?;
    let response = local.raft.install_full_snapshot(vote, snapshot.clone()).await;
    let response = response.map_err(|fatal| Status::unavailable(format!("this member has stopped: {fatal}")))?;
    // If it was not wanted any more, it still lies where it came in.
    snapshot.snapshot.discard_incoming();
    Ok(response.vote)
}
