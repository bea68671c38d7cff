//! A log in memory, a clock that tests turn, and a key that hides nothing: what [`Control`] needs of others.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use berth_model::session::{Hello, PROTOCOL, Report, ToController, ToHost, UserData};
use berth_model::testing::{IMAGE_SIZE, Machine, NOW, full_report, name, operator};
use berth_model::{Incarnation, Millis, RequestId, Sealed, Term, Timestamp};
use berth_state::testing::{World, facts};
use berth_state::{Applied, Batch, Body, Change, Cluster, apply};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant};

use crate::admit::{CreateVm, Target};
use crate::error::Error;
use crate::handle::{Caller, Control};
use crate::ports::{Consensus, ConsensusError, Environment, Leadership, Seal};
use crate::publish::Publisher;

/// How the next proposal fares.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// It is refused and not carried out.
    Fails(ConsensusError),
    /// It is carried out, and the answer is lost.
    AnswerLost,
}

#[derive(Debug)]
struct Held {
    /// What the cluster agreed on.
    agreed: Cluster,
    /// What this member has not applied yet.
    behind: Vec<Change>,
    publisher: Publisher,
    lags: bool,
    fates: Vec<Fate>,
    fates_as_leader: Vec<Fate>,
    proposals: Vec<Batch>,
    barriers: usize,
    led: usize,
    controllers: Vec<String>,
}

/// One member's log, and the cluster behind it.
#[derive(Debug)]
pub(crate) struct Log {
    held: Mutex<Held>,
    leadership: watch::Sender<Leadership>,
}

impl Log {
    fn carry_out(&self, batch: &Batch, as_leader: bool) -> Result<Vec<Applied>, ConsensusError> {
        let mut held = self.held.lock().unwrap();
        held.proposals.push(batch.clone());
        let fates = if as_leader { &mut held.fates_as_leader } else { &mut held.fates };
        let fate = if fates.is_empty() { None } else { Some(fates.remove(0)) };
        if let Some(Fate::Fails(error)) = fate {
            return Err(error);
        }
        let (answers, changes) = apply::apply(&mut held.agreed, batch);
        held.behind.extend(changes);
        if !held.lags {
            held.catch_up();
        }
        match fate {
            Some(Fate::AnswerLost) => Err(ConsensusError::Unknown("the connection to the leader broke".into())),
            Some(Fate::Fails(_)) | None => Ok(answers),
        }
    }
}

impl Held {
    fn catch_up(&mut self) {
        let changes = std::mem::take(&mut self.behind);
        self.publisher.applied(&self.agreed, &changes);
    }
}

#[async_trait]
impl Consensus for Log {
    async fn propose(&self, batch: &Batch) -> Result<Vec<Applied>, ConsensusError> {
        self.carry_out(batch, false)
    }

    async fn propose_leading(&self, batch: &Batch) -> Result<Vec<Applied>, ConsensusError> {
        if !self.leadership.borrow().here {
            return Err(ConsensusError::NoLeader);
        }
        self.held.lock().unwrap().led += 1;
        self.carry_out(batch, true)
    }

    async fn read_barrier(&self) -> Result<(), ConsensusError> {
        if !self.leadership.borrow().here && self.leadership.borrow().leader_api.is_none() {
            return Err(ConsensusError::NoLeader);
        }
        let mut held = self.held.lock().unwrap();
        held.barriers += 1;
        held.catch_up();
        Ok(())
    }

    fn controllers(&self) -> Vec<String> {
        self.held.lock().unwrap().controllers.clone()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
}

/// Clocks that follow tokio's, which tests hold; the wall clock can be set.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    set_by: AtomicI64,
    drawn: AtomicU64,
}

impl Clock {
    /// Sets the wall clock forward or back.
    pub(crate) fn set(&self, by: i64) {
        self.set_by.fetch_add(by, Ordering::Relaxed);
    }
}

impl Environment for Clock {
    fn now(&self) -> Timestamp {
        let set = NOW.as_millis().saturating_add_signed(self.set_by.load(Ordering::Relaxed));
        Timestamp::from_millis(set).plus(self.uptime())
    }

    fn uptime(&self) -> Millis {
        Millis(u64::try_from(self.start.elapsed().as_millis()).unwrap())
    }

    fn random(&self) -> u128 {
        0x00ff_0000_0000_u128 + u128::from(self.drawn.fetch_add(1, Ordering::Relaxed))
    }
}

/// Turns secrets round, and opens only what was sealed for the same object by the key `k1`.
#[derive(Debug)]
pub(crate) struct Mirror;

impl Seal for Mirror {
    fn seal(&self, secret: &[u8], context: &[u8]) -> Result<Sealed, String> {
        let ciphertext = secret.iter().rev().copied().collect();
        Ok(Sealed { key_id: "k1".into(), nonce: context.to_vec(), ciphertext })
    }

    fn open(&self, sealed: &Sealed, context: &[u8]) -> Result<UserData, String> {
        if sealed.key_id != "k1" || sealed.nonce != context {
            return Err(format!("no key {} for it", sealed.key_id));
        }
        Ok(UserData(sealed.ciphertext.iter().rev().copied().collect()))
    }
}

/// A member with everything around it.
pub(crate) struct Member {
    pub(crate) control: Control,
    pub(crate) log: Arc<Log>,
    pub(crate) clock: Arc<Clock>,
}

impl Member {
    /// A leading member of a cluster in the state of this world.
    pub(crate) fn of(world: World) -> Self {
        let (publisher, views) = Publisher::new();
        publisher.replaced(&world.cluster);
        let held = Held {
            agreed: world.cluster,
            behind: Vec::new(),
            publisher,
            lags: false,
            fates: Vec::new(),
            fates_as_leader: Vec::new(),
            proposals: Vec::new(),
            barriers: 0,
            led: 0,
            controllers: Vec::new(),
        };
        let log = Arc::new(Log { held: Mutex::new(held), leadership: watch::Sender::new(led_by_us(1)) });
        let clock = Arc::new(Clock { start: Instant::now(), set_by: AtomicI64::new(0), drawn: AtomicU64::new(0) });
        let control = Control::new(Arc::clone(&log) as _, Arc::clone(&clock) as _, Arc::new(Mirror), views);
        Self { control, log, clock }
    }

    /// A leading member of a new cluster that knows the image `tiny`.
    pub(crate) fn new() -> Self {
        Self::of(World::new())
    }

    pub(crate) fn lead(&self, leadership: Leadership) {
        self.log.leadership.send_replace(leadership);
    }

    /// Where the members' APIs answer from now on.
    pub(crate) fn seat(&self, controllers: &[&str]) {
        self.log.held.lock().unwrap().controllers = controllers.iter().map(|one| (*one).to_owned()).collect();
    }

    /// From now on this member applies only what a read barrier makes it apply.
    pub(crate) fn lag(&self) {
        self.log.held.lock().unwrap().lags = true;
    }

    /// Applies what it has not applied, and lags no more.
    pub(crate) fn catch_up(&self) {
        let mut held = self.log.held.lock().unwrap();
        held.lags = false;
        held.catch_up();
    }

    /// How the next proposal of a client fares.
    pub(crate) fn fate(&self, fate: Fate) {
        self.log.held.lock().unwrap().fates.push(fate);
    }

    /// How the next proposal that this member makes as the leader fares.
    pub(crate) fn fate_as_leader(&self, fate: Fate) {
        self.log.held.lock().unwrap().fates_as_leader.push(fate);
    }

    /// What another member had carried out.
    pub(crate) fn elsewhere(&self, body: Body) {
        let command = berth_state::Command { request: None, actor: operator(), body };
        let answers = self.log.carry_out(&Batch { at: self.clock.now(), commands: vec![command] }, false).unwrap();
        answers[0].result.as_ref().unwrap();
    }

    /// What the cluster agreed on.
    pub(crate) fn agreed(&self) -> Cluster {
        self.log.held.lock().unwrap().agreed.clone()
    }

    /// The names of all commands that were proposed.
    pub(crate) fn proposed(&self) -> Vec<&'static str> {
        let held = self.log.held.lock().unwrap();
        held.proposals.iter().flat_map(|batch| &batch.commands).map(|command| command.body.name()).collect()
    }

    pub(crate) fn barriers(&self) -> usize {
        self.log.held.lock().unwrap().barriers
    }

    /// How many proposals were made as the leader's own.
    pub(crate) fn led(&self) -> usize {
        self.log.held.lock().unwrap().led
    }

    /// A host connects and says who it is.
    pub(crate) async fn connect(&self, number: u32) -> HostEnd {
        self.connect_as(hello(number)).await
    }

    pub(crate) async fn connect_as(&self, hello: Hello) -> HostEnd {
        let (to, mut inbound) = mpsc::channel(8);
        let (outbound, from) = mpsc::channel(16);
        let (control, proved) = (self.control.clone(), hello.name.to_string());
        let task = tokio::spawn(async move { control.serve_host(&proved, &mut inbound, &outbound).await });
        to.send(ToController::Hello(hello)).await.unwrap();
        HostEnd { to, from, task }
    }
}

/// This member leads.
pub(crate) fn led_by_us(term: u64) -> Leadership {
    Leadership { term: Term(term), here: true, leader_api: Some("10.0.0.101:7440".into()) }
}

/// Another member leads.
pub(crate) fn led_by_another(term: u64) -> Leadership {
    Leadership { here: false, leader_api: Some("10.0.0.102:7440".into()), ..led_by_us(term) }
}

/// Nobody leads.
pub(crate) fn led_by_none(term: u64) -> Leadership {
    Leadership { here: false, leader_api: None, ..led_by_us(term) }
}

/// The far end of a host's session.
pub(crate) struct HostEnd {
    pub(crate) to: mpsc::Sender<ToController>,
    pub(crate) from: mpsc::Receiver<ToHost>,
    pub(crate) task: tokio::task::JoinHandle<Result<(), Error>>,
}

impl HostEnd {
    /// The next word; a test that waits for one that never comes fails.
    pub(crate) async fn word(&mut self) -> ToHost {
        tokio::time::timeout(Duration::from_secs(600), self.from.recv()).await.expect("a word").expect("no end")
    }

    pub(crate) async fn report(&self, report: Report) {
        self.to.send(ToController::Report(Box::new(report))).await.unwrap();
    }
}

/// The first word of the host of this number.
pub(crate) fn hello(number: u32) -> Hello {
    let berth_state::HostFacts { uid, name, address, boot } = facts(number);
    Hello {
        cluster: None,
        incarnation: Incarnation(0),
        term: Term(0),
        protocol: PROTOCOL,
        host: uid,
        name,
        address,
        boot,
        start: 1,
        version: "0.1.0".into(),
    }
}

/// The first report of a host of eight cores.
pub(crate) fn first_report() -> Report {
    full_report(Machine::cores(8).inventory())
}

/// The request for a VM of two CPUs and 128 MiB.
pub(crate) fn wanted(called: &str) -> CreateVm {
    CreateVm {
        name: called.into(),
        cpus: Some(2),
        memory: Some(128 << 20),
        image: name("tiny").to_string(),
        disk_size: Some(2 * IMAGE_SIZE.0),
        ..CreateVm::default()
    }
}

pub(crate) fn target(called: &str) -> Target {
    Target { name: called.into(), ..Target::default() }
}

/// An operator, without a name for the request.
pub(crate) fn anyone() -> Caller {
    Caller { actor: operator(), request: None }
}

/// An operator with the request of this number and body.
pub(crate) fn asking(number: u128, body: u8) -> Caller {
    Caller { actor: operator(), request: Some((RequestId::from_parts(NOW, number), [body; 32])) }
}
