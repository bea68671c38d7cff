//! The nouns of Berth and their laws: no async, no I/O, no wire, no storage.
//!
//! Every other crate speaks in these types. Three words are kept apart throughout: a `Spec` is what was asked, an
//! `Assignment` is what the controller chose, an `Observed` is what a host saw; what people read is a `Status`.
//!
//! Nothing here knows what time it is, draws a random number or touches a file: such values come in as arguments, so
//! that every rule built on these types can be driven by a simulation and by the real shell alike.

pub mod actor;
pub mod condition;
pub mod epoch;
pub mod host;
pub mod id;
pub mod image;
pub mod instancetype;
pub mod meta;
pub mod name;
pub mod placement;
pub mod sealed;
pub mod selector;
pub mod session;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
pub mod units;
pub mod vm;

pub use actor::{Actor, ActorRole};
pub use condition::{Condition, ConditionStatus};
pub use epoch::{Epoch, Generation, Incarnation, Revision, Stamp, Term};
pub use id::{BootId, ClusterId, HostUid, ImageUid, RequestId, Uid, VmUid};
pub use meta::Meta;
pub use name::Name;
pub use sealed::Sealed;
pub use time::{Millis, Timestamp};
pub use units::{Bytes, PageSize};
