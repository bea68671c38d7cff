//! Controllers for tests: they really speak TLS and gRPC, on free ports; what they answer is up to the test.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use berth_pki::{Accepted, Allow, Authority, Credentials, Identity, Limits, Role, Validity};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::StreamExt;
use tonic::service::Routes;
use tonic::transport::server::{Connected, Server};

use super::{Client, Dialer};

/// An accepted connection as tonic wants it.
struct Peer(Accepted);

impl Connected for Peer {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A CA of its own.
pub(crate) fn authority() -> Authority {
    Authority::generate("lab", Validity::days(SystemTime::now(), 1)).unwrap()
}

/// What one identity shows.
pub(crate) fn credentials(authority: &Authority, role: Role, name: &str) -> Credentials {
    let identity = Identity::new("lab", role, name).unwrap();
    Credentials::from_issued(&authority.issue(&identity, &[], Validity::days(SystemTime::now(), 1)).unwrap()).unwrap()
}

/// Starts a controller and returns its address.
pub(crate) async fn serve(authority: &Authority, services: Routes) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = credentials(authority, Role::Controller, "c1").server_config(Allow::only([Role::Operator]));
    let incoming = berth_pki::accept(listener, config, Limits::default()).map(|accepted| accepted.map(Peer));
    tokio::spawn(Server::builder().add_routes(services).serve_with_incoming(incoming));
    address
}

/// An address at which nothing listens.
pub(crate) async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A client of these controllers.
pub(crate) fn client(credentials: Credentials, endpoints: &[&str], timeout: Duration) -> Client {
    Client {
        endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
        dialer: Dialer::new(credentials),
        timeout,
        at: 0,
        channel: None,
        remark: |_| {},
    }
}

/// A client that is let in, and has time.
pub(crate) fn operator(authority: &Authority, endpoints: &[&str]) -> Client {
    client(credentials(authority, Role::Operator, "o"), endpoints, Duration::from_secs(30))
}
