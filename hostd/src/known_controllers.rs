//! Where the controllers are, as a leader told last: a small file, so that the next start finds them too.
//!
//! It is advice and no law: who answers at an address must prove itself a controller of this cluster, and a host without
//! the file still has its configuration. So a file that cannot be read is told of and passed over, and written anew when a
//! leader speaks again. At each moment one whole file is there: the new one is synced under another name first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

const FILE: &str = "controllers.json";
const NEW_FILE: &str = "controllers.json.new";
const VERSION: u32 = 1;

/// Pause before a write that failed is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    controllers: Vec<String>,
}

/// The file.
#[derive(Clone, Debug)]
pub struct KnownControllers {
    folder: PathBuf,
}

impl KnownControllers {
    /// The file in this folder, which need not be there.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// `address:port` of each controller that was told of last; none if none was, or if the file cannot be read.
    pub fn load(&self) -> Vec<String> {
        let path = self.folder.join(FILE);
        let content = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Content>(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => Err(error),
        };
        match content {
            Ok(Content { version: VERSION, controllers }) => controllers,
            Ok(Content { version, .. }) => {
                tracing::warn!(file = %path.display(), version, "of an unknown version; only the configured controllers are tried");
                Vec::new()
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot be read; only the configured controllers are tried");
                Vec::new()
            }
        }
    }

    /// Writes them down; when this returns, they outlive a power cut.
    ///
    /// # Errors
    /// What the system refused. The file is then as it was.
    pub fn store(&self, controllers: &[String]) -> io::Result<()> {
        let content = Content { version: VERSION, controllers: controllers.to_vec() };
        let bytes = serde_json::to_vec(&content).expect("texts can be written as JSON");
        let temporary = self.folder.join(NEW_FILE);
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.folder.join(FILE))?;
        File::open(&self.folder)?.sync_all()
    }

    /// Begins to write down whatever is sent, the newest only. Ends with the sender. Must be called within a tokio runtime.
    pub(crate) fn follow(self) -> watch::Sender<Vec<String>> {
        let (sender, mut news) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while news.changed().await.is_ok() {
                loop {
                    let newest = news.borrow_and_update().clone();
                    let Err(error) = self.store_elsewhere(newest).await else { break };
                    tracing::warn!(
                        folder = %self.folder.display(), %error,
                        "where the controllers are cannot be written down; it is tried again"
                    );
                    if tokio::time::timeout(WRITE_AGAIN, news.changed()).await.is_ok_and(|changed| changed.is_err()) {
                        return;
                    }
                }
            }
        });
        sender
    }

    /// Syncing blocks.
    async fn store_elsewhere(&self, controllers: Vec<String>) -> io::Result<()> {
        let this = self.clone();
        spawn_blocking(move || this.store(&controllers)).await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(all: &[&str]) -> Vec<String> {
        all.iter().map(|address| (*address).to_owned()).collect()
    }

    #[test]
    fn what_was_told_last_is_there_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownControllers::in_folder(folder.path());
        assert_eq!(known.load(), addresses(&[]));
        for told in [addresses(&["c1:7440", "c2:7440"]), addresses(&["c3:7440"])] {
            known.store(&told).unwrap();
            assert_eq!(KnownControllers::in_folder(folder.path()).load(), told);
        }
        let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, [FILE]);
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_passed_over_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownControllers::in_folder(folder.path());
        for bad in ["", "{\"version\":1,\"controllers\":[\"c1:7", "{\"version\":2,\"controllers\":[\"c1:7440\"]}", "[]"]
        {
            fs::write(folder.path().join(FILE), bad).unwrap();
            assert_eq!(known.load(), addresses(&[]), "{bad}");
        }
        known.store(&addresses(&["c1:7440"])).unwrap();
        assert_eq!(known.load(), addresses(&["c1:7440"]));
    }

    #[test]
    fn a_write_that_is_cut_short_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownControllers::in_folder(folder.path());
        known.store(&addresses(&["c1:7440"])).unwrap();
        fs::write(folder.path().join(NEW_FILE), "{\"version\":1,\"contr").unwrap();
        assert_eq!(known.load(), addresses(&["c1:7440"]));
        known.store(&addresses(&["c2:7440"])).unwrap();
        assert_eq!(known.load(), addresses(&["c2:7440"]));
    }

    #[tokio::test]
    async fn the_newest_of_many_is_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let known = KnownControllers::in_folder(folder.path());
        let sender = known.clone().follow();
        for number in 1..=9 {
            sender.send_replace(addresses(&[&format!("c{number}:7440")]));
        }
        let written = async {
            while known.load() != ["c9:7440"] {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), written).await.unwrap();
    }
}
