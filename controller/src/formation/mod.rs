//! How a cluster comes to be, and how a machine takes its place in one, without a file written by hand.
//!
//! `init` makes what only the first of all can make: the cluster's id, its authority, the sealing key, and a bundle for
//! each member. `join` unpacks one bundle on its machine. Neither ever replaces a key: what is there already is either
//! the very same or a reason to stop, because a key that is gone takes the cluster's secrets with it.

mod init;
mod join;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use berth_model::Name;

pub use init::{First, Init};
pub use join::Join;

/// Where a controller's files lie on its machine.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The folder for configuration and keys.
    #[arg(long, value_name = "DIR", default_value = "/etc/berth")]
    pub root: PathBuf,
    /// Where log, snapshots and vote will be kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/berth/controller")]
    pub data_dir: PathBuf,
}

impl Place {
    /// The same with whole paths: what is written into a configuration must hold wherever the program is started.
    fn absolute(&self) -> anyhow::Result<Self> {
        let whole = |path: &Path| std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()));
        Ok(Self { root: whole(&self.root)?, data_dir: whole(&self.data_dir)? })
    }

    fn config(&self) -> PathBuf {
        self.root.join("controller.toml")
    }

    fn sealing_key(&self) -> PathBuf {
        self.root.join("sealing.key")
    }

    fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }
}

/// What a failure domain may be called: a word that can stand in a table.
fn domain(text: &str) -> Result<String, String> {
    let name: Name = text.parse().map_err(|why| format!("{text:?} cannot name a failure domain: {why}"))?;
    Ok(name.to_string())
}

/// An IP address, or a DNS name; the ports are Berth's own.
fn address(text: &str) -> Result<String, String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let label = |label: &str| label.parse::<Name>().is_ok();
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is neither an IP address nor a DNS name; give it without a port"))
    }
}

/// Makes a folder that only its owner may enter; one that is there is left as it is.
fn private_folder(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// Refuses if something is there that would be replaced by something else.
fn would_keep(path: &Path, bytes: &[u8], what: &str) -> anyhow::Result<()> {
    match fs::read(path) {
        Ok(there) => {
            ensure!(
                there == bytes,
                "{} is there already and differs; {what} is never overwritten: move it away, or name another folder",
                path.display()
            );
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests;
