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
//! The law that this crate keeps: a change that was acknowledged is on the disks of a majority and is never lost; one that was
//! refused is never made; and one of which neither can be said is reported as unknown.

mod apply;
mod error;
mod handle;
mod machine;
mod net;
mod offline;
mod open;
mod options;
mod runtime;
mod snapshot;
mod status;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod types;

pub use bytes::Bytes;

pub use error::{OpenError, ProposeError, ReadError, ServeError, TransferError};
pub use handle::{Handle, ReadMode};
pub use machine::{BoxError, Entry, StateMachine};
pub use net::service::Service;
pub use offline::{Recovered, recover, seed};
pub use open::open;
pub use options::{
    DEFAULT_MAX_PAYLOAD_BYTES, Io, Links, MAX_PAYLOAD_BYTES, Member, NewMember, Options, PeerIo, SnapshotPolicy, Timing,
};
pub use status::{Leadership, MemberStatus, Role, State, Status};
