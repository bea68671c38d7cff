//! Carries a plan's faults out, and mends what it broke.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use crate::dice::Dice;
use crate::member::{Order, name};
use crate::operator::{Errand, Fulfilment, Wish};
use crate::plan::{Fault, Kind, Plan, Who};
use crate::world::{World, micros};

/// How long a crash waits for something unsynced, in milliseconds.
const HUNT: u64 = 300;

/// How long an orderly stop may take, in milliseconds.
const STOP: u64 = 20_000;

/// How long a succession waits for the new leader, in milliseconds.
const ELECTION: u64 = 6000;

/// Members that are added to one cluster at most.
const NEWCOMERS: u64 = 3;

/// Members below which none is removed.
const FEWEST: usize = 3;

/// Two members, the lower one first.
type Link = (u64, u64);

/// What was begun and is to be ended.
#[derive(Debug, Clone)]
enum Task {
    /// Cut the power when something is unsynced, or when the time is up.
    Hunt { member: u64, down: u64 },
    /// Start a member that is down.
    Start { member: u64 },
    /// Wait for an orderly stop.
    Stopping { member: u64, down: u64 },
    /// Let both ways of links carry again.
    Repair { links: Vec<Link> },
    /// Let one way carry again.
    RepairWay { from: u64, to: u64 },
    /// Let go what was held.
    Release { link: Link },
    /// Ordinary latency again.
    Hasten { link: Link },
    /// No losses any more.
    Tighten { links: Vec<Link> },
    /// An ordinary disk again.
    Speed { member: u64 },
    /// A disk that works again, and a member that is started on it.
    Mend { member: u64 },
    /// Turn off a member that was removed.
    Retire { member: u64 },
    /// Wait for a leader of a later term.
    Succeed { term: u64, old: u64, lasts: u64 },
}

/// Who makes things go wrong.
pub(crate) struct Nemesis {
    plan: Plan,
    next: usize,
    dice: Dice,
    /// When, and what then.
    tasks: Vec<(u64, Task)>,
    /// Links that something is done to.
    links: BTreeSet<Link>,
    /// Members that something is done to.
    members: BTreeSet<u64>,
    /// Changes of the members that are under way.
    errands: Vec<Errand>,
    /// Whether a member has died for good. A second one could cost the majority for good.
    has_buried: bool,
    has_healed: bool,
}

fn link(one: u64, other: u64) -> Link {
    (one.min(other), one.max(other))
}

impl Nemesis {
    pub(crate) fn new(mut plan: Plan) -> Self {
        let dice = plan.dice.fork();
        Self {
            plan,
            next: 0,
            dice,
            tasks: Vec::new(),
            links: BTreeSet::new(),
            members: BTreeSet::new(),
            errands: Vec::new(),
            has_buried: false,
            has_healed: false,
        }
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, world: &mut World) {
        self.go_on(world);
        while let Some(fault) = self.plan.faults.get(self.next).copied()
            && fault.at <= world.now
        {
            self.next += 1;
            self.fire(fault, world);
        }
    }

    /// Mends everything, once; then waits for what takes time.
    pub(crate) fn heal(&mut self, world: &mut World) {
        if !self.has_healed {
            self.has_healed = true;
            world.witness.lock().event(format_args!("everything is mended"));
            for (at, task) in std::mem::take(&mut self.tasks) {
                match task {
                    Task::Stopping { .. } => self.later(at, task),
                    // It runs.
                    Task::Hunt { .. } => {}
                    Task::Succeed { old, .. } => self.later(world.now, Task::Start { member: old }),
                    task => self.later(world.now, task),
                }
            }
        }
        self.go_on(world);
    }

    /// Whether no change of the members is under way any more.
    pub(crate) fn is_settled(&self) -> bool {
        self.errands.is_empty()
    }

    fn go_on(&mut self, world: &mut World) {
        for mut errand in std::mem::take(&mut self.errands) {
            match errand.go_on(&mut self.dice, world) {
                None => self.errands.push(errand),
                Some(fulfilment) => self.settle(errand.wish, fulfilment, world),
            }
        }
        // What a task brings about may be due at once.
        let tasks = std::mem::take(&mut self.tasks);
        for (at, task) in tasks {
            self.go_on_with(at, task, world);
        }
    }

    fn go_on_with(&mut self, at: u64, task: Task, world: &mut World) {
        let is_due = at <= world.now;
        match task {
            Task::Hunt { member, down } if is_due || world.seat(member).disk.unsynced() > 0 => {
                world.witness.lock().fault("crash", format_args!("member {member} for {down} ms"));
                self.cut_power(member, down, world);
            }
            Task::Stopping { member, down } if !world.sim.is_host_running(name(member)) => {
                world.seat(member).vacate();
                let left = world.seat(member).disk.unsynced();
                // A bug that is made on purpose is to be found by what it leads to.
                if left > 0 && world.plant.is_none() {
                    let law = "an orderly stop";
                    let how = format_args!("member {member} has stopped and left {left} batches unsynced");
                    world.witness.lock().broken(law, how);
                }
                self.later(world.now + down, Task::Start { member });
            }
            Task::Stopping { member, .. } if is_due => {
                world.witness.lock().broken("an orderly stop", format_args!("member {member} does not end"));
            }
            Task::Succeed { term, old, lasts } => match world.leader() {
                Some((newer, leader)) if newer > term => self.overthrow(leader, old, lasts, world),
                _ if is_due => self.start(old, world),
                _ => self.later(at, Task::Succeed { term, old, lasts }),
            },
            task if !is_due => self.later(at, task),
            Task::Start { member } => self.start(member, world),
            Task::Repair { links } => {
                for (one, other) in links {
                    world.sim.repair(name(one), name(other));
                    self.links.remove(&(one, other));
                }
            }
            Task::RepairWay { from, to } => {
                world.sim.repair_oneway(name(from), name(to));
                self.links.remove(&link(from, to));
            }
            Task::Release { link: (one, other) } => {
                world.sim.release(name(one), name(other));
                self.links.remove(&(one, other));
            }
            Task::Hasten { link: (one, other) } => {
                let std::ops::Range { start, end } = self.plan.network;
                world.sim.set_link_latency(name(one), name(other), Duration::from_millis(start));
                world.sim.set_link_max_message_latency(name(one), name(other), Duration::from_millis(end));
                self.links.remove(&(one, other));
            }
            Task::Tighten { links } => {
                for (one, other) in links {
                    world.sim.set_link_fail_rate(name(one), name(other), 0.0);
                    world.sim.repair(name(one), name(other));
                    self.links.remove(&(one, other));
                }
            }
            Task::Speed { member } => {
                let std::ops::Range { start, end } = self.plan.disk;
                world.seat(member).disk.set_latency(micros(start)..micros(end));
                self.members.remove(&member);
            }
            Task::Mend { member } => {
                world.seat(member).disk.set_failure(None);
                self.cut_power(member, 10, world);
            }
            Task::Retire { member } => {
                world.seat(member).vacate();
                world.sim.crash(name(member));
            }
            Task::Hunt { .. } | Task::Stopping { .. } => unreachable!("each is due or waits"),
        }
    }

    /// Does what follows from the end of an errand.
    fn settle(&mut self, wish: Wish, fulfilment: Fulfilment, world: &mut World) {
        let member = match fulfilment {
            Fulfilment::Granted(member) => member,
            Fulfilment::Refused(reason) => {
                world.witness.lock().event(format_args!("{wish:?} is refused: {reason}"));
                match wish {
                    Wish::Replace { dead, .. } => self.start(dead, world),
                    Wish::Remove { number, .. } => drop(self.members.remove(&number)),
                    Wish::Add { .. } | Wish::Promote { .. } => {}
                }
                return;
            }
        };
        let kind = match wish {
            Wish::Add { number } => {
                if let Some(member) = member {
                    world.join(number, member);
                    self.errands.push(Errand::new(Wish::Promote { number }));
                }
                return;
            }
            Wish::Promote { number } => {
                if world.has(number) {
                    world.give_vote(number);
                }
                Kind::Grow
            }
            Wish::Remove { number, .. } => {
                world.leave(number);
                let lasts = self.dice.within(Kind::Shrink.lasts());
                self.later(world.now + lasts, Task::Retire { member: number });
                Kind::Shrink
            }
            Wish::Replace { dead, number } => {
                world.leave(dead);
                if let Some(member) = member {
                    world.join(number, member);
                    world.give_vote(number);
                }
                Kind::Replace
            }
        };
        world.witness.lock().fault(kind.name(), format_args!("{wish:?}"));
    }

    fn later(&mut self, at: u64, task: Task) {
        self.tasks.push((at, task));
    }

    fn start(&mut self, member: u64, world: &mut World) {
        self.members.remove(&member);
        world.witness.lock().event(format_args!("member {member} is started"));
        world.sim.bounce(name(member));
    }

    /// Takes a member down as it is; what its disk had not synced is lost from some write on.
    fn cut_power(&mut self, member: u64, down: u64, world: &mut World) {
        self.members.insert(member);
        // Mostly the others are told nothing.
        let is_silent = self.dice.percent(70);
        let others: Vec<u64> = (1..=world.known())
            .filter(|other| *other != member && !self.links.contains(&link(member, *other)))
            .collect();
        for other in others.iter().filter(|_| is_silent) {
            world.sim.partition(name(member), name(*other));
        }
        let seat = world.seat(member);
        seat.vacate();
        let disk = seat.disk.clone();
        world.sim.crash(name(member));
        for other in others.iter().filter(|_| is_silent) {
            world.sim.repair(name(member), name(*other));
        }
        let unsynced = disk.unsynced();
        let bound = u64::try_from(unsynced).expect("few batches are unsynced") + 1;
        let kept = usize::try_from(self.dice.within(0..bound)).expect("below a length");
        disk.crash(kept);
        if kept < unsynced {
            let what = format_args!("{} of {unsynced} batches on member {member}", unsynced - kept);
            world.witness.lock().fault("lost unsynced", what);
        }
        self.later(world.now + down, Task::Start { member });
    }

    fn is_up(&self, member: u64, world: &World) -> bool {
        !self.members.contains(&member) && world.seat(member).running().is_some()
    }

    /// The links of a member that nothing is done to, and marks them.
    fn take_links(&mut self, member: u64, world: &World) -> Vec<Link> {
        let all = (1..=world.known()).filter(|other| *other != member).map(|other| link(member, other));
        all.filter(|link| self.links.insert(*link)).collect()
    }

    fn cut_off(&mut self, member: u64, lasts: u64, world: &mut World) -> bool {
        let links = self.take_links(member, world);
        for (one, other) in &links {
            world.sim.partition(name(*one), name(*other));
        }
        let is_cut = !links.is_empty();
        self.later(world.now + lasts, Task::Repair { links });
        is_cut
    }

    /// A succession's second half.
    fn overthrow(&mut self, leader: u64, old: u64, lasts: u64, world: &mut World) {
        let what = format_args!("member {leader} is cut off as soon as it leads, the others forget what they can");
        world.witness.lock().fault("succession", what);
        self.cut_off(leader, lasts, world);
        for member in world.present() {
            if member == old {
                self.start(old, world);
            } else if member != leader && self.is_up(member, world) {
                self.cut_power(member, 5, world);
            }
        }
    }

    /// Begins a change of the members; told of when it is made.
    fn change(&mut self, kind: Kind, member: u64, world: &mut World) {
        let may_come = world.known() < self.plan.members + NEWCOMERS;
        let wish = match kind {
            Kind::Grow if may_come => Wish::Add { number: world.announce() },
            Kind::Shrink if self.is_up(member, world) && world.present().len() > FEWEST => {
                self.members.insert(member);
                Wish::Remove { number: member, force: self.dice.percent(30) }
            }
            Kind::Replace if self.is_up(member, world) && may_come && !self.has_buried => {
                self.has_buried = true;
                self.cut_power(member, 0, world);
                // It does not come back.
                self.tasks.pop();
                Wish::Replace { dead: member, number: world.announce() }
            }
            _ => return,
        };
        world.witness.lock().event(format_args!("wanted: {wish:?}"));
        self.errands.push(Errand::new(wish));
    }

    fn fire(&mut self, fault: Fault, world: &mut World) {
        let Fault { at: _, lasts, kind, who } = fault;
        let leader = world.leader();
        let present = world.present();
        let first = leader.map_or(present[0], |(_, number)| number);
        let others: Vec<u64> = present.iter().copied().filter(|number| *number != first).collect();
        let after = |count: u64| others[usize::try_from(count).unwrap_or_default() % others.len()];
        let member = match who {
            Who::Leader => first,
            Who::Follower(count) => after(count),
        };
        let until = world.now + lasts;
        let is_at_work = match kind {
            Kind::Crash if self.is_up(member, world) => {
                // Told of when it strikes.
                self.members.insert(member);
                return self.later(world.now + HUNT, Task::Hunt { member, down: lasts });
            }
            Kind::Succession if self.is_up(first, world) && leader.is_some() => {
                let term = leader.map_or(0, |(term, _)| term);
                self.cut_power(first, STOP, world);
                self.tasks.pop();
                return self.later(world.now + ELECTION, Task::Succeed { term, old: first, lasts });
            }
            Kind::Blackout if present.iter().all(|&member| self.is_up(member, world)) => {
                for member in present {
                    let spread = self.dice.within(0..200);
                    self.cut_power(member, lasts + spread, world);
                }
                true
            }
            Kind::Restart if self.is_up(member, world) => {
                self.members.insert(member);
                self.later(world.now + STOP, Task::Stopping { member, down: lasts });
                world.order(member, Order::Shutdown)
            }
            Kind::Isolate => self.cut_off(member, lasts, world),
            Kind::Lag => self.cut_off(after(lasts), lasts, world),
            Kind::Split | Kind::Hold | Kind::Delay => {
                let other = if member == first { after(lasts) } else { first };
                let link = link(member, other);
                let is_free = self.links.insert(link);
                if is_free {
                    let (one, other) = (name(member), name(other));
                    match kind {
                        Kind::Hold => world.sim.hold(one, other),
                        Kind::Delay => {
                            let latency = Duration::from_millis(self.dice.within(60..400));
                            world.sim.set_link_latency(one, other, latency);
                        }
                        _ => world.sim.partition(one, other),
                    }
                    let task = match kind {
                        Kind::Hold => Task::Release { link },
                        Kind::Delay => Task::Hasten { link },
                        _ => Task::Repair { links: vec![link] },
                    };
                    self.later(until, task);
                }
                is_free
            }
            Kind::Mute | Kind::Deaf => {
                let links = self.take_links(member, world);
                for (one, other) in &links {
                    let other = if *one == member { *other } else { *one };
                    let (from, to) = if kind == Kind::Mute { (member, other) } else { (other, member) };
                    world.sim.partition_oneway(name(from), name(to));
                    self.later(until, Task::RepairWay { from, to });
                }
                !links.is_empty()
            }
            Kind::Loss => {
                let mut links = self.take_links(member, world);
                if self.dice.percent(50) {
                    links.extend(self.take_links(after(lasts), world));
                }
                for (one, other) in &links {
                    world.sim.set_link_fail_rate(name(*one), name(*other), 0.02);
                }
                let is_at_work = !links.is_empty();
                self.later(until, Task::Tighten { links });
                is_at_work
            }
            Kind::SlowDisk if self.is_up(member, world) => {
                let slow = self.dice.within(50..400);
                world.seat(member).disk.set_latency(micros(slow * 500)..micros(slow * 1000));
                self.later(until, Task::Speed { member });
                true
            }
            Kind::BrokenDisk if self.is_up(member, world) => {
                self.members.insert(member);
                world.seat(member).disk.set_failure(Some(io::ErrorKind::StorageFull));
                self.later(until, Task::Mend { member });
                true
            }
            Kind::Grow | Kind::Shrink | Kind::Replace => return self.change(kind, member, world),
            Kind::Transfer if leader.is_some() => world.order(first, Order::Transfer),
            Kind::Crash
            | Kind::Succession
            | Kind::Blackout
            | Kind::Restart
            | Kind::SlowDisk
            | Kind::BrokenDisk
            | Kind::Transfer => false,
        };
        if is_at_work {
            world.witness.lock().fault(kind.name(), format_args!("{who:?}, member {member}, for {lasts} ms"));
        }
    }
}
