//! A cluster inside one process: each member on a runtime of its own, so that it can be killed without a word, and all of
//! them joined by a switchboard of in-memory streams, which can be cut.

#![allow(dead_code, reason = "each test binary uses the part it needs")]
#![expect(unreachable_pub, clippy::unwrap_used, reason = "shared by test binaries only")]

pub mod wire;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_raft::{
    BoxError, Bytes, Entry, Handle, Io, Leadership, Links, Member, OpenError, Options, PeerIo, ProposeError, ReadMode,
    Service, SnapshotPolicy, StateMachine,
};
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A machine that remembers every payload, and answers with how many it has seen.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Arc<Vec<String>>>>);

impl Journal {
    pub fn seen(&self) -> Vec<String> {
        self.0.lock().unwrap().to_vec()
    }
}

impl StateMachine for Journal {
    type Snapshot = Arc<Vec<String>>;

    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes> {
        let mut seen = self.0.lock().unwrap();
        let seen = Arc::make_mut(&mut seen);
        entries
            .iter()
            .map(|entry| {
                seen.push(String::from_utf8(entry.payload.to_vec()).unwrap());
                Bytes::from(seen.len().to_string())
            })
            .collect()
    }

    fn snapshot(&self) -> Self::Snapshot {
        Arc::clone(&self.0.lock().unwrap())
    }

    fn write(snapshot: &Self::Snapshot, out: &mut dyn io::Write) -> Result<(), BoxError> {
        Ok(out.write_all(snapshot.join("\n").as_bytes())?)
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> Result<(), BoxError> {
        let text = io::read_to_string(from)?;
        *self.0.lock().unwrap() = Arc::new(text.split('\n').map(str::to_owned).collect());
        Ok(())
    }
}

/// Who can be reached, and which streams are open.
#[derive(Default)]
struct Switchboard {
    doors: HashMap<String, mpsc::Sender<io::Result<PeerIo>>>,
    streams: Vec<(String, String, AbortHandle)>,
    cut: HashSet<String>,
    /// Streams to and from these are open, and nothing comes through them ever again.
    frozen: HashSet<String>,
    /// How often each was dialled.
    dialled: HashMap<String, u64>,
}

/// The switchboard as one member uses it.
struct Line {
    from: String,
    board: Arc<Mutex<Switchboard>>,
}

impl Links for Line {
    fn connect(&self, member: &Member) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let (from, to) = (self.from.clone(), member.name.clone());
        let board = Arc::clone(&self.board);
        let watched = Arc::clone(&self.board);
        Box::pin(async move {
            let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "nobody is there");
            let (ours, near) = tokio::io::duplex(64 * 1024);
            let (far, theirs) = tokio::io::duplex(64 * 1024);
            let is_frozen = {
                let mut board = board.lock().unwrap();
                *board.dialled.entry(to.clone()).or_default() += 1;
                board.frozen.contains(&from) || board.frozen.contains(&to)
            };
            if is_frozen {
                return std::future::pending().await;
            }
            let door = {
                let mut board = board.lock().unwrap();
                if board.cut.contains(&from) || board.cut.contains(&to) {
                    return Err(refused());
                }
                let door = board.doors.get(&to).cloned().ok_or_else(refused)?;
                let copying = tokio::spawn(copy(near, far, from.clone(), to.clone(), Arc::clone(&watched)));
                board.streams.push((from.clone(), to, copying.abort_handle()));
                door
            };
            door.send(Ok(PeerIo { io: Box::new(theirs), peer: from })).await.map_err(|_| refused())?;
            Ok(Box::new(ours) as Box<dyn Io>)
        })
    }
}

/// Carries bytes both ways, until one of the members is frozen: then it keeps the stream open and carries nothing more.
async fn copy(near: DuplexStream, far: DuplexStream, from: String, to: String, board: Arc<Mutex<Switchboard>>) {
    let is_frozen = || {
        let board = board.lock().unwrap();
        board.frozen.contains(&from) || board.frozen.contains(&to)
    };
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    let one_way = async |mut reader: ReadHalf<DuplexStream>, mut writer: WriteHalf<DuplexStream>| -> io::Result<()> {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            let read = reader.read(&mut bytes).await?;
            if is_frozen() {
                std::future::pending::<()>().await;
            }
            if read == 0 {
                return writer.shutdown().await;
            }
            writer.write_all(&bytes[..read]).await?;
        }
    };
    let _ = tokio::join!(one_way(near_read, far_write), one_way(far_read, near_write));
}

/// Directories and streams of some members.
pub struct Cluster {
    pub directory: tempfile::TempDir,
    pub members: Vec<Member>,
    pub snapshots: SnapshotPolicy,
    board: Arc<Mutex<Switchboard>>,
    /// Names of members that came later; the first ones are called by their ids.
    late: Mutex<HashMap<u64, String>>,
}

impl Cluster {
    pub fn new(size: u64) -> Self {
        let members = (1..=size)
            .map(|id| Member {
                id,
                name: format!("member-{id}"),
                raft_addr: format!("raft-{id}"),
                api_addr: format!("api-{id}"),
                domain: String::new(),
            })
            .collect();
        Self {
            directory: tempfile::tempdir().unwrap(),
            members,
            snapshots: SnapshotPolicy::default(),
            board: Arc::default(),
            late: Mutex::default(),
        }
    }

    fn name(&self, id: u64) -> String {
        self.late.lock().unwrap().get(&id).cloned().unwrap_or_else(|| format!("member-{id}"))
    }

    /// Starts a member that was added to the running cluster.
    pub async fn start_late(&self, member: &Member) -> Node {
        self.late.lock().unwrap().insert(member.id, member.name.clone());
        self.start(member.id).await
    }

    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("member-{id}"))
    }

    pub fn options(&self, id: u64) -> Options {
        let line = Line { from: self.name(id), board: Arc::clone(&self.board) };
        let is_late = self.late.lock().unwrap().contains_key(&id);
        let bootstrap = if is_late { Vec::new() } else { self.members.clone() };
        let mut options = Options::new(id, self.data_dir(id), bootstrap, Arc::new(line));
        options.snapshots = self.snapshots.clone();
        options
    }

    pub async fn try_start(&self, id: u64) -> Result<Node, OpenError> {
        self.start_with(self.options(id)).await
    }

    pub async fn start(&self, id: u64) -> Node {
        self.try_start(id).await.unwrap()
    }

    pub async fn start_with(&self, options: Options) -> Result<Node, OpenError> {
        let machine = Journal::default();
        let opening = berth_raft::open(options.clone(), machine.clone());
        self.run(options.id, machine, opening).await
    }

    /// Starts a member that opens itself again when its disk failed.
    pub async fn supervise(&self, options: Options) -> Result<Node, OpenError> {
        let machine = Journal::default();
        let next = machine.clone();
        let make = move || {
            *next.0.lock().unwrap() = Arc::default();
            next.clone()
        };
        let opening = berth_raft::supervise(options.clone(), make);
        self.run(options.id, machine, opening).await
    }

    async fn run(
        &self,
        id: u64,
        machine: Journal,
        opening: impl Future<Output = Result<(Handle, Service), OpenError>> + Send + 'static,
    ) -> Result<Node, OpenError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let opening = runtime.spawn(opening);
        let (handle, service) = match opening.await.unwrap() {
            Ok(opened) => opened,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let (door, incoming) = mpsc::channel(16);
        self.board.lock().unwrap().doors.insert(self.name(id), door);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = runtime.spawn(service.run(ReceiverStream::new(incoming), async {
            let _ = stopped.await;
        }));
        let serving = Box::pin(async move { serving.await.unwrap().unwrap() });
        Ok(Node { id, handle, machine, stop: Some(stop), serving, runtime: Some(runtime) })
    }

    pub async fn start_all(&self) -> Vec<Node> {
        futures::future::join_all(self.members.iter().map(|member| self.start(member.id))).await
    }

    /// Cuts a member off from all others, or joins it to them again.
    pub fn cut(&self, id: u64, cut: bool) {
        let name = self.name(id);
        let mut board = self.board.lock().unwrap();
        if cut {
            for (from, to, stream) in &board.streams {
                if *from == name || *to == name {
                    stream.abort();
                }
            }
            board.cut.insert(name);
        } else {
            board.cut.remove(&name);
        }
    }

    /// How often a member was dialled by the others.
    pub fn dialled(&self, id: u64) -> u64 {
        self.board.lock().unwrap().dialled.get(&self.name(id)).copied().unwrap_or_default()
    }

    /// Makes a member fall silent without a sign: its streams stay open, and nothing comes through. Undone for new streams
    /// only, as with a machine that was unplugged.
    pub fn freeze(&self, id: u64, frozen: bool) {
        let name = self.name(id);
        let mut board = self.board.lock().unwrap();
        if frozen {
            board.frozen.insert(name);
        } else {
            board.frozen.remove(&name);
        }
    }

    /// Opens a stream to a member under any name.
    pub async fn connect_as(&self, name: &str, to: u64) -> io::Result<Box<dyn Io>> {
        let line = Line { from: name.to_owned(), board: Arc::clone(&self.board) };
        let member = self.members.iter().find(|member| member.id == to).unwrap().clone();
        line.connect(&member).await
    }

    /// Kills a member: its tasks end where they are, and nobody is told. Returns once its directory can be opened again.
    pub async fn kill(&self, mut node: Node) {
        let id = node.id;
        let name = self.name(id);
        {
            let mut board = self.board.lock().unwrap();
            board.doors.remove(&name);
            board.streams.retain(|(from, to, stream)| {
                let gone = *from == name || *to == name;
                if gone {
                    stream.abort();
                }
                !gone
            });
        }
        node.runtime.take().unwrap().shutdown_background();
        drop(node);
        let lock = std::fs::File::open(self.data_dir(id).join("LOCK")).unwrap();
        eventually("the end of a killed member", || lock.try_lock().is_ok()).await;
    }
}

/// A member that runs.
pub struct Node {
    pub id: u64,
    pub handle: Handle,
    pub machine: Journal,
    stop: Option<oneshot::Sender<()>>,
    serving: BoxFuture<'static, ()>,
    runtime: Option<Runtime>,
}

impl Node {
    pub async fn propose(&self, text: &str) -> Result<u64, ProposeError> {
        let answer = self.handle.propose(Bytes::from(text.to_owned()), PATIENCE).await?;
        Ok(std::str::from_utf8(&answer).unwrap().parse().unwrap())
    }

    pub async fn leadership(&self, wanted: impl Fn(&Leadership) -> bool) -> Leadership {
        let mut leadership = self.handle.leadership();
        let found = tokio::time::timeout(PATIENCE, leadership.wait_for(|now| wanted(now))).await;
        found.expect("the leadership wanted did not come about").unwrap().clone()
    }

    /// Stops in an orderly way.
    pub async fn stop(mut self) {
        self.handle.shutdown().await;
        let _ = self.stop.take().unwrap().send(());
        (&mut self.serving).await;
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Repeats a look until it is as wanted; every look is at something that changes by itself.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "{what} did not come about");
}

/// The leader and the others, once all agree.
pub async fn split(mut nodes: Vec<Node>) -> (Node, Vec<Node>) {
    let leader = nodes[0].leadership(|now| now.leader.is_some()).await.leader.unwrap().id;
    for node in &nodes {
        node.leadership(|now| now.leader.as_ref().is_some_and(|known| known.id == leader)).await;
    }
    let position = nodes.iter().position(|node| node.id == leader).unwrap();
    (nodes.remove(position), nodes)
}

pub async fn stop_all(nodes: impl IntoIterator<Item = Node>) {
    futures::future::join_all(nodes.into_iter().map(Node::stop)).await;
}

pub async fn same_everywhere(nodes: &[&Node], expected: &[String]) {
    for node in nodes {
        node.handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
        assert_eq!(node.machine.seen(), expected, "member {}", node.id);
    }
}
