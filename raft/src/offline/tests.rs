use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::options::{Io, Links, Options};
use crate::{Handle, open};

/// Keeps every proposal, one line each.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl StateMachine for Lines {
    type Snapshot = Vec<u8>;

    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes> {
        for entry in entries {
            self.0.extend_from_slice(&entry.payload);
            self.0.push(b'\n');
        }
        entries.iter().map(|_| Bytes::new()).collect()
    }
    fn snapshot(&self) -> Vec<u8> {
        self.0.clone()
    }
    fn write(snapshot: &Vec<u8>, out: &mut dyn Write) -> Result<(), BoxError> {
        Ok(out.write_all(snapshot)?)
    }
    fn restore(&mut self, from: &mut dyn Read) -> Result<(), BoxError> {
        self.0.clear();
        from.read_to_end(&mut self.0)?;
        Ok(())
    }
}

struct Nowhere;

impl Links for Nowhere {
    fn connect(&self, _: &Member) -> futures::future::BoxFuture<'static, io::Result<Box<dyn Io>>> {
        Box::pin(async { Err(io::Error::other("there is nobody else")) })
    }
}

fn member(id: u64) -> Member {
    Member { id, name: "c1".into(), raft_addr: "10.0.0.1:1".into(), api_addr: "10.0.0.1:2".into(), ..Member::default() }
}

async fn run(data_dir: &Path, id: u64) -> Handle {
    let options = Options::new(id, data_dir, vec![member(id)], Arc::new(Nowhere));
    open(options, Lines::default()).await.unwrap().0
}

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_directory_is_read_to_the_end_of_its_log_and_can_still_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let handle = run(&data, 1).await;
    for text in ["one", "two", "three"] {
        handle.propose(Bytes::from(text), LONG).await.unwrap();
    }
    handle.shutdown().await;
    for _ in 0..2 {
        let found = recover(&data, 1, Lines::default()).unwrap();
        assert_eq!(found.machine.0, b"one\ntwo\nthree\n");
        assert!(found.last_index >= 3 && found.last_term >= 1, "{found:?}");
        assert_eq!(found.members, [member(1)]);
    }
    assert!(matches!(recover(&data, 2, Lines::default()), Err(OpenError::OtherMember { .. })));
    let handle = run(&data, 1).await;
    handle.propose(Bytes::from("four"), LONG).await.unwrap();
    handle.shutdown().await;
}

#[tokio::test]
async fn a_seeded_directory_is_a_cluster_of_one_that_goes_on_from_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    seed(&data, &member(1), (7, 1000), 5, |out| Ok(out.write_all(b"before\n")?)).unwrap();
    let handle = run(&data, 1).await;
    handle.propose(Bytes::from("after"), LONG).await.unwrap();
    let status = handle.status();
    assert!(status.term > 7 && status.last_log.is_some_and(|last| last > 1000), "{status:?}");
    handle.shutdown().await;
    let found = recover(&data, 1, Lines::default()).unwrap();
    assert_eq!(found.machine.0, b"before\nafter\n");
    let snapshot = fs::read_dir(data.join("snapshots")).unwrap().next().unwrap().unwrap();
    assert_eq!(snapshot.metadata().unwrap().mode() & 0o777, 0o600, "it is its owner's alone");
}

#[test]
fn a_directory_that_holds_anything_is_not_seeded_and_one_that_holds_nothing_is_not_recovered() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("precious"), "data").unwrap();
    let refused = seed(folder.path(), &member(1), (1, 1), 1, |_| Ok(())).unwrap_err();
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was added");
    let nowhere = folder.path().join("none");
    assert!(matches!(recover(&nowhere, 1, Lines::default()), Err(OpenError::Incomplete { .. })));
    assert!(!nowhere.exists());
}

#[test]
fn a_state_that_cannot_be_written_leaves_no_cluster_that_begins_with_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let failed = seed(&data, &member(1), (1, 1), 1, |_| Err("no state".into())).unwrap_err();
    assert!(failed.to_string().contains("no state"), "{failed}");
    // Its vote is there, so it is not taken for a directory that never was in service.
    assert!(seed(&data, &member(1), (1, 1), 1, |_| Ok(())).is_err());
}
