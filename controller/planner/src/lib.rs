//! Pure cluster decisions: a view goes in, a plan and its reasons come out.
//!
//! The planner runs on the leader only. What it knows between calls is an [`Index`], a cache that could be made anew from
//! the view at any time; the same view gives the same plan. What it proposes is checked again in apply, so a plan made
//! from an older view is refused there and made anew.

mod allocate;
mod capacity;
mod change;
mod choose;
mod devices;
mod explain;
mod index;
mod layout;
mod note;
mod plan;
mod rebalance;
mod refusal;
mod rules;
mod survive;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod threads;

pub use capacity::{Capacity, HostRoom, NodeRoom, ThreadUse, capacity, host_room};
pub use change::Change;
pub use choose::Candidate;
pub use explain::{Explanation, explain};
pub use index::Index;
pub use plan::{Budget, Plan, Refused, Turn, Verdict, plan};
pub use rebalance::{Gain, LOAD_MARGIN, Move, SETTLED, rebalance};
pub use refusal::{Refusal, never_fits};
pub use survive::{Loss, losses};

#[cfg(test)]
mod tests;
