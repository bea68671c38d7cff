//! A small world around one agent: a controller, a disk and a hypervisor that obey, fail and forget as they are told.
//!
//! Every output of the agent is judged by what the world itself knows, never by what the agent believes.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::host::Orphan;
use berth_model::session::{DesiredEntry, Present, Report, ToController, ToHost, VmReport};
use berth_model::vm::{Accelerator, DomainState, RunStrategy, StopReason};
use berth_model::{BootId, Millis, Revision, Stamp, VmUid};

use crate::agent::{Agent, Identity, Input, Outcome, Output};
use crate::backend::{BackendError, DomainSeen};
use crate::clock::Now;
use crate::float::Floats;
use crate::ledger::{Berth, Entry, Ledger, Record};
use crate::session::{ConnectionId, Options};
use crate::step::Step;
use crate::testing::{at, host, identity, images, inventory, welcome};

/// What waits to be done outside of the agent.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    Connect(ConnectionId),
    Persist(u64, Vec<Record>),
    Execute(Step),
    Scan(u64),
    Look(VmUid),
}

/// How a piece of work ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    Good,
    /// Refused, without effect.
    Failed,
    /// The effect came, its answer did not.
    EffectUnanswered,
    /// Neither came.
    Unreachable,
    /// The guest does not go down when asked, a removal leaves the disk, and nobody says so.
    GuestIgnores,
}

/// The leader's end of a connection.
#[derive(Clone, Debug, Default)]
struct Leader {
    greeted: bool,
    set_sent: bool,
    /// Heartbeats and when the host sent them.
    heartbeats: Vec<(u64, u64)>,
    granted_until: u64,
    unanswered_report: Option<u64>,
    reports: Vec<Report>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) agent: Agent,
    pub(super) millis: u64,
    boots: u32,
    pub(super) disk: Vec<Record>,
    pub(super) pending: Vec<Pending>,
    pub(super) domains: BTreeMap<VmUid, DomainSeen>,
    pub(super) overlays: BTreeSet<VmUid>,
    /// What the leader wants of this host.
    pub(super) set: BTreeMap<VmUid, DesiredEntry>,
    connection: Option<ConnectionId>,
    leader: Leader,
    term: u64,
    next_epoch: u64,
    /// What the leader believes, from committed reports.
    pub(super) view: BTreeMap<VmUid, VmReport>,
    pub(super) orphans: Vec<Orphan>,
    /// VMs with a step under way.
    busy: BTreeSet<VmUid>,
    /// The number of the last scan that began before the last step of a VM ended.
    ended: BTreeMap<VmUid, u64>,
    last_scan_begun: u64,
    last_scan_good: Option<u64>,
    asked: BTreeMap<VmUid, u64>,
    pub(super) steps: usize,
    pub(super) starts: usize,
    /// Starts of each VM since it was last forgotten.
    starts_of: BTreeMap<VmUid, usize>,
    /// When the agent wants to be woken.
    pub(super) wake_at: Option<u64>,
}

fn agent(disk: &[Record], boots: u32, now: Now) -> Agent {
    let ledger = Ledger::replay(disk.iter().cloned()).unwrap_or_else(|| Ledger::new(host()));
    let me = Identity { boot: BootId(format!("boot-{boots}")), ..identity() };
    let options = Options::new(vec!["c1".into(), "c2".into(), "c3".into()]);
    Agent::new(me, ledger, options, now, 0)
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            agent: agent(&[], 0, at(0)),
            millis: 0,
            boots: 0,
            disk: vec![],
            pending: vec![],
            domains: BTreeMap::new(),
            overlays: BTreeSet::new(),
            set: BTreeMap::new(),
            connection: None,
            leader: Leader::default(),
            term: 1,
            next_epoch: 1,
            view: BTreeMap::new(),
            orphans: vec![],
            busy: BTreeSet::new(),
            ended: BTreeMap::new(),
            last_scan_begun: 0,
            last_scan_good: None,
            asked: BTreeMap::new(),
            steps: 0,
            starts: 0,
            starts_of: BTreeMap::new(),
            wake_at: None,
        };
        world.look_around();
        world
    }

    fn look_around(&mut self) {
        self.feed(Input::Inventory(Box::new(inventory())));
        self.feed(Input::Images(images()));
    }

    pub(super) fn feed(&mut self, input: Input) {
        let outputs = self.agent.handle(input, at(self.millis), self.millis.wrapping_mul(31));
        self.wake_at = None;
        for output in outputs {
            match output {
                Output::Connect { connection, address: _ } => self.pending.push(Pending::Connect(connection)),
                Output::Send { connection, message } => self.send(connection, message),
                Output::Close { connection } => self.close(connection),
                Output::Persist { number, records } => {
                    assert!(!self.is_writing(), "two writes at once");
                    self.pending.push(Pending::Persist(number, records));
                }
                Output::Execute { step, before } => {
                    self.judge(&step, before.map(crate::clock::BootTime::as_millis));
                    self.busy.insert(step.vm());
                    self.steps += 1;
                    self.pending.push(Pending::Execute(step));
                }
                Output::Scan { number } => {
                    self.last_scan_begun = number;
                    self.pending.push(Pending::Scan(number));
                }
                Output::Look { vm } => self.pending.push(Pending::Look(vm)),
                Output::WakeAt(moment) => self.wake_at = Some(moment.as_millis()),
                Output::Tell(_) | Output::Remember { .. } => {}
            }
        }
    }

    fn is_writing(&self) -> bool {
        self.pending.iter().any(|pending| matches!(pending, Pending::Persist(..)))
    }

    /// The laws, for one step.
    fn judge(&self, step: &Step, before: Option<u64>) {
        let vm = step.vm();
        assert!(!self.is_writing(), "{step:?} while the word it may be based on is not yet on disk");
        assert!(!self.busy.contains(&vm), "{step:?} while another step of that VM is under way");
        let scan = self.last_scan_good.expect("a step although the last scan failed or none was made");
        assert!(
            self.ended.get(&vm).is_none_or(|begun| scan > *begun),
            "law 6: {step:?} on a scan from before the last step's end"
        );
        let durable = Ledger::replay(self.disk.iter().cloned()).expect("a ledger is on disk before any step");
        let entry = durable.entries().get(&vm).unwrap_or_else(|| panic!("law 5: {step:?} without any entry"));
        if let Some(domain) = self.domains.get(&vm) {
            assert!(domain.mark.stamp <= entry.stamp(), "law 3: {step:?} although the domain is of a newer placement");
        }
        match (step, entry) {
            (Step::Prepare(domain) | Step::Start(domain), Entry::Present(berth)) => {
                assert_ne!(berth.run_now(), RunStrategy::Halted, "{step:?} of a halted VM");
                assert!(!berth.power.paused, "{step:?} of a VM that is paused");
                let starts = self.starts_of.get(&vm).copied().unwrap_or(0);
                assert!(berth.run != RunStrategy::Once || starts == 0, "{step:?} of a VM that ran once");
                assert_eq!(domain.mark.stamp, berth.stamp, "{step:?} by a word that is not the accepted one");
                assert!(domain.user_data.is_some(), "{step:?} without the user data that the leader gave");
                self.judge_permission(step, before);
            }
            (Step::Shutdown(_), Entry::Present(berth)) => self.judge_stop(step, berth),
            (Step::ForceOff(_), Entry::Present(_))
                if self.domains.get(&vm).is_some_and(|domain| domain.state == DomainState::Panicked) => {}
            (Step::ForceOff(_), Entry::Present(berth)) if berth.power.forced => self.judge_stop(step, berth),
            (Step::Pause(_), Entry::Present(berth)) => assert!(berth.power.paused, "nobody asked for {step:?}"),
            (Step::Resume { .. } | Step::Reset { .. }, Entry::Present(berth)) => {
                assert!(!berth.power.paused, "{step:?} of a VM that is paused");
                self.judge_permission(step, before);
            }
            (Step::ForceOff(_), Entry::Present(berth)) => {
                self.judge_stop(step, berth);
                let asked = self.asked.get(&vm).copied().expect("ended without having been asked");
                assert!(self.millis >= asked + berth.grace.0, "ended within its grace");
            }
            (Step::ForceOff(_), Entry::Absent(_)) => {}
            (Step::ReadBack(_), Entry::Present(berth)) => assert_ne!(berth.run_now(), RunStrategy::Halted),
            (Step::Repin { floats, .. }, Entry::Present(berth)) => {
                assert_ne!(berth.run_now(), RunStrategy::Halted, "{step:?} of a halted VM");
                assert!(berth.resources.vcpus.is_empty(), "{step:?} of a VM that has its threads for itself");
                self.judge_floats(floats);
            }
            (Step::Remove { with_disk, .. }, Entry::Absent(absent)) => assert_eq!(*with_disk, absent.with_disk),
            (step, entry) => panic!("law 5: {step:?} by {entry:?}"),
        }
    }

    /// What floats is put on no thread that the ledger on disk promises to another.
    fn judge_floats(&self, floats: &Floats) {
        let durable = Ledger::replay(self.disk.iter().cloned()).expect("a ledger is on disk before any step");
        for entry in durable.entries().values() {
            let Entry::Present(berth) = entry else { continue };
            let shared = berth.resources.exclusive().find(|thread| floats.vcpus.contains(*thread));
            assert_eq!(shared, None, "{floats:?} although {} has that thread for itself", berth.vm);
        }
    }

    fn judge_permission(&self, step: &Step, before: Option<u64>) {
        assert!(self.connection.is_some() && self.leader.greeted, "law 4: {step:?} outside a session");
        assert!(self.leader.set_sent, "law 4: {step:?} before this session's set");
        assert!(self.millis < self.leader.granted_until, "law 4: {step:?} without a live word");
        if let Some(before) = before {
            assert!(before <= self.leader.granted_until, "law 4: {step:?} may begin after the word lapsed");
        }
    }

    fn judge_stop(&self, step: &Step, berth: &Berth) {
        if berth.run_now() != RunStrategy::Halted {
            let mark = &self.domains[&berth.vm].mark;
            assert!(mark.restart_count < berth.restart_count, "law 5: {step:?} of a VM that shall run");
            self.judge_permission(step, None);
        }
    }

    fn send(&mut self, connection: ConnectionId, message: ToController) {
        if self.connection != Some(connection) {
            return;
        }
        match message {
            ToController::Hello(_) => {}
            ToController::Heartbeat { number } => self.leader.heartbeats.push((number, self.millis)),
            ToController::Report(report) => {
                assert!(self.leader.unanswered_report.is_none(), "two reports at once");
                assert!(!self.is_writing(), "told before it was on disk");
                assert_eq!(report.number, self.leader.reports.len() as u64 + 1);
                let whole_before = self.leader.reports.iter().any(|report| report.full);
                assert!(report.full || whole_before || report.vms.is_empty(), "told of some VMs before all");
                assert!(!(report.full && whole_before), "everything told twice");
                for (vm, told) in &report.vms {
                    if let VmReport::Gone(stamp) = told {
                        self.judge_gone(*vm, *stamp);
                    }
                }
                self.leader.unanswered_report = Some(report.number);
                self.leader.reports.push(*report);
            }
        }
    }

    fn judge_gone(&self, vm: VmUid, stamp: Stamp) {
        assert!(!self.domains.contains_key(&vm), "told as gone while its domain is there");
        let durable = Ledger::replay(self.disk.iter().cloned()).unwrap();
        let Some(Entry::Absent(absent)) = durable.entries().get(&vm) else { panic!("told as gone without an Absent") };
        assert_eq!(absent.stamp, stamp);
        assert!(!absent.with_disk || !self.overlays.contains(&vm), "told as gone while its disk is there");
    }

    fn close(&mut self, connection: ConnectionId) {
        self.pending.retain(|pending| !matches!(pending, Pending::Connect(waiting) if *waiting == connection));
        if self.connection == Some(connection) {
            self.hang_up();
        }
    }

    fn hang_up(&mut self) {
        self.connection = None;
        self.leader = Leader::default();
    }

    pub(super) fn pass(&mut self, millis: u64) {
        self.millis += millis;
        self.feed(Input::Tick);
    }

    /// Does one piece of waiting work.
    pub(super) fn work(&mut self, which: usize, ending: Ending) {
        if self.pending.is_empty() {
            return;
        }
        match self.pending.remove(which % self.pending.len()) {
            Pending::Connect(connection) => {
                if ending == Ending::Failed {
                    self.feed(Input::Ended(connection, "refused".into()));
                } else {
                    self.connection = Some(connection);
                    self.leader = Leader::default();
                    self.feed(Input::Dialed(connection));
                }
            }
            Pending::Persist(number, records) => {
                self.disk.extend(records);
                self.feed(Input::Persisted(number));
            }
            Pending::Execute(step) => {
                let vm = step.vm();
                let outcome = self.physics(&step, ending);
                self.busy.remove(&vm);
                self.ended.insert(vm, self.last_scan_begun);
                if matches!(step, Step::Shutdown(_)) {
                    self.asked.entry(vm).or_insert(self.millis);
                }
                self.feed(Input::Executed(vm, outcome));
            }
            Pending::Scan(number) => {
                let result = match ending {
                    Ending::Good | Ending::GuestIgnores => Ok(self.domains.values().cloned().collect()),
                    Ending::Failed | Ending::EffectUnanswered | Ending::Unreachable => Err(unreachable()),
                };
                self.last_scan_good = result.is_ok().then_some(number);
                self.feed(Input::Scanned(number, result));
            }
            Pending::Look(vm) => {
                let left = self.domains.contains_key(&vm) || self.overlays.contains(&vm);
                let result = if ending == Ending::Failed { Err(unreachable()) } else { Ok(left) };
                self.feed(Input::Looked(vm, result));
            }
        }
    }

    /// Does all waiting work but starts, and says whether one waits.
    pub(super) fn work_but_starts(&mut self) -> bool {
        let is_start = |pending: &Pending| matches!(pending, Pending::Execute(Step::Start(_)));
        while let Some(at) = self.pending.iter().position(|pending| !is_start(pending)) {
            self.work(at, Ending::Good);
        }
        self.pending.iter().any(is_start)
    }

    /// What a step does to the hypervisor, and what is answered.
    fn physics(&mut self, step: &Step, ending: Ending) -> Outcome {
        match ending {
            Ending::Failed => return Outcome::Failed(failed("StartFailed")),
            Ending::Unreachable => return Outcome::Failed(unreachable()),
            Ending::Good | Ending::EffectUnanswered | Ending::GuestIgnores => {}
        }
        match step {
            Step::Prepare(domain) => {
                self.overlays.insert(domain.mark.vm);
            }
            Step::Start(domain) => {
                let running = self.domains.get(&domain.mark.vm).is_some_and(|seen| crate::plan::is_active(seen.state));
                assert!(!running, "started although it runs: the hypervisor would refuse, the plan should have known");
                self.starts += 1;
                *self.starts_of.entry(domain.mark.vm).or_default() += 1;
                self.asked.remove(&domain.mark.vm);
                self.domains.insert(
                    domain.mark.vm,
                    DomainSeen {
                        mark: domain.mark.clone(),
                        state: DomainState::Running,
                        accelerator: Accelerator::Tcg,
                        since: None,
                        floats: domain.floats.clone(),
                        is_read_back: ending == Ending::Good,
                        degraded: vec![],
                    },
                );
            }
            Step::Shutdown(vm) => {
                let hears = self.domains.get(vm).is_some_and(|domain| domain.state == DomainState::Running);
                if ending != Ending::GuestIgnores && hears {
                    self.end(*vm, StopReason::GuestShutdown);
                }
            }
            Step::ForceOff(vm) => self.end(*vm, StopReason::Unknown),
            Step::ReadBack(vm) => {
                if let Some(domain) = self.domains.get_mut(vm) {
                    domain.is_read_back = true;
                }
            }
            Step::Repin { vm, floats } => {
                if let Some(domain) = self.domains.get_mut(vm) {
                    domain.floats = Some(floats.clone());
                }
            }
            Step::Pause(vm) => self.turn(*vm, DomainState::Running, DomainState::Paused),
            Step::Resume { vm, .. } => self.turn(*vm, DomainState::Paused, DomainState::Running),
            Step::Reset { .. } => {}
            Step::Remove { vm, with_disk } => {
                assert!(
                    self.domains.get(vm).is_none_or(|seen| !crate::plan::is_active(seen.state)),
                    "removed while it runs"
                );
                self.domains.remove(vm);
                // A disk that stays behind although the step says that all is well.
                if *with_disk && ending != Ending::GuestIgnores {
                    self.overlays.remove(vm);
                }
            }
        }
        if ending == Ending::EffectUnanswered { Outcome::Failed(unreachable()) } else { Outcome::Done }
    }

    fn end(&mut self, vm: VmUid, reason: StopReason) {
        if let Some(domain) = self.domains.get_mut(&vm)
            && crate::plan::is_active(domain.state)
        {
            domain.state = DomainState::Stopped(reason);
        }
    }

    fn turn(&mut self, vm: VmUid, from: DomainState, to: DomainState) {
        if let Some(domain) = self.domains.get_mut(&vm).filter(|domain| domain.state == from) {
            domain.state = to;
        }
    }

    /// A guest's kernel gives up.
    pub(super) fn guest_panics(&mut self, vm: VmUid) {
        self.turn(vm, DomainState::Running, DomainState::Panicked);
        self.feed(Input::DomainEvent);
    }

    /// A guest ends by itself, or its QEMU is killed.
    pub(super) fn guest_ends(&mut self, vm: VmUid, crashed: bool) {
        self.end(vm, if crashed { StopReason::Crashed } else { StopReason::GuestShutdown });
        self.feed(Input::DomainEvent);
    }

    fn tell(&mut self, message: ToHost) {
        if let Some(connection) = self.connection {
            self.feed(Input::Received(connection, message));
        }
    }

    pub(super) fn greet(&mut self) {
        if self.connection.is_some() && !self.leader.greeted {
            self.leader.greeted = true;
            self.tell(ToHost::Welcome(welcome(self.term)));
        }
    }

    pub(super) fn send_set(&mut self) {
        if self.leader.greeted {
            // Before it arrives: permission is judged while it is taken in.
            self.leader.set_sent = true;
            let entries = self.set.values().cloned().collect();
            self.tell(ToHost::DesiredSet { revision: Revision(1), entries });
        }
    }

    pub(super) fn answer_heartbeat(&mut self, may_start_for: u64) {
        if let (true, Some((number, sent))) = (self.leader.greeted, self.leader.heartbeats.pop()) {
            self.leader.heartbeats.clear();
            self.leader.granted_until = sent + may_start_for;
            self.tell(ToHost::HeartbeatAck { number, may_start_for: Millis(may_start_for) });
        }
    }

    pub(super) fn commit_report(&mut self) {
        if let Some(number) = self.leader.unanswered_report.take() {
            let report = self.leader.reports.last().expect("there is one").clone();
            if report.full {
                self.view.clear();
            }
            self.orphans = report.orphans.unwrap_or_else(|| self.orphans.clone());
            for (vm, told) in report.vms {
                if matches!(told, VmReport::Gone(_)) && matches!(self.set.get(&vm), Some(DesiredEntry::Absent(_))) {
                    self.set.remove(&vm);
                    self.starts_of.remove(&vm);
                }
                self.view.insert(vm, told);
            }
            self.tell(ToHost::ReportAck { number });
        }
    }

    /// An acknowledgement of a report that was never made.
    pub(super) fn acknowledge_wrongly(&mut self) {
        self.tell(ToHost::ReportAck { number: 99 });
    }

    /// How many reports this session's leader heard.
    pub(super) fn reports(&self) -> usize {
        self.leader.reports.len()
    }

    pub(super) fn lose_session(&mut self, new_term: bool) {
        self.term += u64::from(new_term);
        if let Some(connection) = self.connection {
            self.hang_up();
            self.feed(Input::Ended(connection, "reset".into()));
        }
    }

    /// The leader changes its mind about a VM. A new placement gets a new epoch.
    pub(super) fn want(&mut self, vm: VmUid, make: impl FnOnce(u64, Option<&DesiredEntry>) -> Option<DesiredEntry>) {
        let held = self.set.get(&vm);
        let epoch = match held {
            Some(DesiredEntry::Present(..)) => held.map(|entry| entry.stamp().epoch.0).unwrap_or_default(),
            Some(DesiredEntry::Absent(_)) => return,
            None => {
                self.next_epoch += 1;
                self.next_epoch
            }
        };
        if let Some(entry) = make(epoch, held) {
            self.set.insert(vm, entry.clone());
            self.say(vec![entry], vec![]);
        }
    }

    /// The leader speaks of a VM no more.
    pub(super) fn forget(&mut self, vm: VmUid) {
        if self.set.remove(&vm).is_some() {
            self.starts_of.remove(&vm);
            self.say(vec![], vec![vm]);
        }
    }

    /// Another word about a VM that shall be there.
    pub(super) fn change(&mut self, vm: VmUid, change: impl FnOnce(&mut Present)) {
        self.want(vm, |_, held| match held {
            Some(DesiredEntry::Present(present, stamp)) => {
                let mut present = present.clone();
                change(&mut present);
                Some(DesiredEntry::Present(present, *stamp))
            }
            Some(DesiredEntry::Absent(_)) | None => None,
        });
    }

    /// Changes to the set, if this session has had the set.
    pub(super) fn say(&mut self, entries: Vec<DesiredEntry>, forgotten: Vec<VmUid>) {
        if self.leader.set_sent {
            self.tell(ToHost::DesiredDelta { revision: Revision(2), entries, forgotten });
        }
    }

    /// The daemon is killed; of the work outside, each piece is either done or not.
    pub(super) fn kill_daemon(&mut self, fates: u64) {
        for (at, pending) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let done = fates >> (at % 64) & 1 == 1;
            match pending {
                // A write that was torn leaves its first records.
                Pending::Persist(_, records) => {
                    let kept = usize::try_from(fates % (records.len() as u64 + 1)).unwrap();
                    self.disk.extend(records.into_iter().take(kept));
                }
                Pending::Execute(step) if done => {
                    self.physics(&step, Ending::Good);
                }
                Pending::Execute(_) | Pending::Connect(_) | Pending::Scan(_) | Pending::Look(_) => {}
            }
        }
        self.hang_up();
        self.busy.clear();
        self.ended.clear();
        self.asked.clear();
        (self.last_scan_begun, self.last_scan_good) = (0, None);
        self.agent = agent(&self.disk, self.boots, at(self.millis));
        self.look_around();
    }

    /// The machine goes down and comes up: the boot clock begins again, nothing runs.
    pub(super) fn reboot(&mut self, fates: u64) {
        self.boots += 1;
        let running: Vec<_> = self.domains.keys().copied().collect();
        self.millis = 0;
        self.kill_daemon(fates);
        for vm in running {
            self.end(vm, StopReason::Unknown);
        }
    }

    /// No more faults: everybody does as asked, until nothing happens any more.
    pub(super) fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..4000 {
            let before = self.steps;
            for _ in 0..40 {
                if self.pending.is_empty() {
                    break;
                }
                self.work(0, Ending::Good);
            }
            self.greet();
            if !self.leader.set_sent {
                self.send_set();
            }
            self.answer_heartbeat(10_000);
            self.commit_report();
            quiet = if self.steps == before { quiet + 1 } else { 0 };
            // Longer than the longest pause.
            if quiet > 360 {
                return;
            }
            self.pass(900);
        }
        panic!("it does not come to rest");
    }
}

fn failed(reason: &'static str) -> BackendError {
    BackendError::Failed { reason, what: "the step".into(), why: "the test says so".into() }
}

fn unreachable() -> BackendError {
    BackendError::Unreachable { what: "libvirt".into(), why: "the test says so".into() }
}
