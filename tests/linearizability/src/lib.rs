//! Checks histories of operations for linearizability.
//!
//! A history is linearizable if each operation can be thought to happen at one moment between its call and its answer,
//! such that the answers are those of one object that does one thing after another. An operation whose outcome its
//! client never learnt may have happened at any moment after its call, or not at all.
//!
//! The question is hard in general and easy in practice. The search is that of Wing and Gong with what Lowe added
//! (*Testing for linearizability*, 2017), which is also what Porcupine and Knossos do:
//!
//! - keys are independent of each other, so each is checked alone ([`check_keys`]);
//! - an operation is put into the order only when it must be, which is when one has been answered ("just in time");
//! - two ways that led to the same state with the same operations done are one way;
//! - operations of unknown outcome that are alike are told apart by number only ([`Model::class`]): without this, each
//!   of them would double the work for the rest of the history.
//!
//! The search has a limit. Beyond it the answer is [`Verdict::Undecided`], which is no pass.

mod history;
mod model;
pub mod register;
mod search;

pub use history::{Moment, Operation, Outcome};
pub use model::Model;
pub use search::{Limits, Verdict, Violation, check, check_keys};
