//! One channel to each member, connected when it is needed and again when it broke.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{ConnectError, Status};

use super::MESSAGE_BYTES;
use super::proto::raft_client::RaftClient;
use crate::options::{Links, Member};

/// How long a connection may take to come about, handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection on which nothing was heard for this long is asked whether it still lives …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// … and given up if it does not answer within this.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection is for. Snapshots go their own way, so that a heartbeat never waits behind one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Everything small and urgent.
    Calls,
    /// Snapshots.
    Bulk,
}

/// The channels to the members.
pub(crate) struct Peers {
    links: Arc<dyn Links>,
    channels: Mutex<HashMap<(Member, Lane), RaftClient<Channel>>>,
}

impl Peers {
    pub(crate) fn new(links: Arc<dyn Links>) -> Self {
        Self { links, channels: Mutex::new(HashMap::new()) }
    }

    /// A client that speaks to a member; it connects by itself when it is used.
    pub(crate) fn client(&self, member: &Member, lane: Lane) -> RaftClient<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (member.clone(), lane);
        if let Some(client) = channels.get(&key) {
            return client.clone();
        }
        // A member that moved gets a new channel, and its old one is no longer kept.
        channels.retain(|(known, _), _| known.id != member.id || known == member);
        let client = connect(Arc::clone(&self.links), member.clone());
        channels.insert(key, client.clone());
        client
    }
}

fn connect(links: Arc<dyn Links>, member: Member) -> RaftClient<Channel> {
    // The name is never resolved: the links know the way. It only labels the calls.
    let endpoint = Endpoint::from_static("http://member.raft.invalid")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let connector = tower::service_fn(move |_: Uri| {
        let connecting = links.connect(&member);
        async move { Ok::<_, io::Error>(TokioIo::new(connecting.await?)) }
    });
    RaftClient::new(endpoint.connect_with_connector_lazy(connector))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

/// Whether a call failed before it left this member, because there was no connection to send it on.
pub(crate) fn was_never_sent(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
