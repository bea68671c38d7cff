//! One host: the real agent with its real ledger, on a simulated machine with a simulated disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use berth_host::agent::{Agent, Identity, Input, Outcome, Output};
use berth_host::backend::{BackendError, DomainSeen};
use berth_host::clock::{BootTime, Now};
use berth_host::journal::Run;
use berth_host::ledger::{Ledger, Record};
use berth_host::session::{ConnectionId, Options};
use berth_host::step::{self, DomainSpec, Step};
use berth_model::condition::{Condition, ConditionStatus};
use berth_model::image::ImageOnHost;
use berth_model::testing::{IMAGE_SIZE, Machine as Shape, digest};
use berth_model::vm::{DomainState, StopReason};
use berth_model::{BootId, HostUid, Name, Uid, VmUid};
use berth_simhost::{Machine, Obstacle};

use super::network::LineId;
use super::{Event, MEMBERS, World, member};
use crate::plant::Plant;
use crate::tally::{self, Group};

/// What ends on a host.
#[derive(Debug)]
pub(crate) enum HostEvent {
    /// The agent wants to be woken; only the last such moment counts.
    Wake(u64),
    /// A write of the ledger is on the disk.
    Persisted,
    /// A step is carried out.
    StepEnds(VmUid),
    /// A scan is done; if it shows the past, this is what it saw.
    Scanned(u64, Option<Result<Vec<DomainSeen>, BackendError>>),
    /// It was looked what is left of a VM.
    Looked(VmUid),
    /// The hypervisor tells that something happened.
    DomainEvent,
    /// The images are verified.
    Images,
}

/// Steps at once, as the daemon does.
const STEPS_AT_ONCE: usize = 4;

/// When a ledger's file is written anew with only what still counts.
const COMPACT_BEYOND: usize = 64 << 10;

/// A write that is under way.
#[derive(Debug)]
struct Write {
    number: u64,
    bytes: Vec<u8>,
}

/// A step that the agent wants.
#[derive(Debug)]
struct Task {
    step: Step,
    /// It must be begun before then.
    before: Option<BootTime>,
    /// When the last word came that permitted it.
    given: u64,
}

/// One host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: Name,
    /// Its identity, as its data says at present.
    pub(crate) uid: HostUid,
    address: String,
    pub(crate) shape: Shape,
    pub(crate) machine: Machine,
    /// Whether it has power.
    pub(crate) is_on: bool,
    /// Whether it is a second host of another's name.
    pub(crate) is_twin: bool,
    boots: u64,
    booted_at: u64,
    /// Counts starts of the daemon.
    pub(crate) start: u64,
    pub(crate) agent: Option<Agent>,
    /// The bytes of the ledger that outlive the daemon.
    pub(crate) ledger: Vec<u8>,
    write: Option<Write>,
    wake: u64,
    pub(crate) connections: BTreeMap<ConnectionId, LineId>,
    running: BTreeMap<VmUid, Task>,
    waiting: VecDeque<Task>,
    /// How often a VM was started.
    runs: BTreeMap<VmUid, u64>,
    /// Guests that were asked to go and will.
    going: BTreeSet<VmUid>,
    pub(crate) cut_up: u32,
    pub(crate) cut_down: u32,
    pub(crate) slow_network: u32,
    pub(crate) slow_disk: u32,
    pub(crate) events_lost: u32,
    pub(crate) steps_fail: u32,
    pub(crate) deaf: u32,
    /// Reasons for its hypervisor to be away.
    pub(crate) away: u32,
    /// Whether it is smaller than it was.
    pub(crate) is_smaller: bool,
}

impl World {
    /// A new host is installed.
    pub(crate) fn add_host(&mut self, shape: Shape) -> usize {
        let number = self.hosts.len();
        let name: Name = format!("h{}", number + 1).parse().expect("a letter and a number are a name");
        self.install(name, shape, false)
    }

    pub(super) fn install(&mut self, name: Name, shape: Shape, is_twin: bool) -> usize {
        let number = self.hosts.len();
        let uid = HostUid(Uid::from_bits(self.dice.wide()));
        self.hosts.push(Host {
            name,
            uid,
            address: format!("10.1.{}.{}:7443", number / 250, number % 250 + 1),
            machine: Machine::new(shape.inventory()),
            shape,
            is_on: true,
            is_twin,
            boots: 0,
            booted_at: self.now,
            start: 0,
            agent: None,
            ledger: Vec::new(),
            write: None,
            wake: 0,
            connections: BTreeMap::new(),
            running: BTreeMap::new(),
            waiting: VecDeque::new(),
            runs: BTreeMap::new(),
            going: BTreeSet::new(),
            cut_up: 0,
            cut_down: 0,
            slow_network: 0,
            slow_disk: 0,
            events_lost: 0,
            steps_fail: 0,
            deaf: 0,
            away: 0,
            is_smaller: false,
        });
        self.homes.insert(uid, number);
        let pause = self.dice.within(1..500);
        self.after(pause, Event::DaemonStarts { host: number, boots: 0 });
        number
    }

    fn clocks(&self, host: usize) -> Now {
        let boot = BootTime::from_millis(self.now - self.hosts[host].booted_at);
        Now { boot, wall: self.wall() }
    }

    /// The daemon is started, if the host is still in the same boot and nobody started it before.
    pub(super) fn daemon_starts(&mut self, number: usize, boots: u64) {
        let now = self.clocks(number);
        let (start, entropy) = (self.dice.next(), self.dice.next());
        let host = &mut self.hosts[number];
        if !host.is_on || host.boots != boots || host.agent.is_some() {
            return;
        }
        host.start += 1;
        let ledger = match read(&host.ledger) {
            Some(ledger) => {
                // What was cut short goes, as the daemon's store does it; what grew long is written anew.
                if host.ledger.len() > COMPACT_BEYOND {
                    host.ledger = written(ledger.snapshot());
                }
                ledger
            }
            None => Ledger::new(host.uid),
        };
        let me = Identity {
            name: host.name.clone(),
            address: host.address.clone(),
            boot: BootId(format!("boot-{}", host.boots)),
            start,
            version: "simulated".into(),
        };
        let options = Options::new((0..MEMBERS).map(member::api).collect());
        let held = Some(ledger.clone()).filter(|_| self.settings.plant == Some(Plant::StartFromLedger));
        host.agent = Some(Agent::new(me, ledger, options, now, entropy));
        let inventory = host.machine.inventory().clone();
        let current = host.start;
        self.witness.event(format_args!("daemon of host {number} starts, boot {boots}"));
        self.feed(number, Input::Inventory(Box::new(inventory)));
        let condition = Condition {
            kind: "DataDirectory".into(),
            status: ConditionStatus::True,
            reason: "Synced".into(),
            message: String::new(),
            since: now.wall,
        };
        self.feed(number, Input::Conditions(vec![condition]));
        let pause = self.dice.within(20..1500);
        self.after(pause, Event::Host { host: number, start: current, what: HostEvent::Images });
        if let Some(ledger) = held {
            self.start_from_ledger(number, &ledger);
        }
    }

    /// What the plant does: it starts what the ledger holds.
    fn start_from_ledger(&mut self, number: usize, ledger: &Ledger) {
        for step in super::plants::starts(ledger, &self.hosts[number].machine, self.clocks(number)) {
            self.begin_or_wait(number, step, None);
        }
    }

    /// The daemon is killed. What it had under way is done or not, each piece for itself.
    pub(super) fn kill_daemon(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        if host.agent.take().is_none() {
            return;
        }
        host.waiting.clear();
        let (write, running) = (host.write.take(), std::mem::take(&mut host.running));
        if let Some(Write { bytes, .. }) = write {
            // A write that was torn leaves its first bytes; the disk may also have taken it whole.
            let kept = if self.dice.percent(40) { bytes.len() } else { self.dice.index(bytes.len() + 1) };
            self.hosts[number].ledger.extend(&bytes[..kept]);
            if kept < bytes.len() {
                self.witness.count(Group::Noted, "write torn");
            }
        }
        for task in running.into_values() {
            if self.dice.percent(50) {
                self.carry_out_unheard(number, &task);
            }
        }
        // The store cuts off at its next opening what was torn.
        let host = &mut self.hosts[number];
        let whole = whole_records(&host.ledger);
        host.ledger.truncate(whole);
        self.witness.event(format_args!("daemon of host {number} is killed"));
        let open: Vec<_> = self.hosts[number].connections.keys().copied().collect();
        for connection in open {
            self.hang_up_on_member(number, connection);
        }
    }

    /// The power of a host is cut.
    pub(super) fn lose_power(&mut self, number: usize) {
        self.vanish(number);
        self.kill_daemon(number);
        let host = &mut self.hosts[number];
        host.is_on = false;
        host.going.clear();
        let all: Vec<_> = host.machine.domains().keys().copied().collect();
        let active: Vec<_> = all.into_iter().filter(|vm| host.machine.is_active(*vm)).collect();
        host.machine.lose_power();
        self.witness.ends_forgotten(Some(number));
        for vm in active {
            self.witness.ended(number, vm);
        }
        self.witness.event(format_args!("host {number} loses its power"));
    }

    /// It comes back.
    pub(super) fn power_up(&mut self, number: usize) {
        let now = self.now;
        let host = &mut self.hosts[number];
        host.is_on = true;
        host.boots += 1;
        host.booted_at = now;
        let (boots, away) = (host.boots, host.away);
        host.machine.set_reachable(away == 0);
        let pause = self.dice.within(100..4000);
        self.after(pause, Event::DaemonStarts { host: number, boots });
        self.witness.event(format_args!("host {number} has power again"));
    }

    /// The daemon is started again soon.
    pub(super) fn start_daemon_soon(&mut self, number: usize) {
        let boots = self.hosts[number].boots;
        let pause = self.dice.within(20..4000);
        self.after(pause, Event::DaemonStarts { host: number, boots });
    }

    /// Tells the agent something, if this start of the daemon still runs.
    pub(super) fn feed_if(&mut self, number: usize, start: u64, input: Input) {
        if self.hosts[number].start == start && self.hosts[number].agent.is_some() {
            self.feed(number, input);
        }
    }

    fn feed(&mut self, number: usize, input: Input) {
        let (now, entropy) = (self.clocks(number), self.dice.next());
        let Some(agent) = &mut self.hosts[number].agent else { return };
        let outputs = agent.handle(input, now, entropy);
        for output in outputs {
            self.perform(number, output);
        }
    }

    fn perform(&mut self, number: usize, output: Output) {
        let start = self.hosts[number].start;
        match output {
            Output::Connect { connection, address } => self.connect(number, connection, &address),
            Output::Send { connection, message } => self.send_up(number, connection, message),
            Output::Close { connection } => self.hang_up_on_member(number, connection),
            Output::Persist { number: write, records } => {
                let bytes = written(records);
                let disk = self.settings.disk.clone();
                let mut pause = self.between(&disk);
                if self.hosts[number].slow_disk > 0 {
                    pause += self.dice.within(100..3000);
                }
                if self.hosts[number].write.replace(Write { number: write, bytes }).is_some() {
                    self.witness.broken("one write at a time", format_args!("host {number} began a second one"));
                }
                self.after(pause, Event::Host { host: number, start, what: HostEvent::Persisted });
            }
            Output::Execute { step, before } => self.begin_or_wait(number, step, before),
            Output::Scan { number: scan } => {
                let pause = self.dice.within(1..60);
                let past = self.settings.is_thorough && self.dice.percent(50);
                let seen = past.then(|| self.hosts[number].machine.scan());
                self.after(pause, Event::Host { host: number, start, what: HostEvent::Scanned(scan, seen) });
            }
            Output::Look { vm } => {
                let pause = self.dice.within(1..60);
                self.after(pause, Event::Host { host: number, start, what: HostEvent::Looked(vm) });
            }
            Output::WakeAt(moment) => {
                let host = &mut self.hosts[number];
                host.wake += 1;
                let (wake, at) = (host.wake, host.booted_at.saturating_add(moment.as_millis()));
                self.at(at, Event::Host { host: number, start, what: HostEvent::Wake(wake) });
            }
            Output::Remember { .. } | Output::Tell(_) => {}
        }
    }

    pub(super) fn host_event(&mut self, number: usize, start: u64, what: HostEvent) {
        let host = &mut self.hosts[number];
        if host.start != start || host.agent.is_none() {
            return;
        }
        match what {
            HostEvent::Wake(wake) => {
                if host.wake == wake {
                    self.feed(number, Input::Tick);
                }
            }
            HostEvent::Persisted => {
                if let Some(Write { number: write, bytes }) = host.write.take() {
                    host.ledger.extend(bytes);
                    self.feed(number, Input::Persisted(write));
                }
            }
            HostEvent::StepEnds(vm) => self.step_ends(number, vm),
            HostEvent::Scanned(scan, past) => {
                let mut seen = past.unwrap_or_else(|| host.machine.scan());
                if self.settings.plant == Some(Plant::UnknownIsAbsent) {
                    seen = seen.or_else(|_| Ok(Vec::new()));
                }
                self.feed(number, Input::Scanned(scan, seen));
            }
            HostEvent::Looked(vm) => {
                let left = host.machine.leftovers(vm);
                self.feed(number, Input::Looked(vm, left));
            }
            HostEvent::DomainEvent => self.feed(number, Input::DomainEvent),
            HostEvent::Images => {
                let image = (digest(1), ImageOnHost::Verified { virtual_size: IMAGE_SIZE });
                self.feed(number, Input::Images([image].into()));
            }
        }
    }

    // --- steps

    fn begin_or_wait(&mut self, number: usize, step: Step, before: Option<BootTime>) {
        self.judge_permission(number, &step, before);
        let given = self.grant(number).map_or(0, |(_, given)| given);
        let task = Task { step, before, given };
        let host = &mut self.hosts[number];
        if host.running.len() < STEPS_AT_ONCE && !host.running.contains_key(&task.step.vm()) {
            self.begin(number, task);
        } else {
            host.waiting.push_back(task);
        }
    }

    /// Law 4, by what went over the wire.
    fn judge_permission(&mut self, number: usize, step: &Step, before: Option<BootTime>) {
        if !matches!(step, Step::Prepare(_) | Step::Start(_)) {
            return;
        }
        let grant = self.grant(number).map_or(0, |(until, _)| until);
        let latest = before.map_or(u64::MAX, |before| self.hosts[number].booted_at + before.as_millis());
        if self.now >= grant || latest > grant {
            let name = step.name();
            self.witness.broken(
                "starting needs a live word",
                format_args!("host {number} may {name} {} until {latest}, it was permitted until {grant}", step.vm()),
            );
        }
    }

    fn begin(&mut self, number: usize, task: Task) {
        let (step, vm, now) = (&task.step, task.step.vm(), self.clocks(number).boot);
        let start = self.hosts[number].start;
        if step::has_lapsed(task.before, now) {
            self.witness.count(Group::Noted, "step lapsed");
            return self.feed_if(number, start, Input::Executed(vm, Outcome::Lapsed));
        }
        self.steps += 1;
        self.witness.count(Group::Step, tally::step(step));
        self.witness.event(format_args!("host {number} begins to {} {vm}", step.name()));
        let mut pause = match step {
            Step::Prepare(_) => self.dice.within(5..200),
            Step::Start(_) => self.dice.within(50..1500),
            Step::Shutdown(_)
            | Step::ForceOff(_)
            | Step::Repin { .. }
            | Step::ReadBack(_)
            | Step::Pause(_)
            | Step::Resume { .. }
            | Step::Reset { .. }
            | Step::Remove { .. } => self.dice.within(5..300),
        };
        if self.hosts[number].slow_disk > 0 {
            pause *= 8;
        }
        self.hosts[number].running.insert(vm, task);
        self.after(pause, Event::Host { host: number, start, what: HostEvent::StepEnds(vm) });
    }

    fn step_ends(&mut self, number: usize, vm: VmUid) {
        let start = self.hosts[number].start;
        let Some(task) = self.hosts[number].running.remove(&vm) else { return };
        let is_bad = self.hosts[number].steps_fail > 0 && self.dice.percent(40);
        let outcome = if is_bad { self.go_wrong(number, &task) } else { self.carry_out(number, &task) };
        self.feed_if(number, start, Input::Executed(vm, outcome));
        while self.hosts[number].running.len() < STEPS_AT_ONCE {
            let host = &mut self.hosts[number];
            let next = host.waiting.iter().position(|task| !host.running.contains_key(&task.step.vm()));
            let Some(task) = next.and_then(|at| host.waiting.remove(at)) else { return };
            self.begin(number, task);
        }
    }

    fn go_wrong(&mut self, number: usize, task: &Task) -> Outcome {
        let why = "the simulation wants it so".to_owned();
        let what = format!("the step {}", task.step.name());
        if self.dice.percent(50) {
            self.witness.count(Group::Noted, "step failed");
            return Outcome::Failed(BackendError::Failed { reason: "StartFailed", what, why });
        }
        if self.dice.percent(50) {
            self.carry_out_unheard(number, task);
        }
        self.witness.count(Group::Noted, "step unanswered");
        Outcome::Failed(BackendError::Unreachable { what, why })
    }

    /// A step has its effect, and nobody is there to see it through.
    fn carry_out_unheard(&mut self, number: usize, task: &Task) {
        let _ = self.carry_out(number, task);
        if let Step::Start(spec) = &task.step {
            self.hosts[number].machine.is_not_read_back(spec.mark.vm);
        }
    }

    /// A step has its effect.
    fn carry_out(&mut self, number: usize, task: &Task) -> Outcome {
        let step = &task.step;
        let (vm, wall, uid) = (step.vm(), self.wall(), self.hosts[number].uid);
        let machine = &self.hosts[number].machine;
        if machine.is_reachable() {
            let restarts = machine.domains().get(&vm).map(|domain| domain.spec.mark.restart_count);
            match (step, restarts) {
                (Step::Start(spec), _) => self.judge_start(number, spec, task.given),
                // What is left of a guest whose kernel gave up is ended whatever was said.
                (Step::ForceOff(_), _)
                    if machine.domains().get(&vm).is_some_and(|domain| domain.state == DomainState::Panicked) => {}
                (Step::Shutdown(_) | Step::ForceOff(_), Some(restarts)) if machine.is_active(vm) => {
                    self.witness.judge_end(uid, vm, restarts, false);
                }
                (Step::Remove { .. }, restarts) => {
                    if machine.is_active(vm) {
                        self.witness.broken("unknown is not absent", format_args!("{vm} is removed while it runs"));
                    }
                    if restarts.is_some() || machine.has_disk(vm) {
                        self.witness.judge_end(uid, vm, restarts.unwrap_or(0), true);
                    }
                }
                (Step::Pause(_), _) if machine.is_active(vm) => self.judge_pause(number, vm),
                (
                    Step::Prepare(_)
                    | Step::Shutdown(_)
                    | Step::ForceOff(_)
                    | Step::Repin { .. }
                    | Step::ReadBack(_)
                    | Step::Pause(_)
                    | Step::Resume { .. }
                    | Step::Reset { .. },
                    _,
                ) => {}
            }
        }
        let result = self.touch(number, vm, |machine| machine.execute(step, Some(wall)));
        if let (Step::Start(spec), true) = (step, result.is_ok()) {
            self.witness.judge_run(number, vm, spec.mark.stamp, spec.mark.restart_count);
        }
        if result.is_ok() && matches!(step, Step::Shutdown(_)) {
            self.guest_is_asked(number, vm);
        }
        match result {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error),
        }
    }

    /// A guest was asked to go: it does after a while, if it heard.
    fn guest_is_asked(&mut self, number: usize, vm: VmUid) {
        let host = &mut self.hosts[number];
        if !host.machine.is_active(vm) || host.deaf > 0 || !host.going.insert(vm) {
            return;
        }
        let run = host.runs.get(&vm).copied().unwrap_or(0);
        let pause = self.dice.within(200..6000);
        self.after(pause, Event::GuestGoes { host: number, vm, run });
    }

    pub(super) fn guest_goes(&mut self, number: usize, vm: VmUid, run: u64) {
        let wall = self.wall();
        let host = &mut self.hosts[number];
        let hears = host.machine.domains().get(&vm).is_some_and(|domain| domain.state == DomainState::Running);
        if host.going.remove(&vm) && hears && host.runs.get(&vm).copied().unwrap_or(0) == run {
            self.touch(number, vm, |machine| machine.guest_ends(vm, StopReason::GuestShutdown, Some(wall)));
        }
    }

    /// Does something to one domain, and notes what became of its guest.
    pub(super) fn touch<T>(&mut self, number: usize, vm: VmUid, deed: impl FnOnce(&mut Machine) -> T) -> T {
        let host = &mut self.hosts[number];
        let before = host.machine.is_active(vm);
        let result = deed(&mut host.machine);
        let after = host.machine.is_active(vm);
        if before != after {
            if after {
                *host.runs.entry(vm).or_default() += 1;
                self.witness.began(number, vm);
            } else {
                host.going.remove(&vm);
                self.witness.ended(number, vm);
            }
            let host = &self.hosts[number];
            if host.events_lost == 0 && host.machine.is_reachable() {
                let start = host.start;
                let pause = self.dice.within(1..40);
                self.after(pause, Event::Host { host: number, start, what: HostEvent::DomainEvent });
            }
        }
        result
    }

    /// Whether a host would still know after a crash of its daemon that this VM runs.
    pub(super) fn has_noted_run(&self, number: usize, vm: VmUid) -> bool {
        let ledger = read(&self.hosts[number].ledger);
        ledger.is_some_and(|ledger| matches!(ledger.journal(vm).run, Run::Running { .. }))
    }

    /// Whether anybody ever asked for a pause.
    fn judge_pause(&mut self, number: usize, vm: VmUid) {
        if !self.witness.was_paused(vm) {
            self.witness.broken("absence is never an instruction", format_args!("{vm} is paused on host {number}"));
        }
    }

    /// Whether a start is right by what is committed, and whether the machine can carry it out as it was promised.
    fn judge_start(&mut self, number: usize, spec: &DomainSpec, given: u64) {
        let (vm, uid, mark) = (spec.mark.vm, self.hosts[number].uid, &spec.mark);
        let front = self.front();
        let incarnation = front.info.map(|info| info.incarnation).unwrap_or_default();
        let held = front.vms.get(&vm).and_then(|vm| vm.assignment.clone());
        let is_placed = held.as_ref().is_some_and(|held| held.host == uid && held.epoch == mark.stamp.epoch);
        // The word of a time before a restore may still be carried out while it lasts.
        let is_past = mark.stamp.incarnation < incarnation && given <= self.restored_at;
        if !is_past && (!is_placed || mark.stamp.incarnation != incarnation) {
            self.witness.broken(
                "a VM runs on at most one host",
                format_args!("{vm} is started on host {number} by {}, and is placed by {held:?}", mark.stamp),
            );
        }
        let Some(obstacle) = self.hosts[number].machine.obstacle(spec) else { return };
        let is_explained = match &obstacle {
            Obstacle::Running => false,
            // The disk went with a removal whose answer was lost, or with a machine's: it is prepared again.
            Obstacle::NoDisk => true,
            Obstacle::NoThread(_) | Obstacle::NoDevice(_) => self.hosts[number].is_smaller,
            Obstacle::PagesHeld { .. } | Obstacle::OrdinaryHeld { .. } | Obstacle::SharedHeld { .. } => {
                self.hosts[number].is_smaller || self.has_unknown_guests(number)
            }
            Obstacle::ThreadHeld { by, .. } | Obstacle::DeviceHeld { by, .. } => self.is_unknown_guest(number, *by),
        };
        if is_explained {
            self.witness.count(Group::Noted, "start hindered");
        } else {
            let law = if obstacle == Obstacle::Running { "unknown is not absent" } else { "a bound VM starts" };
            self.witness.broken(law, format_args!("{vm} on host {number}: {obstacle}"));
        }
    }

    /// Whether a guest runs on what the controllers did not give it: after a restore, of which they know nothing more, it may
    /// hold what an older placement gives to another.
    fn is_unknown_guest(&self, number: usize, vm: VmUid) -> bool {
        let (front, host) = (self.front(), &self.hosts[number]);
        let placed = front.vms.get(&vm).and_then(|vm| vm.assignment.as_ref()).filter(|held| held.host == host.uid);
        let runs_on = host.machine.domains().get(&vm).map(|domain| &domain.spec.resources);
        self.restored_at > 0 && placed.map(|held| &held.resources) != runs_on
    }

    fn has_unknown_guests(&self, number: usize) -> bool {
        let machine = &self.hosts[number].machine;
        machine.domains().keys().any(|vm| machine.is_active(*vm) && self.is_unknown_guest(number, *vm))
    }
}

fn written(records: Vec<Record>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend(berth_host::record::encode(record).expect("a record of the ledger can be written down"));
    }
    bytes
}

/// The records at the start of these bytes, and where they end.
fn records(bytes: &[u8]) -> (Vec<Record>, usize) {
    let (mut records, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match berth_host::record::decode(&bytes[at..]) {
            Ok((record, taken)) => {
                records.push(record);
                at += taken;
            }
            Err(error) if error.is_cut_short() => break,
            Err(error) => panic!("a ledger that was only cut short cannot be read: {error}"),
        }
    }
    (records, at)
}

pub(super) fn whole_records(bytes: &[u8]) -> usize {
    records(bytes).1
}

fn read(bytes: &[u8]) -> Option<Ledger> {
    Ledger::replay(records(bytes).0)
}
