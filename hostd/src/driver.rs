//! The one task that owns the agent: feeds it what happens and has done what it says.
//!
//! The agent never waits for anything, so neither does this: what takes time runs in tasks and threads of its own and
//! comes back as an input. Words to a controller go through a bounded queue; one that is full means that the connection
//! does not move, and it is closed.

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use berth_host::agent::{Agent, Event, Input, Outcome, Output};
use berth_host::backend::{Backend, BackendError};
use berth_host::clock::{BootTime, Now};
use berth_host::ledger::Entry;
use berth_host::session::ConnectionId;
use berth_host::step::{self, Step};
use berth_model::session::ToController;
use berth_model::{Stamp, Timestamp, VmUid};
use berth_pki::Credentials;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::known_controllers::KnownControllers;
use crate::ledger_store::LedgerStore;
use crate::ledger_writers::{LedgerWriters, Writer};
use crate::link;

/// Inputs that wait for the agent. It takes each in microseconds; more would only be more to lose.
const WAITING_INPUTS: usize = 256;
/// Steps at once, one for each VM. libvirt works on five calls of a connection at a time by default; one is left for
/// scans.
const STEPS_AT_ONCE: usize = 4;
/// Different reasons for having no session that are told in one absence; what follows goes to the debug log.
const MOST_TOLD: usize = 32;

/// The placements that this host obeys, for whoever must check a right against them.
pub type Placements = HashMap<VmUid, Stamp>;

/// What the driver works with.
#[derive(Debug)]
pub struct Parts<B> {
    /// The brain.
    pub agent: Agent,
    /// Where its ledger is kept.
    pub store: LedgerStore,
    /// The threads that write it.
    pub writers: LedgerWriters,
    /// Where it is written down who the controllers are.
    pub known: KnownControllers,
    /// Where steps go.
    pub backend: Arc<B>,
    /// By which controllers are dialled.
    pub credentials: Credentials,
    /// A seed for what the agent leaves to chance.
    pub entropy: u64,
}

/// A cheap handle to a running driver.
#[derive(Clone, Debug)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    events: Arc<Notify>,
    placements: watch::Receiver<Arc<Placements>>,
}

impl Handle {
    /// Tells the agent something.
    pub async fn tell(&self, input: Input) {
        // Refused only when the agent has ended, and then nobody needs to know.
        let _ = self.inputs.send(input).await;
    }

    /// Something happened to a domain. Never waits; several at once are one.
    pub fn domain_event(&self) {
        self.events.notify_one();
    }

    /// The placement that this host obeys for a VM that shall be here.
    pub fn placement(&self, vm: VmUid) -> Option<Stamp> {
        self.placements.borrow().get(&vm).copied()
    }
}

/// Drives an agent until it is told to stop and has nothing under way.
#[derive(Debug)]
pub struct Driver<B> {
    agent: Agent,
    backend: Arc<B>,
    credentials: Credentials,
    entropy: Entropy,
    inputs: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    writer: Writer,
    known: watch::Sender<Vec<String>>,
    events: Arc<Notify>,
    placements: watch::Sender<Arc<Placements>>,
    connections: HashMap<ConnectionId, Connection>,
    steps: Arc<Semaphore>,
    wake_at: Option<Instant>,
    /// Why there was no session, each reason told once until there is one again.
    told: BTreeSet<String>,
}

#[derive(Debug)]
struct Connection {
    words: mpsc::Sender<ToController>,
    task: AbortHandle,
}

impl<B: Backend> Driver<B> {
    /// A driver and its handle. Must be called within a tokio runtime.
    pub fn new(parts: Parts<B>) -> (Self, Handle) {
        let Parts { agent, store, writers, known, backend, credentials, entropy } = parts;
        let (sender, inputs) = mpsc::channel(WAITING_INPUTS);
        let (placements, seen) = watch::channel(Arc::new(placements_of(&agent)));
        let events = Arc::new(Notify::new());
        let handle = Handle { inputs: sender.clone(), events: Arc::clone(&events), placements: seen };
        let driver = Self {
            agent,
            backend,
            credentials,
            entropy: Entropy(entropy),
            inputs,
            writer: writers.writer(store, sender.clone()),
            known: known.follow(),
            sender,
            events,
            placements,
            connections: HashMap::new(),
            steps: Arc::new(Semaphore::new(STEPS_AT_ONCE)),
            wake_at: None,
            told: BTreeSet::new(),
        };
        (driver, handle)
    }

    /// Runs until `stop`, and then until nothing is under way. VMs run on.
    pub async fn run(mut self, stop: CancellationToken) {
        self.handle(Input::Tick);
        let mut stopping = false;
        loop {
            let input = tokio::select! {
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    Input::Drain
                }
                Some(input) = self.inputs.recv() => input,
                () = self.events.notified() => Input::DomainEvent,
                () = sleep_until(self.wake_at) => Input::Tick,
            };
            self.handle(input);
            if stopping && self.agent.is_idle() {
                return;
            }
        }
    }

    fn handle(&mut self, input: Input) {
        // A connection that the agent did not close itself is forgotten here.
        if let Input::Ended(connection, _) = &input {
            self.connections.remove(connection);
        }
        let mut waiting = vec![input];
        while let Some(input) = waiting.pop() {
            let entropy = self.entropy.next();
            self.wake_at = None;
            for output in self.agent.handle(input, now(), entropy) {
                waiting.extend(self.perform(output));
            }
        }
    }

    /// Has one thing done. Returns what the agent must hear of at once.
    fn perform(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Connect { connection, address } => {
                tracing::debug!(address, "dialling");
                let (words, receiver) = mpsc::channel(link::WAITING_WORDS);
                let carry = link::carry(connection, address, self.credentials.clone(), receiver, self.sender.clone());
                let task = tokio::spawn(carry).abort_handle();
                self.connections.insert(connection, Connection { words, task });
            }
            Output::Send { connection, message } => {
                let line = self.connections.get(&connection)?;
                if line.words.try_send(message).is_err() {
                    self.close(connection);
                    return Some(Input::Ended(connection, "the controller does not take what it is told".into()));
                }
            }
            Output::Close { connection } => self.close(connection),
            Output::Persist { number, records } => self.writer.write(number, records),
            Output::Execute { step, before } => self.execute(step, before),
            Output::Scan { number } => {
                let backend = Arc::clone(&self.backend);
                self.spawn(Input::Scanned(number, Err(panicked())), move || Input::Scanned(number, backend.scan()));
            }
            Output::Look { vm } => {
                let backend = Arc::clone(&self.backend);
                self.spawn(Input::Looked(vm, Err(panicked())), move || Input::Looked(vm, backend.leftovers(vm)));
            }
            Output::Remember { controllers } => {
                tracing::info!(?controllers, "the controllers are these from now on");
                self.known.send_replace(controllers);
            }
            Output::WakeAt(moment) => {
                let pause = moment.since(now().boot);
                self.wake_at = Some(Instant::now() + Duration::from_millis(pause.0));
            }
            Output::Tell(event) => self.tell(&event),
        }
        None
    }

    fn close(&mut self, connection: ConnectionId) {
        if let Some(connection) = self.connections.remove(&connection) {
            connection.task.abort();
        }
    }

    fn execute(&self, step: Step, before: Option<BootTime>) {
        let (backend, steps, sender) = (Arc::clone(&self.backend), Arc::clone(&self.steps), self.sender.clone());
        tokio::spawn(async move {
            let vm = step.vm();
            let _turn = steps.acquire_owned().await.expect("the semaphore is never closed");
            let work = move || carry_out(&*backend, &step, before);
            let outcome = tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Outcome::Failed(panicked()));
            let _ = sender.send(Input::Executed(vm, outcome)).await;
        });
    }

    /// Does blocking work whose result is an input. The agent waits for it, so a panic must become an answer too.
    fn spawn(&self, panicked: Input, work: impl FnOnce() -> Input + Send + 'static) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let input = tokio::task::spawn_blocking(work).await.unwrap_or(panicked);
            let _ = sender.send(input).await;
        });
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::SessionOpened { leader } => {
                self.told.clear();
                tracing::info!(leader, "a leader holds the session");
            }
            Event::SessionLost { why } if self.told.len() < MOST_TOLD && self.told.insert(why.clone()) => {
                tracing::warn!(why, "no session");
            }
            Event::SessionLost { why } => tracing::debug!(why, "no session"),
            Event::Accepted { changed, left } => {
                self.placements.send_replace(Arc::new(placements_of(&self.agent)));
                tracing::info!(changed, "the desired set changed");
                for vm in left {
                    tracing::warn!(vm.id = %vm, "spoken of no more; if its domain is here it runs on as an orphan");
                }
            }
            Event::EntryRefused(refusal) => tracing::warn!(%refusal, "an entry of the desired set is not obeyed"),
            Event::StepFailed { vm, step, error } => tracing::warn!(vm.id = %vm, step, error, "a step failed"),
            Event::Gone(vm) => tracing::info!(vm.id = %vm, "gone from this host, as asked"),
        }
    }
}

fn carry_out(backend: &impl Backend, step: &Step, before: Option<BootTime>) -> Outcome {
    let (vm, name) = (step.vm(), step.name());
    if step::has_lapsed(before, now().boot) {
        tracing::info!(vm.id = %vm, step = name, "not begun: the permission to start lapsed meanwhile");
        return Outcome::Lapsed;
    }
    tracing::info!(vm.id = %vm, step = name, "begins");
    match backend.execute(step) {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed(error),
    }
}

fn panicked() -> BackendError {
    let why = "BE-9001: the daemon's own code panicked, which is a bug; see the log".into();
    BackendError::Unreachable { what: "the host".into(), why }
}

fn placements_of(agent: &Agent) -> Placements {
    let entries = agent.ledger().entries().iter();
    entries
        .filter_map(|(vm, entry)| match entry {
            Entry::Present(berth) => Some((*vm, berth.stamp)),
            Entry::Absent(_) => None,
        })
        .collect()
}

/// What both clocks say.
pub fn now() -> Now {
    let since_boot = berth_hostsys::boottime();
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Now { boot: BootTime::from_millis(millis(since_boot)), wall: Timestamp::from_millis(millis(since_1970)) }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}

/// Numbers that need to be spread, not secret (SplitMix64).
#[derive(Debug)]
struct Entropy(u64);

impl Entropy {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
