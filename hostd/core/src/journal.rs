//! What the host remembers of one VM across restarts of its daemon: how its runs began and ended.
//!
//! The journal is folded from what scans show and what steps answered; it never instructs anything by itself. A crash
//! is counted once because the journal knows that the domain ran before, also when the daemon was away meanwhile.

use berth_model::vm::{DomainState, Ended, Past, StopReason};
use berth_model::{Millis, Stamp, Timestamp};

use crate::backend::DomainSeen;
use crate::clock::{BootTime, Now};

/// The pause before the first repeated start.
const FIRST_PAUSE: Millis = Millis::seconds(1);
/// The longest pause: often enough that a mended fault heals while someone still looks at it.
const LONGEST_PAUSE: Millis = Millis::seconds(300);
/// A run of this length counts as a success: what went wrong before it is forgotten.
const LONG_RUN: Millis = Millis::seconds(600);

/// Whether the domain ran when it was last seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Run {
    /// It was never seen running.
    #[default]
    Never,
    /// Guest code ran or was held.
    Running {
        /// Since when, for people.
        since: Timestamp,
        /// Since when by the clock of this boot; none when that is not known.
        from: Option<BootTime>,
    },
    /// It was down.
    Stopped {
        /// Why.
        reason: StopReason,
        /// Since when, for people.
        since: Timestamp,
    },
}

/// What is remembered of one VM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Journal {
    /// The last run that was asked for and begun.
    pub restart_done: u64,
    /// The last word to go on that was obeyed.
    pub resume_done: u64,
    /// The last reset that was carried out.
    pub reset_done: u64,
    /// Whether any run may have begun.
    pub begun: bool,
    /// Starts that failed or ended in a crash, in a row.
    pub failures: u32,
    /// No start before then.
    pub next_try: Option<BootTime>,
    /// Its last run.
    pub run: Run,
    /// How the last run ended that did; kept while the next one lasts.
    pub last_end: Option<Ended>,
    /// It was found gone, as an `Absent` entry of this stamp asked.
    pub gone: Option<Stamp>,
}

/// The pause after `failures` in a row: one second, doubled each time, five minutes at most.
pub fn pause(failures: u32) -> Millis {
    let doublings = failures.saturating_sub(1).min(20);
    Millis((FIRST_PAUSE.0 << doublings).min(LONGEST_PAUSE.0))
}

impl Journal {
    /// After a scan that showed the domain like this. `asked` says whether the host itself was taking it down.
    #[must_use]
    pub fn observed(mut self, seen: Option<&DomainSeen>, asked: bool, now: Now) -> Self {
        let ended = match seen {
            Some(DomainSeen { state: DomainState::Stopped(reason), .. }) => *reason,
            Some(DomainSeen { state: DomainState::Panicked, .. }) => StopReason::Panicked,
            None => StopReason::Unknown,
            Some(domain) => {
                let fresh = Run::Running { since: domain.since.unwrap_or(now.wall), from: Some(now.boot) };
                match &mut self.run {
                    Run::Running { from, .. } => {
                        from.get_or_insert(now.boot);
                    }
                    Run::Never | Run::Stopped { .. } => self.run = fresh,
                }
                self.restart_done = self.restart_done.max(domain.mark.restart_count);
                self.begun = true;
                self.next_try = None;
                self.gone = None;
                self.forget_failures_after_a_long_run(now);
                return self;
            }
        };
        if let Some(domain) = seen {
            self.gone = None;
            self.ended_unseen(domain, ended);
            // A definition that nobody remembers may have run.
            self.begun |= matches!(self.run, Run::Never);
        }
        if matches!(self.run, Run::Running { .. }) {
            self.forget_failures_after_a_long_run(now);
            let reason = if asked && ended != StopReason::Panicked { StopReason::Asked } else { ended };
            let since = seen.and_then(|domain| domain.since).unwrap_or(now.wall);
            self.run = Run::Stopped { reason, since };
            self.last_end = Some(Ended { reason, at: since });
            match reason {
                StopReason::Crashed | StopReason::Panicked => self.failed(now),
                // A guest that ends at once on every boot must not spin the host.
                StopReason::GuestShutdown => self.next_try = Some(now.boot.plus(FIRST_PAUSE)),
                StopReason::NeverStarted | StopReason::Asked | StopReason::StartFailed | StopReason::Unknown => {}
            }
        }
        self
    }

    /// What was never seen to run, and says itself how it ended, ran while nobody looked.
    fn ended_unseen(&mut self, domain: &DomainSeen, ended: StopReason) {
        let ran = match ended {
            StopReason::GuestShutdown | StopReason::Crashed | StopReason::Panicked => true,
            StopReason::NeverStarted | StopReason::Asked | StopReason::StartFailed | StopReason::Unknown => false,
        };
        let is_news = match self.run {
            Run::Never => true,
            Run::Running { .. } => false,
            // A new run of which only the end is seen; how an earlier one ended is known already.
            Run::Stopped { reason, .. } => {
                domain.mark.restart_count > self.restart_done || (ended == StopReason::Panicked && reason != ended)
            }
        };
        if ran && is_news {
            self.restart_done = self.restart_done.max(domain.mark.restart_count);
            self.begun = true;
            self.run = Run::Running { since: domain.since.unwrap_or_default(), from: None };
        }
    }

    /// What it says of the VM's runs.
    pub const fn past(&self) -> Past {
        let ended = match self.run {
            Run::Never | Run::Running { .. } => None,
            Run::Stopped { reason, .. } => Some(reason),
        };
        Past { done: self.restart_done, begun: self.begun, ended }
    }

    /// After a start that the backend says succeeded.
    #[must_use]
    pub fn started(mut self, restart_count: u64, now: Now) -> Self {
        self.run = Run::Running { since: now.wall, from: Some(now.boot) };
        self.begun = true;
        self.restart_done = self.restart_done.max(restart_count);
        self.next_try = None;
        self
    }

    /// After a start, or what precedes it, that failed.
    #[must_use]
    pub fn start_failed(mut self, now: Now) -> Self {
        self.failed(now);
        self.run = Run::Stopped { reason: StopReason::StartFailed, since: now.wall };
        self
    }

    /// Before a run that is begun at most once.
    #[must_use]
    pub fn begun(mut self) -> Self {
        self.begun = true;
        if matches!(self.run, Run::Stopped { reason: StopReason::StartFailed, .. }) {
            // Should nobody learn what becomes of this attempt, that it failed would be wrong to say.
            self.run = Run::Never;
        }
        self
    }

    /// After all such a run is known not to have begun.
    #[must_use]
    pub fn not_begun(mut self, now: Now) -> Self {
        self.begun = false;
        if matches!(self.run, Run::Never) {
            self.run = Run::Stopped { reason: StopReason::StartFailed, since: now.wall };
        }
        self
    }

    /// After an operator asked anew: a start, a restart, another placement. What failed before is no reason to wait.
    #[must_use]
    pub fn asked_anew(mut self) -> Self {
        self.failures = 0;
        self.next_try = None;
        self
    }

    /// After the machine booted: nothing runs, and moments of another boot mean nothing.
    #[must_use]
    pub fn rebooted(mut self, now: Now) -> Self {
        self.next_try = None;
        if matches!(self.run, Run::Running { .. }) {
            self.run = Run::Stopped { reason: StopReason::Unknown, since: now.wall };
            self.last_end = Some(Ended { reason: StopReason::Unknown, at: now.wall });
        }
        self
    }

    fn failed(&mut self, now: Now) {
        self.failures = self.failures.saturating_add(1);
        self.next_try = Some(now.boot.plus(pause(self.failures)));
    }

    fn forget_failures_after_a_long_run(&mut self, now: Now) {
        if let Run::Running { from: Some(from), .. } = self.run
            && now.boot.since(from) >= LONG_RUN
        {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_model::vm::Accelerator;

    use super::*;
    use crate::step::Mark;

    fn at(seconds: u64) -> Now {
        Now { boot: BootTime::from_millis(seconds * 1000), wall: Timestamp::from_millis(1_000_000 + seconds * 1000) }
    }

    fn seen(state: DomainState) -> DomainSeen {
        DomainSeen {
            mark: Mark {
                cluster: "lab".parse().unwrap(),
                vm: "vm1".parse().unwrap(),
                project: "default".parse().unwrap(),
                name: "web".parse().unwrap(),
                stamp: Stamp::default(),
                restart_count: 3,
            },
            state,
            accelerator: Accelerator::Tcg,
            since: None,
            floats: None,
            is_read_back: true,
            degraded: vec![],
        }
    }

    #[test]
    fn pauses_double_from_one_second_to_five_minutes() {
        let pauses: Vec<_> = [1, 2, 3, 8, 9, 10, 1000].into_iter().map(|failures| pause(failures).0 / 1000).collect();
        assert_eq!(pauses, [1, 2, 4, 128, 256, 300, 300]);
    }

    #[test]
    fn a_crash_is_counted_once_however_often_it_is_seen() {
        let down = seen(DomainState::Stopped(StopReason::Crashed));
        let running = Journal::default().observed(Some(&seen(DomainState::Running)), false, at(0));
        assert_eq!(running.restart_done, 3);
        let once = running.observed(Some(&down), false, at(5));
        let twice = once.clone().observed(Some(&down), false, at(6));
        assert_eq!((once.failures, once.next_try), (1, Some(at(6).boot)));
        assert_eq!(once, twice);
    }

    #[test]
    fn a_long_run_forgives_what_failed_before() {
        let mut journal = Journal::default();
        for _ in 0..4 {
            journal = journal.start_failed(at(0));
        }
        assert_eq!(journal.failures, 4);
        let short = journal.clone().started(0, at(10)).observed(None, false, at(600));
        assert_eq!(short.failures, 4);
        let down = seen(DomainState::Stopped(StopReason::Crashed));
        let long = journal.started(0, at(10)).observed(Some(&down), false, at(611));
        assert_eq!((long.failures, long.next_try), (1, Some(at(612).boot)), "only the new crash counts");
    }

    #[test]
    fn a_stop_that_the_host_asked_for_is_no_failure() {
        let down = seen(DomainState::Stopped(StopReason::GuestShutdown));
        let journal = Journal::default().started(0, at(0)).observed(Some(&down), true, at(5));
        assert_eq!(journal.run, Run::Stopped { reason: StopReason::Asked, since: at(5).wall });
        assert_eq!((journal.failures, journal.next_try), (0, None));
    }

    #[test]
    fn a_reboot_of_the_machine_is_no_crash_of_the_guest() {
        let journal = Journal::default().started(3, at(0)).rebooted(at(9));
        let down = seen(DomainState::Stopped(StopReason::Crashed));
        let after = journal.observed(Some(&down), false, at(10));
        assert_eq!(after.failures, 0);
        assert_eq!(after.run, Run::Stopped { reason: StopReason::Unknown, since: at(9).wall });
    }
}
