//! `berth-lab`: a lab from the command line.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool: data to stdout, talk to stderr")]

use std::path::PathBuf;

use anyhow::Context as _;
use berth_lab::{Binaries, Lab, Options};
use clap::{Args, Parser, Subcommand};

/// A whole Berth cluster on this machine, in namespaces.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where everything of the lab lies.
    #[arg(long, default_value = "/var/tmp/berth-lab")]
    state_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a lab up; it stays until it is taken down.
    Up(Size),
    /// Bring a lab up for the time that a command runs, with $BERTH_CONFIG set for it.
    Run {
        #[command(flatten)]
        size: Size,
        /// The command.
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
    /// Say how it is.
    Status,
    /// Run a command inside a member.
    Exec {
        /// The member: c1, h1, …
        member: String,
        /// The command.
        #[arg(trailing_var_arg = true, required = true)]
        words: Vec<String>,
    },
    /// Take it down.
    Down,
}

#[derive(Debug, Args)]
struct Size {
    /// The folder with berth-controller and berth-hostd.
    #[arg(long)]
    binaries: PathBuf,
    /// A certain number; otherwise the lowest that is free.
    #[arg(long)]
    number: Option<u8>,
    /// How many controllers.
    #[arg(long, default_value_t = 3)]
    controllers: u8,
    /// How many hosts.
    #[arg(long, default_value_t = 2)]
    hosts: u8,
    /// Hugepages of 2 MiB for each host.
    #[arg(long, default_value_t = 512)]
    hugepages: u64,
}

impl Size {
    fn options(&self, state_dir: PathBuf, keep: bool) -> Options {
        // The programs start in the root folder.
        let binaries = std::path::absolute(&self.binaries).unwrap_or_else(|_| self.binaries.clone());
        let mut options = Options::new(state_dir, Binaries::in_folder(&binaries));
        options.number = self.number;
        options.controllers = self.controllers;
        options.hosts = self.hosts;
        options.slice.hugepages_2m = self.hugepages;
        options.keep = keep;
        options.progress = |stage| eprintln!("{stage}");
        options
    }
}

fn main() -> anyhow::Result<()> {
    let Arguments { state_dir, command } = Arguments::parse();
    match command {
        Command::Up(size) => {
            let lab = Lab::up(&size.options(state_dir, true))?;
            print!("{}", lab.status()?);
            println!("\nexport BERTH_CONFIG={}", lab.admin_config_path().display());
        }
        Command::Run { size, words } => {
            let lab = Lab::up(&size.options(state_dir, false))?;
            let mut command = std::process::Command::new(&words[0]);
            let status = command.args(&words[1..]).env("BERTH_CONFIG", lab.admin_config_path()).status();
            lab.down()?;
            let status = status.with_context(|| format!("cannot run {}", words[0]))?;
            anyhow::ensure!(status.success(), "{}: {status}", words[0]);
        }
        Command::Status => print!("{}", Lab::attach(&state_dir)?.status()?),
        Command::Exec { member, words } => {
            let lab = Lab::attach(&state_dir)?;
            let status = lab.command_in(&member, &words[0])?.args(&words[1..]).status()?;
            anyhow::ensure!(status.success(), "{}: {status}", words[0]);
        }
        Command::Down => Lab::down_at(&state_dir).context("the lab is not wholly down; run the command again")?,
    }
    Ok(())
}
