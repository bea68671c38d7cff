//! The replicated log as a subject: one member, alone in its cluster, with several proposers at the same time.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use berth_raft::{BoxError, Bytes, Entry, Handle, Io, Links, Member, Options, ReadMode, SnapshotPolicy, StateMachine};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::runtime::Runtime;

use crate::Said;
use crate::said::Word;

/// Proposers at the same time, so that entries share barriers.
const LANES: usize = 8;

/// Longer than a member needs for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers the last number of each lane, and that none was left out.
#[derive(Clone, Default)]
struct Lanes(Arc<Mutex<Seen>>);

#[derive(Clone, Default, Debug)]
struct Seen {
    last: [u64; LANES],
    /// The first entry that was not as it was written, or not in its place.
    wrong: Option<String>,
}

impl Lanes {
    fn seen(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl StateMachine for Lanes {
    type Snapshot = Seen;

    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for Entry { index, payload, .. } in entries {
            let was = parse(payload).filter(|(lane, number)| number - 1 == seen.last[*lane]);
            match was {
                Some((lane, number)) => seen.last[lane] = number,
                None => {
                    let what = format!("entry {index} is not what follows in its lane: {:?}", parse(payload));
                    seen.wrong.get_or_insert(what);
                }
            }
        }
        vec![Bytes::new(); entries.len()]
    }

    fn snapshot(&self) -> Seen {
        self.seen()
    }

    fn write(snapshot: &Seen, out: &mut dyn io::Write) -> Result<(), BoxError> {
        match &snapshot.wrong {
            Some(wrong) => Err(wrong.clone().into()),
            None => Ok(snapshot.last.iter().try_for_each(|last| out.write_all(&last.to_le_bytes()))?),
        }
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> Result<(), BoxError> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let (numbers, rest) = bytes.as_chunks::<8>();
        let numbers: Vec<u64> = numbers.iter().copied().map(u64::from_le_bytes).collect();
        let last = numbers.try_into().map_err(|_| "a snapshot of another shape")?;
        if !rest.is_empty() {
            return Err("a snapshot with a tail".into());
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Seen { last, wrong: None };
        Ok(())
    }
}

/// A payload: lane, number, and a body that follows from both, so that other bytes are told from these. Most are small, some are
/// longer than what a store keeps in one piece.
fn payload(lane: u64, number: u64) -> Bytes {
    let length = match (lane * 31 + number) % 100 {
        0 => 50_000,
        1..10 => 5_000,
        rest => rest * 10,
    };
    let mut bytes = Vec::new();
    bytes.extend(lane.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend((0..length).map(|at| (lane ^ number ^ at).to_le_bytes()[0]));
    Bytes::from(bytes)
}

fn parse(bytes: &Bytes) -> Option<(usize, u64)> {
    let (lane, rest) = bytes.split_first_chunk::<8>()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    let (lane, number) = (u64::from_le_bytes(*lane), u64::from_le_bytes(*number));
    let place = usize::try_from(lane).ok().filter(|place| *place < LANES)?;
    (number > 0 && *bytes == payload(lane, number)).then_some((place, number))
}

/// There is nobody else.
struct Alone;

impl Links for Alone {
    fn connect(&self, _: &Member) -> BoxFuture<'static, std::io::Result<Box<dyn Io>>> {
        async { Err(std::io::ErrorKind::ConnectionRefused.into()) }.boxed()
    }
}

async fn open(folder: &Path) -> anyhow::Result<(Handle, Lanes)> {
    let lanes = Lanes::default();
    let member = Member { id: 1, name: "m1".into(), ..Member::default() };
    let mut options = Options::new(1, folder, vec![member], Arc::new(Alone));
    // Often enough that the power goes during a compaction too.
    options.snapshots = SnapshotPolicy { entries_between: 500, entries_kept: 100, ..SnapshotPolicy::default() };
    let (handle, _service) = berth_raft::open(options, lanes.clone()).await?;
    handle.read_barrier(ReadMode::Index, PATIENCE).await.context("the member does not lead itself")?;
    Ok((handle, lanes))
}

#[expect(clippy::print_stdout, reason = "the harness listens there")]
fn say(word: Word) {
    println!("{word}");
}

pub(crate) fn write(folder: &Path) -> anyhow::Result<()> {
    Runtime::new().context("cannot start a runtime")?.block_on(async {
        let (handle, lanes) = open(folder).await?;
        say(Word::Term(handle.status().term));
        say(Word::Ready);
        let last = lanes.seen().last;
        let writing = (0..).zip(last).map(|(lane, mut number)| {
            let handle = handle.clone();
            async move {
                loop {
                    number += 1;
                    handle.propose(payload(lane, number), PATIENCE).await?;
                    say(Word::Safe { lane, number });
                }
            }
        });
        futures::future::try_join_all(writing).await.map(|_: Vec<()>| ())
    })
}

pub(crate) fn verify(folder: &Path, said: &Said) -> anyhow::Result<()> {
    Runtime::new().context("cannot start a runtime")?.block_on(async {
        let (handle, lanes) = open(folder).await?;
        let (seen, term) = (lanes.seen(), handle.status().term);
        handle.shutdown().await;
        if let Some(wrong) = seen.wrong {
            anyhow::bail!("{wrong}");
        }
        for (lane, number) in &said.lanes {
            let found = seen.last[usize::try_from(*lane).expect("a few lanes")];
            ensure!(found >= *number, "lane {lane}: {number} was acknowledged, the store ends at {found}");
        }
        ensure!(
            term > said.term,
            "the member led in term {}, and begins anew with term {term}: its vote is lost",
            said.term
        );
        Ok(())
    })
}
