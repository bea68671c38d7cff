//! A real file system without room: a small ext4 on a loop device.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_raft::{Bytes, ProposeError, ReadMode, State, Warning};
use support::{Cluster, PATIENCE, eventually};

/// A small file system of its own; unmounted at the end.
struct Small {
    root: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Small {
    fn new(megabytes: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (image, mount) = (root.path().join("image"), root.path().join("mount"));
        fs::File::create(&image).unwrap().set_len(megabytes * 1024 * 1024).unwrap();
        fs::create_dir(&mount).unwrap();
        let [image, mount] = [&image, &mount].map(|path| path.to_str().unwrap());
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image]);
        run("mount", &["-o", "loop", image, mount]);
        Self { root }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("mount")
    }

    /// Takes all room but about `left` bytes.
    fn fill(&self, left: u64) {
        let free = || {
            let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(self.path()).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
            numbers[0] * numbers[1]
        };
        let ballast = self.path().join("ballast");
        let length = free().saturating_sub(left);
        run("fallocate", &["-l", &length.to_string(), ballast.to_str().unwrap()]);
    }

    fn make_room(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["-l", self.path().to_str().unwrap()]);
    }
}

fn bulky(number: usize) -> Bytes {
    Bytes::from(format!("{number} {}", "x".repeat(100_000)))
}

fn files(directory: &Path) -> io::Result<u64> {
    fs::read_dir(directory)?.map(|entry| entry?.metadata().map(|metadata| metadata.len())).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_on_a_full_disk_says_so_and_goes_on_by_itself_when_there_is_room() {
    let disk = Small::new(400);
    let cluster = Cluster::new(1);
    let mut options = cluster.options(1);
    options.data_dir = disk.path().join("member");
    // So that it comes to the failure, and not to a refusal before it.
    options.min_free_bytes = 0;
    let node = cluster.supervise(options).await.unwrap();
    node.handle.propose(bulky(0), PATIENCE).await.unwrap();
    disk.fill(4 * 1024 * 1024);
    let mut acknowledged = 1;
    let failure = loop {
        match node.handle.propose(bulky(acknowledged), PATIENCE).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 5000, "the disk never filled up");
    };
    assert!(matches!(failure, ProposeError::Unknown { .. }), "{failure}");
    eventually("the failure", || matches!(node.handle.status().state, State::Failed(_))).await;
    let State::Failed(reason) = node.handle.status().state else { unreachable!() };
    assert!(reason.to_lowercase().contains("no space left") || reason.contains("are needed"), "{reason}");
    let answer = node.propose("refused").await;
    assert!(matches!(answer, Err(ProposeError::Stopped { .. })), "{answer:?}");
    disk.make_room();
    eventually("the reopening", || node.handle.status().state == State::Running).await;
    node.propose("after").await.unwrap();
    node.handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
    let seen = node.machine.seen();
    for number in 0..acknowledged {
        assert!(seen.iter().any(|one| one.starts_with(&format!("{number} "))), "acknowledged write {number} is lost");
    }
    assert!(!seen.contains(&"refused".to_owned()));
    assert!(files(&disk.path().join("member").join("snapshots")).is_ok());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_disk_is_full_proposals_are_refused_and_the_member_goes_on() {
    let disk = Small::new(400);
    let cluster = Cluster::new(1);
    let mut options = cluster.options(1);
    options.data_dir = disk.path().join("member");
    options.min_free_bytes = 16 * 1024 * 1024;
    let node = cluster.supervise(options).await.unwrap();
    node.propose("before").await.unwrap();
    disk.fill(8 * 1024 * 1024);
    eventually("the warning", || node.handle.status().full.is_some()).await;
    let refusal = node.propose("refused").await.unwrap_err();
    assert!(matches!(&refusal, ProposeError::Full { reason } if reason.contains("make room")), "{refusal}");
    let status = node.handle.status();
    assert_eq!(status.state, State::Running);
    assert!(status.warnings.iter().any(|warning| matches!(warning, Warning::Full { .. })));
    node.handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
    disk.make_room();
    eventually("room", || node.handle.status().full.is_none()).await;
    node.propose("after").await.unwrap();
    assert_eq!(node.machine.seen(), ["before", "after"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_nearly_full_leaves_the_lead_to_one_with_room() {
    let disk = Small::new(400);
    let cluster = Cluster::new(3);
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let mut options = cluster.options(id);
        if id == 1 {
            options.data_dir = disk.path().join("member");
            options.min_free_bytes = 16 * 1024 * 1024;
        }
        nodes.push(cluster.supervise(options).await.unwrap());
    }
    nodes[1].propose("before").await.unwrap();
    nodes[1].handle.move_leadership(Some(1), PATIENCE).await.unwrap();
    disk.fill(8 * 1024 * 1024);
    nodes[1].leadership(|now| now.leader.as_ref().is_some_and(|leader| leader.id != 1)).await;
    nodes[1].propose("after").await.unwrap();
    support::same_everywhere(&nodes.iter().collect::<Vec<_>>(), &["before".to_owned(), "after".to_owned()]).await;
    support::stop_all(nodes).await;
}
