//! What an object does, one operation after another.

use std::fmt::Debug;
use std::hash::Hash;

/// The sequential behaviour of one object.
pub trait Model {
    /// What can be asked of it.
    type Input: Debug;
    /// What it can answer.
    type Output: Debug;
    /// What it is between two operations.
    type State: Clone + Eq + Hash + Debug;

    /// What it is before the first operation.
    fn initial(&self) -> Self::State;

    /// What it is after an operation that was answered so; none if it would not have answered so.
    ///
    /// Without an output the answer is not known: whatever the operation does, if it does anything.
    fn apply(&self, state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;

    /// Whether an operation can no longer be answered so, whatever happens from this state on; without an output, whether
    /// it can no longer do anything. Only a help: saying no too often costs time, saying yes wrongly finds contradictions
    /// where there are none.
    fn is_lost(&self, state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> bool {
        let _ = (state, input, output);
        false
    }

    /// Operations of unknown outcome with the same number do the same to every state, so that only their count matters.
    /// None for one that is like no other.
    fn class(&self, input: &Self::Input) -> Option<u64> {
        let _ = input;
        None
    }
}
