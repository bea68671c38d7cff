//! One member as the simulated machine runs it: the real one, on a simulated network and disk.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use berth_raft::testing::{Disk, Flaw, open_with};
use berth_raft::{
    Bytes, Handle, Io, Links, Member, MembershipError, NewMember, OpenError, Options, PeerIo, ProposeError, ReadMode,
    Service, SnapshotPolicy,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use turmoil::net::{TcpListener, TcpStream};

use crate::machine::{REQUEST, Registers, Reply, Request};
use crate::witness::Shared;

/// The port for the other members.
const RAFT_PORT: u16 = 7000;
/// The port for clients.
pub(crate) const CLIENT_PORT: u16 = 7001;

/// How long a member tries to carry out a request.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long a member tries to change the members.
const CHANGING: Duration = Duration::from_secs(3);

/// A change of the members.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// A learner comes.
    Add(NewMember),
    /// A learner gets a vote.
    Promote(u64),
    /// A member goes.
    Remove { id: u64, force: bool },
    /// A member comes, and goes on for one that is dead.
    Replace { dead: u64, with: NewMember },
}

impl Change {
    async fn make(self, handle: &Handle) -> Result<Member, MembershipError> {
        match self {
            Self::Add(new) => handle.add_member(new, CHANGING).await,
            Self::Promote(id) => handle.promote(id, CHANGING).await,
            Self::Remove { id, force } => handle.remove(id, force, CHANGING).await,
            Self::Replace { dead, with } => handle.replace(dead, with, CHANGING).await,
        }
    }
}

/// What a member is told by whoever runs the simulation.
#[derive(Debug)]
pub(crate) enum Order {
    /// End in an orderly way.
    Shutdown,
    /// Hand the leader's office over.
    Transfer,
    /// Have the members changed.
    Change(Change, oneshot::Sender<Result<Member, MembershipError>>),
}

/// A member's place, which outlives its runs.
pub(crate) struct Seat {
    /// Counts from one; the first members' ids are the same.
    pub(crate) number: u64,
    /// Whose place it is, once the cluster has said so.
    member: OnceLock<Member>,
    pub(crate) disk: Disk,
    pub(crate) witness: Shared,
    data_dir: PathBuf,
    bootstrap: Vec<Member>,
    snapshots: SnapshotPolicy,
    /// Whether reads are to skip the barrier, which is a bug.
    skips_barrier: bool,
    running: Mutex<Option<Running>>,
}

/// A member that runs.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) machine: Registers,
    pub(crate) orders: mpsc::UnboundedSender<Order>,
}

/// How all seats of a cluster are furnished.
pub(crate) struct Furnishing {
    pub(crate) members: Vec<Member>,
    pub(crate) snapshots: SnapshotPolicy,
    /// The disks' ordinary latency.
    pub(crate) latency: Range<Duration>,
    pub(crate) flaw: Flaw,
    pub(crate) skips_barrier: bool,
    pub(crate) witness: Shared,
    pub(crate) root: PathBuf,
}

/// The name of a member, and of its machine.
pub(crate) fn name(number: u64) -> String {
    format!("member-{number}")
}

/// A member that the cluster has not yet got.
pub(crate) fn newcomer(number: u64) -> NewMember {
    let name = name(number);
    NewMember {
        raft_addr: format!("{name}:{RAFT_PORT}"),
        api_addr: format!("{name}:{CLIENT_PORT}"),
        name,
        domain: String::new(),
    }
}

/// The members of a cluster of this size.
pub(crate) fn members(count: u64) -> Vec<Member> {
    let member = |id| {
        let NewMember { name, raft_addr, api_addr, domain } = newcomer(id);
        Member { id, name, raft_addr, api_addr, domain }
    };
    (1..=count).map(member).collect()
}

impl Seat {
    /// A place with a fresh disk: of one of the first members, or one that is still to be given.
    pub(crate) fn new(number: u64, furnishing: &Furnishing) -> Arc<Self> {
        let Furnishing { members, snapshots, latency, flaw, skips_barrier, witness, root } = furnishing;
        let disk = Disk::default();
        disk.set_flaw(*flaw);
        disk.set_latency(latency.clone());
        let first = members.iter().find(|member| member.id == number);
        Arc::new(Self {
            number,
            member: first.cloned().map_or_else(OnceLock::new, OnceLock::from),
            disk,
            witness: witness.clone(),
            data_dir: root.join(name(number)),
            bootstrap: first.map(|_| members.clone()).unwrap_or_default(),
            snapshots: snapshots.clone(),
            skips_barrier: *skips_barrier,
            running: Mutex::new(None),
        })
    }

    /// The id that the cluster knows the member by, once it has one.
    pub(crate) fn id(&self) -> Option<u64> {
        self.member.get().map(|member| member.id)
    }

    /// Whether the place is taken by this member from now on.
    pub(crate) fn take(&self, member: Member) -> bool {
        self.member.set(member).is_ok()
    }

    /// The member, if it runs.
    pub(crate) fn running(&self) -> Option<Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the member's run is over.
    pub(crate) fn vacate(&self) {
        self.take_place(None);
    }

    fn take_place(&self, running: Option<Running>) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
    }

    async fn open(&self, id: u64) -> Result<(Handle, Service, Registers), OpenError> {
        let machine = Registers::new(id, self.witness.clone());
        let mut options = Options::new(id, &self.data_dir, self.bootstrap.clone(), Arc::new(Wires));
        options.snapshots = self.snapshots.clone();
        let (handle, service) = open_with(options, machine.clone(), &self.disk).await?;
        Ok((handle, service, machine))
    }
}

/// The simulated network, on which an address is enough to know who answers.
struct Wires;

impl Links for Wires {
    fn connect(&self, member: &Member) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let address = member.raft_addr.clone();
        async move { Ok(Box::new(TcpStream::connect(address).await?) as Box<dyn Io>) }.boxed()
    }
}

/// Runs a member until it is told to end, or until its machine crashes.
pub(crate) async fn run(seat: Arc<Seat>) -> turmoil::Result {
    let Some(id) = seat.id() else {
        // It is started again when it is somebody's.
        return Ok(());
    };
    let (handle, service, machine) = match seat.open(id).await {
        Ok(opened) => opened,
        Err(error) => {
            seat.witness.lock().broken("recovery", format_args!("member {id} does not open: {error}"));
            return Ok(());
        }
    };
    seat.witness.lock().event(format_args!("member {id} runs from {}", machine.state().index));
    let listener = TcpListener::bind(("0.0.0.0", RAFT_PORT)).await?;
    let incoming = stream::unfold(listener, async |listener| {
        let peer = listener.accept().await.map(|(stream, from)| PeerIo {
            io: Box::new(stream),
            peer: turmoil::reverse_lookup(from.ip()).unwrap_or_default(),
        });
        Some((peer, listener))
    });
    tokio::spawn(service.run(incoming, std::future::pending()));
    let clients = TcpListener::bind(("0.0.0.0", CLIENT_PORT)).await?;
    let (orders, mut ordered) = mpsc::unbounded_channel();
    seat.take_place(Some(Running { handle: handle.clone(), machine: machine.clone(), orders }));
    loop {
        tokio::select! {
            biased;
            order = ordered.recv() => match order {
                Some(Order::Transfer) => {
                    let (handle, witness) = (handle.clone(), seat.witness.clone());
                    tokio::spawn(async move {
                        let to = handle.transfer_leadership(None, PATIENCE).await;
                        let to = to.map(|member| member.id);
                        witness.lock().event(format_args!("member {id} hands its office over: {to:?}"));
                    });
                }
                Some(Order::Change(change, answer)) => {
                    let (handle, witness) = (handle.clone(), seat.witness.clone());
                    tokio::spawn(async move {
                        let asked = format!("{change:?}");
                        let made = change.make(&handle).await;
                        witness.lock().event(format_args!("member {id} is asked for {asked}: {made:?}"));
                        // Whoever asked may have lost patience.
                        let _ = answer.send(made);
                    });
                }
                Some(Order::Shutdown) | None => {
                    handle.shutdown().await;
                    seat.witness.lock().event(format_args!("member {id} has shut down"));
                    return Ok(());
                }
            },
            accepted = clients.accept() => {
                let (stream, _) = accepted?;
                let answering = answer(stream, handle.clone(), machine.clone(), seat.skips_barrier);
                tokio::spawn(answering);
            }
        }
    }
}

/// Answers the requests of one client until it goes.
async fn answer(mut stream: TcpStream, handle: Handle, machine: Registers, skips_barrier: bool) {
    let mut bytes = [0; REQUEST];
    while stream.read_exact(&mut bytes).await.is_ok() {
        let reply = match Request::decode(&bytes) {
            Request::Read { key, by_lease } => {
                let mode = if by_lease { ReadMode::Lease } else { ReadMode::Index };
                let barrier = if skips_barrier { Ok(0) } else { handle.read_barrier(mode, PATIENCE).await };
                let (value, version) = machine.state().read(key);
                barrier.map_or(Reply::Refused, |_| Reply::Seen { value, version })
            }
            Request::Write { .. } | Request::Swap { .. } => {
                match handle.propose(Bytes::copy_from_slice(&bytes), PATIENCE).await {
                    Ok(answer) => Reply::decode(&answer).unwrap_or(Reply::Unknown),
                    Err(ProposeError::Unknown { .. }) => Reply::Unknown,
                    // Every other error says that nothing was changed.
                    Err(_) => Reply::Refused,
                }
            }
        };
        if stream.write_all(&reply.encode()).await.is_err() {
            return;
        }
    }
}
