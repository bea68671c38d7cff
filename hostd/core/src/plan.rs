//! What to do next on this host: a pure function of what was accepted, what was seen and what was done.
//!
//! The plan is made anew after everything that happens and from nothing but values, so it has no state to go stale and a
//! daemon that died half-way simply plans again. Each VM is decided by itself, one step at a time:
//!
//! ```text
//!              no entry ──> nothing: whatever runs is an orphan and runs on (law 5)
//!  Absent      running ──ForceOff──> defined ──Remove──> nothing seen ──look──> nothing left: gone
//!  shall rest  running ──Shutdown──(grace)──ForceOff──> stopped
//!  shall run   stopped ──(back-off, image, permission)──Prepare──Start──> running
//!              running on threads that others have ──Repin──> running on those that are left
//!              running, not looked at since its start ──ReadBack──> running, what differs is known
//!              running, restart asked ──(permission)──Shutdown──(grace)──ForceOff──> stopped
//!              running ──Pause──> paused ──(resume asked, permission)──Resume──> running
//!              running, reset asked ──(permission)──Reset──> running
//!              panicked ──ForceOff──> stopped
//! ```
//!
//! Whether a VM that is down shall run is [`shall_start`]'s to say: its strategy, the runs that were asked for, and how
//! the last one ended.
//!
//! Laws kept here: starting, and stopping in order to start, needs live permission (law 4); only an explicit word stops
//! or removes (law 5); a VM whose state is not known for certain is left alone (law 6); a domain that carries a higher
//! stamp than our word is left alone (law 3).

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use berth_model::host::Inventory;
use berth_model::image::{ImageOnHost, Sha256Digest};
use berth_model::session::UserData;
use berth_model::vm::{DomainState, RunStrategy, budget, shall_start};
use berth_model::{ClusterId, Millis, VmUid};

use crate::backend::DomainSeen;
use crate::clock::{BootTime, Now};
use crate::float::Shared;
use crate::history::{History, Progress};
use crate::journal::Journal;
use crate::ledger::{Berth, Entry};
use crate::step::{DomainSpec, Mark, Step};

/// How often the request is repeated within the grace: a guest that was still booting did not hear the first one.
const ASK_AGAIN: Millis = Millis::seconds(10);

/// Block devices of a domain: the disk and the seed.
const DISKS: u32 = 2;
/// Network cards that a domain has room for.
const NICS: u32 = 1;

/// The word by which a host may start domains (law 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Permission {
    /// Until when, by the boot clock; none outside a session.
    pub until: Option<BootTime>,
    /// Whether this session's whole set was received and is on disk.
    pub confirmed: bool,
}

impl Permission {
    /// Until when starting is permitted, if it is at this moment.
    pub fn at(self, now: BootTime) -> Option<BootTime> {
        self.until.filter(|until| self.confirmed && now < *until)
    }
}

/// What is wanted of this host.
#[derive(Clone, Copy, Debug)]
pub struct HostDesired<'a> {
    /// The cluster it belongs to; domains of others are not ours.
    pub cluster: Option<ClusterId>,
    /// The accepted entries, all of them on disk.
    pub entries: &'a BTreeMap<VmUid, Entry>,
    /// What VMs were given whose entries left without an instruction and whose domains may be here.
    pub orphaned: &'a BTreeMap<VmUid, Berth>,
    /// User data by VM, from this session.
    pub user_data: &'a BTreeMap<VmUid, UserData>,
    /// Whether domains may be started.
    pub permission: Permission,
}

/// What one scan showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Scans are numbered in the order in which they began.
    pub number: u64,
    /// The cluster whose domains these are; none before the host heard of any.
    pub cluster: Option<ClusterId>,
    /// Every domain of that cluster.
    pub domains: BTreeMap<VmUid, DomainSeen>,
}

impl Scan {
    /// What of `seen` is this cluster's; the domains of others are nobody's business here (law 6).
    pub fn new(number: u64, cluster: Option<ClusterId>, seen: Vec<DomainSeen>) -> Self {
        let ours = seen.into_iter().filter(|domain| Some(domain.mark.cluster) == cluster);
        Self { number, cluster, domains: ours.map(|domain| (domain.mark.vm, domain)).collect() }
    }
}

/// What was seen of this host.
#[derive(Clone, Copy, Debug)]
pub struct HostObserved<'a> {
    /// The last scan, unless it failed.
    pub scan: Option<&'a Scan>,
    /// Image files; none before the folder was looked through.
    pub images: Option<&'a BTreeMap<Sha256Digest, ImageOnHost>>,
    /// What the host is; none before that is known.
    pub inventory: Option<&'a Inventory>,
}

/// Something that hinders a VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// Which VM.
    pub vm: VmUid,
    /// One UpperCamelCase word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostPlan {
    /// Steps to carry out now, at most one for each VM, in the order of uids.
    pub steps: Vec<Step>,
    /// VMs of which it must be seen whether anything is left.
    pub looks: Vec<VmUid>,
    /// VMs that are gone as asked, with nothing left.
    pub gone: Vec<VmUid>,
    /// VMs that run once and are to be started now: that is written down first.
    pub begins: Vec<VmUid>,
    /// When to plan again even if nothing happens.
    pub wake_at: Option<BootTime>,
    /// What hinders, in the order of uids.
    pub notes: Vec<Note>,
}

impl HostPlan {
    fn wake(&mut self, at: BootTime) {
        self.wake_at = Some(self.wake_at.map_or(at, |held| held.min(at)));
    }

    fn note(&mut self, vm: VmUid, reason: &'static str, message: String) {
        self.notes.push(Note { vm, reason, message });
    }
}

/// What to do next on this host.
pub fn plan(desired: &HostDesired<'_>, observed: &HostObserved<'_>, history: &History<'_>, now: Now) -> HostPlan {
    let mut plan = HostPlan::default();
    let Some(scan) = observed.scan else { return plan };
    let (no_journal, no_progress) = (Journal::default(), Progress::default());
    let shared = OnceCell::new();
    for (vm, entry) in desired.entries {
        let case = Case {
            desired,
            observed,
            seen: scan.domains.get(vm),
            journal: history.journals.get(vm).unwrap_or(&no_journal),
            progress: history.progress.get(vm).unwrap_or(&no_progress),
            shared: &shared,
            now: now.boot,
        };
        if case.progress.under_way.is_some() || case.progress.looking || scan.number <= case.progress.stale_scans {
            continue;
        }
        if let Some(next_try) = case.progress.next_try.filter(|next_try| *next_try > now.boot) {
            plan.wake(next_try);
            continue;
        }
        if let Some(seen) = case.seen
            && seen.mark.stamp > entry.stamp()
        {
            let (newer, ours) = (seen.mark.stamp, entry.stamp());
            plan.note(
                *vm,
                "NewerDomain",
                format!("its domain was made by placement {newer}, newer than {ours}, which this host was told; it is left alone"),
            );
            continue;
        }
        match entry {
            Entry::Absent(absent) => case.remove(*vm, *absent, &mut plan),
            Entry::Present(berth) => match case.seen.filter(|seen| is_active(seen.state)) {
                Some(seen) => case.keep(berth, seen, &mut plan),
                None => case.run(berth, &mut plan),
            },
        }
    }
    plan
}

/// Whether a domain in this state holds what it was given: its QEMU is there.
pub const fn is_active(state: DomainState) -> bool {
    match state {
        DomainState::Starting
        | DomainState::Running
        | DomainState::Paused
        | DomainState::Stopping
        | DomainState::Panicked => true,
        DomainState::Stopped(_) => false,
    }
}

/// Whether this entry wants this active domain to go down by the guest's own hand.
pub fn wants_shutdown(entry: &Entry, seen: &DomainSeen) -> bool {
    match entry {
        Entry::Absent(_) => false,
        Entry::Present(berth) => shall_go_down(berth, seen),
    }
}

fn shall_go_down(berth: &Berth, seen: &DomainSeen) -> bool {
    berth.run_now() == RunStrategy::Halted || seen.mark.restart_count < berth.restart_count
}

/// One VM with all that bears on it.
struct Case<'a> {
    desired: &'a HostDesired<'a>,
    observed: &'a HostObserved<'a>,
    seen: Option<&'a DomainSeen>,
    journal: &'a Journal,
    progress: &'a Progress,
    /// What is left of the host for VMs that float; made when first needed.
    shared: &'a OnceCell<Shared>,
    now: BootTime,
}

impl Case<'_> {
    fn is_active(&self) -> bool {
        self.seen.is_some_and(|seen| is_active(seen.state))
    }

    fn may_start(&self, plan: &mut HostPlan) -> bool {
        let until = self.desired.permission.at(self.now);
        if let Some(until) = until {
            // So that what waits says so as soon as the word lapses.
            plan.wake(until);
        }
        until.is_some()
    }

    fn remove(&self, vm: VmUid, absent: berth_model::session::Absent, plan: &mut HostPlan) {
        let remove = Step::Remove { vm, with_disk: absent.with_disk };
        if self.seen.is_none() && self.journal.gone == Some(absent.stamp) {
            // Found gone before, perhaps by an earlier run of the daemon.
        } else if self.is_active() {
            plan.steps.push(Step::ForceOff(vm));
        } else if self.seen.is_some() || self.progress.removed != Some(absent.stamp) {
            plan.steps.push(remove);
        } else if absent.with_disk {
            match self.progress.left {
                None => plan.looks.push(vm),
                Some(true) => plan.steps.push(remove),
                Some(false) => plan.gone.push(vm),
            }
        } else {
            // The disk stays by intent, so a look would find it; the scan and the step's answer are the evidence.
            plan.gone.push(vm);
        }
    }

    /// What becomes of a domain that is there.
    fn keep(&self, berth: &Berth, seen: &DomainSeen, plan: &mut HostPlan) {
        let vm = berth.vm;
        if seen.state == DomainState::Panicked {
            plan.steps.push(Step::ForceOff(vm));
        } else if shall_go_down(berth, seen) {
            // To take it down without the right to start it again would turn a restart into a stop.
            if berth.run_now() == RunStrategy::Halted || self.may_start(plan) {
                self.take_down(berth, seen, plan);
            } else {
                plan.note(vm, "AwaitsPermission", awaits("it is restarted"));
            }
        } else if berth.power.paused {
            if seen.state == DomainState::Running {
                plan.steps.push(Step::Pause(vm));
            } else {
                self.tend(berth, seen, plan);
            }
        } else if let Some((step, what)) = self.steered(berth, seen) {
            if self.may_start(plan) {
                plan.steps.push(step);
            } else {
                plan.note(vm, "AwaitsPermission", awaits(what));
            }
        } else {
            self.tend(berth, seen, plan);
        }
    }

    /// What was asked of a domain that runs on and was not done yet.
    fn steered(&self, berth: &Berth, seen: &DomainSeen) -> Option<(Step, &'static str)> {
        let (vm, power) = (berth.vm, berth.power);
        match seen.state {
            DomainState::Paused if self.journal.resume_done < power.resume_count => {
                Some((Step::Resume { vm, count: power.resume_count }, "it goes on"))
            }
            DomainState::Running if self.journal.reset_done < power.reset_count => {
                Some((Step::Reset { vm, count: power.reset_count }, "it is reset"))
            }
            DomainState::Starting
            | DomainState::Running
            | DomainState::Paused
            | DomainState::Stopping
            | DomainState::Stopped(_)
            | DomainState::Panicked => None,
        }
    }

    fn take_down(&self, berth: &Berth, seen: &DomainSeen, plan: &mut HostPlan) {
        let vm = berth.vm;
        if berth.power.forced {
            plan.steps.push(Step::ForceOff(vm));
            return;
        }
        let Some(asked) = self.progress.asked else {
            // Held, it could not hear; where it may not go on, it is ended when its grace is over.
            let may_hear = seen.state == DomainState::Paused && self.progress.errors == 0;
            let goes_on = may_hear && self.may_start(plan);
            let resume = self.steered(berth, seen).filter(|_| goes_on).map(|(step, _)| step);
            plan.steps.push(resume.unwrap_or(Step::Shutdown(vm)));
            return;
        };
        let (ask_again, end) = (asked.last.plus(ASK_AGAIN), asked.first.plus(berth.grace));
        if self.now >= end {
            plan.steps.push(Step::ForceOff(vm));
        } else if self.now >= ask_again {
            plan.steps.push(Step::Shutdown(vm));
        } else {
            plan.wake(ask_again.min(end));
        }
    }

    /// Starts a VM that is down and shall run.
    fn run(&self, berth: &Berth, plan: &mut HostPlan) {
        let past = self.progress.past(self.journal);
        if shall_start(berth.run_now(), berth.restart_count, past).is_err() {
            return;
        }
        if berth.power.paused {
            plan.note(
                berth.vm,
                "Paused",
                "it ended while it was paused, and is not started before it is resumed".into(),
            );
            return;
        }
        if let Some(next_try) = self.journal.next_try.filter(|next_try| *next_try > self.now) {
            plan.wake(next_try);
            return;
        }
        if !self.may_start(plan) {
            plan.note(berth.vm, "AwaitsPermission", awaits("it is started"));
            return;
        }
        let (Some(cluster), Some(inventory)) = (self.desired.cluster, self.observed.inventory) else { return };
        if let Some((reason, message)) = self.image_trouble(berth) {
            plan.note(berth.vm, reason, message);
            return;
        }
        let domain = Box::new(DomainSpec {
            mark: Mark {
                cluster,
                vm: berth.vm,
                project: berth.project.clone(),
                name: berth.name.clone(),
                stamp: berth.stamp,
                restart_count: berth.restart_count,
            },
            cpus: berth.cpus,
            memory: berth.memory,
            page: berth.tuning.pages,
            performance: berth.performance,
            queues: budget::queues(berth.cpus, DISKS, NICS, asked_devices(berth)).unwrap_or(1),
            dedicated_iothreads: berth.tuning.dedicated_iothreads,
            cpu_shape: berth.tuning.cpu_shape,
            resources: berth.resources.clone(),
            floats: self.shared(inventory).place(&berth.resources),
            image: berth.image,
            disk_size: berth.disk_size,
            accelerator: inventory.accelerator.accelerator,
            user_data: self.desired.user_data.get(&berth.vm).cloned(),
        });
        if self.progress.prepared.as_ref() != Some(&domain) {
            plan.steps.push(Step::Prepare(domain));
        } else if berth.run == RunStrategy::Once && !self.journal.begun {
            plan.begins.push(berth.vm);
        } else {
            plan.steps.push(Step::Start(domain));
        }
    }

    /// What is left of the host for VMs that float, whoever else is here, up or down: a VM that is down may be started at
    /// any moment.
    fn shared(&self, inventory: &Inventory) -> &Shared {
        self.shared.get_or_init(|| {
            let present = self.desired.entries.values().filter_map(|entry| match entry {
                Entry::Present(berth) => Some(&berth.resources),
                Entry::Absent(_) => None,
            });
            Shared::new(inventory, present.chain(self.desired.orphaned.values().map(|berth| &berth.resources)))
        })
    }

    /// A running VM that floats is kept off the threads that others have for themselves; and of each it is known how far it
    /// runs as it was asked.
    fn tend(&self, berth: &Berth, seen: &DomainSeen, plan: &mut HostPlan) {
        let wanted = self.observed.inventory.and_then(|inventory| self.shared(inventory).place(&berth.resources));
        let misplaced = wanted.filter(|wanted| seen.floats.as_ref().is_some_and(|held| held != wanted));
        if let Some(floats) = misplaced {
            plan.steps.push(Step::Repin { vm: berth.vm, floats });
        } else if !seen.is_read_back {
            plan.steps.push(Step::ReadBack(berth.vm));
        }
    }

    fn image_trouble(&self, berth: &Berth) -> Option<(&'static str, String)> {
        let (name, digest) = (&berth.image_name, berth.image);
        match self.observed.images.map(|images| images.get(&digest)) {
            None => Some(("ImagesUnknown", "the host has not yet looked through its image folder".into())),
            Some(None) => Some((
                "ImageMissing",
                format!(
                    "image {name} is not on this host, or is still being verified: put the file {digest} into the host's images_dir"
                ),
            )),
            Some(Some(ImageOnHost::Refused { reason })) => {
                Some(("ImageRefused", format!("image {name}, file {digest}: {reason}")))
            }
            Some(Some(ImageOnHost::Verified { .. })) => None,
        }
    }
}

fn awaits(what: &str) -> String {
    format!("{what} once a controller confirms that this host may start VMs")
}

fn asked_devices(berth: &Berth) -> u32 {
    berth.devices.iter().fold(0, |sum, demand| sum.saturating_add(demand.count))
}

/// Domains of this cluster for which there is no entry.
pub fn orphans(desired: &HostDesired<'_>, scan: &Scan) -> BTreeSet<VmUid> {
    scan.domains.keys().copied().filter(|vm| !desired.entries.contains_key(vm)).collect()
}

#[cfg(test)]
mod tests;
