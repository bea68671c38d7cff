//! A disk whose power can be cut: ext4 in a file, mounted by loop.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Room for a store that is written for some seconds, several times over.
const BYTES: u64 = 192 * 1024 * 1024;

/// A mounted disk.
pub(crate) struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// A fresh and empty one, as files in `folder`.
    pub(crate) fn fresh(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let image = folder.join(format!("{name}.ext4"));
        let file = File::create_new(&image).with_context(|| format!("cannot make {}", image.display()))?;
        file.set_len(BYTES).with_context(|| format!("cannot size {}", image.display()))?;
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-F"]).arg(&image))?;
        Self::mount(folder, name, image)
    }

    /// What the disk holds at this moment, mounted as a disk of its own: its file system replays its journal, as after a power
    /// cut. Whoever writes must have been stopped, because the file is read from its beginning to its end.
    pub(crate) fn after_a_power_cut(&self, folder: &Path, name: &str) -> anyhow::Result<Self> {
        let image = folder.join(format!("{name}.ext4"));
        // Holes stay holes: most of the disk is empty.
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&self.image).arg(&image))?;
        Self::mount(folder, name, image)
    }

    fn mount(folder: &Path, name: &str, image: PathBuf) -> anyhow::Result<Self> {
        let mount = folder.join(name);
        fs::create_dir(&mount).with_context(|| format!("cannot make {}", mount.display()))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
        Ok(Self { image, mount })
    }

    /// Where its files are.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A mount that stays busy is let go as soon as its last user ends.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mount).status();
        let _ = fs::remove_file(&self.image);
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}): {}", output.status, told.trim());
    Ok(())
}
