//! What a host saw of a VM.

use berth_model::vm::{DomainState, Ended, Observed, Power};
use berth_model::{Epoch, Timestamp};

use super::{ConvertError, enums, optional};
use crate::v1;

impl From<&Observed> for v1::Observed {
    fn from(observed: &Observed) -> Self {
        let Observed {
            epoch,
            state,
            accelerator,
            restart_count,
            reset_count,
            failures,
            last_end,
            trouble,
            degraded,
            since,
        } = observed;
        let (state, stop_reason) = state_to_wire(*state);
        Self {
            epoch: epoch.0,
            state: state.into(),
            stop_reason: stop_reason.into(),
            accelerator: accelerator.map(|accelerator| v1::Accelerator::from(accelerator).into()),
            restart_count: *restart_count,
            reset_count: *reset_count,
            failures: *failures,
            last_end: last_end.as_ref().map(Into::into),
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
            reset_count,
            last_end,
        } = wire;
        Ok(Self {
            epoch: Epoch(epoch),
            state: state_from_wire(state, stop_reason)?,
            accelerator: accelerator.map(|number| enums::accelerator(number, "accelerator")).transpose()?,
            restart_count,
            reset_count,
            failures,
            last_end: optional(last_end, "last_end")?,
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
        DomainState::Stopped(reason) => (v1::DomainState::Stopped, reason.into()),
        DomainState::Panicked => (v1::DomainState::Panicked, not_stopped),
    }
}

impl From<&Ended> for v1::Ended {
    fn from(ended: &Ended) -> Self {
        let Ended { reason, at } = ended;
        Self { reason: v1::StopReason::from(*reason).into(), at_ms: at.as_millis() }
    }
}

impl TryFrom<v1::Ended> for Ended {
    type Error = ConvertError;

    fn try_from(wire: v1::Ended) -> Result<Self, ConvertError> {
        let v1::Ended { reason, at_ms } = wire;
        Ok(Self { reason: enums::stop_reason(reason, "reason")?, at: Timestamp::from_millis(at_ms) })
    }
}

impl From<&Power> for v1::Power {
    fn from(power: &Power) -> Self {
        let Power { off, forced, paused, resume_count, reset_count } = *power;
        Self { off, forced, paused, resume_count, reset_count }
    }
}

impl From<v1::Power> for Power {
    fn from(wire: v1::Power) -> Self {
        let v1::Power { off, forced, paused, resume_count, reset_count } = wire;
        Self { off, forced, paused, resume_count, reset_count }
    }
}

fn state_from_wire(state: i32, stop_reason: i32) -> Result<DomainState, ConvertError> {
    let reason = if stop_reason == 0 { None } else { Some(enums::stop_reason(stop_reason, "stop_reason")?) };
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
        (v1::DomainState::Panicked, None) => DomainState::Panicked,
        (
            v1::DomainState::Starting
            | v1::DomainState::Running
            | v1::DomainState::Paused
            | v1::DomainState::Stopping
            | v1::DomainState::Panicked,
            Some(_),
        ) => return Err(ConvertError::new("stop_reason", "is given for a domain that is not stopped")),
    };
    Ok(state)
}
