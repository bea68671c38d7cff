//! The leader's brain, free of I/O, and the [`Control`] handle around it.
//!
//! Every door (gRPC now; the Kubernetes facade and the web console later) speaks to [`Control`] and to nothing else,
//! so that no door can give an object a second meaning. The decisions are functions over values: [`admit`] turns a
//! request into a command or a refusal, [`desired`] says what a host shall hold, [`status`] says what people read,
//! [`session::HostSession`] is the controller's end of a host's session. What waits, sends and proposes is kept thin.

pub mod admit;
mod bounds;
pub mod checkpoints;
pub mod desired;
pub mod error;
pub mod handle;
pub mod hosts;
pub mod leader;
pub mod liveness;
pub mod ports;
pub mod publish;
pub mod reception;
pub mod reign;
pub mod room;
pub mod selector;
pub mod session;
pub mod status;
#[cfg(test)]
mod testing;
pub mod window;

pub use error::{Error, Kind};
pub use handle::{Answer, Caller, Consistency, Control};
pub use ports::{Consensus, ConsensusError, Environment, Leadership, Seal};
pub use publish::{Publisher, Views};
