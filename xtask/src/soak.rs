//! `./x soak`: the long runs, in phases that can be taken up again where they were left.
//!
//! A soak takes an hour and more, so what passed is written down after each phase, for the commit that it passed on;
//! `--resume` goes on behind it. A phase that failed prints what runs it alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::checkout;
use crate::lab;
use crate::steps::Steps;

/// What to soak, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The part
    part: Part,
    /// How long the phases that go by time take, in minutes
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// The first of the seeds
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many simulated histories, of the part `sim`
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    histories: u64,
    /// Goes on behind the last phase that passed on this commit
    #[arg(long)]
    resume: bool,
}

/// What can be soaked.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// The replicated log: power cuts, kills, damaged bytes, simulated and real faults
    Raft,
    /// The simulated world: as many histories as asked for, in phases
    Sim,
}

/// Histories in one phase: some minutes.
const HISTORIES_AT_ONCE: u64 = 10_000;

/// One long run: its name, and the words that start it.
struct Phase {
    name: String,
    program: Program,
    words: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

enum Program {
    /// Lies in the target folder.
    Ours(&'static str),
    /// The same, as it is shipped.
    Release(&'static str),
    /// Cargo itself, for what only exists as a test.
    Cargo,
}

impl Phase {
    fn new(name: impl Into<String>, program: Program, words: &str) -> Self {
        let words = words.split_whitespace().map(str::to_owned).collect();
        Self { name: name.into(), program, words, environment: Vec::new() }
    }

    fn with(mut self, key: &'static str, value: u64) -> Self {
        self.environment.push((key, value.to_string()));
        self
    }

    fn command(&self) -> Command {
        let mut command = match self.program {
            Program::Ours(name) => checkout::command(&lab::binaries().join(name).to_string_lossy()),
            Program::Release(name) => checkout::command(&lab::target().join("release").join(name).to_string_lossy()),
            Program::Cargo => checkout::cargo(),
        };
        command.args(&self.words).envs(self.environment.iter().map(|(key, value)| (*key, value)));
        command
    }

    /// What a person types to run it alone.
    fn alone(&self) -> String {
        let environment = self.environment.iter().map(|(key, value)| format!("{key}={value} "));
        format!("alone: {}{}", environment.collect::<String>(), checkout::describe(&self.command()))
    }
}

fn phases(part: Part, minutes: u32, seed: u64, histories: u64) -> Vec<Phase> {
    match part {
        Part::Sim => {
            let firsts = (0..histories).step_by(usize::try_from(HISTORIES_AT_ONCE).expect("it fits into 32 bits"));
            firsts
                .map(|done| {
                    let (first, count) = (seed + done, HISTORIES_AT_ONCE.min(histories - done));
                    Phase::new(
                        format!("{count} histories from seed {first}"),
                        Program::Release("berth-sim"),
                        &format!("histories --first {first} --histories {count}"),
                    )
                })
                .collect()
        }
        Part::Raft => vec![
            Phase::new(
                "100 power cuts, log",
                Program::Ours("durability"),
                &format!("power-cut log --rounds 100 --seed {seed}"),
            ),
            Phase::new(
                "100 power cuts, ledger",
                Program::Ours("durability"),
                &format!("power-cut ledger --rounds 100 --seed {seed}"),
            ),
            Phase::new("200 kills, log", Program::Ours("durability"), &format!("kill log --rounds 200 --seed {seed}")),
            Phase::new(
                "200 kills, ledger",
                Program::Ours("durability"),
                &format!("kill ledger --rounds 200 --seed {seed}"),
            ),
            Phase::new(
                "10,000 damaged stores",
                Program::Cargo,
                "nextest run --profile soak --workspace --no-capture -E test(=store::tests::corruption::a_thousand_corruptions_are_without_effect_or_refused)",
            )
            .with("BERTH_CORRUPTIONS", 10_000)
            .with("BERTH_CORRUPTIONS_FROM", seed),
            Phase::new(
                "1,000 simulated clusters",
                Program::Ours("raftsim"),
                &format!("--seeds 1000 --first {seed} --jobs 2 --twice 20"),
            ),
            Phase::new(
                "faults on a real cluster",
                Program::Ours("faults"),
                &format!("--minutes {minutes} --seed {seed}"),
            ),
        ],
    }
}

/// What passed, on which commit.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Passed {
    commit: String,
    /// Seconds of each phase that passed.
    phases: BTreeMap<String, u64>,
}

impl Passed {
    fn load(file: &Path, commit: &str) -> Self {
        let read = fs::read_to_string(file).ok().and_then(|text| serde_json::from_str::<Self>(&text).ok());
        let fresh = || Self { commit: commit.to_owned(), phases: BTreeMap::new() };
        read.filter(|passed| passed.commit == commit).unwrap_or_else(fresh)
    }

    fn save(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("what passed cannot be written down")?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// Runs the phases one after the other; a failed one does not keep the others from running.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder: PathBuf = checkout::root().join("target/soak");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let part = args.part.to_possible_value().expect("every part has a name").get_name().to_owned();
    let file = folder.join(format!("{part}.json"));
    let commit = checkout::output(checkout::command("git").args(["rev-parse", "HEAD"]))?.trim().to_owned();
    let mut passed = if args.resume { Passed::load(&file, &commit) } else { Passed { commit, ..Passed::default() } };

    let mut steps = Steps::default();
    let is_built = steps.run("build", "mend the errors above", || {
        checkout::run(checkout::cargo().args(match args.part {
            Part::Raft => ["build", "--workspace", "--all-targets"],
            Part::Sim => ["build", "--release", "--package=berth-sim"],
        }))
    });
    for phase in phases(args.part, args.minutes, args.seed, args.histories).iter().filter(|_| is_built) {
        if let Some(seconds) = passed.phases.get(&phase.name) {
            eprintln!("==> {}: passed before, in {seconds} s", phase.name);
            continue;
        }
        let begun = std::time::Instant::now();
        if steps.run(&phase.name, &phase.alone(), || checkout::run(&mut phase.command())) {
            passed.phases.insert(phase.name.clone(), begun.elapsed().as_secs());
            passed.save(&file)?;
        }
    }
    steps.finish(&format!("soak {part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_counts_for_its_commit_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("raft.json");
        let passed = Passed { commit: "abc".to_owned(), phases: BTreeMap::from([("kills".to_owned(), 7)]) };
        passed.save(&file).unwrap();
        assert_eq!(Passed::load(&file, "abc").phases, passed.phases);
        assert!(Passed::load(&file, "def").phases.is_empty());
    }

    #[test]
    fn simulated_histories_are_told_apart_by_their_seeds_and_none_is_run_twice() {
        let phases = phases(Part::Sim, 30, 5, 2 * HISTORIES_AT_ONCE + 7);
        let names: Vec<_> = phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(
            names,
            ["10000 histories from seed 5", "10000 histories from seed 10005", "7 histories from seed 20005"]
        );
        assert!(
            phases[2].alone().ends_with("berth-sim histories --first 20005 --histories 7"),
            "{}",
            phases[2].alone()
        );
    }

    #[test]
    fn a_phase_says_how_it_is_run_alone() {
        let phase = Phase::new("damage", Program::Cargo, "nextest run").with("BERTH_CORRUPTIONS_FROM", 7);
        assert!(phase.alone().starts_with("alone: BERTH_CORRUPTIONS_FROM=7 "), "{}", phase.alone());
        assert!(phase.alone().ends_with(" nextest run"), "{}", phase.alone());
    }
}
