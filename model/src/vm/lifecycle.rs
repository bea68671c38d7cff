//! When a VM that is down is started: one function for the host that decides and for everybody who explains.
//!
//! A strategy says what follows the end of a run. Runs are counted: a restart, and a start of a VM whose last run was
//! its last, ask for one more, so that a repeated word starts nothing twice.

use serde::{Deserialize, Serialize};

use super::{Observed, RunStrategy, StopReason};
use crate::Timestamp;

/// What operators last said about a VM's run, beside its strategy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Power {
    /// A stop is in force: whatever the strategy says, it does not run before it is started. The strategy stays.
    pub off: bool,
    /// Whoever takes it down gives the guest no time.
    pub forced: bool,
    /// Its guest code is held. A VM that is down is not started meanwhile.
    pub paused: bool,
    /// How often it was asked to go on.
    pub resume_count: u64,
    /// How often a reset was asked for.
    pub reset_count: u64,
}

impl Power {
    /// The strategy as it counts now: none while a stop is in force.
    pub const fn effective(self, run: RunStrategy) -> RunStrategy {
        if self.off { RunStrategy::Halted } else { run }
    }
}

/// How and when a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// Why.
    pub reason: StopReason,
    /// When, by the host's clock.
    pub at: Timestamp,
}

/// What is known of a VM's runs so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Past {
    /// The last run that was asked for and begun.
    pub done: u64,
    /// Whether any run may have begun.
    pub begun: bool,
    /// Why it is down; none while it runs, and while it was never started.
    pub ended: Option<StopReason>,
}

impl Past {
    /// What a host's word on a VM says of its runs.
    #[expect(clippy::match_same_arms, reason = "in the order of the states")]
    pub const fn of(seen: &Observed) -> Self {
        let (begun, ended) = match seen.state {
            super::DomainState::Stopped(StopReason::NeverStarted) => (false, None),
            // An earlier run, under another strategy, may have ended before.
            super::DomainState::Stopped(StopReason::StartFailed) => {
                (seen.last_end.is_some(), Some(StopReason::StartFailed))
            }
            super::DomainState::Stopped(reason) => (true, Some(reason)),
            super::DomainState::Panicked => (true, Some(StopReason::Panicked)),
            super::DomainState::Starting => (false, None),
            super::DomainState::Running | super::DomainState::Paused | super::DomainState::Stopping => (true, None),
        };
        Self { done: seen.restart_count, begun, ended }
    }
}

/// Why a VM that is down stays down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// It shall not run.
    Halted,
    /// Nobody started it yet, and it waits for that.
    NotAsked,
    /// Its run is over, and its strategy asks for no other one.
    Over(StopReason),
}

/// Whether a VM that is down shall be started, or why not. `asked` is how many runs were asked for.
///
/// # Errors
///
/// Why it rests.
#[expect(clippy::match_same_arms, reason = "in the order of the strategies")]
pub const fn shall_start(run: RunStrategy, asked: u64, past: Past) -> Result<(), Rest> {
    let is_asked = asked > past.done;
    match (run, past.ended) {
        (RunStrategy::Halted, _) => Err(Rest::Halted),
        (RunStrategy::Always, _) => Ok(()),
        (RunStrategy::RerunOnFailure, Some(StopReason::GuestShutdown)) if !is_asked => {
            Err(Rest::Over(StopReason::GuestShutdown))
        }
        (RunStrategy::RerunOnFailure, _) => Ok(()),
        (RunStrategy::Manual, _) if is_asked => Ok(()),
        (RunStrategy::Manual, Some(reason)) => Err(Rest::Over(reason)),
        (RunStrategy::Manual, None) => Err(Rest::NotAsked),
        (RunStrategy::Once, _) if !past.begun => Ok(()),
        (RunStrategy::Once, Some(reason)) => Err(Rest::Over(reason)),
        (RunStrategy::Once, None) => Err(Rest::Over(StopReason::Unknown)),
    }
}

#[cfg(test)]
mod tests {
    use StopReason::{Asked, Crashed, GuestShutdown, StartFailed, Unknown};

    use super::super::DomainState;
    use super::*;

    fn ran(done: u64, reason: StopReason) -> Past {
        Past { done, begun: true, ended: Some(reason) }
    }

    const NEVER: Past = Past { done: 0, begun: false, ended: None };

    #[test]
    fn a_vm_that_shall_always_run_is_started_whatever_ended_it_and_a_halted_one_never() {
        for past in [NEVER, ran(0, GuestShutdown), ran(3, Crashed), ran(0, Asked)] {
            assert_eq!(shall_start(RunStrategy::Always, 0, past), Ok(()));
            assert_eq!(shall_start(RunStrategy::Halted, 9, past), Err(Rest::Halted));
        }
    }

    #[test]
    fn only_a_clean_shutdown_lets_rerun_on_failure_rest_and_one_more_start_wakes_it() {
        let run = RunStrategy::RerunOnFailure;
        assert_eq!(shall_start(run, 0, NEVER), Ok(()));
        for failure in [Crashed, Unknown, StartFailed, Asked] {
            assert_eq!(shall_start(run, 0, ran(0, failure)), Ok(()), "{failure:?}");
        }
        assert_eq!(shall_start(run, 0, ran(0, GuestShutdown)), Err(Rest::Over(GuestShutdown)));
        assert_eq!(shall_start(run, 1, ran(0, GuestShutdown)), Ok(()));
        assert_eq!(shall_start(run, 1, ran(1, GuestShutdown)), Err(Rest::Over(GuestShutdown)));
    }

    #[test]
    fn manual_runs_once_for_each_start() {
        let run = RunStrategy::Manual;
        assert_eq!(shall_start(run, 0, NEVER), Err(Rest::NotAsked));
        assert_eq!(shall_start(run, 1, NEVER), Ok(()));
        assert_eq!(shall_start(run, 1, Past { done: 0, begun: false, ended: Some(StartFailed) }), Ok(()));
        for end in [GuestShutdown, Crashed, Unknown] {
            assert_eq!(shall_start(run, 1, ran(1, end)), Err(Rest::Over(end)), "{end:?}");
            assert_eq!(shall_start(run, 2, ran(1, end)), Ok(()), "{end:?}");
        }
    }

    #[test]
    fn once_is_begun_at_most_once_and_a_start_that_failed_is_none() {
        let run = RunStrategy::Once;
        assert_eq!(shall_start(run, 0, NEVER), Ok(()));
        assert_eq!(shall_start(run, 0, Past { done: 0, begun: false, ended: Some(StartFailed) }), Ok(()));
        for end in [GuestShutdown, Crashed, Unknown, Asked] {
            assert_eq!(shall_start(run, 5, ran(0, end)), Err(Rest::Over(end)), "{end:?}");
        }
        let unknown = Past { done: 0, begun: true, ended: None };
        assert_eq!(shall_start(run, 0, unknown), Err(Rest::Over(Unknown)));
    }

    #[test]
    fn a_start_that_failed_says_nothing_of_an_earlier_run_that_ended() {
        let mut seen = Observed {
            epoch: crate::Epoch(1),
            state: DomainState::Stopped(StartFailed),
            accelerator: None,
            restart_count: 0,
            reset_count: 0,
            failures: 1,
            last_end: None,
            trouble: None,
            degraded: Vec::new(),
            since: Timestamp::default(),
        };
        assert_eq!(shall_start(RunStrategy::Once, 0, Past::of(&seen)), Ok(()));
        seen.last_end = Some(Ended { reason: Asked, at: Timestamp::default() });
        assert_eq!(shall_start(RunStrategy::Once, 0, Past::of(&seen)), Err(Rest::Over(StartFailed)));
    }
}
