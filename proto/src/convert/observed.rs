//! What a host saw of a VM.

use berth_model::vm::{DomainState, Observed, StopReason};
use berth_model::{Epoch, Timestamp};

use super::{ConvertError, enums};
use crate::v1;

impl From<&Observed> for v1::Observed {
    fn from(observed: &Observed) -> Self {
        let Observed { epoch, state, accelerator, restart_count, failures, trouble, degraded, since } = observed;
        let (state, stop_reason) = state_to_wire(*state);
        Self {
            epoch: epoch.0,
            state: state.into(),
            stop_reason: stop_reason.into(),
            accelerator: accelerator.map(|accelerator| v1::Accelerator::from(accelerator).into()),
            restart_count: *restart_count,
            failures: *failures,
            trouble: trouble
                .as_ref()
                .map(|(reason, message)| v1::Trouble { reason: reason.clone(), message: message.clone() }),
            degraded: degraded.clone(),
            since_ms: since.as_millis(),
        }
    }
}

impl TryFrom<v1::Observed> for Observed {
    type Error = ConvertError;

    fn try_from(wire: v1::Observed) -> Result<Self, ConvertError> {
        let v1::Observed {
            epoch,
            state,
            stop_reason,
            accelerator,
            restart_count,
            failures,
            trouble,
            degraded,
            since_ms,
        } = wire;
        Ok(Self {
            epoch: Epoch(epoch),
            state: state_from_wire(state, stop_reason)?,
            accelerator: accelerator.map(|number| enums::accelerator(number, "accelerator")).transpose()?,
            restart_count,
            failures,
            trouble: trouble.map(|v1::Trouble { reason, message }| (reason, message)),
            degraded,
            since: Timestamp::from_millis(since_ms),
        })
    }
}

fn state_to_wire(state: DomainState) -> (v1::DomainState, v1::StopReason) {
    let not_stopped = v1::StopReason::Unspecified;
    match state {
        DomainState::Starting => (v1::DomainState::Starting, not_stopped),
        DomainState::Running => (v1::DomainState::Running, not_stopped),
        DomainState::Paused => (v1::DomainState::Paused, not_stopped),
        DomainState::Stopping => (v1::DomainState::Stopping, not_stopped),
        DomainState::Stopped(reason) => (
            v1::DomainState::Stopped,
            match reason {
                StopReason::NeverStarted => v1::StopReason::NeverStarted,
                StopReason::GuestShutdown => v1::StopReason::GuestShutdown,
                StopReason::Asked => v1::StopReason::Asked,
                StopReason::Crashed => v1::StopReason::Crashed,
                StopReason::StartFailed => v1::StopReason::StartFailed,
                StopReason::Unknown => v1::StopReason::Unknown,
            },
        ),
    }
}

fn state_from_wire(state: i32, stop_reason: i32) -> Result<DomainState, ConvertError> {
    let reason = v1::StopReason::try_from(stop_reason)
        .map_err(|_| ConvertError::new("stop_reason", format_args!("has the unknown value {stop_reason}")))?;
    let reason = match reason {
        v1::StopReason::Unspecified => None,
        v1::StopReason::NeverStarted => Some(StopReason::NeverStarted),
        v1::StopReason::GuestShutdown => Some(StopReason::GuestShutdown),
        v1::StopReason::Asked => Some(StopReason::Asked),
        v1::StopReason::Crashed => Some(StopReason::Crashed),
        v1::StopReason::StartFailed => Some(StopReason::StartFailed),
        v1::StopReason::Unknown => Some(StopReason::Unknown),
    };
    let state = v1::DomainState::try_from(state)
        .map_err(|_| ConvertError::new("state", format_args!("has the unknown value {state}")))?;
    let state = match (state, reason) {
        (v1::DomainState::Unspecified, _) => return Err(ConvertError::missing("state")),
        (v1::DomainState::Stopped, Some(reason)) => return Ok(DomainState::Stopped(reason)),
        (v1::DomainState::Stopped, None) => return Err(ConvertError::missing("stop_reason")),
        (v1::DomainState::Starting, None) => DomainState::Starting,
        (v1::DomainState::Running, None) => DomainState::Running,
        (v1::DomainState::Paused, None) => DomainState::Paused,
        (v1::DomainState::Stopping, None) => DomainState::Stopping,
        (
            v1::DomainState::Starting | v1::DomainState::Running | v1::DomainState::Paused | v1::DomainState::Stopping,
            Some(_),
        ) => return Err(ConvertError::new("stop_reason", "is given for a domain that is not stopped")),
    };
    Ok(state)
}
