//! One member as the simulated machine runs it: the real one, on a simulated network and disk.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_raft::testing::{Disk, open_with};
use berth_raft::{
    Bytes, Handle, Io, Links, Member, OpenError, Options, PeerIo, ProposeError, ReadMode, Service, SnapshotPolicy,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use turmoil::net::{TcpListener, TcpStream};

use crate::machine::{REQUEST, Registers, Reply, Request};
use crate::witness::Shared;

/// The port for the other members.
const RAFT_PORT: u16 = 7000;
/// The port for clients.
pub(crate) const CLIENT_PORT: u16 = 7001;

/// How long a member tries to carry out a request.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What a member is told by whoever runs the simulation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// End in an orderly way.
    Shutdown,
    /// Hand the leader's office over.
    Transfer,
}

/// A member's place, which outlives its runs.
pub(crate) struct Seat {
    pub(crate) member: Member,
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
    pub(crate) skips_barrier: bool,
    pub(crate) witness: Shared,
    pub(crate) root: PathBuf,
}

/// The members of a cluster of this size.
pub(crate) fn members(count: u64) -> Vec<Member> {
    let member = |id| Member {
        id,
        name: format!("member-{id}"),
        raft_addr: format!("member-{id}:{RAFT_PORT}"),
        api_addr: format!("member-{id}:{CLIENT_PORT}"),
        ..Member::default()
    };
    (1..=count).map(member).collect()
}

impl Seat {
    pub(crate) fn new(member: Member, disk: Disk, furnishing: &Furnishing) -> Arc<Self> {
        let Furnishing { members, snapshots, skips_barrier, witness, root } = furnishing;
        Arc::new(Self {
            data_dir: root.join(&member.name),
            member,
            disk,
            witness: witness.clone(),
            bootstrap: members.clone(),
            snapshots: snapshots.clone(),
            skips_barrier: *skips_barrier,
            running: Mutex::new(None),
        })
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

    async fn open(&self) -> Result<(Handle, Service, Registers), OpenError> {
        let machine = Registers::new(self.member.id, self.witness.clone());
        let mut options = Options::new(self.member.id, &self.data_dir, self.bootstrap.clone(), Arc::new(Wires));
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
    let id = seat.member.id;
    let (handle, service, machine) = match seat.open().await {
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
