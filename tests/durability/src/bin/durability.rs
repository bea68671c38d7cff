//! `durability`: takes the power or the process away from something that writes, and looks for what it had said was safe.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;

use anyhow::{Context, ensure};
use berth_durability::{Subject, kills, power_cuts};
use clap::{Parser, Subcommand};

/// Takes the power or the process away from something that writes, and looks for what it had said was safe.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write without end; the other commands start this and end it
    Write {
        /// What.
        subject: Subject,
        /// Where.
        folder: PathBuf,
    },
    /// Cut the power again and again
    PowerCut(Many),
    /// Kill the writer again and again
    Kill(Many),
}

#[derive(clap::Args)]
struct Many {
    /// What is written
    subject: Subject,
    /// How often
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// When; the same seed picks the same moments, as far as moments can be picked
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let report = match Arguments::parse().command {
        Command::Write { subject, folder } => return subject.write(&folder),
        Command::PowerCut(Many { subject, rounds, seed }) => power_cuts(subject, rounds, seed, &program, None)?,
        Command::Kill(Many { subject, rounds, seed }) => kills(subject, rounds, seed, &program)?,
    };
    println!("{report}");
    ensure!(report.losses.is_empty(), "acknowledged writes were lost");
    Ok(())
}
