//! The replicated machine: a command goes in, an outcome and changes come out, the same on every replica.
//!
//! [`apply::apply`] uses no clock, randomness, float, hash order, I/O or role (law 1). A committed entry never fails
//! and never panics: a refusal is a [`Rejection`], a value. What matters for safety is checked here even when
//! admission checked it before, because admission may have looked at an older state (law 2).
//!
//! State lives in persistent maps, so that a snapshot or a reader's view is a cheap clone and apply never waits for
//! either. Every object change draws the next [`berth_model::Revision`]; a command that changes nothing draws none.

pub mod apply;
pub mod audit;
pub mod cluster;
pub mod command;
pub mod digest;
pub mod history;
pub mod ledger;
pub mod outcome;
pub mod record;
pub mod requests;
pub mod restore;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use cluster::{Cluster, ClusterInfo, PlanningBasis, Stray};
pub use command::{Batch, Body, Command, Expect, HostFacts, HostPatch, ProposedMove};
pub use digest::{Checkpoint, Digest};
pub use ledger::{HostBookings, Shortage, Thousandths};
pub use outcome::{Applied, Change, Object, Outcome, Rejection};
