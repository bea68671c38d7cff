//! Backups, for operators: the state at one revision, streamed as a file.

use std::io::{self, Write};
use std::sync::Arc;

use berth_control::Consistency;
use berth_proto::v1;
use berth_proto::v1::backup_service_server::BackupService;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{Shared, caller, error};
use crate::backup;

/// The service.
pub(super) struct Service(pub(super) Shared);

/// Pieces that wait for the client, at most: one that is slow makes the writing wait, and nothing else.
const WAITING: usize = 4;
/// Bytes in one message.
const PIECE: usize = 256 << 10;

#[tonic::async_trait]
impl BackupService for Service {
    type BackupStream = BoxStream<'static, Result<v1::BackupPiece, Status>>;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let actor = caller::actor(&request)?;
        // All that was acknowledged before the question is in it; what comes after the view was taken is not.
        let view = self.0.control.view(Consistency::Linearizable).await.map_err(error::status)?;
        tracing::info!(%actor, revision = view.revision.0, "a backup is being made");
        let (pieces, receiver) = mpsc::channel::<io::Result<Bytes>>(WAITING);
        let head = backup::head(&view, &self.0.seat.name, crate::environment::now());
        tokio::task::spawn_blocking(move || {
            let out = Pieces { pieces: pieces.clone(), filling: Vec::with_capacity(PIECE) };
            if let Err(failure) = write(out, &head, &view) {
                // A client that went away is not there to be told.
                let _ = pieces.blocking_send(Err(failure));
            }
        });
        let stream = ReceiverStream::new(receiver).map_ok(|bytes| v1::BackupPiece { bytes: bytes.to_vec() }).map_err(
            |failure| {
                let message = format!("the backup could not be written: {failure}");
                berth_proto::status::to_status(Code::Internal, "BE-9001", message, None)
            },
        );
        Ok(Response::new(stream.boxed()))
    }
}

fn write(out: Pieces, head: &berth_frame::backup::Head, view: &Arc<berth_state::Cluster>) -> io::Result<()> {
    backup::write(out, head, view).map(drop)
}

/// Hands what is written to the stream.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    filling: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.filling.len());
        self.filling.extend_from_slice(&bytes[..taken]);
        if self.filling.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.filling, Vec::with_capacity(PIECE));
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the client went away");
        self.pieces.blocking_send(Ok(Bytes::from(piece))).map_err(|_| gone())
    }
}
