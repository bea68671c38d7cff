//! What this run of the daemon knows of its own doings: which step is under way, what was asked of a guest and when.
//!
//! Nothing here survives the daemon, and nothing needs to: every step may be repeated, and evidence is looked up again.

use std::collections::BTreeMap;

use berth_model::vm::{Past, RunStrategy, shall_start};
use berth_model::{Millis, Stamp, VmUid};

use crate::backend::DomainSeen;
use crate::clock::BootTime;
use crate::journal::{Journal, pause};
use crate::ledger::Entry;
use crate::plan::{is_active, wants_shutdown};
use crate::step::{DomainSpec, Step};

/// The kind of a step that is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnderWay {
    /// [`Step::Prepare`] or [`Step::Start`].
    Starting,
    /// [`Step::Shutdown`] or [`Step::ForceOff`].
    Stopping,
    /// [`Step::Repin`] or [`Step::ReadBack`].
    Tending,
    /// [`Step::Remove`].
    Removing,
    /// [`Step::Pause`], [`Step::Resume`] or [`Step::Reset`].
    Steering,
}

impl UnderWay {
    /// The kind of `step`.
    pub const fn of(step: &Step) -> Self {
        match step {
            Step::Prepare(_) | Step::Start(_) => Self::Starting,
            Step::Shutdown(_) | Step::ForceOff(_) => Self::Stopping,
            Step::Repin { .. } | Step::ReadBack(_) => Self::Tending,
            Step::Remove { .. } => Self::Removing,
            Step::Pause(_) | Step::Resume { .. } | Step::Reset { .. } => Self::Steering,
        }
    }
}

/// When a guest was asked to shut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// For the first time: the grace counts from here.
    pub first: BootTime,
    /// For the last time.
    pub last: BootTime,
}

/// What this run of the daemon did for one VM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The step under way; there is never a second one.
    pub under_way: Option<UnderWay>,
    /// Scans up to this number began before the last step ended and show nothing that can be relied on.
    pub stale_scans: u64,
    /// When the guest was asked to shut down, while that is still wanted.
    pub asked: Option<Asked>,
    /// Whether the start that is due was written down as begun, and by this run of the daemon: it may still be made.
    pub begun: bool,
    /// Whether its end, when it comes, is of our doing.
    pub taken_down: bool,
    /// What was prepared for the next start.
    pub prepared: Option<Box<DomainSpec>>,
    /// The instruction by which everything of it was removed.
    pub removed: Option<Stamp>,
    /// Whether anything was left on the host when last looked, and by a look that began after the last step.
    pub left: Option<bool>,
    /// Whether a look is under way.
    pub looking: bool,
    /// Steps that failed in a row, other than starts, which the journal counts.
    pub errors: u32,
    /// No step before then, because of `errors`.
    pub next_try: Option<BootTime>,
    /// What the last step that failed said: a reason and a sentence.
    pub trouble: Option<(String, String)>,
    /// Why it could not be moved to other threads, while it runs and that is still wanted.
    pub misplaced: Option<String>,
}

/// The longest pause after steps that failed in a row: what must go down or away is not left for long.
const LONGEST_STEP_PAUSE: Millis = Millis::seconds(30);

impl Progress {
    /// What is known of the VM's runs. What this run of the daemon wrote down as begun it may still begin.
    pub(crate) fn past(&self, journal: &Journal) -> Past {
        Past { begun: journal.begun && !self.begun, ..journal.past() }
    }

    /// A step other than a start failed, or left something behind: waits longer each time.
    pub(crate) fn stumble(&mut self, now: BootTime) {
        self.errors = self.errors.saturating_add(1);
        self.next_try = Some(now.plus(pause(self.errors).min(LONGEST_STEP_PAUSE)));
    }

    /// There is a new word about the VM: what failed before is neither a reason to wait nor worth telling.
    pub(crate) fn asked_anew(&mut self) {
        self.errors = 0;
        self.next_try = None;
        self.trouble = None;
    }

    /// A scan that is not older than the last step showed the domain like this.
    pub(crate) fn seen(&mut self, entry: &Entry, domain: Option<&DomainSeen>, journal: &Journal) {
        let active = domain.filter(|domain| is_active(domain.state));
        let (shall_run, may_run) = match entry {
            Entry::Present(berth) => (berth.run_now() != RunStrategy::Halted, true),
            Entry::Absent(_) => (false, false),
        };
        match active {
            Some(domain) => {
                self.removed = None;
                if may_run {
                    self.prepared = None;
                }
                if shall_run && !wants_shutdown(entry, domain) {
                    self.asked = None;
                    self.taken_down = false;
                    self.trouble = None;
                }
            }
            None => {
                self.asked = None;
                self.misplaced = None;
                if let Entry::Present(berth) = entry
                    && shall_start(berth.run_now(), berth.restart_count, journal.past()).is_err()
                {
                    self.trouble = None;
                }
            }
        }
    }
}

/// All that is known of the past.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// What outlives the daemon.
    pub journals: &'a BTreeMap<VmUid, Journal>,
    /// What does not.
    pub progress: &'a BTreeMap<VmUid, Progress>,
}
