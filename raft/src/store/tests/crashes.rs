//! What a crash may take, what damage may not, and how much room the log needs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

use super::corruption::copy;
use super::{SMALL, append, entry, filled, open, read};
use crate::error::OpenError;
use crate::store::directory;
use crate::types::{LogEntry, Types, Vote, log_id};

/// The last file of the log, and how many bytes of it are used.
fn last_file(root: &Path) -> (PathBuf, usize) {
    let files = fs::read_dir(root.join("gen-1")).unwrap().map(|item| item.unwrap().path());
    let last = files.filter(|path| path.extension().is_some_and(|extension| extension == "wal")).max().unwrap();
    let bytes = fs::read(&last).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    (last, used)
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x04;
    fs::write(file, bytes).unwrap();
}

fn indexes(entries: &[LogEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.log_id.index).collect()
}

/// Three states of one store that is never closed: with entry 0, with 0 and 1, and with 0, 1 and 2; and where each ends.
async fn three_moments() -> (TempDir, Vec<PathBuf>, Vec<usize>) {
    three_moments_of(7).await
}

/// [`three_moments`] with entries of this byte: stores of different bytes are alike but for them.
async fn three_moments_of(byte: u8) -> (TempDir, Vec<PathBuf>, Vec<usize>) {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("store");
    let (mut store, closer, _) = open(&root);
    store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    let mut moments = Vec::new();
    let mut ends = Vec::new();
    for index in 0..3 {
        append(&mut store, [entry(1, index, vec![byte; 100])]).await;
        let moment = scratch.path().join(format!("moment-{index}"));
        copy(&root, &moment);
        ends.push(last_file(&moment).1);
        moments.push(moment);
    }
    closer.close().await;
    (scratch, moments, ends)
}

/// What is refused, and that nothing was changed by that.
fn refusal(root: &Path) -> OpenError {
    let before = fs::read(last_file(root).0).unwrap();
    let error = directory::open_sized(root, 1, SMALL).map(drop).unwrap_err();
    assert_eq!(fs::read(last_file(root).0).unwrap(), before);
    error
}

#[tokio::test]
async fn the_last_frame_may_be_torn_if_it_was_never_marked() {
    let (_scratch, moments, ends) = three_moments().await;
    let [before, torn, _] = moments.as_slice() else { unreachable!("there are three") };
    let (file, used) = last_file(torn);
    assert_eq!(used, ends[1]);
    flip(&file, used - 20);
    let error = refusal(torn);
    assert!(matches!(&error, OpenError::Damaged { record, .. } if record == "frame 3"), "it was marked: {error}");

    // A process that is killed between its barrier and the mark has told nobody of the frame; nor has one that is killed
    // within the write.
    fs::copy(before.join("gen-1/MARK"), torn.join("gen-1/MARK")).unwrap();
    let (mut store, closer, _) = open(torn);
    assert_eq!(indexes(&read(&mut store).await), [0]);
    append(&mut store, [entry(1, 1, "another")]).await;
    closer.close().await;
    let (mut store, closer, _) = open(torn);
    assert_eq!(read(&mut store).await[1], entry(1, 1, "another"));
    closer.close().await;
}

#[tokio::test]
async fn a_frame_before_one_that_followed_a_barrier_was_not_torn() {
    let (_scratch, moments, ends) = three_moments().await;
    let [before, _, whole] = moments.as_slice() else { unreachable!("there are three") };
    // After a power cut the mark may be an old one, because it is not synced.
    fs::copy(before.join("gen-1/MARK"), whole.join("gen-1/MARK")).unwrap();
    flip(&last_file(whole).0, ends[1] - 20);
    let error = refusal(whole);
    assert!(matches!(&error, OpenError::Damaged { record, .. } if record == "frame 3"), "{error}");
    flip(&last_file(whole).0, ends[1] - 20);
    let (mut store, closer, _) = open(whole);
    assert_eq!(indexes(&read(&mut store).await), [0, 1, 2], "an old mark hides nothing");
    closer.close().await;
}

#[tokio::test]
async fn a_whole_frame_of_another_copy_of_the_log_is_noticed() {
    let (_scratch, ours, ends) = three_moments_of(7).await;
    let (_other, theirs, their_ends) = three_moments_of(8).await;
    assert_eq!(ends, their_ends);
    let (file, _) = last_file(&ours[2]);
    let others = fs::read(last_file(&theirs[2]).0).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    // In the middle, where frames that are ours follow; and all of them, which fit one another.
    for (from, to) in [(ends[0], ends[1]), (0, ends[2])] {
        bytes[from..to].copy_from_slice(&others[from..to]);
        fs::write(&file, &bytes).unwrap();
        let error = refusal(&ours[2]);
        assert!(matches!(error, OpenError::Damaged { .. } | OpenError::Incomplete { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_end_that_is_cut_off_cleanly_is_noticed() {
    let (_scratch, moments, ends) = three_moments().await;
    let (file, _) = last_file(&moments[2]);
    let mut bytes = fs::read(&file).unwrap();
    bytes[ends[1]..].fill(0);
    fs::write(&file, bytes).unwrap();
    let error = refusal(&moments[2]);
    assert!(error.to_string().contains("it ends with frame 3, although frame 4 was written"), "{error}");
    assert!(error.to_string().contains(&*file.to_string_lossy()), "{error}");
}

#[tokio::test]
async fn nothing_may_follow_the_end_of_a_store_that_was_closed() {
    let root = filled().await;
    let (file, used) = last_file(root.path());
    flip(&file, used + 100);
    let error = refusal(root.path());
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    flip(&file, used + 100);
    drop(open(root.path()));
}

#[tokio::test]
async fn missing_files_are_noticed() {
    let build = async || {
        let root = tempfile::tempdir().unwrap();
        let (mut store, closer, _) = open(root.path());
        store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        for index in 0..100 {
            append(&mut store, [entry(1, index, vec![7; 2000])]).await;
        }
        closer.close().await;
        root
    };
    let file = |number: u64| format!("{number:016}.wal");
    for (number, complaint) in [
        (1, "the files before it are missing, and with them the log from entry 0 on"),
        (3, "the files before it are missing, and with them the log from entry 0 on"),
        (5, "was written"),
    ] {
        let root = build().await;
        fs::remove_file(root.path().join("gen-1").join(file(number))).unwrap();
        let error = refusal(root.path());
        assert!(error.to_string().contains(complaint), "{error}");
    }
    let root = build().await;
    fs::remove_file(root.path().join("gen-1/MARK")).unwrap();
    let error = refusal(root.path());
    assert!(error.to_string().contains("MARK is incomplete: it is missing"), "{error}");
    let root = build().await;
    fs::write(root.path().join("gen-1/db"), b"sled").unwrap();
    assert!(matches!(refusal(root.path()), OpenError::Foreign { .. }));
}

#[tokio::test]
async fn purged_entries_give_their_room_back() {
    let root = tempfile::tempdir().unwrap();
    let (mut store, closer, _) = open(root.path());
    let gauge = store.gauge();
    store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    let mut largest = 0;
    for round in 0..100_u64 {
        append(&mut store, (round * 10..round * 10 + 10).map(|index| entry(1, index, vec![7; 1000]))).await;
        if round >= 10 {
            store.purge(log_id(1, (round - 10) * 10)).await.unwrap();
        }
        largest = largest.max(gauge.bytes());
    }
    assert!(largest <= 7 * u64::from(SMALL.most), "a live tail of 100 KB took {largest} bytes");
    let on_disk: u64 = fs::read_dir(root.path().join("gen-1"))
        .unwrap()
        .map(|item| item.unwrap())
        .filter(|item| item.file_name() != "MARK")
        .map(|item| item.metadata().unwrap().len())
        .sum();
    assert!(on_disk <= gauge.bytes(), "{on_disk} bytes, and not {}", gauge.bytes());
    closer.close().await;
    let (mut store, closer, _) = open(root.path());
    assert_eq!(indexes(&read(&mut store).await), (891..1000).collect::<Vec<_>>());
    closer.close().await;
}

#[tokio::test]
async fn files_and_directories_are_their_owners_alone() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (mut store, closer, _) = open(root.path());
    store.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    append(&mut store, (0..100).map(|index| entry(1, index, vec![7; 1000]))).await;
    closer.close().await;
    let mut seen = 0;
    let mut directories = vec![root.path().to_owned()];
    while let Some(directory) = directories.pop() {
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700, "{}", directory.display());
        for item in fs::read_dir(&directory).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 5, "LOCK, CURRENT, MARK and files of the log");
}

/// A file system of its own, gone when this is dropped.
struct SmallDisk {
    scratch: TempDir,
}

impl SmallDisk {
    fn new(megabytes: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let image = scratch.path().join("image");
        fs::File::create(&image).unwrap().set_len(megabytes * 1024 * 1024).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image.to_string_lossy()]);
        let disk = Self { scratch };
        fs::create_dir(disk.path()).unwrap();
        run("mount", &["-o", "loop", &image.to_string_lossy(), &disk.path().to_string_lossy()]);
        disk
    }

    fn path(&self) -> PathBuf {
        self.scratch.path().join("mounted")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A test that fails may hold files open; the mount goes with them.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.as_ref().is_ok_and(std::process::ExitStatus::success), "{program} {arguments:?}: {status:?}");
}

#[tokio::test]
async fn a_full_disk_is_told_and_with_room_again_everything_acknowledged_is_there() {
    let disk = SmallDisk::new(24);
    let root = disk.path().join("data");
    let ballast = disk.path().join("ballast");
    let open = || super::open_with_sizes(&root, crate::store::wal::Sizes::SHIPPED);
    let (mut store, closer, _) = open();
    let vote = Vote::new_committed(1, 1);
    store.save_vote(&vote).await.unwrap();
    append(&mut store, (0..10).map(|index| entry(1, index, vec![7; 1000]))).await;
    // Whatever is left now is less than the files that the log will want.
    let filled = fs::write(&ballast, vec![1; 64 * 1024 * 1024]);
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);

    let mut acknowledged = 10;
    let error = loop {
        let (done, flushed) = Types::oneshot();
        let added = (acknowledged..acknowledged + 10).map(|index| entry(1, index, vec![9; 10_000]));
        if let Err(error) = store.append(added, IOFlushed::signal(done)).await {
            break error;
        }
        match flushed.await.unwrap() {
            Ok(()) => acknowledged += 10,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    assert!(acknowledged > 10, "there was room in the first file");
    assert!(store.save_vote(&Vote::new(2, 2)).await.is_err(), "nothing is taken after that");
    drop(store);
    closer.close().await;

    // Still full: opening needs no room.
    let (mut store, closer, _) = open();
    assert!(read(&mut store).await.len() >= usize::try_from(acknowledged).unwrap());
    drop(store);
    closer.close().await;
    fs::remove_file(&ballast).unwrap();
    let (mut store, closer, _) = open();
    let entries = read(&mut store).await;
    assert!(entries.len() >= usize::try_from(acknowledged).unwrap(), "{} of {acknowledged}", entries.len());
    let expected =
        |index| entry(1, index, vec![if index < 10 { 7 } else { 9 }; if index < 10 { 1000 } else { 10_000 }]);
    assert!(entries.iter().zip(0..).all(|(found, index)| *found == expected(index)));
    assert_eq!(store.get_log_reader().await.read_vote().await.unwrap(), Some(vote));
    let next = entries.len() as u64;
    append(&mut store, (next..next + 200).map(|index| entry(1, index, vec![9; 10_000]))).await;
    closer.close().await;
}
