//! How members of the log reach each other: mutual TLS, and only controllers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use berth_pki::{Accepted, Credentials, Expect, Role};
use berth_raft::{Io, Links, Member, PeerIo};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};

/// How long a connection to another member may take: a few round trips, well below an election.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Connections to other members.
pub(crate) struct TlsLinks(pub(crate) Credentials);

impl Links for TlsLinks {
    fn connect(&self, member: &Member) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let config = self.0.client_config(Expect::named(Role::Controller, member.name.clone()));
        let address = member.raft_addr.clone();
        async move {
            let stream = berth_pki::connect(&address, Arc::clone(&config), CONNECT_WITHIN).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        }
        .boxed()
    }
}

/// Connections from other members, under the names that their certificates prove.
pub(crate) fn incoming(
    accepted: impl Stream<Item = io::Result<Accepted>> + Send + 'static,
) -> impl Stream<Item = io::Result<PeerIo>> + Send + 'static {
    accepted.map(|accepted| {
        accepted.map(|accepted| {
            let peer = accepted.peer.name().to_owned();
            PeerIo { io: Box::new(accepted), peer }
        })
    })
}
