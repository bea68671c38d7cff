//! The controller: composition root of state, planner, control and raft.
//!
//! Nothing is decided here. This crate reads the configuration, joins the parts through their ports, serves gRPC, and
//! takes everything down in order.

mod backup;
pub mod config;
mod consensus;
mod environment;
pub mod formation;
mod grpc;
mod guard;
mod links;
mod machine;
mod metrics;
mod peers;
pub mod restore;
mod run;
mod sealing;
mod trouble;

pub use run::run;
