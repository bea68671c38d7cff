//! How many proposals a cluster of three takes: three members in one process, over TCP on this machine and real files.
//!
//! ```console
//! $ cargo run --release -p berth-raft --example throughput -- [PROPOSERS] [SECONDS] [DIRECTORY]
//! ```

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program for the terminal that gives up at once")]

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use berth_raft::{BoxError, Bytes, Entry, Handle, Io, Links, Member, Options, PeerIo, StateMachine};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::ReceiverStream;

/// Counts, and forgets.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Snapshot = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes> {
        self.0 += u64::try_from(entries.len()).unwrap();
        vec![Bytes::from_static(b"done"); entries.len()]
    }

    fn snapshot(&self) -> u64 {
        self.0
    }

    fn write(snapshot: &u64, out: &mut dyn Write) -> Result<(), BoxError> {
        Ok(out.write_all(&snapshot.to_le_bytes())?)
    }

    fn restore(&mut self, from: &mut dyn Read) -> Result<(), BoxError> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

/// Plain TCP; the caller says its name first.
struct Tcp(String);

impl Links for Tcp {
    fn connect(&self, member: &Member) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let (name, to) = (self.0.clone(), member.raft_addr.clone());
        async move {
            let mut stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            stream.write_u8(u8::try_from(name.len()).unwrap()).await?;
            stream.write_all(name.as_bytes()).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        }
        .boxed()
    }
}

async fn accept(mut stream: TcpStream) -> io::Result<PeerIo> {
    stream.set_nodelay(true)?;
    let length = stream.read_u8().await?;
    let mut name = vec![0; length.into()];
    stream.read_exact(&mut name).await?;
    Ok(PeerIo { io: Box::new(stream), peer: String::from_utf8(name).map_err(io::Error::other)? })
}

async fn member(id: u64, root: PathBuf, members: Vec<Member>, listener: std::net::TcpListener) -> Handle {
    let name = format!("m{id}");
    let options = Options::new(id, root.join(&name), members, Arc::new(Tcp(name)));
    let (handle, service) = berth_raft::open(options, Counter::default()).await.unwrap();
    let (sender, incoming) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            if sender.send(accept(stream).await).await.is_err() {
                break;
            }
        }
    });
    tokio::spawn(service.run(ReceiverStream::new(incoming).boxed(), std::future::pending()));
    handle
}

/// Seconds of processor time that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit_once(") ").unwrap().1;
    let fields: Vec<&str> = after.split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let proposers: usize = arguments.next().map_or(64, |text| text.parse().unwrap());
    let seconds: u64 = arguments.next().map_or(5, |text| text.parse().unwrap());
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let root = tempfile::tempdir_in(directory).unwrap();
    let listeners: Vec<_> = (0..3)
        .map(|_| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        })
        .collect();
    let members: Vec<_> = (1..)
        .zip(&listeners)
        .map(|(id, listener)| Member {
            id,
            name: format!("m{id}"),
            raft_addr: listener.local_addr().unwrap().to_string(),
            ..Member::default()
        })
        .collect();
    let mut runtimes = Vec::new();
    let mut handles = Vec::new();
    for (id, listener) in (1..).zip(listeners) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let opening = member(id, root.path().to_owned(), members.clone(), listener);
        handles.push(runtime.block_on(async move { tokio::spawn(opening).await.unwrap() }));
        runtimes.push(runtime);
    }
    let leader = runtimes[0].block_on(async {
        let mut leadership = handles[0].leadership();
        leadership.wait_for(|now| now.leader.is_some()).await.unwrap().leader.clone().unwrap().id
    });
    let position = usize::try_from(leader).unwrap() - 1;
    for (through, place) in [("the leader", position), ("a follower", (position + 1) % 3)] {
        measure(&runtimes[place], &handles[place], through, proposers, seconds);
    }
    let (count, sum) = handles[position].metrics().barriers();
    println!("barriers on the leader: {count}, {:?} each", sum / u32::try_from(count).unwrap());
    runtimes.into_iter().for_each(Runtime::shutdown_background);
}

fn measure(runtime: &Runtime, handle: &Handle, through: &str, proposers: usize, seconds: u64) {
    let done = Arc::new(AtomicU64::new(0));
    let payload = Bytes::from(vec![7; 256]);
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let tasks: Vec<_> = (0..proposers)
        .map(|_| {
            let (handle, payload, done) = (handle.clone(), payload.clone(), Arc::clone(&done));
            runtime.spawn(async move {
                while began.elapsed() < Duration::from_secs(seconds) {
                    handle.propose(payload.clone(), Duration::from_secs(10)).await.unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    let (took, count) = (began.elapsed().as_secs_f64(), u32::try_from(done.load(Ordering::Relaxed)).unwrap());
    let cpu = cpu_seconds() - cpu;
    println!(
        "{proposers} proposers through {through}: {:.0} proposals/s, {:.1} µs of processor each",
        f64::from(count) / took,
        1e6 * cpu / f64::from(count)
    );
}
