//! Many histories, on as many threads as there are processors for.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::history::{self, Outcome};
use crate::plant::Plant;
use crate::tally::{Group, Tally};

/// Failures after which no further history is begun; of a bug that was made on purpose, one is enough.
const ENOUGH: usize = 3;
/// Histories after which everything that is expected must have occurred.
pub const COVERED_BY: u64 = 5000;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub histories: u64,
    /// Threads.
    pub jobs: usize,
    /// A bug made on purpose.
    pub plant: Option<Plant>,
}

/// What came of them.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Histories that were run.
    pub histories: u64,
    /// Everything that happened in them.
    pub events: u64,
    /// How long all of them took, in milliseconds of virtual time.
    pub virtual_millis: u64,
    /// The longest time from the end of the faults until all was as wanted, in milliseconds of virtual time.
    pub slowest: u64,
    /// What occurred how often.
    pub tally: Tally,
    /// The histories that failed.
    pub failures: Vec<Outcome>,
    /// How long it took.
    pub took: Duration,
}

impl Summary {
    fn add(&mut self, outcome: Outcome) {
        self.histories += 1;
        self.events += outcome.events;
        self.virtual_millis += outcome.lasted;
        self.slowest = self.slowest.max(outcome.converged_after.unwrap_or(0));
        self.tally.add(&outcome.tally);
        if outcome.failure.is_some() {
            self.failures.push(outcome);
        }
    }

    /// What speaks against the run: failures, and what should have occurred and never did.
    pub fn problems(&self, plant: Option<Plant>) -> Vec<String> {
        let mut problems: Vec<_> = self
            .failures
            .iter()
            .map(|outcome| {
                let failure = outcome.failure.as_deref().unwrap_or("it failed");
                format!("seed {} FAILED: {failure}\nreplay: {}", outcome.seed, replay(outcome.seed, plant))
            })
            .collect();
        let missing = self.tally.missing();
        if problems.is_empty() && plant.is_none() && self.histories >= COVERED_BY && !missing.is_empty() {
            problems.push(format!("these never occurred, so nothing is shown of them: {}", missing.join(", ")));
        }
        problems
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { histories, events, virtual_millis, slowest, tally, failures, took } = self;
        let hours = virtual_millis / 3_600_000;
        writeln!(
            f,
            "{histories} histories in {:.1} s, {} failed: {events} events in {hours} virtual hours, {} faults, \
             converged within {} s",
            took.as_secs_f64(),
            failures.len(),
            tally.sum(Group::Fault),
            slowest.div_ceil(1000)
        )?;
        tally.fmt(f)
    }
}

/// The command that shows a seed's run.
pub fn replay(seed: u64, plant: Option<Plant>) -> String {
    use clap::ValueEnum;
    let plant = plant.and_then(|plant| plant.to_possible_value()).map(|plant| format!(" --plant {}", plant.get_name()));
    format!("./x sim replay --seed {seed}{} -v", plant.unwrap_or_default())
}

/// Runs one history; a panic in it is a failure of it.
pub fn one(seed: u64, plant: Option<Plant>, is_verbose: bool) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| history::run(seed, plant, is_verbose))).unwrap_or_else(|_| Outcome {
        seed,
        events: 0,
        lasted: 0,
        converged_after: None,
        trace: 0,
        tally: Tally::default(),
        failure: Some("something panicked; see above".to_owned()),
    })
}

/// Runs the histories.
pub fn run(order: Order) -> Summary {
    let began = Instant::now();
    let enough = if order.plant.is_some() { 1 } else { ENOUGH };
    let work = Mutex::new((order.first, Summary::default()));
    let until = order.first.saturating_add(order.histories);
    std::thread::scope(|scope| {
        for _ in 0..order.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = {
                        let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                        let (next, summary) = &mut *work;
                        if *next >= until || summary.failures.len() >= enough {
                            return;
                        }
                        *next += 1;
                        *next - 1
                    };
                    let outcome = one(seed, order.plant, false);
                    work.lock().unwrap_or_else(PoisonError::into_inner).1.add(outcome);
                }
            });
        }
    });
    let (_, mut summary) = work.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.failures.sort_by_key(|outcome| outcome.seed);
    summary.took = began.elapsed();
    summary
}
