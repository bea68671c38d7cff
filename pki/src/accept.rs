//! Accepting connections: many handshakes at once, each under a deadline, none able to hold up the others.
//!
//! The stream yields only connections whose peer is known. A client that fails is logged at debug, told why by a TLS
//! alert, and forgotten; it never ends or blocks the stream. Dropping the stream ends the listener and the handshakes
//! under way, and leaves the connections already given out alone.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tracing::Instrument;

use crate::identity::Identity;

/// Bounds on what peers that are not known yet may occupy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How many handshakes run at once; further connections wait in the kernel's queue.
    pub handshakes: usize,
}

impl Default for Limits {
    /// 5 seconds, enough for a loaded machine and three round trips around the world; and 256 at once, so that a
    /// cluster's hosts may all come back in the same second while strangers stay bounded at a few megabytes.
    fn default() -> Self {
        Self { handshake: Duration::from_secs(5), handshakes: 256 }
    }
}

/// How many finished connections wait for the server to take them; it takes them at once unless it is overloaded.
const READY: usize = 16;

/// How long, and for how many bytes, a refused client is listened to, so that it can read the alert: closing a socket
/// with unread data would reset the connection and destroy the alert on its way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 * 1024;

/// Pause after the system could not accept (no file descriptors left, for one), so that the loop does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection whose peer is known. Reads and writes go to the peer through TLS.
///
/// A server library that wants a trait of its own on its connections gets a newtype around this, which hands the four
/// polling methods on and tells the library the `peer`.
#[derive(Debug)]
pub struct Accepted {
    /// The encrypted stream.
    pub io: TlsStream<TcpStream>,
    /// Who is there.
    pub peer: Identity,
    /// From where.
    pub peer_addr: SocketAddr,
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The connections that [`accept`] yields. It never ends by itself and yields no errors; the item is a `Result` because
/// servers that take a stream of connections want one.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<Accepted>,
    acceptor: AbortHandle,
}

impl Stream for Incoming {
    type Item = io::Result<Accepted>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|accepted| accepted.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Accepts connections from `listener` with `config` (from [`crate::Credentials::server_config`]).
///
/// Must be called within a tokio runtime: a task of its own accepts, so that handshakes proceed while the server is
/// busy elsewhere.
pub fn accept(listener: TcpListener, config: Arc<ServerConfig>, limits: Limits) -> Incoming {
    let (sender, ready) = mpsc::channel(READY);
    let acceptor = tokio::spawn(run(listener, TlsAcceptor::from(config), limits, sender)).abort_handle();
    Incoming { ready, acceptor }
}

async fn run(listener: TcpListener, acceptor: TlsAcceptor, limits: Limits, ready: mpsc::Sender<Accepted>) {
    let slots = Arc::new(Semaphore::new(limits.handshakes.max(1)));
    let mut handshakes = JoinSet::new();
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (tcp, peer_addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections at this moment");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Finished ones are forgotten here; at most `handshakes` of them linger until the next connection.
        while let Some(ended) = handshakes.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a handshake task failed");
            }
        }
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        // Also carries the reason that the verifier of client certificates logs.
        let span = tracing::debug_span!("handshake", peer.addr = %peer_addr);
        let handshake = async move {
            match handshake(tcp, peer_addr, acceptor, limits.handshake).await {
                Ok(accepted) => {
                    // The slot is held until the server takes the connection, so a full server accepts no more.
                    let _ = ready.send(accepted).await;
                }
                Err(failure) => {
                    tracing::debug!(reason = %failure.reason, "handshake failed");
                    if let Some(tcp) = failure.tcp {
                        let _ = tokio::time::timeout(LINGER, linger(tcp)).await;
                    }
                }
            }
            drop(slot);
        };
        handshakes.spawn(handshake.instrument(span));
    }
}

/// A handshake that came to nothing.
struct Failure {
    reason: String,
    /// Where the client may still read why.
    tcp: Option<TcpStream>,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, tcp: None }
    }
}

async fn handshake(
    tcp: TcpStream,
    peer_addr: SocketAddr,
    acceptor: TlsAcceptor,
    deadline: Duration,
) -> Result<Accepted, Failure> {
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    match tokio::time::timeout(deadline, acceptor.accept(tcp).into_fallible()).await {
        Ok(Ok(io)) => {
            let first = io.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let first = first.ok_or_else(|| "no client certificate".to_owned())?;
            let peer = Identity::from_certificate(first).map_err(|error| error.to_string())?;
            Ok(Accepted { io, peer, peer_addr })
        }
        Ok(Err((error, tcp))) => Err(Failure { reason: error.to_string(), tcp: Some(tcp) }),
        Err(_) => Err(format!("not finished within {} s", deadline.as_secs_f32()).into()),
    }
}

/// Lets a refused client read the alert and close first.
async fn linger(mut tcp: TcpStream) -> io::Result<()> {
    tcp.shutdown().await?;
    tokio::io::copy(&mut (&mut tcp).take(LINGER_BYTES), &mut tokio::io::sink()).await?;
    Ok(())
}
