//! What a member of the log is told at its start, and the seam through which it reaches the others.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// Longest payload of one proposal, in bytes, that [`Options::new`] allows.
pub const DEFAULT_MAX_PAYLOAD_BYTES: usize = 1024 * 1024;

/// One member of the replicated log, voting or learning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// Unique in the cluster, never used again for another member.
    pub id: u64,
    /// The name that the member's connections are authenticated by.
    pub name: String,
    /// Where the other members reach it; only [`Links`] reads it.
    pub raft_addr: String,
    /// Where its clients reach it; carried for them, not used here.
    pub api_addr: String,
    /// What fails together with it, such as a rack or a building; may be empty. Two voters with the same one are warned of.
    pub domain: String,
}

/// A member that is to be added; the cluster chooses its id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewMember {
    /// As in [`Member`].
    pub name: String,
    /// As in [`Member`].
    pub raft_addr: String,
    /// As in [`Member`].
    pub api_addr: String,
    /// As in [`Member`].
    pub domain: String,
}

/// A byte stream between two members, authenticated by whoever made it.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// The seam to the network: who composes decides about addresses and TLS. The log never sees a certificate.
pub trait Links: Send + Sync + 'static {
    /// Opens a stream to a member and makes sure that it is that member which answers.
    fn connect(&self, member: &Member) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;
}

/// A stream that another member opened to us.
pub struct PeerIo {
    /// The stream.
    pub io: Box<dyn Io>,
    /// The name that the peer has proven to have.
    pub peer: String,
}

impl fmt::Debug for PeerIo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PeerIo").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The clocks of elections. All members of a cluster should have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader is heard.
    pub heartbeat: Duration,
    /// Shortest and longest wait of a member before it stands for election. A member first lets the leader's lease pass
    /// (the longest wait), then waits a random time between the two, so a leader's death is answered after
    /// `longest + shortest ..= 2 * longest`.
    pub election: (Duration, Duration),
    /// How long nothing may happen while a member receives and stores a snapshot.
    pub install_snapshot: Duration,
}

impl Default for Timing {
    /// A new leader 0.95 to 1.2 s after the old one's death, and five missed heartbeats before anyone doubts a leader: two
    /// shared cores stay quiet, and the next write is acknowledged within 1.5 s.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(350), Duration::from_millis(600)),
            install_snapshot: Duration::from_secs(60),
        }
    }
}

/// When the log is compacted into a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// A snapshot is made when this many entries have been applied since the last one …
    pub entries_between: u64,
    /// … or when the log has grown by this many bytes, or by half of what the last snapshot took if that is more.
    pub bytes_between: u64,
    /// So many entries that a snapshot holds already are kept, so that a member which was away for a moment catches up
    /// by entries.
    pub entries_kept: u64,
}

impl Default for SnapshotPolicy {
    /// The log stays below some hundred megabytes and is replayed within seconds at a start; at 20,000 small entries a second
    /// a snapshot is made about each ten seconds.
    fn default() -> Self {
        Self { entries_between: 200_000, bytes_between: 64 * 1024 * 1024, entries_kept: 10_000 }
    }
}

/// Everything that a member is told.
#[derive(Clone)]
pub struct Options {
    /// This member.
    pub id: u64,
    /// The directory that belongs to this member alone; made if it is not there.
    pub data_dir: PathBuf,
    /// The members that a new cluster starts with, this one among them. Used only if the data directory is pristine; all
    /// members must be given the same list. Empty for a member that is to be added to a cluster that runs.
    pub bootstrap: Vec<Member>,
    /// The way to the other members.
    pub links: Arc<dyn Links>,
    /// The clocks of elections.
    pub timing: Timing,
    /// When the log is compacted.
    pub snapshots: SnapshotPolicy,
    /// Longest payload of one proposal, in bytes; at most [`MAX_PAYLOAD_BYTES`].
    pub max_payload_bytes: usize,
    /// A leader whose log and snapshot take more than this many bytes refuses proposals.
    pub max_store_bytes: u64,
    /// A leader with fewer free bytes on its disk refuses proposals, and hands over to a member that has more.
    pub min_free_bytes: u64,
}

/// What [`Options::new`] allows the store to take, in bytes.
pub const DEFAULT_MAX_STORE_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// What [`Options::new`] leaves free on the disk, in bytes: room for some seconds of writes at the highest load, so that the
/// refusal comes before the failure.
pub const DEFAULT_MIN_FREE_BYTES: u64 = 64 * 1024 * 1024;

/// The limit of [`Options::max_payload_bytes`]: what fits into one message of the transport with room to spare.
pub const MAX_PAYLOAD_BYTES: usize = 4 * 1024 * 1024;

impl Options {
    /// The shipped defaults for member `id` with its data in `data_dir`.
    pub fn new(id: u64, data_dir: impl Into<PathBuf>, bootstrap: Vec<Member>, links: Arc<dyn Links>) -> Self {
        Self {
            id,
            data_dir: data_dir.into(),
            bootstrap,
            links,
            timing: Timing::default(),
            snapshots: SnapshotPolicy::default(),
            max_payload_bytes: DEFAULT_MAX_PAYLOAD_BYTES,
            max_store_bytes: DEFAULT_MAX_STORE_BYTES,
            min_free_bytes: DEFAULT_MIN_FREE_BYTES,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, data_dir, bootstrap, links: _, timing, snapshots, .. } = self;
        let Self { max_payload_bytes, max_store_bytes, min_free_bytes, .. } = self;
        formatter
            .debug_struct("Options")
            .field("id", id)
            .field("data_dir", data_dir)
            .field("bootstrap", bootstrap)
            .field("timing", timing)
            .field("snapshots", snapshots)
            .field("max_payload_bytes", max_payload_bytes)
            .field("max_store_bytes", max_store_bytes)
            .field("min_free_bytes", min_free_bytes)
            .finish_non_exhaustive()
    }
}
