//! One world: controllers, hosts, clients and everything between them, driven by one heap of events in virtual time.
//!
//! What decides is real: the replicated state, the planner, the leader's reign, both ends of the session, the hosts' agents
//! with their ledgers. What is simulated: the log's consensus ([`log`]), the network ([`network`]), machines and their
//! disks ([`host`]). One thread, one seed: a run can be had again.

mod client;
mod faults;
mod host;
mod log;
mod member;
mod network;
mod plants;
mod settled;
pub(crate) mod shapes;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;

use berth_model::testing::Machine;
use berth_model::{ClusterId, HostUid, Timestamp, VmUid};
use berth_state::Cluster;

use crate::dice::Dice;
use crate::plan::Fault;
use crate::plant::Plant;
use crate::witness::Witness;

pub(crate) use client::{Clients, Wish};
use host::{Host, HostEvent};
use log::{Log, Told};
use member::{Member, Purpose};
use network::{Line, LineId};
pub(crate) use settled::Stillness;

/// When virtual time begins: 2027-01-15T08:00:00Z.
pub(crate) const EPOCH: Timestamp = berth_model::testing::NOW;

/// What happens next.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connection is tried.
    Dial(LineId),
    /// A word of a host may be there.
    Up(LineId),
    /// A word to a host may be there.
    Down(LineId),
    /// The next proposals may be committed.
    Commit,
    /// A controller applies what was committed up to here.
    CatchUp { member: usize, upto: u64 },
    /// A leader is elected, if there is none.
    Election,
    /// A leader that cannot reach the others notices.
    StepDown { member: usize, term: u64 },
    /// A controller learns who leads.
    Learn(usize),
    /// A proposer hears what became of its proposal.
    Tell(Box<Told>),
    /// A linearizable read is confirmed.
    Barrier { member: usize, term: u64, need: u64, purpose: Purpose },
    /// A leader looks at its hosts.
    Tick { member: usize, number: u64 },
    /// A leader looks at its state.
    Office(usize),
    /// A controller tells its hosts what changed for them.
    Bells(usize),
    /// Something ends on a host, unless its daemon was started anew meanwhile.
    Host { host: usize, start: u64, what: HostEvent },
    /// A guest goes down as it was asked, unless it was started anew meanwhile.
    GuestGoes { host: usize, vm: VmUid, run: u64 },
    /// A client wants something.
    Operation,
    /// A client sends a request, or sends it again.
    Ask(usize),
    /// A client's request reaches a leader.
    Arrives { request: usize, member: usize, body: Box<berth_state::Body> },
    /// Something goes wrong.
    Fault(usize),
    /// It goes right again.
    Relief(usize),
    /// A host's connections break.
    Hiccup(usize),
    /// A host's daemon is started.
    DaemonStarts { host: usize, boots: u64 },
    /// Somebody looks whether all is well.
    Look,
}

#[derive(Debug)]
struct Queued {
    at: u64,
    sequence: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// How a world is built and watched.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) machines: Vec<Machine>,
    pub(crate) network: Range<u64>,
    pub(crate) commit: Range<u64>,
    pub(crate) disk: Range<u64>,
    pub(crate) plant: Option<Plant>,
    pub(crate) is_verbose: bool,
    /// Whether controllers that restart read their state from a snapshot's bytes, and hosts' scans show the past.
    pub(crate) is_thorough: bool,
}

/// The whole of it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    heap: BinaryHeap<Reverse<Queued>>,
    sequence: u64,
    pub(crate) dice: Dice,
    pub(crate) settings: Settings,
    pub(crate) cluster_id: ClusterId,
    pub(crate) log: Log,
    /// The controllers, and behind them one of the time before a restore while it runs.
    pub(crate) members: Vec<Member>,
    /// Whose place a controller of the past took.
    revenant_at: Option<usize>,
    pub(crate) hosts: Vec<Host>,
    lines: BTreeMap<LineId, Line>,
    last_line: u64,
    pub(crate) clients: Clients,
    pub(crate) witness: Witness,
    /// What goes wrong in this history.
    pub(crate) faults: Vec<Fault>,
    struck: BTreeMap<usize, faults::Struck>,
    /// Windows in which proposers do not hear answers.
    lost_answers: u32,
    /// States of some moments, for a restore.
    backups: Vec<(u64, Cluster)>,
    /// When the last restore was.
    restored_at: u64,
    /// The state that the last restore ended, and the term of that time.
    past: Option<(Cluster, u64)>,
    /// Whether faults are over: from then on everybody does as asked.
    pub(crate) is_healed: bool,
    /// Steps that began on any host.
    pub(crate) steps: u64,
    /// The host of each identity, also of those that were lost.
    homes: BTreeMap<HostUid, usize>,
}

impl World {
    pub(crate) fn new(settings: Settings, dice: Dice, clients: Clients, faults: Vec<Fault>) -> Self {
        let witness = Witness::new(settings.is_verbose);
        let mut world = Self {
            now: 0,
            heap: BinaryHeap::new(),
            sequence: 0,
            dice,
            cluster_id: berth_model::testing::cluster_id(),
            log: Log::default(),
            members: (0..MEMBERS).map(Member::new).collect(),
            revenant_at: None,
            hosts: Vec::new(),
            lines: BTreeMap::new(),
            last_line: 0,
            clients,
            witness,
            faults,
            struck: BTreeMap::new(),
            lost_answers: 0,
            backups: Vec::new(),
            restored_at: 0,
            past: None,
            is_healed: false,
            steps: 0,
            homes: BTreeMap::new(),
            settings,
        };
        world.after(1, Event::Election);
        for machine in world.settings.machines.clone() {
            world.add_host(machine);
        }
        for number in 0..world.faults.len() {
            let at = world.faults[number].at;
            world.at(at, Event::Fault(number));
        }
        world
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.heap.push(Reverse(Queued { at: at.max(self.now), sequence: self.sequence, event }));
    }

    pub(crate) fn after(&mut self, pause: u64, event: Event) {
        self.at(self.now + pause, event);
    }

    /// Lets the next thing happen. False if nothing ever will.
    pub(crate) fn advance(&mut self) -> bool {
        let Some(Reverse(Queued { at, event, .. })) = self.heap.pop() else { return false };
        self.now = at;
        self.witness.now = at;
        self.happen(event);
        true
    }

    /// Whether somebody looks next.
    pub(crate) fn next_is_look(&self) -> bool {
        matches!(self.heap.peek(), Some(Reverse(Queued { event: Event::Look, .. })))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Dial(line) => self.dial(line),
            Event::Up(line) => self.deliver_up(line),
            Event::Down(line) => self.deliver_down(line),
            Event::Commit => self.commit(),
            Event::CatchUp { member, upto } => self.catch_up(member, upto),
            Event::Election => self.elect(),
            Event::StepDown { member, term } => self.step_down(member, term),
            Event::Learn(member) => self.learn(member),
            Event::Tell(told) => self.tell(*told),
            Event::Barrier { member, term, need, purpose } => self.barrier_confirmed(member, term, need, purpose),
            Event::Tick { member, number } => self.tick(member, number),
            Event::Office(member) => self.office_looks(member),
            Event::Bells(member) => self.ring_bells(member),
            Event::Host { host, start, what } => self.host_event(host, start, what),
            Event::GuestGoes { host, vm, run } => self.guest_goes(host, vm, run),
            Event::Operation => self.operation(),
            Event::Ask(request) => self.ask(request),
            Event::Arrives { request, member, body } => self.arrives(request, member, *body),
            Event::Fault(number) => self.strike(number),
            Event::Relief(number) => self.relieve(number),
            Event::DaemonStarts { host, boots } => self.daemon_starts(host, boots),
            Event::Hiccup(host) => self.hiccup(host),
            Event::Look => {}
        }
    }

    /// The controller whose state is the furthest.
    pub(crate) fn front(&self) -> &Cluster {
        let front = self.members[..MEMBERS].iter().max_by_key(|member| member.applied).expect("there are controllers");
        &front.cluster
    }

    /// Wall-clock time, by a clock that is right.
    pub(crate) fn wall(&self) -> Timestamp {
        EPOCH.plus(berth_model::Millis(self.now))
    }

    pub(crate) fn between(&mut self, range: &Range<u64>) -> u64 {
        self.dice.within(range.clone())
    }
}

/// How many controllers there are.
pub(crate) const MEMBERS: usize = 3;
