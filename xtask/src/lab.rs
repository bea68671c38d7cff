//! `./x lab`: a cluster on this machine that stays until it is taken down.

use std::path::PathBuf;

use anyhow::{Context, Result};
use berth_lab::{Binaries, Lab, Options};
use clap::Subcommand;

use crate::checkout;
use crate::image;

/// What to do with the lab.
#[derive(Debug, Subcommand)]
pub(crate) enum Args {
    /// Builds the programs and brings the lab up; one that is up already is taken down first
    Up {
        /// How many controllers, 1 to 9
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
        controllers: u8,
        /// How many hosts, 0 to 200
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=200))]
        hosts: u8,
        /// A guest image that every host shall hold and the cluster shall know; may be repeated
        #[arg(long = "image", default_value = "tiny")]
        images: Vec<String>,
    },
    /// Shows its processes
    Status,
    /// Runs a command inside a controller's or host's namespaces, such as `exec h1 virsh list`
    Exec {
        /// The member: c1, h1, …
        member: String,
        /// The command
        #[arg(trailing_var_arg = true, required = true)]
        words: Vec<String>,
    },
    /// Takes it down: no process, namespace, mount, bridge or hugepage is left
    Down,
}

/// Where the lab of this checkout lies.
pub(crate) fn state_dir() -> PathBuf {
    checkout::root().join("target/lab")
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout::root().join("target"), PathBuf::from)
}

/// Where cargo puts the programs of the dev profile.
pub(crate) fn binaries() -> PathBuf {
    target().join("debug")
}

/// Builds the programs that a lab runs, and the command line.
pub(crate) fn build() -> Result<()> {
    eprintln!("==> building berth-controller, berth-hostd and berth");
    checkout::run(checkout::cargo().args(["build", "--workspace", "--bins"]))
}

/// Brings a lab up that stays, and makes the images known to it.
pub(crate) fn up(controllers: u8, hosts: u8, images: &[String]) -> Result<Lab> {
    let images = images.iter().map(|name| image::ensure(name, false)).collect::<Result<Vec<_>>>()?;
    build()?;
    let mut options = Options::new(state_dir(), Binaries::in_folder(&binaries()));
    (options.controllers, options.hosts, options.keep) = (controllers, hosts, true);
    options.progress = |stage| eprintln!("    {stage}");
    Lab::down_at(&options.state_dir).context("the lab that was there cannot be taken down")?;
    eprintln!("==> lab: {controllers} controllers, {hosts} hosts");
    let lab = Lab::up(&options)?;
    for image in &images {
        lab.add_image(&image.path)?;
        let words = ["image", "create", &image.name, "--file"];
        checkout::run(berth(&lab).args(words).arg(&image.path))?;
    }
    Ok(lab)
}

/// The command line as the lab's operator.
pub(crate) fn berth(lab: &Lab) -> std::process::Command {
    let mut command = checkout::command(&binaries().join("berth").display().to_string());
    command.env("BERTH_CONFIG", lab.admin_config_path());
    command
}

/// Entry of the sub-command.
pub(crate) fn run(args: &Args) -> Result<()> {
    match args {
        Args::Up { controllers, hosts, images } => {
            let lab = up(*controllers, *hosts, if *hosts == 0 { &[] } else { images })?;
            print!("{}", lab.status()?);
            println!("\nTo speak to it as its operator:");
            println!("  export BERTH_CONFIG={} PATH={}:$PATH", lab.admin_config_path().display(), binaries().display());
            println!("  berth host list");
        }
        Args::Status => print!("{}", Lab::attach(&state_dir())?.status()?),
        Args::Exec { member, words } => {
            let status = Lab::attach(&state_dir())?.command_in(member, &words[0])?.args(&words[1..]).status()?;
            anyhow::ensure!(status.success(), "{}: {status}", words[0]);
        }
        Args::Down => Lab::down_at(&state_dir()).context("the lab is not wholly down; run the command again")?,
    }
    Ok(())
}
