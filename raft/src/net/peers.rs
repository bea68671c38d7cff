//! One channel to each member, connected when it is needed and again when it broke.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{ConnectError, Status};

use super::MESSAGE_BYTES;
use super::proto::raft_client::RaftClient;
use crate::options::{Links, Member};
use crate::status::Progress;
use crate::types::{Address, ServerMetrics, Vote};

/// How long a connection may take to come about, handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection on which nothing was heard for this long is asked whether it still lives …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// … and given up if it does not answer within this.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A snapshot whose way broke is worth keeping for this long: a newer one would have to be sent from its beginning.
const MENDED_WITHIN: Duration = Duration::from_secs(30);

/// What a connection is for. Snapshots go their own way, so that a heartbeat never waits behind one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Everything small and urgent.
    Calls,
    /// Snapshots.
    Bulk,
}

/// The channels to the members, and what was learnt of them on the way.
pub(crate) struct Peers {
    links: Arc<dyn Links>,
    channels: Mutex<HashMap<(Member, Lane), RaftClient<Channel>>>,
    conditions: Mutex<HashMap<u64, Condition>>,
    /// Where the membership is read that holds at the moment.
    book: OnceLock<ServerMetrics>,
}

/// What this member, as the leader, learnt of another one.
#[derive(Debug, Clone, Default)]
struct Condition {
    /// Under which ballot it has acknowledged entries up to which index.
    acknowledged: Option<(Vote, u64)>,
    has_forgotten: bool,
    sending: Option<Progress>,
    /// When the way of a snapshot broke, if it has not got there since.
    broke: Option<Instant>,
}

impl Peers {
    pub(crate) fn new(links: Arc<dyn Links>) -> Self {
        Self { links, channels: Mutex::new(HashMap::new()), conditions: Mutex::default(), book: OnceLock::new() }
    }

    /// From now on addresses are those of the membership that holds at the moment.
    pub(crate) fn open_book(&self, book: ServerMetrics) {
        // A member has one consensus, so it is set once.
        let _ = self.book.set(book);
    }

    /// What the membership says of a member at the moment; the consensus itself keeps what it said when it first called.
    pub(crate) fn address(&self, member: u64) -> Option<Address> {
        let book = self.book.get()?.borrow_watched();
        book.membership_config.membership().get_node(&member).cloned()
    }

    fn condition<T>(&self, member: u64, change: impl FnOnce(&mut Condition) -> T) -> T {
        change(self.conditions.lock().unwrap_or_else(PoisonError::into_inner).entry(member).or_default())
    }

    /// Notes that a member holds the log up to `index`.
    pub(crate) fn acknowledged(&self, member: u64, ballot: Vote, index: u64) {
        self.condition(member, |condition| {
            condition.has_forgotten = false;
            condition.acknowledged = match condition.acknowledged {
                Some((known, before)) if known == ballot => Some((known, before.max(index))),
                Some(_) | None => Some((ballot, index)),
            };
        });
    }

    /// Notes that a member's log does not hold the entry at `index`; tells whether it had acknowledged that to this very
    /// leader. No member takes that back, so it has lost it.
    pub(crate) fn conflicts(&self, member: u64, ballot: Vote, index: u64) -> bool {
        self.condition(member, |condition| {
            let has_lost = condition.acknowledged.is_some_and(|(known, before)| known == ballot && index <= before);
            condition.has_forgotten |= has_lost;
            has_lost
        })
    }

    /// Notes that a member came back without its memory.
    pub(crate) fn set_forgotten(&self, member: u64) {
        self.condition(member, |condition| condition.has_forgotten = true);
    }

    /// Whether a member came back without what it had acknowledged.
    pub(crate) fn has_forgotten(&self, member: u64) -> bool {
        self.condition(member, |condition| condition.has_forgotten)
    }

    /// Notes how far the snapshot is that a member is sent.
    pub(crate) fn set_sending(&self, member: u64, progress: Progress) {
        self.condition(member, |condition| condition.sending = Some(progress));
    }

    /// How far the snapshot is that a member is sent.
    pub(crate) fn sending(&self, member: u64) -> Option<Progress> {
        self.condition(member, |condition| condition.sending)
    }

    /// Notes that the way of a snapshot ended, there or not.
    pub(crate) fn sent(&self, member: u64, is_there: bool) {
        self.condition(member, |condition| {
            // One that never began, because the member is down, keeps nothing waiting.
            let had_begun = condition.sending.take().is_some();
            if is_there {
                condition.broke = None;
            } else if had_begun {
                condition.broke = Some(Instant::now());
            }
        });
    }

    /// Whether a snapshot is on its way to any member, or was a moment ago and may go on.
    pub(crate) fn is_sending(&self) -> bool {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let may_go_on = |condition: &Condition| condition.broke.is_some_and(|broke| broke.elapsed() < MENDED_WITHIN);
        conditions.values().any(|condition| condition.sending.is_some() || may_go_on(condition))
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

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;
    use crate::options::Io;

    struct Nowhere;

    impl Links for Nowhere {
        fn connect(&self, _: &Member) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
            async { Err(io::ErrorKind::ConnectionRefused.into()) }.boxed()
        }
    }

    #[test]
    fn a_member_that_takes_back_what_it_acknowledged_to_the_same_leader_has_lost_it() {
        let peers = Peers::new(Arc::new(Nowhere));
        let (old, new) = (Vote::new_committed(3, 1), Vote::new_committed(4, 1));
        peers.acknowledged(2, old, 100);
        peers.acknowledged(2, old, 50);
        assert!(!peers.conflicts(2, old, 101), "it never had that");
        assert!(!peers.conflicts(2, new, 100), "another leader may have cut it off");
        assert!(!peers.has_forgotten(2));
        assert!(peers.conflicts(2, old, 100));
        assert!(peers.has_forgotten(2));
        peers.acknowledged(2, new, 7);
        assert!(!peers.has_forgotten(2), "it is heard again");
    }
}
