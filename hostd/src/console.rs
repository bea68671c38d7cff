//! The daemon's port: serial consoles, for controllers that hold a ticket.
//!
//! A ticket is good for one stream to one placement of one VM within a minute. The bytes flow through bounded queues in
//! both directions: a client that does not read is cut off rather than remembered for, and one that writes faster than
//! its guest reads waits. A console has one session at a time; a new one takes it over, because the old one may hang on a
//! controller that is dead.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_host::backend::BackendError;
use berth_libvirt::Console;
use berth_model::{Epoch, Incarnation, Stamp, VmUid};
use berth_pki::ticket::{Gate, Right, Ticket};
use berth_pki::{Accepted, Credentials, Identity};
use berth_proto::status::to_status;
use berth_proto::v1;
use berth_proto::v1::console_input::Input as Typed;
use berth_proto::v1::console_output::Output as Shown;
use berth_proto::v1::host_stream_service_server::{HostStreamService, HostStreamServiceServer};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::backend::HostBackend;

/// How long a controller may take to show its ticket.
const SHOW_TICKET: Duration = Duration::from_secs(10);
/// How long a client may leave its guest's output unread once the queue is full.
const READ_AGAIN: Duration = Duration::from_secs(10);
/// Pieces of output or input that wait, each of at most [`PIECE`].
const WAITING_PIECES: usize = 16;
/// The longest piece of output.
const PIECE: usize = 16 << 10;
/// Consoles at once: each takes two threads, far fewer than may run.
const CONSOLES: usize = 64;

/// An open console, usable from two threads.
pub trait Terminal: Send + Sync + 'static {
    /// Waits for output of the guest; 0 is the end.
    fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize>;
    /// Gives all bytes to the guest, waiting as long as that takes.
    fn write_all(&self, data: &[u8]) -> std::io::Result<()>;
    /// Ends it; whoever waits in the other two returns.
    fn close(&self);
}

impl Terminal for Console {
    fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        Self::read(self, buffer)
    }
    fn write_all(&self, data: &[u8]) -> std::io::Result<()> {
        Self::write_all(self, data)
    }
    fn close(&self) {
        Self::close(self);
    }
}

/// Where consoles come from.
pub trait Terminals: Send + Sync + 'static {
    /// Opens the console of a running VM, and ends whatever session it has. Blocks.
    fn open(&self, vm: VmUid) -> Result<Arc<dyn Terminal>, BackendError>;
}

impl Terminals for HostBackend {
    fn open(&self, vm: VmUid) -> Result<Arc<dyn Terminal>, BackendError> {
        Ok(Arc::new(self.libvirt().open_console(vm, true)?))
    }
}

/// Says which placement of a VM this host obeys.
pub type PlacementOf = Arc<dyn Fn(VmUid) -> Option<Stamp> + Send + Sync>;

/// What the port works with.
pub struct Options {
    /// The host's name, for people.
    pub host: String,
    /// By which tickets are checked.
    pub credentials: Credentials,
    /// Against which they are checked.
    pub placement_of: PlacementOf,
    /// Where consoles come from.
    pub terminals: Arc<dyn Terminals>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("host", &self.host).finish_non_exhaustive()
    }
}

/// Serves consoles on `listener` until `stop`; streams that are open then are told that the host goes away.
pub async fn serve(
    listener: TcpListener,
    options: Options,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let allow = berth_pki::Allow::only([berth_pki::Role::Controller]);
    let config = options.credentials.server_config(allow);
    let incoming = berth_pki::accept(listener, config, berth_pki::Limits::default());
    let service = Consoles {
        host: options.host,
        gate: Arc::new(Mutex::new(Gate::new(options.credentials))),
        placement_of: options.placement_of,
        terminals: options.terminals,
        slots: Arc::new(Semaphore::new(CONSOLES)),
        holders: Arc::default(),
        stop: stop.clone(),
    };
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(HostStreamServiceServer::new(service))
        .serve_with_incoming_shutdown(incoming.map(|accepted| accepted.map(Peer)), stop.cancelled_owned())
        .await
}

struct Consoles {
    host: String,
    gate: Arc<Mutex<Gate>>,
    placement_of: PlacementOf,
    terminals: Arc<dyn Terminals>,
    slots: Arc<Semaphore>,
    /// The latest session of each VM, so that one that was taken over can say so.
    holders: Arc<Mutex<HashMap<VmUid, u64>>>,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl HostStreamService for Consoles {
    type ConsoleStream = ReceiverStream<Result<v1::ConsoleOutput, Status>>;

    async fn console(
        &self,
        request: Request<Streaming<v1::ConsoleInput>>,
    ) -> Result<Response<Self::ConsoleStream>, Status> {
        let bearer = request
            .extensions()
            .get::<Identity>()
            .cloned()
            .ok_or_else(|| to_status(Code::Unauthenticated, "BE-4001", "the peer is not known", None))?;
        let mut typed = request.into_inner();
        let vm = self.check(&first_word(&mut typed).await?, &bearer)?;
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            let message = format!("{CONSOLES} consoles are open on host {}", self.host);
            to_status(Code::ResourceExhausted, "BE-6005", message, Some("close one of them"))
        })?;
        // Before it is opened: the session that this one ends must find out by whom.
        let number = self.take_over(vm);
        let terminals = Arc::clone(&self.terminals);
        let opened = spawn_blocking(move || terminals.open(vm))
            .await
            .map_err(|_| to_status(Code::Internal, "BE-9001", "opening the console panicked", None))
            .and_then(|opened| opened.map_err(|error| unavailable(&error)));
        let terminal = opened.inspect_err(|_| self.give_back(vm, number))?;
        tracing::info!(vm.id = %vm, controller = bearer.name(), "console opened");
        let (sender, receiver) = mpsc::channel(WAITING_PIECES);
        let opened = v1::ConsoleOpened { vm: vm.to_string(), host: self.host.clone() };
        let _ = sender.try_send(Ok(output(Shown::Opened(opened)))); // there is room: it is the first
        let session = Session {
            vm,
            number,
            holders: Arc::clone(&self.holders),
            terminal: OpenTerminal(terminal),
            stop: self.stop.clone(),
            _slot: slot,
        };
        tokio::spawn(session.run(typed, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Consoles {
    /// The VM whose console this ticket opens now, here, to this bearer.
    fn check(&self, ticket: &[u8], bearer: &Identity) -> Result<VmUid, Status> {
        let now = crate::driver::now().wall.as_millis();
        let admitted = self.gate.lock().unwrap_or_else(PoisonError::into_inner).admit(ticket, bearer, now);
        let Ticket { vm_uid, epoch, incarnation, right, .. } = admitted.map_err(|error| refused(&error))?;
        match right {
            Right::Console => {}
        }
        let stamp = Stamp { incarnation: Incarnation(incarnation), epoch: Epoch(epoch) };
        let vm: VmUid = vm_uid.parse().map_err(|error| refused(&error))?;
        let held = (self.placement_of)(vm);
        if held == Some(stamp) {
            return Ok(vm);
        }
        let held = held.map_or_else(|| "none".to_owned(), |held| held.to_string());
        let message = format!("the ticket is for placement {stamp} of VM {vm}; host {} obeys {held}", self.host);
        Err(to_status(
            Code::FailedPrecondition,
            "BE-4004",
            message,
            Some("ask again: the VM was placed anew or is about to be"),
        ))
    }

    fn take_over(&self, vm: VmUid) -> u64 {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let number = holders.entry(vm).or_insert(0);
        *number += 1;
        *number
    }

    /// The console could not be opened: whoever held it before holds it still.
    fn give_back(&self, vm: VmUid, number: u64) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latest) = holders.get_mut(&vm).filter(|latest| **latest == number) {
            *latest -= 1;
        }
    }
}

/// The first word must be a ticket.
async fn first_word(typed: &mut Streaming<v1::ConsoleInput>) -> Result<Vec<u8>, Status> {
    let word = timeout(SHOW_TICKET, typed.message()).await.map_err(|_| no_ticket())??;
    match word.and_then(|word| word.input) {
        Some(Typed::Ticket(ticket)) => Ok(ticket),
        Some(Typed::Data(_)) | None => Err(no_ticket()),
    }
}

fn no_ticket() -> Status {
    to_status(Code::Unauthenticated, "BE-4004", "the first word of a console stream must be its ticket", None)
}

fn refused(error: &impl fmt::Display) -> Status {
    to_status(Code::PermissionDenied, "BE-4004", format!("the ticket is refused: {error}"), None)
}

fn unavailable(error: &BackendError) -> Status {
    let code = match error {
        BackendError::Unreachable { .. } => "BE-6004",
        BackendError::Failed { .. } => "BE-6005",
    };
    to_status(Code::Unavailable, code, error.to_string(), None)
}

/// A terminal that is closed however its session ends, so that no thread waits in it for ever.
struct OpenTerminal(Arc<dyn Terminal>);

impl Drop for OpenTerminal {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// One open console stream.
struct Session {
    vm: VmUid,
    number: u64,
    holders: Arc<Mutex<HashMap<VmUid, u64>>>,
    terminal: OpenTerminal,
    stop: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

/// Why a stream ends.
enum End {
    /// The guest's side ended.
    Hangup,
    /// The client ended.
    ClientLeft,
    /// The client did not read.
    TooSlow,
    /// The daemon goes down.
    GoingAway,
}

impl Session {
    async fn run(self, typed: Streaming<v1::ConsoleInput>, shown: mpsc::Sender<Result<v1::ConsoleOutput, Status>>) {
        let (to_guest, from_client) = mpsc::channel::<Vec<u8>>(WAITING_PIECES);
        let (from_guest, mut to_client) = mpsc::channel::<Vec<u8>>(1);
        let reader = spawn_blocking({
            let terminal = Arc::clone(&self.terminal.0);
            move || read_all(&*terminal, &from_guest)
        });
        let writer = spawn_blocking({
            let terminal = Arc::clone(&self.terminal.0);
            move || write_all(&*terminal, from_client)
        });
        let typing = tokio::spawn(forward(typed, to_guest));
        let end = tokio::select! {
            end = show(&mut to_client, &shown) => end,
            _ = typing => End::ClientLeft,
            () = shown.closed() => End::ClientLeft,
            () = self.stop.cancelled() => End::GoingAway,
        };
        self.terminal.0.close();
        drop(to_client);
        if let Some(last) = self.last_word(&end) {
            let _ = timeout(Duration::from_secs(1), shown.send(Ok(output(Shown::End(last))))).await;
        }
        let _ = tokio::join!(reader, writer);
        tracing::info!(vm.id = %self.vm, "console closed");
    }

    fn last_word(&self, end: &End) -> Option<v1::ConsoleEnd> {
        use v1::ConsoleEndReason as Reason;
        let latest = self.holders.lock().unwrap_or_else(PoisonError::into_inner).get(&self.vm).copied();
        let (reason, message) = match end {
            End::ClientLeft => return None,
            End::Hangup if latest != Some(self.number) => (Reason::Failed, "another session took the console over"),
            End::Hangup => (Reason::VmStopped, "the VM stopped"),
            End::TooSlow => (Reason::TooSlow, "the guest's output was not read for 10 s"),
            End::GoingAway => (Reason::GoingAway, "the host's daemon goes down; the VM runs on"),
        };
        Some(v1::ConsoleEnd { reason: reason.into(), message: message.into() })
    }
}

/// Shows the guest's output to the client until one of them ends.
async fn show(guest: &mut mpsc::Receiver<Vec<u8>>, client: &mpsc::Sender<Result<v1::ConsoleOutput, Status>>) -> End {
    while let Some(bytes) = guest.recv().await {
        match timeout(READ_AGAIN, client.send(Ok(output(Shown::Data(bytes))))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return End::ClientLeft,
            Err(_) => return End::TooSlow,
        }
    }
    End::Hangup
}

/// Gives what the client types to the guest's writer until the client ends.
async fn forward(mut typed: Streaming<v1::ConsoleInput>, to_guest: mpsc::Sender<Vec<u8>>) {
    while let Ok(Some(word)) = typed.message().await {
        let Some(Typed::Data(bytes)) = word.input else { return };
        if to_guest.send(bytes).await.is_err() {
            // The guest no longer listens; whoever reads from it will find out why.
            return std::future::pending().await;
        }
    }
}

fn read_all(terminal: &dyn Terminal, to_client: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        if to_client.blocking_send(buffer[..count].to_vec()).is_err() {
            return;
        }
    }
}

fn write_all(terminal: &dyn Terminal, mut from_client: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = from_client.blocking_recv() {
        if terminal.write_all(&bytes).is_err() {
            return;
        }
    }
}

fn output(shown: Shown) -> v1::ConsoleOutput {
    v1::ConsoleOutput { output: Some(shown) }
}

/// A connection whose peer is told to the service.
struct Peer(Accepted);

impl tonic::transport::server::Connected for Peer {
    type ConnectInfo = Identity;
    fn connect_info(&self) -> Identity {
        self.0.peer.clone()
    }
}

impl tokio::io::AsyncRead for Peer {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Peer {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
