//! A register whose every change has a version, such as a label of an object with its revision.
//!
//! Each value is written at most once, so that who reads a value knows whose it is. That makes the unknown outcomes
//! cheap: a write that somebody has read has happened, before that reader was answered; one that nobody has read can only
//! have made others fail that expected another version. [`prepared`] brings a history into that form.

use std::collections::HashMap;

use crate::history::{Moment, Operation, Outcome};
use crate::model::Model;

/// A value, written once in a history. 0 is what the register holds at first.
pub type Value = u64;
/// Drawn by each change, ever higher.
pub type Version = u64;

/// Stands for the value of every write of unknown outcome that nobody has read.
const UNSEEN: Value = Value::MAX;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// What it holds.
    Read,
    /// To hold this.
    Write(Value),
    /// To hold this if it is at that version.
    Swap {
        /// At which it must be.
        expected: Version,
        /// What it shall hold.
        value: Value,
    },
}

/// What is answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    /// To a read.
    Seen {
        /// What it holds.
        value: Value,
        /// Since which version.
        version: Version,
    },
    /// To a write or swap that was carried out.
    Changed {
        /// What it drew.
        version: Version,
    },
    /// To a swap that found another version.
    Refused,
}

/// What it holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    value: Value,
    /// None after a write whose answer nobody knows.
    version: Option<Version>,
    /// The last version that is known: whatever follows is higher.
    above: Version,
}

/// The register. At first it holds 0 at version 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Register;

/// An operation on it.
pub type RegisterOperation = Operation<Input, Output>;

impl Held {
    fn is_at(&self, version: Version) -> bool {
        self.version.map_or(version > self.above, |held| held == version)
    }
}

impl Model for Register {
    type Input = Input;
    type Output = Output;
    type State = Held;

    fn initial(&self) -> Held {
        Held { value: 0, version: Some(0), above: 0 }
    }

    fn apply(&self, state: &Held, input: &Input, output: Option<&Output>) -> Option<Held> {
        let held = |value, version: Version| Some(Held { value, version: Some(version), above: version });
        match (*input, output.copied()) {
            (Input::Read, Some(Output::Seen { value, version })) => {
                if state.value == value && state.is_at(version) {
                    held(value, version)
                } else {
                    None
                }
            }
            (Input::Write(value), Some(Output::Changed { version })) => {
                if version > state.above {
                    held(value, version)
                } else {
                    None
                }
            }
            (Input::Swap { expected, value }, Some(Output::Changed { version })) => {
                if state.is_at(expected) && version > expected { held(value, version) } else { None }
            }
            (Input::Swap { expected, .. }, Some(Output::Refused)) => {
                (state.version != Some(expected)).then_some(*state)
            }
            (Input::Write(value), None) => Some(Held { value, version: None, ..*state }),
            (Input::Swap { expected, value }, None) => {
                state.is_at(expected).then_some(Held { value, version: None, above: expected })
            }
            (Input::Read, None) => Some(*state),
            // An answer to another question.
            (Input::Read, Some(Output::Changed { .. } | Output::Refused))
            | (Input::Write(_), Some(Output::Seen { .. } | Output::Refused))
            | (Input::Swap { .. }, Some(Output::Seen { .. })) => None,
        }
    }

    fn is_lost(&self, state: &Held, input: &Input, output: Option<&Output>) -> bool {
        match (*input, output.copied()) {
            (Input::Read, Some(Output::Seen { version, .. })) => version < state.above,
            (Input::Write(_), Some(Output::Changed { version })) => version <= state.above,
            (Input::Swap { expected, .. }, Some(Output::Changed { .. }) | None) => expected < state.above,
            _ => false,
        }
    }

    fn class(&self, input: &Input) -> Option<u64> {
        match *input {
            Input::Write(UNSEEN) => Some(0),
            // Two swaps from the same version: only one can find it.
            Input::Swap { expected, value: UNSEEN } => Some(expected.saturating_add(1)),
            Input::Read | Input::Write(_) | Input::Swap { .. } => None,
        }
    }
}

/// The same history with what the whole of it tells of its unknown outcomes.
///
/// It is linearizable if and only if the original is, provided that no value is written twice.
pub fn prepared(history: &[RegisterOperation]) -> Vec<RegisterOperation> {
    // Who was the first to be answered that had read a value.
    let mut seen: HashMap<Value, (Moment, Version)> = HashMap::new();
    for operation in history {
        if let Some((at, Output::Seen { value, version })) = operation.answer() {
            let first = seen.entry(*value).or_insert((at, *version));
            *first = (*first).min((at, *version));
        }
    }
    let prepare = |operation: &RegisterOperation| {
        let mut operation = operation.clone();
        if operation.outcome != Outcome::Unknown {
            return Some(operation);
        }
        let (Input::Write(value) | Input::Swap { value, .. }) = &mut operation.input else {
            // A read that was not answered says nothing.
            return None;
        };
        match seen.get(value) {
            Some((at, version)) if operation.called <= *at => {
                operation.outcome = Outcome::Answered { at: *at, output: Output::Changed { version: *version } };
            }
            // Read before it was written: the search finds that nothing explains it.
            Some(_) => {}
            None => *value = UNSEEN,
        }
        Some(operation)
    };
    history.iter().filter_map(prepare).collect()
}

#[cfg(test)]
mod tests;
