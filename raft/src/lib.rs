//! A replicated log as a product of its own: any deterministic state machine, the same on every member.
//!
//! A program gives [`open`] a [`StateMachine`], a directory and the way to the other members ([`Links`]); it gets a
//! [`Handle`] to propose changes and to read, and a [`Service`] that answers the others. Consensus is openraft's, storage is a
//! write-ahead log of our own, and the transport is tonic over whatever streams the caller authenticates. None of the three
//! shows in the interface.
//!
//! ```text
//! Handle ─ propose ─▶ leader ─ log, majority, fdatasync ─▶ StateMachine::apply ─▶ answer
//!        ─ read_barrier ─▶ leader's read index ─▶ wait until applied here ─▶ read
//! ```
//!
//! Members come and go while it runs ([`Handle::add_member`], [`Handle::promote`], [`Handle::remove`], [`Handle::replace`]), the
//! log is compacted into snapshots, [`supervise`] opens a member again when its disk works again, and [`recover`] and [`seed`]
//! make a new cluster out of what one directory holds.
//!
//! The law that this crate keeps: a change that was acknowledged is on the disks of a majority and is never lost; one that was
//! refused is never made; and one of which neither can be said is reported as unknown.

mod apply;
#[cfg(test)]
mod breakable;
mod error;
mod handle;
mod local;
mod machine;
mod membership;
mod meters;
mod net;
mod offline;
mod open;
mod options;
mod runtime;
mod slot;
mod snapshot;
mod status;
mod steward;
mod store;
mod supervise;
#[cfg(feature = "testing")]
pub mod testing;
mod types;

pub use bytes::Bytes;

pub use error::{MembershipError, OpenError, ProposeError, ReadError, Refusal, RefusalKind, ServeError, TransferError};
pub use handle::{Handle, ReadMode};
pub use machine::{BoxError, Entry, StateMachine};
pub use meters::Metrics;
pub use net::service::Service;
pub use offline::{Recovered, recover, seed};
pub use open::open;
pub use options::{
    DEFAULT_MAX_PAYLOAD_BYTES, DEFAULT_MAX_STORE_BYTES, DEFAULT_MIN_FREE_BYTES, Io, Links, MAX_PAYLOAD_BYTES, Member,
    NewMember, Options, PeerIo, SnapshotPolicy, Timing,
};
pub use status::{Leadership, LogWork, MemberStatus, Progress, Role, State, Status, Warning};
pub use supervise::supervise;
