//! What the host tells the leader: the picture of the host, and how it differs from what was last acknowledged.
//!
//! A picture is a value; a report is the difference of two pictures. The first report of a session gives everything, so
//! a leader that knows nothing and one that knows too much end up the same. Nothing is counted as told before its
//! acknowledgement.

use std::collections::BTreeMap;

use berth_model::condition::Condition;
use berth_model::host::{Inventory, Orphan};
use berth_model::image::{ImageOnHost, Sha256Digest};
use berth_model::session::{Holding, Report, VmReport};
use berth_model::vm::{DomainState, Observed, RunStrategy, StopReason, shall_start};
use berth_model::{Timestamp, VmUid};

use crate::backend::DomainSeen;
use crate::history::{Progress, UnderWay};
use crate::journal::{Journal, Run};
use crate::ledger::Entry;
use crate::plan::is_active;

/// Everything a host tells of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Picture {
    /// What the host is; none before that is known.
    pub inventory: Option<Inventory>,
    /// Its conditions, in the order of kinds.
    pub conditions: Vec<Condition>,
    /// Image files; none before the folder was looked through.
    pub images: Option<BTreeMap<Sha256Digest, ImageOnHost>>,
    /// VMs; none before the first scan.
    pub vms: Option<BTreeMap<VmUid, VmReport>>,
    /// Orphans; none before the host heard which VMs it should have.
    pub orphans: Option<Vec<Orphan>>,
    /// What is remembered of the orphans' placements.
    pub holdings: Vec<Holding>,
}

impl Picture {
    fn is_whole(&self) -> bool {
        self.inventory.is_some() && self.images.is_some() && self.vms.is_some()
    }

    /// The report that turns what was told into `self`; none if there is nothing to tell, or not yet enough.
    ///
    /// `told` is what this session's leader acknowledged; none at the beginning. `partly` permits a first report that
    /// is not whole: a host that cannot see its domains still has to say so.
    pub fn report(&self, number: u64, told: Option<&Self>, partly: bool) -> Option<Report> {
        let whole_before = told.is_some_and(Self::is_whole);
        if self.is_whole() && !whole_before {
            let nothing = Self::default();
            return Some(Report {
                full: true,
                conditions: Some(self.conditions.clone()),
                ..self.since(&nothing, number)
            });
        }
        let Some(told) = told else {
            let worth = partly && self.inventory.is_some();
            return worth.then(|| self.since(&Self::default(), number));
        };
        let report = self.since(told, number);
        (report != Report { number, ..Report::default() }).then_some(report)
    }

    fn since(&self, told: &Self, number: u64) -> Report {
        let Self { inventory, conditions, images, vms, orphans, holdings } = self;
        let orphans_changed = *orphans != told.orphans || *holdings != told.holdings;
        let (no_images, no_vms) = (BTreeMap::new(), BTreeMap::new());
        let (images_now, images_told) = (images.as_ref(), told.images.as_ref().unwrap_or(&no_images));
        let vms_told = told.vms.as_ref().unwrap_or(&no_vms);
        let mut changed_images: Vec<_> = images_now
            .into_iter()
            .flatten()
            .filter(|(digest, found)| images_told.get(*digest) != Some(*found))
            .map(|(digest, found)| (*digest, Some(found.clone())))
            .collect();
        if let Some(now) = images_now {
            changed_images
                .extend(images_told.keys().filter(|digest| !now.contains_key(*digest)).map(|digest| (*digest, None)));
        }
        Report {
            number,
            full: false,
            inventory: inventory.clone().filter(|_| *inventory != told.inventory),
            conditions: (*conditions != told.conditions).then(|| conditions.clone()),
            images: changed_images,
            vms: vms
                .iter()
                .flatten()
                .filter(|(vm, report)| vms_told.get(*vm) != Some(*report))
                .map(|(vm, report)| (*vm, report.clone()))
                .collect(),
            orphans: orphans.clone().filter(|_| orphans_changed),
            holdings: if orphans_changed { holdings.clone() } else { Vec::new() },
        }
    }
}

/// All that bears on what is told of one VM.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// What is wanted.
    pub entry: &'a Entry,
    /// Its domain, if the last scan showed one and is not older than the last step.
    pub seen: Option<&'a DomainSeen>,
    /// Whether the last scan can be relied on for this VM.
    pub fresh: bool,
    /// What is remembered of it.
    pub journal: &'a Journal,
    /// What is being done with it.
    pub progress: &'a Progress,
    /// What hinders it, by the plan.
    pub hindrance: Option<(String, String)>,
    /// What was last told.
    pub before: Option<&'a VmReport>,
    /// For people.
    pub now: Timestamp,
}

/// What is told of one VM.
pub fn derive(evidence: Evidence<'_>) -> VmReport {
    let Evidence { entry, seen, fresh, journal, progress, hindrance, before, now } = evidence;
    if let Entry::Absent(absent) = entry
        && journal.gone == Some(absent.stamp)
    {
        return VmReport::Gone(absent.stamp);
    }
    let before = match before {
        Some(VmReport::Seen(observed)) => Some(observed),
        Some(VmReport::Gone(_)) | None => None,
    };
    let state = state(entry, seen, fresh, journal, progress, before);
    let active = is_active(state);
    let since = match (before.filter(|before| before.state == state), journal.run) {
        (Some(before), _) => before.since,
        (None, Run::Running { since, .. }) if matches!(state, DomainState::Running) => since,
        (None, Run::Stopped { since, .. }) if !active => since,
        (None, Run::Never | Run::Running { .. } | Run::Stopped { .. }) => now,
    };
    let told = |pick: fn(&Observed) -> Option<berth_model::vm::Accelerator>| before.and_then(pick);
    let mut degraded = match seen {
        Some(seen) => seen.degraded.clone(),
        None => before.map(|before| before.degraded.clone()).unwrap_or_default(),
    };
    if let Some(seen) = seen
        && is_active(seen.state)
        && seen.mark.stamp.epoch < entry.stamp().epoch
    {
        let epoch = seen.mark.stamp.epoch;
        degraded.push(format!("runs on the resources of its earlier placement {epoch} until it is restarted"));
    }
    if let Some(why) = &progress.misplaced {
        degraded.push(format!("its CPUs may still run on threads that other VMs have for themselves: {why}"));
    }
    let at_ease = matches!(state, DomainState::Running | DomainState::Paused);
    VmReport::Seen(Observed {
        epoch: entry.stamp().epoch,
        state,
        accelerator: match seen {
            Some(seen) if active => Some(seen.accelerator),
            None if active => told(|before| before.accelerator),
            Some(_) | None => None,
        },
        restart_count: journal.restart_done,
        reset_count: journal.reset_done,
        last_end: journal.last_end,
        failures: journal.failures,
        trouble: hindrance.or_else(|| progress.trouble.clone().filter(|_| !at_ease)),
        degraded,
        since,
    })
}

fn state(
    entry: &Entry,
    seen: Option<&DomainSeen>,
    fresh: bool,
    journal: &Journal,
    progress: &Progress,
    before: Option<&Observed>,
) -> DomainState {
    match progress.under_way {
        Some(UnderWay::Starting) => return DomainState::Starting,
        Some(UnderWay::Stopping) => return DomainState::Stopping,
        Some(UnderWay::Removing) => return DomainState::Stopped(stop_reason(entry, journal)),
        Some(UnderWay::Steering) => return before.map_or(DomainState::Running, |before| before.state),
        // While it is tended it runs on as it did before.
        Some(UnderWay::Tending) | None => {}
    }
    if progress.prepared.is_some() && is_to_start(entry, journal, progress) {
        return DomainState::Starting;
    }
    if !fresh {
        // Between a step and the scan after it: what the step was about still holds.
        return before.map_or(DomainState::Stopped(StopReason::Unknown), |before| before.state);
    }
    match seen.map(|seen| seen.state) {
        Some(DomainState::Starting | DomainState::Running | DomainState::Paused) if progress.asked.is_some() => {
            DomainState::Stopping
        }
        Some(state @ (DomainState::Starting | DomainState::Running | DomainState::Paused | DomainState::Stopping)) => {
            state
        }
        // QEMU is still there, and told as what it is: it goes next.
        Some(DomainState::Panicked) => DomainState::Panicked,
        Some(DomainState::Stopped(_)) | None => DomainState::Stopped(stop_reason(entry, journal)),
    }
}

/// Whether what was prepared is going to be started. A look meanwhile may have shown that it ran already.
fn is_to_start(entry: &Entry, journal: &Journal, progress: &Progress) -> bool {
    match entry {
        Entry::Present(berth) => {
            !berth.power.paused && shall_start(berth.run_now(), berth.restart_count, progress.past(journal)).is_ok()
        }
        Entry::Absent(_) => false,
    }
}

fn is_wanted_down(entry: &Entry) -> bool {
    match entry {
        Entry::Present(berth) => berth.run_now() == RunStrategy::Halted,
        Entry::Absent(_) => true,
    }
}

fn stop_reason(entry: &Entry, journal: &Journal) -> StopReason {
    let reason = match journal.run {
        Run::Never if journal.begun => StopReason::Unknown,
        Run::Never => StopReason::NeverStarted,
        Run::Running { .. } => StopReason::Unknown,
        Run::Stopped { reason, .. } => reason,
    };
    match reason {
        // What is wanted down and went down in good order was asked to, whoever's daemon did the asking.
        StopReason::GuestShutdown | StopReason::Unknown if is_wanted_down(entry) => StopReason::Asked,
        StopReason::NeverStarted
        | StopReason::GuestShutdown
        | StopReason::Asked
        | StopReason::Crashed
        | StopReason::StartFailed
        | StopReason::Unknown
        | StopReason::Panicked => reason,
    }
}

#[cfg(test)]
mod tests;
