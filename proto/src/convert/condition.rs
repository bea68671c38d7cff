//! Conditions.

use berth_model::{Condition, Timestamp};

use super::{ConvertError, enums};
use crate::v1;

impl From<&Condition> for v1::Condition {
    fn from(condition: &Condition) -> Self {
        let Condition { kind, status, reason, message, since } = condition;
        Self {
            kind: kind.clone(),
            status: v1::ConditionStatus::from(*status).into(),
            reason: reason.clone(),
            message: message.clone(),
            since_ms: since.as_millis(),
        }
    }
}

impl TryFrom<v1::Condition> for Condition {
    type Error = ConvertError;

    fn try_from(wire: v1::Condition) -> Result<Self, ConvertError> {
        let v1::Condition { kind, status, reason, message, since_ms } = wire;
        Ok(Self {
            kind,
            status: enums::condition_status(status, "status")?,
            reason,
            message,
            since: Timestamp::from_millis(since_ms),
        })
    }
}
