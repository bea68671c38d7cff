//! Many seeds, each in a process of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::plan::expected_faults;
use crate::world::{Outcome, Plant};
use crate::{Args, replay};

/// Failures after which no further seed is started; of a bug that was made on purpose, one is enough.
const ENOUGH: usize = 3;

/// Seeds after which every kind of fault must have been at work.
const COVERED_BY: u64 = 100;

impl Outcome {
    /// Of a run that came to nothing.
    pub(crate) fn empty(seed: u64) -> Self {
        Self { seed, events: 0, operations: 0, trace: 0, faults: BTreeMap::new(), failure: None }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, events, operations, trace, faults, failure } = self;
        let verdict = if failure.is_some() { "FAILED" } else { "ok" };
        write!(f, "seed {seed}: {verdict}, {events} events, {operations} operations, trace {trace:016x}, faults:")?;
        faults.iter().try_for_each(|(kind, times)| write!(f, " {kind} {times},"))
    }
}

/// What is left to do and what was done.
struct Work {
    next: u64,
    until: u64,
    outcomes: Vec<Outcome>,
    failures: Vec<String>,
}

/// Runs the seeds, and says what came of them.
pub(crate) fn run(seeds: u64, args: &Args) -> Result<ExitCode> {
    let program = std::env::current_exe().context("this program does not find itself")?;
    let began = Instant::now();
    let enough = if args.plant.is_some() { 1 } else { ENOUGH };
    let work = Mutex::new(Work {
        next: args.first,
        until: args.first.saturating_add(seeds),
        outcomes: Vec::new(),
        failures: Vec::new(),
    });
    let lock = || work.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = {
                        let mut work = lock();
                        // The least number is run whatever it takes.
                        let is_late = args.budget.is_some_and(|budget| began.elapsed() > budget)
                            && work.next >= args.first + args.at_least;
                        if is_late || work.next >= work.until || work.failures.len() >= enough {
                            return;
                        }
                        work.next += 1;
                        work.next - 1
                    };
                    match child(&program, seed, args.plant) {
                        Ok(outcome) => lock().outcomes.push(outcome),
                        Err(reason) => lock().failures.push(format!("{reason:#}")),
                    }
                }
            });
        }
    });
    let took = began.elapsed();
    let Work { outcomes, failures, .. } = work.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut problems = failures;
    let ran = u64::try_from(outcomes.len()).unwrap_or(u64::MAX);
    if problems.is_empty() {
        again(&program, &outcomes, args)?;
    }
    report(&outcomes, took)?;
    if problems.is_empty() && ran >= COVERED_BY {
        problems.extend(missing(&outcomes));
    }
    let mut out = std::io::stdout();
    for problem in &problems {
        writeln!(out, "{problem}")?;
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Kinds of faults that were never at work.
fn missing(outcomes: &[Outcome]) -> Option<String> {
    let never: Vec<_> =
        expected_faults().filter(|kind| outcomes.iter().all(|outcome| !outcome.faults.contains_key(*kind))).collect();
    (!never.is_empty()).then(|| format!("these were never at work, so nothing is shown of them: {}", never.join(", ")))
}

fn child(program: &Path, seed: u64, plant: Option<Plant>) -> Result<Outcome> {
    let mut command = Command::new(program);
    // Where a panic was is told in any case; what led to it is for the replay.
    command.args(["--json", "--seed", &seed.to_string()]).env("RUST_BACKTRACE", "0");
    if let Some(plant) = plant.and_then(|plant| plant.to_possible_value()) {
        command.args(["--plant", plant.get_name()]);
    }
    let output = command.output().with_context(|| format!("seed {seed} cannot be started"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome = text.lines().last().and_then(|line| serde_json::from_str::<Outcome>(line).ok());
    let reason = match outcome {
        Some(outcome) if output.status.success() => return Ok(outcome),
        Some(Outcome { failure: Some(failure), .. }) => failure,
        Some(_) | None => format!("it ended with {}", output.status),
    };
    let complaints = String::from_utf8_lossy(&output.stderr);
    anyhow::bail!("seed {seed} FAILED: {reason}\n{complaints}replay: {}", replay(seed, plant))
}

/// Runs the first seeds once more, and tells how many went the same way.
fn again(program: &Path, outcomes: &[Outcome], args: &Args) -> Result<()> {
    let mut sample: Vec<_> = outcomes.iter().collect();
    sample.sort_unstable_by_key(|outcome| outcome.seed);
    sample.truncate(usize::try_from(args.twice).unwrap_or(usize::MAX));
    let mut equal = 0;
    for first in &sample {
        let second = child(program, first.seed, args.plant)?;
        equal += usize::from(second == **first);
    }
    if !sample.is_empty() {
        let all = sample.len();
        let share = equal * 100 / all;
        writeln!(std::io::stdout(), "run twice: {all} seeds, {equal} with equal traces ({share} %)")?;
    }
    Ok(())
}

fn report(outcomes: &[Outcome], took: Duration) -> Result<()> {
    let mut totals: BTreeMap<&str, u64> = expected_faults().map(|kind| (kind, 0)).collect();
    for (kind, times) in outcomes.iter().flat_map(|outcome| &outcome.faults) {
        *totals.entry(kind).or_default() += times;
    }
    let events: u64 = outcomes.iter().map(|outcome| outcome.events).sum();
    let operations: usize = outcomes.iter().map(|outcome| outcome.operations).sum();
    let mut out = std::io::stdout();
    let seconds = took.as_secs_f64();
    writeln!(out, "{} seeds passed in {seconds:.0} s: {events} events, {operations} operations", outcomes.len())?;
    let totals: Vec<_> = totals.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
    writeln!(out, "faults at work: {}", totals.join(", "))?;
    Ok(())
}
