//! One simulated cluster from its first moment to its verdict.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use berth_raft::testing::{Flaw, simulate};
use berth_raft::{Member, Role, SnapshotPolicy};
use clap::ValueEnum;
use turmoil::Sim;

use crate::client::{Client, History};
use crate::machine::Reply;
use crate::member::{self, Furnishing, Order, Seat};
use crate::nemesis::Nemesis;
use crate::plan::Plan;
use crate::roster::Roster;
use crate::witness::Shared;

/// Simulated time between two looks at the network and the members. Coarse, because each costs the same whatever happens.
const TICK: Duration = Duration::from_millis(5);

/// Ticks between two comparisons of all logs.
const COMPARE: u64 = 200;

/// A leader that has been one for so long, in milliseconds, has everything on its disk that it had when it was elected.
const SETTLED: u64 = 3000;

/// How long a healed cluster may take until it answers through every member, in milliseconds.
const RECOVERY: u64 = 30_000;

/// A bug made on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// The log is acknowledged before it is on the disk.
    LateBarrier,
    /// A vote is given before it is on the disk.
    ForgottenVote,
    /// Reads are answered without asking whether there is a newer leader.
    StaleReads,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) events: u64,
    pub(crate) operations: usize,
    /// A digest of all events.
    pub(crate) trace: u64,
    pub(crate) faults: BTreeMap<String, u64>,
    /// Why the run failed, if it did.
    pub(crate) failure: Option<String>,
}

/// The cluster while it runs.
pub(crate) struct World {
    pub(crate) sim: Sim<'static>,
    /// In the order of their numbers.
    seats: Vec<Arc<Seat>>,
    furnishing: Furnishing,
    roster: Rc<Roster>,
    pub(crate) witness: Shared,
    pub(crate) now: u64,
    /// The bug that is made on purpose.
    pub(crate) plant: Option<Plant>,
    /// Who leads, by number, in which term and since when.
    leading: BTreeMap<u64, (u64, u64)>,
}

/// Runs the cluster that a seed means.
pub(crate) fn run(seed: u64, plant: Option<Plant>, is_verbose: bool) -> Result<Outcome> {
    simulate(seed);
    let mut plan = Plan::new(seed);
    let witness = Shared::new(is_verbose);
    witness.lock().event(format_args!("{plan:?}"));
    let in_memory = Path::new("/dev/shm");
    let root = if in_memory.is_dir() { tempfile::tempdir_in(in_memory) } else { tempfile::tempdir() };
    let root = root.context("no folder for the snapshots of a simulation")?;
    let mut world = World::build(seed, &plan, plant, &witness, root.path());

    let history = Rc::new(History::default());
    let is_over = Rc::new(Cell::new(false));
    world.host_clients(&mut plan, &history, &is_over);

    let (heal, end) = (plan.heal, plan.end);
    let mut nemesis = Nemesis::new(plan);
    let mut has_ended = false;
    while !has_ended && !world.is_broken() {
        has_ended = world.step()?;
        if world.now < heal {
            nemesis.act(&mut world);
        } else {
            nemesis.heal(&mut world);
        }
        is_over.set(world.now >= end && nemesis.is_settled());
        if world.now > end + RECOVERY {
            world
                .witness
                .lock()
                .broken("liveness", format_args!("a healed cluster does not answer through every member"));
        }
    }
    world.converge()?;

    let mut witness = witness.lock();
    let failure = witness.broken.take().or_else(|| history.check());
    Ok(Outcome {
        seed,
        events: witness.events,
        operations: history.len(),
        trace: witness.trace(),
        faults: witness.faults.iter().map(|(&kind, &times)| (kind.to_owned(), times)).collect(),
        failure,
    })
}

impl World {
    fn build(seed: u64, plan: &Plan, plant: Option<Plant>, witness: &Shared, root: &Path) -> Self {
        let sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(plan.network.start))
            .max_message_latency(Duration::from_millis(plan.network.end))
            .simulation_duration(Duration::from_secs(3600))
            .tcp_capacity(4096)
            .enable_random_order()
            .build();
        let furnishing = Furnishing {
            members: member::members(plan.members),
            snapshots: SnapshotPolicy {
                entries_between: plan.entries_between,
                entries_kept: plan.entries_kept,
                ..SnapshotPolicy::default()
            },
            latency: micros(plan.disk.start)..micros(plan.disk.end),
            flaw: match plant {
                Some(Plant::LateBarrier) => Flaw::LateBarrier,
                Some(Plant::ForgottenVote) => Flaw::ForgottenVote,
                Some(Plant::StaleReads) | None => Flaw::None,
            },
            skips_barrier: plant == Some(Plant::StaleReads),
            witness: witness.clone(),
            root: root.to_owned(),
        };
        let roster = Rc::new(Roster::new(plan.members));
        let (leading, witness) = (BTreeMap::new(), witness.clone());
        let mut world = Self { sim, seats: Vec::new(), furnishing, roster, witness, now: 0, plant, leading };
        for number in 1..=plan.members {
            world.furnish(number);
        }
        world
    }

    /// Sets up a machine that runs whoever takes the seat.
    fn furnish(&mut self, number: u64) {
        let seat = Seat::new(number, &self.furnishing);
        self.seats.push(Arc::clone(&seat));
        self.sim.host(member::name(number), move || member::run(Arc::clone(&seat)));
    }

    /// Sets up a machine for a member that is still to be added.
    pub(crate) fn announce(&mut self) -> u64 {
        let number = self.roster.announce();
        self.furnish(number);
        number
    }

    /// A member has been added, and is started.
    pub(crate) fn join(&mut self, number: u64, member: Member) {
        self.witness.lock().event(format_args!("member {} takes seat {number}", member.id));
        if self.seat(number).take(member) {
            self.roster.join(number);
            self.sim.bounce(member::name(number));
        }
    }

    /// A member has its vote, or will get it by itself.
    pub(crate) fn give_vote(&self, number: u64) {
        self.roster.give_vote(number);
    }

    /// A member has been removed; it may go on for a while.
    pub(crate) fn leave(&mut self, number: u64) {
        self.witness.lock().event(format_args!("seat {number} is vacant"));
        self.roster.leave(number);
    }

    /// The members' numbers.
    pub(crate) fn present(&self) -> Vec<u64> {
        self.roster.present()
    }

    /// The highest number so far.
    pub(crate) fn known(&self) -> u64 {
        self.roster.known()
    }

    /// Whether it is a member at the moment.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.roster.has(number)
    }

    fn host_clients(&mut self, plan: &mut Plan, history: &Rc<History>, is_over: &Rc<Cell<bool>>) {
        let clients: Vec<_> =
            (1..=plan.clients).map(|id| Client::new(id, plan, history, &self.roster, &self.witness)).collect();
        let mut last = Client::new(0, plan, history, &self.roster, &self.witness);
        let roster = Rc::clone(&self.roster);
        let is_over = Rc::clone(is_over);
        self.sim.client("clients", async move {
            futures::future::join_all(clients.into_iter().map(|client| client.run(Rc::clone(&is_over)))).await;
            for member in roster.present() {
                // Until it succeeds: how long that may take is for whoever runs the simulation to say.
                while !matches!(last.ask(member, last.sign_of_life()).await, Some(Reply::Changed { .. })) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Ok(())
        });
    }

    /// Lets a tick pass and looks at everyone; tells whether the clients have ended.
    fn step(&mut self) -> Result<bool> {
        let has_ended = self.sim.step().map_err(|error| anyhow::anyhow!("the simulation itself failed: {error}"))?;
        self.now = millis(self.sim.elapsed());
        let mut witness = self.witness.lock();
        witness.now = self.now;
        for seat in &self.seats {
            let (number, Some(id)) = (seat.number, seat.id()) else { continue };
            if let Some(ballot) = seat.disk.ballot()? {
                witness.ballot(id, ballot);
            }
            let leads = seat.running().and_then(|running| {
                let leadership = running.handle.leadership();
                let leadership = leadership.borrow();
                leadership.is_leader.then_some(leadership.term)
            });
            match leads {
                Some(term) => {
                    witness.leads(id, term, "itself");
                    if self.leading.get(&number).is_none_or(|(known, _)| *known != term) {
                        self.leading.insert(number, (term, self.now));
                    }
                }
                None => drop(self.leading.remove(&number)),
            }
        }
        drop(witness);
        if (self.now / millis(TICK)).is_multiple_of(COMPARE) {
            self.compare()?;
        }
        Ok(has_ended)
    }

    /// Compares what is on all disks.
    fn compare(&mut self) -> Result<()> {
        let mut logs = Vec::new();
        for seat in &self.seats {
            if let Some(id) = seat.id() {
                logs.push((id, seat.disk.entries(0)?));
            }
        }
        let mut witness = self.witness.lock();
        witness.compare_logs(&logs);
        for (number, (term, since)) in &self.leading {
            let id = self.seat(*number).id();
            if let Some((id, log)) = logs.iter().find(|(holder, _)| Some(*holder) == id)
                && since + SETTLED < self.now
            {
                witness.check_leader(*id, *term, *since, log);
            }
        }
        Ok(())
    }

    /// Waits until all members have applied the same, and looks whether it is what it must be.
    fn converge(&mut self) -> Result<()> {
        let deadline = self.now + RECOVERY;
        while !self.is_broken() {
            let states: Vec<_> = self
                .present()
                .into_iter()
                .filter_map(|number| Some(self.seat(number).running()?.machine.state()))
                .map(|state| (state.index, state.digest))
                .collect();
            let different: BTreeSet<_> = states.iter().copied().collect();
            if let Some((index, digest)) = different.first().copied()
                && states.len() == self.present().len()
                && different.len() == 1
                && self.members_agree()
            {
                self.compare()?;
                let mut witness = self.witness.lock();
                if witness.digest_at(index) != Some(digest) {
                    witness.broken(
                        "state machine safety",
                        format_args!("the states at the end, at {index}, are not what was applied"),
                    );
                }
                witness.check_end(index);
                return Ok(());
            }
            if self.now > deadline {
                let law = "liveness";
                self.witness
                    .lock()
                    .broken(law, format_args!("a healed cluster's states or members do not meet: {states:x?}"));
            }
            self.step()?;
        }
        Ok(())
    }

    /// Whether every member knows the members as those that were added and not removed, the voters as those that were given
    /// a vote, and no change is half done: what was refused has not been made.
    fn members_agree(&self) -> bool {
        let present = self.present();
        let place = |number: &u64| Some((self.seat(*number).id()?, self.roster.votes(*number)));
        let expected: BTreeMap<_, _> = present.iter().filter_map(place).collect();
        present.iter().filter_map(|number| self.seat(*number).running()).all(|running| {
            let members = running.handle.status().members;
            let known: BTreeMap<_, _> = members.iter().map(|one| (one.member.id, one.role == Role::Voter)).collect();
            known == expected && members.iter().all(|one| one.replaces.is_none())
        })
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.witness.lock().broken.is_some()
    }

    /// The member that leads in the newest term, as far as any member says so.
    pub(crate) fn leader(&self) -> Option<(u64, u64)> {
        let leading = self.leading.iter().filter(|(number, _)| self.has(**number));
        leading.map(|(number, (term, _))| (*term, *number)).max()
    }

    pub(crate) fn seat(&self, number: u64) -> &Arc<Seat> {
        self.seats.iter().find(|seat| seat.number == number).expect("only members are asked for")
    }

    pub(crate) fn order(&self, number: u64, order: Order) -> bool {
        self.seat(number).running().is_some_and(|running| running.orders.send(order).is_ok())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}
