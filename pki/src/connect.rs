//! Connecting to a server of the cluster, with errors that say what to do.
//!
//! Under TLS 1.3 a client's handshake ends before the server has looked at the client's certificate; a refusal would
//! show only at the first read, deep inside an RPC. So [`connect`] goes one step further: it waits for the session
//! ticket that our servers send once they have accepted the client (see `tls.rs`). When it returns, both sides have
//! agreed. The price is one round trip.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::problem::Problem;

/// A connection that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}: {problem}")]
pub struct ConnectError {
    /// Where to.
    pub address: String,
    /// Why not.
    pub problem: Problem,
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match error.problem {
            Problem::Refused => io::ErrorKind::ConnectionRefused,
            Problem::TimedOut => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// A TLS connection to `address` (`host:port`) on which both sides have accepted each other.
///
/// Names are resolved and each address tried in turn; `timeout` bounds all of it together. The server must be one made
/// from [`crate::Credentials::server_config`]: another would not send the sign of acceptance, and this would time out.
pub async fn connect(
    address: &str,
    config: Arc<ClientConfig>,
    timeout: Duration,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let failed = |problem| ConnectError { address: address.into(), problem };
    match tokio::time::timeout(timeout, establish(address, config)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(Problem::from_io(&error))),
        Err(_) => Err(failed(Problem::TimedOut)),
    }
}

async fn establish(address: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    // Resolved apart, because what the resolver says has no kind of its own to tell it by.
    let addresses: Vec<_> = tokio::net::lookup_host(address)
        .await
        .map_err(|error| io::Error::new(io::ErrorKind::NotFound, error.to_string()))?
        .collect();
    let tcp = TcpStream::connect(addresses.as_slice()).await?;
    tcp.set_nodelay(true)?;
    // Required by the library and looked at by nobody: our verifier goes by the identity.
    let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
    accepted(&mut stream).await?;
    Ok(stream)
}

/// Waits until the server has accepted our certificate, or gives the alert with which it did not.
///
/// Application data that comes along is kept by the connection for the first read.
async fn accepted(stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
    let (tcp, tls) = stream.get_mut();
    while tls.tls13_tickets_received() == 0 {
        tcp.readable().await?;
        match tls.read_tls(&mut Available(tcp)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the socket holds at this moment, as the synchronous reader that rustls wants.
struct Available<'a>(&'a TcpStream);

impl Read for Available<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}
