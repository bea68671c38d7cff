//! Pure cluster decisions: a view goes in, a plan and its reasons come out.
//!
//! The planner runs on the leader only. What it knows between calls is an [`Index`], a cache that could be made anew from
//! the view at any time; the same view gives the same plan. What it proposes is checked again in apply, so a plan made
//! from an older view is refused there and made anew.

mod allocate;
mod choose;
mod devices;
mod index;
mod layout;
mod note;
mod plan;
mod refusal;
mod rules;
mod threads;

pub use choose::Candidate;
pub use index::Index;
pub use plan::{Budget, Plan, Refused, Turn, Verdict, plan};
pub use refusal::{Refusal, never_fits};

#[cfg(test)]
mod tests;
