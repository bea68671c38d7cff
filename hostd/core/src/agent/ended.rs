//! What a step that ended, well or not, says of its VM.

use berth_model::VmUid;

use super::{Agent, Event, InFlight, Outcome, Output, trouble};
use crate::backend::BackendError;
use crate::clock::Now;
use crate::history::{Asked, Progress};
use crate::journal::Journal;
use crate::ledger::Entry;
use crate::step::Step;

impl Agent {
    pub(super) fn executed(&mut self, vm: VmUid, outcome: &Outcome, now: Now, outputs: &mut Vec<Output>) {
        let Some(InFlight { step, stamp }) = self.in_flight.remove(&vm) else { return };
        let progress = self.progress.entry(vm).or_default();
        if let (Step::Shutdown(_), Some(asked)) = (&step, &mut progress.asked) {
            // The grace counts from when the guest could first have heard, not from when the step was put in line.
            let first = if asked.first == asked.last { now.boot } else { asked.first };
            *asked = Asked { first, last: now.boot };
        }
        progress.under_way = None;
        progress.stale_scans = self.scans.number;
        progress.left = None;
        self.scans.wanted = true;
        match outcome {
            Outcome::Lapsed => self.not_begun(vm, now),
            Outcome::Done => {
                progress.errors = 0;
                progress.next_try = None;
                match step {
                    Step::Prepare(domain) => progress.prepared = Some(domain),
                    Step::Start(domain) => {
                        *progress = Progress { stale_scans: progress.stale_scans, ..Progress::default() };
                        let mut journal = self.ledger.journal(vm).started(domain.mark.restart_count, now);
                        if let Some(Entry::Present(berth)) = self.ledger.entries().get(&vm) {
                            // They were said of an earlier run.
                            journal.resume_done = berth.power.resume_count;
                            journal.reset_done = berth.power.reset_count;
                        }
                        self.ledger.set_journal(vm, journal);
                    }
                    Step::Remove { .. } => {
                        progress.removed = Some(stamp);
                        progress.trouble = None;
                    }
                    Step::ForceOff(_) | Step::Pause(_) => progress.trouble = None,
                    Step::Resume { count, .. } => {
                        progress.trouble = None;
                        let journal = Journal { resume_done: count, ..self.ledger.journal(vm) };
                        self.ledger.set_journal(vm, journal);
                    }
                    Step::Reset { count, .. } => {
                        progress.trouble = None;
                        let journal = Journal { reset_done: count, ..self.ledger.journal(vm) };
                        self.ledger.set_journal(vm, journal);
                    }
                    Step::Repin { .. } => progress.misplaced = None,
                    Step::Shutdown(_) | Step::ReadBack(_) => {}
                }
            }
            Outcome::Failed(error) => {
                progress.prepared = None;
                match &step {
                    // It runs on, on its old threads.
                    Step::Repin { .. } => progress.misplaced = Some(error.to_string()),
                    // That it was not done is seen of the domain itself.
                    Step::ReadBack(_) => {}
                    Step::Prepare(_)
                    | Step::Start(_)
                    | Step::Shutdown(_)
                    | Step::ForceOff(_)
                    | Step::Pause(_)
                    | Step::Resume { .. }
                    | Step::Reset { .. }
                    | Step::Remove { .. } => progress.trouble = Some(trouble(error)),
                }
                let known_to_have_failed = match error {
                    BackendError::Failed { .. } => true,
                    BackendError::Unreachable { .. } => false,
                };
                match step {
                    Step::Prepare(_) | Step::Start(_) if known_to_have_failed => {
                        let journal = self.ledger.journal(vm).start_failed(now);
                        self.ledger.set_journal(vm, journal);
                        self.not_begun(vm, now);
                    }
                    // The request is repeated anyway, and the grace runs on.
                    Step::Shutdown(_) => {}
                    Step::Start(_) => {
                        // Whether it began is not known, so it counts as begun.
                        progress.begun = false;
                        progress.stumble(now.boot);
                    }
                    Step::Prepare(_)
                    | Step::ForceOff(_)
                    | Step::Repin { .. }
                    | Step::ReadBack(_)
                    | Step::Pause(_)
                    | Step::Resume { .. }
                    | Step::Reset { .. }
                    | Step::Remove { .. } => progress.stumble(now.boot),
                }
                let (step, error) = (step.name(), error.to_string());
                outputs.push(Output::Tell(Event::StepFailed { vm, step, error }));
            }
        }
    }

    /// A start that was written down as begun is known not to have been made.
    fn not_begun(&mut self, vm: VmUid, now: Now) {
        if self.progress.get_mut(&vm).is_some_and(|progress| std::mem::take(&mut progress.begun)) {
            let journal = self.ledger.journal(vm).not_begun(now);
            self.ledger.set_journal(vm, journal);
        }
    }
}
