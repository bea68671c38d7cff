//! Watches the operator's image folder and tells the agent what is in it.
//!
//! Verifying reads gigabytes, so it is done when something has changed and has then been still for a moment: a file that
//! is being copied would otherwise be read again and again. What changed is seen by names, sizes and times.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_host::agent::Input;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::backend::HostBackend;
use crate::driver::Handle;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Looks without any change after which all is looked at again nevertheless: what could not be read may be readable now.
const LOOKS_AT_MOST: u32 = 60;
/// How long the first report waits for images that were never verified before.
const FIRST: Duration = Duration::from_secs(5);

/// What tells one state of the folder from another without reading the files: name, inode, size and change time.
type Appearance = BTreeSet<(std::ffi::OsString, u64, u64, i64, i64)>;

/// Tells what is in the folder, now and whenever it has changed.
pub(crate) async fn tell(backend: Arc<HostBackend>, handle: Handle) {
    let mut told = appearance(&backend).await;
    verify(&backend, &handle, true).await;
    let (mut before, mut looks) = (told.clone(), 0);
    loop {
        sleep(LOOK).await;
        let now = appearance(&backend).await;
        looks += 1;
        let is_still = now == before;
        before.clone_from(&now);
        if is_still && (now != told || looks >= LOOKS_AT_MOST) {
            told = now;
            looks = 0;
            verify(&backend, &handle, false).await;
        }
    }
}

async fn verify(backend: &Arc<HostBackend>, handle: &Handle, first: bool) {
    let looked_at = Arc::clone(backend);
    let mut looking = spawn_blocking(move || looked_at.look_at_images());
    let found = match timeout(FIRST, &mut looking).await {
        Ok(found) => found,
        Err(_) => {
            if first {
                // The host reports without them rather than stay silent while gigabytes are read.
                handle.tell(Input::Images(BTreeMap::new())).await;
            }
            looking.await
        }
    };
    match found {
        Ok(Ok(images)) => handle.tell(Input::Images(images)).await,
        Ok(Err(error)) => tracing::warn!(%error, "the image folder cannot be looked at"),
        Err(error) => tracing::error!(%error, "BE-9001: looking at images panicked"),
    }
}

async fn appearance(backend: &Arc<HostBackend>) -> Appearance {
    let folder = backend.images_folder().to_owned();
    let looked: Result<Appearance, JoinError> = spawn_blocking(move || appearance_of(&folder)).await;
    looked.unwrap_or_default()
}

/// A folder that cannot be read looks empty; verifying says why.
fn appearance_of(folder: &Path) -> Appearance {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let facts = entry.metadata().ok()?;
            Some((entry.file_name(), facts.ino(), facts.size(), facts.ctime(), facts.ctime_nsec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_comes_goes_or_changes_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let look = || appearance_of(folder.path());
        let empty = look();
        std::fs::write(&path, "one").unwrap();
        let one = look();
        assert_ne!(one, empty);
        assert_eq!(look(), one);
        std::fs::write(&path, "three").unwrap();
        assert_ne!(look(), one);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(), empty);
    }
}
