//! Conditions: named facts about an object that an operator should know, in the shape that Kubernetes uses.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Whether the fact holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can say at present.
    Unknown,
}

impl ConditionStatus {
    /// `True` or `False`.
    pub const fn from_bool(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}

/// One named fact.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Condition {
    /// Its name in UpperCamelCase: `Ready`, `Accelerated`.
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One UpperCamelCase word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// When `status` last changed.
    pub since: Timestamp,
}

/// Puts `new` in the place of the condition of its kind, keeping `since` when the status did not change.
///
/// Returns whether anything changed.
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    match conditions.iter_mut().find(|held| held.kind == new.kind) {
        Some(held) => {
            if held.status == new.status {
                new.since = held.since;
            }
            let changed = *held != new;
            *held = new;
            changed
        }
        None => {
            conditions.push(new);
            conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
            true
        }
    }
}
