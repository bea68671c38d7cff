//! The host's brain as one value: what happens goes in, what must be done comes out.
//!
//! The agent ties session, ledger, plan and report together and owns their order:
//!
//! 1. What was accepted is on disk before anything is done or told by it. While a write is under way, no step and no
//!    report leaves; there is at most one write under way.
//! 2. A scan is asked for after each step, and a VM is not touched again before one that began after the step.
//! 3. At most one report is unanswered; what was told counts only once acknowledged, and a new session hears it all.
//!
//! It reads no clock and draws no number: [`Now`] and entropy come in with every input. The daemon and the simulation
//! drive exactly this value.

mod ended;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use berth_model::condition::{self, Condition, ConditionStatus};
use berth_model::host::{Inventory, Orphan};
use berth_model::image::{ImageOnHost, Sha256Digest};
use berth_model::session::{DesiredEntry, Hello, Holding, PROTOCOL, UserData, VmReport};
use berth_model::vm::DomainState;
use berth_model::{Millis, Stamp, Timestamp, VmUid};

use crate::backend::{BackendError, DomainSeen};
use crate::clock::{BootTime, Now};
use crate::history::{Asked, History, Progress, UnderWay};
use crate::ledger::{Accepted, Berth, Entry, Ledger};
use crate::plan::{self, HostDesired, HostObserved, HostPlan, Note, Scan};
use crate::report::{self, Evidence, Picture};
use crate::session::{Effect, Heard, Options, Session};
use crate::step::Step;

pub use words::{Event, Identity, Input, Outcome, Output};

/// How often everything is looked at even if nothing happens: events may be lost, a scan is not.
const SCAN_EVERY: Millis = Millis::seconds(10);
/// How soon a failed scan is repeated.
const SCAN_AGAIN: Millis = Millis::seconds(2);

/// A step under way, and the word it is based on.
#[derive(Clone, Debug)]
struct InFlight {
    step: Step,
    stamp: Stamp,
}

/// The scans of this run of the daemon.
#[derive(Clone, Debug)]
struct Scans {
    /// The last one, unless it failed.
    latest: Option<Scan>,
    /// The number of the last one that began.
    number: u64,
    /// Whether it has not ended yet.
    under_way: bool,
    /// Whether another shall begin as soon as may be.
    wanted: bool,
    /// When another shall begin in any case.
    next: BootTime,
    /// Whether one ever ended, well or not, so that a host without libvirt speaks too.
    tried: bool,
}

/// The host's brain.
#[derive(Clone, Debug)]
pub struct Agent {
    me: Identity,
    ledger: Ledger,
    session: Session,
    user_data: BTreeMap<VmUid, UserData>,
    progress: BTreeMap<VmUid, Progress>,
    in_flight: BTreeMap<VmUid, InFlight>,

    persisting: Option<u64>,
    last_persist: u64,

    scans: Scans,

    inventory: Option<Inventory>,
    images: Option<BTreeMap<Sha256Digest, ImageOnHost>>,
    conditions: Vec<Condition>,
    /// Whether this run of the daemon was told which VMs it should have.
    instructed: bool,

    last_report: u64,
    told: Option<Picture>,
    telling: Option<(u64, Picture)>,
    vms: Option<BTreeMap<VmUid, VmReport>>,
    orphans: Option<Vec<Orphan>>,
    draining: bool,
}

impl Agent {
    /// The brain of a host whose daemon just started with this ledger.
    pub fn new(me: Identity, mut ledger: Ledger, options: Options, now: Now, entropy: u64) -> Self {
        ledger.enter_boot(&me.boot, now);
        Self {
            me,
            ledger,
            session: Session::new(options, entropy),
            user_data: BTreeMap::new(),
            progress: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            persisting: None,
            last_persist: 0,
            scans: Scans { latest: None, number: 0, under_way: false, wanted: true, next: now.boot, tried: false },
            inventory: None,
            images: None,
            conditions: Vec::new(),
            instructed: false,
            last_report: 0,
            told: None,
            telling: None,
            vms: None,
            orphans: None,
            draining: false,
        }
    }

    /// What it was told and what it remembers.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether a leader holds its session.
    pub fn has_session(&self) -> bool {
        self.session.is_open()
    }

    /// Whether nothing is under way: a daemon that goes down may end now.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.persisting.is_none() && !self.ledger.has_unsaved()
    }

    /// Takes in what happened, and says what must be done.
    pub fn handle(&mut self, input: Input, now: Now, entropy: u64) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.take_in(input, now, entropy, &mut outputs);
        let mut effects = Vec::new();
        self.session.tick(now.boot, entropy, &mut effects);
        self.carry(effects, &mut outputs);
        self.settle(now, &mut outputs);
        outputs
    }

    fn take_in(&mut self, input: Input, now: Now, entropy: u64, outputs: &mut Vec<Output>) {
        let mut effects = Vec::new();
        match input {
            Input::Tick => {}
            Input::Dialed(connection) => self.session.dialed(connection, self.hello(), now.boot, &mut effects),
            Input::Ended(connection, why) => self.session.ended(connection, &why, now.boot, entropy, &mut effects),
            Input::Received(connection, message) => {
                if let Some(heard) = self.session.received(connection, message, now.boot, entropy, &mut effects) {
                    self.hear(heard, now, entropy, &mut effects, outputs);
                }
            }
            Input::Persisted(number) => {
                if self.persisting == Some(number) {
                    self.persisting = None;
                }
            }
            Input::Executed(vm, outcome) => self.executed(vm, &outcome, now, outputs),
            Input::Scanned(number, result) => self.scanned(number, result, now),
            Input::Looked(vm, result) => self.looked(vm, result, now),
            Input::DomainEvent => self.scans.wanted = true,
            Input::Inventory(inventory) => self.inventory = Some(*inventory),
            Input::Conditions(conditions) => {
                for found in conditions {
                    condition::set(&mut self.conditions, found);
                }
            }
            Input::Images(images) => self.images = Some(images),
            Input::Drain => {
                self.draining = true;
                self.session.close(&mut effects);
            }
        }
        self.carry(effects, outputs);
    }

    fn carry(&mut self, effects: Vec<Effect>, outputs: &mut Vec<Output>) {
        for effect in effects {
            outputs.push(match effect {
                Effect::Connect { connection, address } => Output::Connect { connection, address },
                Effect::Send { connection, message } => Output::Send { connection, message },
                Effect::Close { connection } => Output::Close { connection },
                Effect::Lost { why } => Output::Tell(Event::SessionLost { why }),
            });
        }
        if !self.session.is_open() {
            // What was told to one leader says nothing of what the next one knows.
            self.told = None;
            self.telling = None;
            self.last_report = 0;
        }
    }

    fn hello(&self) -> Hello {
        let Identity { name, address, boot, start, version } = self.me.clone();
        let heard = self.ledger.cluster();
        Hello {
            cluster: heard.map(|(cluster, ..)| cluster),
            incarnation: heard.map(|(_, incarnation, _)| incarnation).unwrap_or_default(),
            term: heard.map(|(_, _, term)| term).unwrap_or_default(),
            protocol: PROTOCOL,
            host: self.ledger.host(),
            name,
            address,
            boot,
            start,
            version,
        }
    }

    fn hear(&mut self, heard: Heard, now: Now, entropy: u64, effects: &mut Vec<Effect>, outputs: &mut Vec<Output>) {
        match heard {
            Heard::Opened(welcome) if welcome.protocol < PROTOCOL.oldest || welcome.protocol > PROTOCOL.newest => {
                let why = format!(
                    "BE-5006: the controller wants to speak version {} of the protocol; this host speaks {} to {}",
                    welcome.protocol, PROTOCOL.oldest, PROTOCOL.newest
                );
                self.session.refuse(why, now.boot, entropy, effects);
            }
            Heard::Opened(welcome) => match self.ledger.greet(&welcome) {
                Ok(()) => {
                    if self.scans.latest.as_ref().is_some_and(|scan| scan.cluster != Some(welcome.cluster)) {
                        // That scan did not know whose domains are ours.
                        self.scans.latest = None;
                        self.scans.wanted = true;
                    }
                    let leader = format!(
                        "cluster {}, incarnation {}, term {}",
                        welcome.cluster, welcome.incarnation, welcome.term
                    );
                    outputs.push(Output::Tell(Event::SessionOpened { leader }));
                }
                Err(refusal) => self.session.refuse(refusal.to_string(), now.boot, entropy, effects),
            },
            Heard::Set(entries) => {
                let accepted = self.ledger.accept_set(&entries);
                self.user_data.clear();
                self.keep_user_data(entries);
                self.session.confirm();
                self.instructed = true;
                self.accepted(accepted, outputs);
            }
            Heard::Delta { entries, forgotten } => {
                let accepted = self.ledger.accept_delta(&entries, &forgotten);
                self.keep_user_data(entries);
                self.accepted(accepted, outputs);
            }
            Heard::ReportAck(number) => {
                if let Some((telling, picture)) = self.telling.take() {
                    if telling == number {
                        self.told = Some(picture);
                    } else {
                        self.telling = Some((telling, picture));
                    }
                }
            }
            Heard::Controllers(addresses) => outputs.push(Output::Remember { controllers: addresses }),
            Heard::Alive => {}
        }
    }

    fn accepted(&mut self, accepted: Accepted, outputs: &mut Vec<Output>) {
        let Accepted { changed, left, refused } = accepted;
        for vm in &changed {
            if let Some(progress) = self.progress.get_mut(vm) {
                progress.asked_anew();
            }
        }
        if !changed.is_empty() || !left.is_empty() {
            outputs.push(Output::Tell(Event::Accepted { changed: changed.len(), left }));
        }
        outputs.extend(refused.into_iter().map(|refusal| Output::Tell(Event::EntryRefused(refusal))));
    }

    /// Keeps user data of the entries that were taken, in memory only.
    fn keep_user_data(&mut self, entries: Vec<DesiredEntry>) {
        for entry in entries {
            let held = self.ledger.entries().get(&entry.vm()).map(Entry::stamp);
            if held != Some(entry.stamp()) {
                continue;
            }
            self.user_data.remove(&entry.vm());
            if let DesiredEntry::Present(present, _) = entry
                && let Some(user_data) = present.user_data
            {
                self.user_data.insert(present.vm, user_data);
            }
        }
        let ledger = &self.ledger;
        self.user_data.retain(|vm, _| matches!(ledger.entries().get(vm), Some(Entry::Present(_))));
    }

    fn scanned(&mut self, number: u64, result: Result<Vec<DomainSeen>, BackendError>, now: Now) {
        if !self.scans.under_way || number != self.scans.number {
            return;
        }
        self.scans.under_way = false;
        self.scans.tried = true;
        let seen = match result {
            Ok(seen) => seen,
            Err(error) => {
                self.scans.latest = None;
                self.scans.next = now.boot.plus(SCAN_AGAIN);
                let (_, message) = trouble(&error);
                self.set_condition(ConditionStatus::False, "ScanFailed", message, now.wall);
                return;
            }
        };
        self.scans.next = now.boot.plus(SCAN_EVERY);
        self.set_condition(ConditionStatus::True, "Scanned", "all domains of this host are seen".into(), now.wall);
        let scan = Scan::new(number, self.ledger.cluster().map(|(cluster, ..)| cluster), seen);
        let vms: Vec<VmUid> = self.ledger.entries().keys().copied().collect();
        for vm in vms {
            let progress = self.progress.entry(vm).or_default();
            if progress.under_way.is_some() || number <= progress.stale_scans {
                continue;
            }
            let domain = scan.domains.get(&vm);
            let entry = &self.ledger.entries()[&vm];
            let mut journal = self.ledger.journal(vm).observed(domain, progress.taken_down, now);
            if let Entry::Present(berth) = entry
                && !berth.power.paused
                && domain.is_some_and(|domain| domain.state == DomainState::Running)
            {
                // It goes on, whoever let it.
                journal.resume_done = berth.power.resume_count;
            }
            progress.seen(entry, domain, &journal);
            self.ledger.set_journal(vm, journal);
        }
        let (entries, in_flight) = (self.ledger.entries(), &self.in_flight);
        self.progress.retain(|vm, progress| {
            entries.contains_key(vm) || in_flight.contains_key(vm) || number <= progress.stale_scans
        });
        self.scans.latest = Some(scan);
    }

    fn looked(&mut self, vm: VmUid, result: Result<bool, BackendError>, now: Now) {
        let Some(progress) = self.progress.get_mut(&vm).filter(|progress| progress.looking) else { return };
        progress.looking = false;
        match result {
            Ok(left) => {
                progress.left = Some(left);
                if left {
                    progress.trouble = Some((
                        "NotRemoved".into(),
                        "something of it is left on the host after its removal; it is removed again".into(),
                    ));
                    progress.stumble(now.boot);
                } else {
                    progress.errors = 0;
                }
            }
            Err(error) => {
                progress.trouble = Some(trouble(&error));
                progress.stumble(now.boot);
            }
        }
    }

    fn set_condition(&mut self, status: ConditionStatus, reason: &str, message: String, since: Timestamp) {
        let (kind, reason) = ("DomainsSeen".into(), reason.into());
        condition::set(&mut self.conditions, Condition { kind, status, reason, message, since });
    }

    /// Brings everything in line with what is known now, in the order that the laws want.
    fn settle(&mut self, now: Now, outputs: &mut Vec<Output>) {
        self.persist(outputs);
        let mut wake_at = self.session.deadline();
        if self.persisting.is_none() {
            let plan = self.plan(now);
            if !plan.begins.is_empty() && !self.draining {
                // On disk before it is begun: a run that may have begun is never begun again.
                for vm in plan.begins {
                    let journal = self.ledger.journal(vm).begun();
                    self.ledger.set_journal(vm, journal);
                    self.progress.entry(vm).or_default().begun = true;
                }
                self.persist(outputs);
            } else if plan.gone.is_empty() {
                wake_at = earliest(wake_at, plan.wake_at);
                if !self.draining {
                    self.begin(plan.steps, plan.looks, now, outputs);
                }
                self.tell(&plan.notes, now, outputs);
            } else {
                // On disk before it is told, like everything else; the rest of the plan is made again after that.
                for vm in plan.gone {
                    let mut journal = self.ledger.journal(vm);
                    journal.gone = self.ledger.entries().get(&vm).map(Entry::stamp);
                    self.ledger.set_journal(vm, journal);
                    outputs.push(Output::Tell(Event::Gone(vm)));
                }
                self.persist(outputs);
            }
        }
        if !self.draining && !self.scans.under_way {
            if self.scans.wanted || now.boot >= self.scans.next {
                (self.scans.under_way, self.scans.wanted) = (true, false);
                self.scans.number += 1;
                outputs.push(Output::Scan { number: self.scans.number });
            } else {
                wake_at = earliest(wake_at, Some(self.scans.next));
            }
        }
        outputs.extend(wake_at.map(Output::WakeAt));
    }

    fn persist(&mut self, outputs: &mut Vec<Output>) {
        if self.persisting.is_none() && self.ledger.has_unsaved() {
            self.last_persist += 1;
            self.persisting = Some(self.last_persist);
            outputs.push(Output::Persist { number: self.last_persist, records: self.ledger.take_unsaved() });
        }
    }

    fn desired(&self) -> HostDesired<'_> {
        HostDesired {
            cluster: self.ledger.cluster().map(|(cluster, ..)| cluster),
            entries: self.ledger.entries(),
            orphaned: self.ledger.orphaned(),
            user_data: &self.user_data,
            permission: self.session.permission(),
        }
    }

    fn plan(&self, now: Now) -> HostPlan {
        let observed = HostObserved {
            scan: self.scans.latest.as_ref(),
            images: self.images.as_ref(),
            inventory: self.inventory.as_ref(),
        };
        let history = History { journals: self.ledger.journals(), progress: &self.progress };
        plan::plan(&self.desired(), &observed, &history, now)
    }

    fn begin(&mut self, steps: Vec<Step>, looks: Vec<VmUid>, now: Now, outputs: &mut Vec<Output>) {
        let permitted_until = self.session.permission().at(now.boot);
        for step in steps {
            let vm = step.vm();
            let stamp = self.ledger.entries().get(&vm).map(Entry::stamp).unwrap_or_default();
            let progress = self.progress.entry(vm).or_default();
            progress.under_way = Some(UnderWay::of(&step));
            let before = match &step {
                Step::Prepare(_) | Step::Start(_) | Step::Resume { .. } | Step::Reset { .. } => permitted_until,
                Step::Shutdown(_) => {
                    let first = progress.asked.map_or(now.boot, |asked| asked.first);
                    progress.asked = Some(Asked { first, last: now.boot });
                    progress.taken_down = true;
                    None
                }
                Step::ForceOff(_) => {
                    progress.taken_down = true;
                    None
                }
                Step::Pause(_) | Step::Repin { .. } | Step::ReadBack(_) | Step::Remove { .. } => None,
            };
            self.in_flight.insert(vm, InFlight { step: step.clone(), stamp });
            outputs.push(Output::Execute { step, before });
        }
        for vm in looks {
            self.progress.entry(vm).or_default().looking = true;
            outputs.push(Output::Look { vm });
        }
    }

    fn tell(&mut self, notes: &[Note], now: Now, outputs: &mut Vec<Output>) {
        self.look_at_vms(notes, now);
        if !self.session.is_open() || self.telling.is_some() {
            return;
        }
        // The first report tells of orphans, so that nobody else is placed on what they hold. Before the set was heard nobody
        // knows which they are, and after a restore what an older set said of them is wrong.
        if self.told.is_none() && !self.session.permission().confirmed {
            return;
        }
        let holdings = self.holdings();
        // Most of what happens changes nothing that is told.
        if self.told.as_ref().is_some_and(|told| self.is_pictured_by(told, &holdings)) {
            return;
        }
        let picture = Picture {
            inventory: self.inventory.clone(),
            conditions: self.conditions.clone(),
            images: self.images.clone(),
            vms: self.vms.clone(),
            orphans: self.orphans.clone(),
            holdings,
        };
        let blind = self.scans.tried && self.vms.is_none();
        if let Some(report) = picture.report(self.last_report + 1, self.told.as_ref(), blind) {
            self.last_report += 1;
            self.telling = Some((self.last_report, picture));
            let mut effects = Vec::new();
            self.session.report(report, &mut effects);
            self.carry(effects, outputs);
        }
    }

    /// Whether what would be told is just this.
    fn is_pictured_by(&self, picture: &Picture, held: &[Holding]) -> bool {
        let Picture { inventory, conditions, images, vms, orphans, holdings } = picture;
        self.vms == *vms
            && self.orphans == *orphans
            && self.conditions == *conditions
            && self.inventory == *inventory
            && self.images == *images
            && *holdings == held
    }

    /// What is remembered of the orphans' placements.
    fn holdings(&self) -> Vec<Holding> {
        let listed = self.orphans.iter().flatten();
        listed.filter_map(|orphan| self.ledger.orphaned().get(&orphan.vm)).map(Berth::holding).collect()
    }

    /// Derives anew what is told of VMs and orphans. Where the domains cannot be seen, what was seen stands.
    fn look_at_vms(&mut self, notes: &[Note], now: Now) {
        let scan = self.scans.latest.as_ref();
        if scan.is_none() && self.vms.is_none() {
            return;
        }
        let nothing = Progress::default();
        let mut vms = BTreeMap::new();
        for (vm, entry) in self.ledger.entries() {
            let progress = self.progress.get(vm).unwrap_or(&nothing);
            let fresh = scan.is_some_and(|scan| scan.number > progress.stale_scans);
            let hindrance = notes.iter().find(|note| note.vm == *vm);
            let evidence = Evidence {
                entry,
                seen: scan.and_then(|scan| scan.domains.get(vm)).filter(|_| fresh),
                fresh,
                journal: &self.ledger.journal(*vm),
                progress,
                hindrance: hindrance.map(|note| (note.reason.to_owned(), note.message.clone())),
                before: self.vms.as_ref().and_then(|vms| vms.get(vm)),
                now: now.wall,
            };
            vms.insert(*vm, report::derive(evidence));
        }
        if let Some(scan) = scan.filter(|_| self.instructed) {
            let orphans = plan::orphans(&self.desired(), scan);
            let orphans = orphans.into_iter().filter_map(|vm| scan.domains.get(&vm)).map(|seen| Orphan {
                vm: seen.mark.vm,
                called: format!("{}/{}", seen.mark.project, seen.mark.name),
                running: plan::is_active(seen.state),
            });
            let mut orphans: Vec<_> = orphans.collect();
            // A start that was under way when its VM left the set may still come to something: until a scan that began after
            // it tells, the VM counts as being there, so that it is started nowhere else.
            let may_come = |vm: &VmUid| {
                let scanned_too_early = |progress: &Progress| scan.number <= progress.stale_scans;
                self.in_flight.contains_key(vm) || self.progress.get(vm).is_some_and(scanned_too_early)
            };
            let coming = self.ledger.orphaned().values().filter(|berth| may_come(&berth.vm));
            let unseen = coming.filter(|berth| !scan.domains.contains_key(&berth.vm)).map(|berth| Orphan {
                vm: berth.vm,
                called: format!("{}/{}", berth.project, berth.name),
                running: true,
            });
            orphans.extend(unseen);
            orphans.sort_by_key(|orphan| orphan.vm);
            // A scan that began before an entry left may not show its domain; one that began later tells.
            let kept: BTreeSet<_> = orphans.iter().map(|orphan| orphan.vm).collect();
            self.orphans = Some(orphans);
            self.ledger.keep_orphaned(|vm| kept.contains(&vm));
        }
        self.vms = Some(vms);
    }
}

fn trouble(error: &BackendError) -> (String, String) {
    let reason = match error {
        BackendError::Unreachable { .. } => "Unreachable",
        BackendError::Failed { reason, .. } => reason,
    };
    (reason.to_owned(), error.to_string())
}

fn earliest(a: Option<BootTime>, b: Option<BootTime>) -> Option<BootTime> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests;
