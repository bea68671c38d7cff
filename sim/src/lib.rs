//! The simulated world: real decisions on a simulated log, network and machines.
//!
//! A seed means a cluster, what is asked of it and everything that goes wrong ([`history`]). The replicated state, the planner,
//! the leader's reign, both ends of the session and the hosts' agents with their ledgers are the real ones; one thread drives
//! them in virtual time, so that a seed that fails can be run again. What must never happen is watched for while it runs, and
//! once the faults stop all must come to be as wanted, and stay so.

mod dice;
pub mod fleet;
pub mod history;
mod plan;
pub mod plant;
pub mod scale;
pub mod tally;
mod witness;
mod world;

pub use history::Outcome;
pub use plant::Plant;
