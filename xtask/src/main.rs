//! The project's own chores, started by `./x`: checks, tests, guest images.
//!
//! One file a sub-command. `main.rs` only names them, so that adding one is a line here and a file beside it.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for people: its results go to standard output, its talk to standard error"
)]

mod bench;
mod checkout;
mod demo;
mod fix;
mod image;
mod lab;
mod portability;
mod sim;
mod soak;
mod steps;
mod test;
mod tidy;
mod tools;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything one does with a checkout of Berth. Sets up what is missing first.
#[derive(Debug, Parser)]
#[command(name = "x", version, bin_name = "./x", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Installs what is missing on this machine and does nothing else
    Setup,
    /// Checks formatting, lints, documentation, arrows, dependencies and spelling; never writes
    Verify(verify::Args),
    /// Formats and applies the lints' own suggestions
    Fix,
    /// Builds what the tests need and runs all of them
    Test(test::Args),
    /// Checks the rules of ARCHITECTURE.md that the compiler does not know
    Tidy,
    /// Builds a guest image from Debian packages, or finds the one built before
    Image(image::Args),
    /// Boots a real VM on a real cluster on this machine, shows the proof, and kills things to show what holds
    Demo,
    /// Measures Berth against its yardsticks; builds the release profile first
    #[command(subcommand)]
    Bench(bench::Args),
    /// A cluster on this machine that stays until it is taken down
    #[command(subcommand)]
    Lab(lab::Args),
    /// Simulates a large world, a history from its seed, or many of them; builds the release profile first
    #[command(disable_help_flag = true)]
    Sim(sim::Args),
    /// The long runs: what the tests do for minutes, for an hour and more
    Soak(soak::Args),
    /// Installs, builds and links in a plain Debian chroot without backports
    Portability(portability::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        // The script `x` did the work before it came here.
        Command::Setup => Ok(()),
        Command::Verify(args) => verify::run(&args),
        Command::Fix => fix::run(),
        Command::Test(args) => test::run(&args),
        Command::Tidy => tidy::run(),
        Command::Image(args) => image::run(&args),
        Command::Demo => demo::run(),
        Command::Bench(args) => bench::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Portability(args) => portability::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("x: {error:#}");
            ExitCode::FAILURE
        }
    }
}
