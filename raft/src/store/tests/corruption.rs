//! A thousand random corruptions of stores that were closed and of stores that were killed.
//!
//! Each is one seed: which store, which file of it, what happens to the file. A child process opens what is left, so that an
//! abort, a hang or an allocation without bounds is seen as well as a panic. Two outcomes are allowed: the vote and all
//! acknowledged entries are what they were, or the directory is refused by the name of a file in it, and left as it is.
//! A seed that fails is printed, and runs alone with `BERTH_CORRUPTION_SEED=N`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;

use super::super::directory::{self, Directory};
use super::super::log::LogStore;
use super::{SMALL, append, entry, open, read};
use crate::error::OpenError;
use crate::snapshot::SnapshotStore;
use crate::types::{LogEntry, LogId, SnapshotMeta, Vote};

/// How many corruptions are tried, unless `BERTH_CORRUPTIONS` says otherwise; from seed `BERTH_CORRUPTIONS_FROM` on.
const CORRUPTIONS: u64 = 1000;

/// Stores that are corrupted; the even ones were closed, the odd ones killed.
const STORES: u64 = 8;

/// Corruptions that a child process looks at before the next one takes over.
const PER_CHILD: u64 = 125;

/// Memory of a child, in KiB: many times what a store of this size needs.
const CHILD_MEMORY_KIB: u64 = 1024 * 1024;

/// How long one opening may take. It takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// Numbers that are the same at each run: splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which must not be 0.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(u64::try_from(end).unwrap())).unwrap()
    }
}

/// What must be found again: everything that was acknowledged.
#[derive(Debug, Clone, PartialEq)]
struct Content {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: Vec<LogEntry>,
    snapshot: Option<LogId>,
}

/// Opens a directory as a member would, and reads all of it.
fn look(root: &Path) -> Result<Content, OpenError> {
    let directory = directory::open_sized(root, 1, SMALL)?;
    let snapshots = SnapshotStore::open(&directory.snapshots)?;
    let snapshot = snapshots.current().and_then(|current| current.meta.last_log_id);
    super::check_snapshot(&directory, snapshot)?;
    let Directory { engine, tail, lock, .. } = directory;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut store, closer) = LogStore::start(engine, tail, Box::new(lock)).unwrap();
        let vote = store.get_log_reader().await.read_vote().await.unwrap();
        let state = store.get_log_state().await.unwrap();
        let entries = read(&mut store).await;
        drop(store);
        closer.close().await;
        Ok(Content { vote, purged: state.last_purged_log_id, last: state.last_log_id, entries, snapshot })
    })
}

/// Copies a directory.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

/// The files below a directory, by their path in it.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn collect(root: &Path, at: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for item in fs::read_dir(at).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                collect(root, &path, found);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(root, root, &mut found);
    found
}

/// Builds store number `number` below `scratch`: `store-N` and two older states of it, `older-N-M`.
async fn build(scratch: &Path, number: u64) -> Content {
    let mut dice = Dice(number.wrapping_mul(1000) + 7);
    let working = scratch.join(format!("working-{number}"));
    let target = scratch.join(format!("store-{number}"));
    let (mut store, closer, snapshots) = open(&working);
    let mut term = 1;
    store.save_vote(&Vote::new_committed(term, 1)).await.unwrap();
    let mut list: Vec<LogEntry> = Vec::new();
    let mut purged = None;
    let mut snapshot = None;
    let rounds = 60 + dice.below(60);
    for round in 0..rounds {
        let end = list.last().map(|entry| entry.log_id).or(purged);
        match dice.below(20) {
            0 => {
                term += 1;
                store.save_vote(&Vote::new(term, 2)).await.unwrap();
                store.save_vote(&Vote::new_committed(term, 2)).await.unwrap();
            }
            1 if !list.is_empty() => {
                list.truncate(list.len().saturating_sub(dice.index(5)));
                store.truncate_after(list.last().map(|entry| entry.log_id).or(purged)).await.unwrap();
            }
            2 if list.len() > 20 => {
                let upto = list.drain(..list.len() - 10).next_back().unwrap().log_id;
                let meta = SnapshotMeta { last_log_id: Some(upto), ..SnapshotMeta::default() };
                let state: Vec<u8> = (0..3000).map(|at| upto.index.to_le_bytes()[at % 8]).collect();
                snapshots.write(&meta, Box::new(move |out| Ok(out.write_all(&state)?))).unwrap();
                snapshot = Some(upto);
                purged = Some(upto);
                store.purge(upto).await.unwrap();
            }
            _ => {
                let first = end.map_or(0, |end| end.index + 1);
                let count = 1 + dice.below(8);
                let added: Vec<_> = (first..first + count)
                    .map(|index| {
                        let length = if dice.below(40) == 0 { 60_000 } else { dice.index(900) };
                        let fill = dice.next().to_le_bytes();
                        entry(term, index, (0..length).map(|at| fill[at % 8]).collect::<Vec<u8>>())
                    })
                    .collect();
                append(&mut store, added.clone()).await;
                list.extend(added);
                if dice.below(3) == 0 {
                    store.save_committed(list.last().map(|entry| entry.log_id)).await.unwrap();
                }
            }
        }
        if round == rounds / 3 || round == rounds * 2 / 3 {
            copy(&working, &scratch.join(format!("older-{number}-{}", round * 3 / rounds)));
        }
    }
    let end = list.last().map(|entry| entry.log_id).or(purged);
    let vote = store.get_log_reader().await.read_vote().await.unwrap();
    if number.is_multiple_of(2) {
        drop(store);
        closer.close().await;
        copy(&working, &target);
    } else {
        // The files as they are at this moment are what a process that is killed now leaves.
        copy(&working, &target);
        drop(store);
        closer.close().await;
    }
    fs::remove_dir_all(&working).unwrap();
    Content { vote, purged, last: end, entries: list, snapshot }
}

/// Does to a copy of a store what the seed says; tells what that was.
fn corrupt(scratch: &Path, victim: &Path, seed: u64) -> (u64, PathBuf, String) {
    let number = seed % STORES;
    let mut dice = Dice(seed ^ 0x5eed);
    let root = scratch.join(format!("store-{number}"));
    if victim.exists() {
        fs::remove_dir_all(victim).unwrap();
    }
    copy(&root, victim);
    let files: Vec<(PathBuf, Vec<u8>)> =
        files(&root).into_iter().filter(|(name, _)| name != Path::new("LOCK")).collect();
    loop {
        let (name, old) = &files[dice.index(files.len())];
        // Files are longer than what was written to them: most corruptions are to meet something.
        let used = old.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let reach = if dice.below(8) == 0 { old.len() } else { (used + 64).min(old.len()) };
        let older = scratch.join(format!("older-{number}-{}", 1 + dice.below(2))).join(name);
        let older = fs::read(older).ok();
        let mut new = old.clone();
        let kind = dice.below(10);
        if reach == 0 && kind < 8 {
            continue;
        }
        let what = match kind {
            0 | 1 => {
                let (at, bit) = (dice.index(reach), dice.below(8));
                new[at] ^= 1 << bit;
                format!("bit {bit} of byte {at} flipped")
            }
            2 => {
                let at = dice.index(reach);
                let end = (at + 1 + dice.index(16)).min(new.len());
                for byte in &mut new[at..end] {
                    *byte = dice.next().to_le_bytes()[0];
                }
                format!("bytes {at}..{end} overwritten at random")
            }
            3 => {
                let at = dice.index(reach);
                let end = (at + 1 + dice.index(8192)).min(new.len());
                new[at..end].fill(0);
                format!("bytes {at}..{end} zeroed")
            }
            4 => {
                let at = dice.index(reach) / 512 * 512;
                let end = (at + 512 * (1 + dice.index(8))).min(new.len());
                new[at..end].fill(0);
                format!("sectors {at}..{end} zeroed")
            }
            5 => {
                let length = dice.index(reach);
                new.truncate(length);
                format!("cut to {length} bytes")
            }
            6 => {
                let from = dice.index(reach) / 512 * 512;
                let to = dice.index(reach) / 512 * 512;
                let length = (512 * (1 + dice.index(8))).min(new.len() - from.max(to));
                new.copy_within(from..from + length, to);
                format!("{length} bytes of {from} copied to {to}")
            }
            7 => {
                let Some(older) = older else { continue };
                let at = dice.index(reach) / 512 * 512;
                let end = (at + 512 * (1 + dice.index(16))).min(new.len()).min(older.len());
                if at >= end {
                    continue;
                }
                new[at..end].copy_from_slice(&older[at..end]);
                format!("older bytes {at}..{end} put back")
            }
            8 => {
                let Some(older) = older else { continue };
                new = older;
                "an older file put back".to_owned()
            }
            _ if dice.below(4) == 0 => {
                fs::remove_file(victim.join(name)).unwrap();
                return (number, name.clone(), "removed".to_owned());
            }
            _ => {
                let length = new.len();
                new.extend((0..=dice.below(5000)).map(|_| dice.next().to_le_bytes()[0]));
                format!("{} bytes added", new.len() - length)
            }
        };
        if new == *old {
            continue;
        }
        fs::write(victim.join(name), &new).unwrap();
        return (number, name.clone(), what);
    }
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// What became of one corruption: a word that starts with `ok` or `bad`.
fn outcome(scratch: &Path, victim: &Path, seed: u64, contents: &[Content]) -> String {
    let (number, file, what) = corrupt(scratch, victim, seed);
    let state = if number.is_multiple_of(2) { "closed" } else { "killed" };
    let before = files(victim);
    let panics = PANICS.load(Ordering::SeqCst);
    let found = std::panic::catch_unwind(|| look(victim));
    let verdict = match found {
        Err(_) => "bad panicked".to_owned(),
        Ok(_) if PANICS.load(Ordering::SeqCst) != panics => "bad panicked inside".to_owned(),
        Ok(Ok(content)) if content == contents[usize::try_from(number).unwrap()] => "ok identical".to_owned(),
        Ok(Ok(content)) => {
            let expected = &contents[usize::try_from(number).unwrap()];
            let same = content.entries.iter().zip(&expected.entries).take_while(|(found, old)| found == old).count();
            format!(
                "bad silent loss: vote {:?} was {:?}; last {:?} was {:?}; purged {:?} was {:?}; {} entries of which {same} right, of {}",
                content.vote,
                expected.vote,
                content.last.map(|id| id.index),
                expected.last.map(|id| id.index),
                content.purged.map(|id| id.index),
                expected.purged.map(|id| id.index),
                content.entries.len(),
                expected.entries.len()
            )
        }
        Ok(Err(error)) => {
            let text = error.to_string();
            if !text.contains(&*victim.to_string_lossy()) {
                format!("bad refused without a file: {text}")
            } else if files(victim) != before {
                format!("bad refused and changed: {text}")
            } else {
                format!("ok refused: {text}")
            }
        }
    };
    format!("{verdict} | {state} store {number}, {}: {what}", file.display())
}

/// Not a test of its own: the process that looks at corrupted stores for the test below.
#[test]
fn a_process_for_the_thousand_corruptions() {
    let Ok(job) = std::env::var("BERTH_CORRUPTION_JOB") else { return };
    let (scratch, range) = job.rsplit_once('@').unwrap();
    let (first, end) = range.split_once('-').unwrap();
    let scratch = Path::new(scratch);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    std::panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        eprintln!("{info}");
    }));
    // Stores are built anew by each process: from the same numbers they come out the same.
    let own = tempfile::tempdir_in(scratch).unwrap();
    let contents: Vec<Content> = (0..STORES).map(|number| runtime.block_on(build(own.path(), number))).collect();
    for seed in first.parse::<u64>().unwrap()..end.parse().unwrap() {
        println!("corruption {seed} begins");
        println!("corruption {seed} {}", outcome(own.path(), &own.path().join("victim"), seed, &contents));
    }
}

/// Runs seeds in children; gives each seed's verdict.
fn run(scratch: &Path, mut next: u64, end: u64) -> Vec<(u64, String)> {
    let mut verdicts = Vec::new();
    while next < end {
        let upto = end.min(next + PER_CHILD);
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -v {CHILD_MEMORY_KIB}; exec \"$0\" \"$@\""))
            .arg(program)
            .args(["--exact", "store::tests::corruption::a_process_for_the_thousand_corruptions", "--nocapture"])
            .env("BERTH_CORRUPTION_JOB", format!("{}@{next}-{upto}", scratch.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (line_sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if line_sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut current = None;
        let ending = loop {
            match lines.recv_timeout(DEADLINE) {
                Ok(line) => {
                    // The test harness may have begun the line with words of its own.
                    let Some((_, line)) = line.split_once("corruption ") else { continue };
                    let Some((seed, verdict)) = line.split_once(' ') else { continue };
                    let Ok(seed) = seed.parse() else { continue };
                    if verdict == "begins" {
                        current = Some(seed);
                    } else {
                        current = None;
                        next = seed + 1;
                        verdicts.push((seed, verdict.to_owned()));
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => break "bad hung",
                Err(mpsc::RecvTimeoutError::Disconnected) => break "bad killed its process",
            }
        };
        // It may have ended by itself.
        let _ = child.kill();
        let status = child.wait().unwrap();
        reader.join().unwrap();
        if let Some(seed) = current {
            verdicts.push((seed, format!("{ending} ({status})")));
            next = seed + 1;
        } else {
            assert!(next == upto, "the process ended before seed {next}: {status}");
        }
    }
    verdicts
}

#[test]
fn a_thousand_corruptions_are_without_effect_or_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let told = |key| std::env::var(key).ok().map(|number| number.parse::<u64>().unwrap());
    let only = told("BERTH_CORRUPTION_SEED");
    let (from, count) = (told("BERTH_CORRUPTIONS_FROM").unwrap_or(0), told("BERTH_CORRUPTIONS").unwrap_or(CORRUPTIONS));
    let (first, end) = only.map_or((from, from + count), |seed| (seed, seed + 1));
    let path = scratch.path();
    let verdicts = std::thread::scope(|scope| {
        let middle = first.midpoint(end);
        let halves = [(first, middle), (middle, end)].map(|(from, to)| scope.spawn(move || run(path, from, to)));
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect::<Vec<_>>()
    });
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (seed, verdict) in &verdicts {
        let kind = verdict.split([':', '|', '(']).next().unwrap().trim().to_owned();
        let state = if (seed % STORES).is_multiple_of(2) { "closed" } else { "killed" };
        *counts.entry(format!("{state} {kind}")).or_default() += 1;
        if only.is_some() || std::env::var_os("BERTH_CORRUPTION_LIST").is_some() {
            println!("seed {seed}: {verdict}");
        }
    }
    println!("{counts:#?}");
    let bad: Vec<_> = verdicts.iter().filter(|(_, verdict)| verdict.starts_with("bad")).collect();
    assert!(bad.is_empty(), "{} of {}: {:#?}", bad.len(), verdicts.len(), bad.iter().take(20).collect::<Vec<_>>());
    assert_eq!(u64::try_from(verdicts.len()).unwrap(), end - first);
    if only.is_none() {
        assert!(counts.len() == 4, "each outcome occurs for both sorts of stores");
    }
}
