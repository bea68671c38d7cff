//! The rounds: write, take something away, look.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::disk::Disk;
use crate::writer::{Program, Writer};
use crate::{Said, Subject};

/// Words after which a round ends at the latest.
const WORDS: u64 = 3000;

/// A round's longest time after its writer was ready: below the five seconds after which ext4 brings everything to its disk by
/// itself, so that only what was asked for is there.
const TIME: Duration = Duration::from_millis(1500);

/// What rounds came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Rounds that were verified.
    pub rounds: u32,
    /// Words that were found again.
    pub words: u64,
    /// What was not: the round, and what was missing.
    pub losses: Vec<(u32, String)>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, words, losses, took } = self;
        write!(
            formatter,
            "{rounds} rounds, {words} acknowledged writes, {} losses, {:.1} s",
            losses.len(),
            took.as_secs_f64()
        )?;
        for (round, what) in losses {
            write!(formatter, "\n  round {round}: {what}")?;
        }
        Ok(())
    }
}

/// Cuts the power `rounds` times. Each round goes on with the disk that the last one left. Ends at the first loss.
///
/// `program` is the `durability` binary; `preload`, if given, is a library that is loaded into the writer to fool it.
///
/// # Errors
/// If the harness itself fails: root, loop devices and `mke2fs` are needed.
pub fn power_cuts(
    subject: Subject,
    rounds: u32,
    seed: u64,
    program: &Path,
    preload: Option<PathBuf>,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let program = Program { path: program.to_owned(), preload };
    let folder = tempfile::Builder::new().prefix("berth-power-").tempdir().context("cannot make a folder")?;
    let mut dice = Dice(seed);
    let mut report = Report::default();
    let mut said = Said::default();
    let mut disk = Disk::fresh(folder.path(), "disk-0")?;
    for round in 1..=rounds {
        said.is_ready = false;
        let mut writer = Writer::start(&program, subject, &disk.path().join("store"))?;
        writer.listen(&mut said, 1 + dice.below(WORDS), TIME)?;
        writer.stop(&mut said)?;
        let after = disk.after_a_power_cut(folder.path(), &format!("disk-{round}"))?;
        // What it still says while it dies came after the cut, and was not heard.
        writer.kill(&mut Said::default())?;
        disk = after;
        report.rounds = round;
        if let Err(loss) = subject.verify(&disk.path().join("store"), &said) {
            report.losses.push((round, format!("{loss:#}")));
            break;
        }
    }
    report.words = said.count;
    report.took = begun.elapsed();
    Ok(report)
}

/// Kills the writer `rounds` times with SIGKILL. Ends at the first loss.
///
/// # Errors
/// If the harness itself fails.
pub fn kills(subject: Subject, rounds: u32, seed: u64, program: &Path) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let program = Program { path: program.to_owned(), preload: None };
    let folder = tempfile::Builder::new().prefix("berth-kill-").tempdir().context("cannot make a folder")?;
    let store = folder.path().join("store");
    let mut dice = Dice(seed);
    let mut report = Report::default();
    let mut said = Said::default();
    for round in 1..=rounds {
        said.is_ready = false;
        let mut writer = Writer::start(&program, subject, &store)?;
        // Many rounds matter more than long ones; some end while the store is being opened.
        let words = dice.below(WORDS / 10);
        if words > 10 {
            writer.listen(&mut said, words, TIME)?;
        } else {
            writer.listen_briefly(&mut said, Duration::from_millis(words * 4))?;
        }
        writer.kill(&mut said)?;
        report.rounds = round;
        if let Err(loss) = subject.verify(&store, &said) {
            report.losses.push((round, format!("{loss:#}")));
            break;
        }
    }
    report.words = said.count;
    report.took = begun.elapsed();
    Ok(report)
}

/// Small dice that fall the same way for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
