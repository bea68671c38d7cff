//! Pages of guests that are alike, merged by the kernel (KSM): whether it does, what that saves, and setting it.

use std::fs;
use std::path::Path;

use berth_model::Bytes;

use crate::{Error, files};

const FOLDER: &str = "sys/kernel/mm/ksm";

/// What merging comes to at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Merging {
    /// Whether the kernel looks for pages that are alike.
    pub runs: bool,
    /// Memory that would be needed more without it.
    pub saved: Bytes,
}

/// What merging comes to; none on a kernel without it.
pub fn read(root: &Path) -> Result<Option<Merging>, Error> {
    let folder = root.join(FOLDER);
    if !folder.exists() {
        return Ok(None);
    }
    let runs = files::number::<u64>(&folder.join("run"))? == 1;
    let pages: u64 = files::number(&folder.join("pages_sharing"))?;
    Ok(Some(Merging { runs, saved: Bytes(pages.saturating_mul(berth_model::PageSize::Small.bytes().0)) }))
}

/// Starts merging, or stops it and parts what was merged. Nothing is written where it is so already.
pub fn set(root: &Path, run: bool) -> Result<(), Error> {
    let path = root.join(FOLDER).join("run");
    let (held, wanted) = (files::number::<u64>(&path)?, if run { 1 } else { 2 });
    if held == wanted || (!run && held == 0) {
        return Ok(());
    }
    let text = wanted.to_string();
    fs::write(&path, &text).map_err(|source| Error::Write { path, text, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_is_read_started_and_stopped() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path()).unwrap(), None);
        let folder = root.path().join(FOLDER);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("run"), "0\n").unwrap();
        fs::write(folder.join("pages_sharing"), "3\n").unwrap();
        set(root.path(), false).unwrap();
        assert_eq!(fs::read_to_string(folder.join("run")).unwrap(), "0\n", "it is off already");
        set(root.path(), true).unwrap();
        assert_eq!(read(root.path()).unwrap(), Some(Merging { runs: true, saved: Bytes(3 * 4096) }));
        set(root.path(), false).unwrap();
        assert_eq!(fs::read_to_string(folder.join("run")).unwrap(), "2", "what was merged is parted");
    }
}
