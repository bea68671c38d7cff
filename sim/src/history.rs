//! One history from its first moment to its verdict.

use berth_state::audit::audit;

use crate::plan::Plan;
use crate::plant::Plant;
use crate::tally::Tally;
use crate::world::{Clients, Event, Settings, World, shapes};

/// What came of a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Which.
    pub seed: u64,
    /// Everything that happened in it.
    pub events: u64,
    /// How long it took, in milliseconds of virtual time.
    pub lasted: u64,
    /// From the end of the last fault until all was as it should be, in milliseconds of virtual time.
    pub converged_after: Option<u64>,
    /// A digest of all events.
    pub trace: u64,
    /// What occurred how often.
    pub tally: Tally,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// Events between two audits of the whole state.
const AUDIT_EVERY: u64 = 500;
/// How long all may take to become as it should be once nothing goes wrong any more: the longest pause after crashes, twice,
/// and some.
const CONVERGE_WITHIN: u64 = 900_000;
/// How long nothing may change then.
const QUIET_FOR: u64 = 120_000;
/// How often it may look settled and turn out not to be: a guest that was seen running long enough is told so once.
const MOST_RELAPSES: u32 = 4;
/// How often somebody looks, in milliseconds.
const LOOK_EVERY: u64 = 1000;

/// Runs the history that a seed means, with a bug made on purpose if one is given.
pub fn run(seed: u64, plant: Option<Plant>, is_verbose: bool) -> Outcome {
    let mut plan = Plan::new(seed);
    let machines = (0..plan.hosts).map(|_| shapes::small_machine(&mut plan.dice)).collect();
    let settings = Settings {
        machines,
        network: plan.network.clone(),
        commit: plan.commit.clone(),
        disk: plan.disk.clone(),
        plant,
        is_verbose,
        is_thorough: true,
    };
    let clients = Clients::new(plan.dice.fork(), plan.vms);
    let mut world = World::new(settings, plan.dice.fork(), clients, plan.faults.clone());
    for at in &plan.operations {
        world.at(*at, Event::Operation);
    }
    world.at(LOOK_EVERY, Event::Look);
    let mut verdict = Verdict { heal: plan.heal, settled: None, relapses: 0, converged_after: None };
    let mut steps = 0_u64;
    loop {
        let is_look = world.next_is_look();
        if !world.advance() {
            break;
        }
        steps += 1;
        if steps.is_multiple_of(AUDIT_EVERY) {
            check(&mut world);
        }
        if world.witness.broken.is_some() || is_look && verdict.is_reached(&mut world) {
            break;
        }
    }
    check(&mut world);
    Outcome {
        seed,
        events: world.witness.events,
        lasted: world.now,
        converged_after: verdict.converged_after,
        trace: world.witness.trace(),
        failure: world.witness.broken.take(),
        tally: std::mem::take(&mut world.witness.tally),
    }
}

fn check(world: &mut World) {
    let broken = audit(world.front());
    if !broken.is_empty() {
        world.witness.broken("the audit finds nothing", format_args!("{}", broken.join("; ")));
    }
}

struct Verdict {
    heal: u64,
    settled: Option<(u64, crate::world::Stillness)>,
    relapses: u32,
    converged_after: Option<u64>,
}

impl Verdict {
    /// Looks once; whether the history is over.
    fn is_reached(&mut self, world: &mut World) -> bool {
        world.after(LOOK_EVERY, Event::Look);
        let now = world.now;
        if now <= self.heal {
            if (now / LOOK_EVERY).is_multiple_of(4) {
                world.back_up();
            }
            return false;
        }
        world.is_healed = true;
        if (now / LOOK_EVERY).is_multiple_of(3) {
            world.tidy_up();
        }
        let still = world.stillness();
        match (self.settled, world.unsettled()) {
            (Some((since, before)), None) if before == still => return now - since >= QUIET_FOR,
            (Some(_), unsettled) => {
                self.relapses += 1;
                self.settled = unsettled.is_none().then_some((now, still));
                if self.relapses > MOST_RELAPSES {
                    world.witness.broken("nothing flaps", format_args!("it changed again and again"));
                }
            }
            (None, None) => {
                self.converged_after.get_or_insert(now - self.heal);
                self.settled = Some((now, still));
            }
            (None, Some(why)) => {
                if now > self.heal + CONVERGE_WITHIN {
                    world.witness.broken("all comes to be as wanted", format_args!("{why}"));
                }
            }
        }
        false
    }
}
