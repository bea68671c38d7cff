//! `./x portability`: does Berth install, build and link where there are no backports?
//!
//! A fresh Debian chroot by mmdebstrap, with this machine's Rust toolchain and crate registry bound in read-only. In it, `./x setup`
//! installs the packages as on anybody's machine, and the host daemon is built and linked against that release's libvirt.
//! `--trap qemu-utils` first sets the trap that some machines come with: one package preinstalled from backports, and no backports
//! among the sources.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::checkout;

/// Which release, and what to build.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Debian release by code name
    #[arg(long, default_value = "bookworm")]
    release: String,
    /// Package of the workspace that is built and linked
    #[arg(long, default_value = "berth-hostd")]
    package: String,
    /// Preinstalls this package from backports and takes the suite out of the sources again
    #[arg(long, value_name = "PACKAGE")]
    trap: Option<String>,
    /// Leaves the chroot behind
    #[arg(long)]
    keep: bool,
}

/// Makes the chroot, installs and builds in it, and removes it.
pub(crate) fn run(args: &Args) -> Result<()> {
    if checkout::output(Command::new("id").arg("-u"))?.trim() != "0" {
        bail!("a chroot with bind mounts needs root; run: sudo -E ./x portability");
    }
    let started = Instant::now();
    let folder = checkout::cache()?.join("portability");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let chroot = tempfile::Builder::new().prefix(&format!("{}-", args.release)).tempdir_in(&folder)?;
    eprintln!("==> mmdebstrap {} in {}", args.release, chroot.path().display());
    checkout::output(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=apt", "--mode=root", "--include=ca-certificates", &args.release])
            .arg(chroot.path()),
    )?;
    // Crates are fetched here, because in there the registry is read-only.
    checkout::run(checkout::cargo().args(["fetch", "--locked", "--quiet"]))?;
    let outcome = checkout::run(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "bash", "-c", include_str!("portability.sh")])
            .env("CHROOT", chroot.path())
            .env("CHECKOUT", checkout::root())
            .env("SYSROOT", sysroot()?)
            .env("REGISTRY", cargo_home()?)
            .env("RELEASE", &args.release)
            .env("TRAP", args.trap.as_deref().unwrap_or_default())
            .env("BUILD", &args.package),
    );
    if args.keep {
        eprintln!("the chroot stays in {}", chroot.keep().display());
    }
    // The command is a script of many lines; what failed stands above.
    outcome
        .map_err(|_| anyhow::anyhow!("Berth does not install, build and link on plain {}; see above", args.release))?;
    eprintln!("portability: {} is fine ({:.0} s)", args.release, started.elapsed().as_secs_f64());
    Ok(())
}

fn sysroot() -> Result<PathBuf> {
    let text = checkout::output(checkout::command("rustc").args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(text.trim()))
}

fn cargo_home() -> Result<PathBuf> {
    match (env::var_os("CARGO_HOME"), env::var_os("HOME")) {
        (Some(folder), _) => Ok(PathBuf::from(folder)),
        (None, Some(home)) => Ok(Path::new(&home).join(".cargo")),
        (None, None) => bail!("neither CARGO_HOME nor HOME is set, so the crate registry cannot be found"),
    }
}
