//! The clients: each has one operation under way, on any key, through any member.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth_linearizability::register::{Input, Output, RegisterOperation, Value, Version};
use berth_linearizability::{Moment, Operation, Outcome};
use berth_proto::v1;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;

use super::dice::Dice;
use super::leaders::moment;
use super::{Cluster, Plan};
use crate::{Api, code, request};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(2500);
/// For so long a client leaves a member alone that did not answer.
const SPARED: Duration = Duration::from_millis(1500);
/// The label that is the register.
const LABEL: &str = "register";

/// One operation as a client saw it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// On which register.
    pub(super) key: usize,
    /// Whether the member that was asked led neither before nor after.
    pub(super) on_follower: bool,
    /// What was asked and answered.
    pub(super) operation: RegisterOperation,
    /// The revision of the whole cluster that the answer speaks of.
    pub(super) revision: Option<u64>,
}

impl Record {
    /// When it was answered.
    pub(super) fn answered(&self) -> Option<Moment> {
        match &self.operation.outcome {
            Outcome::Answered { at, .. } => Some(*at),
            Outcome::Unknown => None,
        }
    }
}

/// Everything that the clients saw.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) records: Vec<Record>,
    /// Changes that were refused for certain, or never sent: no part of any history.
    pub(super) refused: usize,
    /// Reads that were not answered.
    pub(super) unanswered: usize,
    /// Refusals that nothing in these operations justifies.
    pub(super) unexpected: Vec<String>,
}

/// What all clients share.
struct Shared {
    over: AtomicBool,
    completed: AtomicUsize,
    /// 0 is what a register holds at first.
    next_value: AtomicU64,
    /// The newest version of each key that anybody has heard of: swaps expect it.
    versions: Vec<AtomicU64>,
    leader: watch::Receiver<Option<usize>>,
    began: Instant,
}

/// The clients at work.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<History>,
    /// The operations that made the registers.
    first: History,
}

fn name(key: usize) -> String {
    format!("key-{key}")
}

impl Load {
    /// Makes the registers, and sets the clients to work.
    pub(super) async fn start(
        cluster: &Arc<Cluster>,
        plan: &Plan,
        leader: watch::Receiver<Option<usize>>,
        began: Instant,
    ) -> Self {
        let apis = cluster.connections(Duration::from_secs(20));
        let digest = "0123456789abcdef".repeat(4);
        apis[0].ask(request::image("tiny", &digest, 64 * request::MIB)).await;
        for key in 0..plan.keys {
            let mut vm = request::vm(&name(key));
            vm.spec.as_mut().expect("a request for a VM has a spec").run_strategy = v1::RunStrategy::Halted.into();
            apis[0].ask(vm).await;
        }
        // The planner notes why each of them waits; from then on nothing but labels changes them.
        cluster.world().settled(&apis[0]).await;
        let shared = Arc::new(Shared {
            over: AtomicBool::new(false),
            completed: AtomicUsize::new(0),
            next_value: AtomicU64::new(1),
            versions: (0..plan.keys).map(|_| AtomicU64::new(0)).collect(),
            leader,
            began,
        });
        let mut maker = Client::new(0, apis, Dice::new(plan.seed, 0), Arc::clone(&shared));
        for key in 0..plan.keys {
            maker.operate(key, 0, Input::Write(maker.shared.value())).await;
        }
        let mut clients = JoinSet::new();
        for number in 1..=plan.clients {
            let number = number as u64;
            let dice = Dice::new(plan.seed, number);
            let client = Client::new(number, cluster.connections(PATIENCE), dice, Arc::clone(&shared));
            clients.spawn(client.work());
        }
        Self { shared, clients, first: maker.history }
    }

    /// Operations that were answered by now.
    pub(super) fn completed(&self) -> usize {
        self.shared.completed.load(Ordering::Relaxed)
    }

    /// Lets the clients end, reads each register through each member once more, and gives what all of them saw.
    pub(super) async fn finish(mut self, cluster: &Arc<Cluster>) -> History {
        self.shared.over.store(true, Ordering::Relaxed);
        let mut history = self.first;
        while let Some(seen) = self.clients.join_next().await {
            history.add(seen.expect("clients do not panic"));
        }
        let apis = cluster.connections(Duration::from_secs(20));
        let members = apis.len();
        let mut last = Client::new(0, apis, Dice::new(0, 0), Arc::clone(&self.shared));
        for key in 0..self.shared.versions.len() {
            for member in 0..members {
                last.operate(key, member, Input::Read).await;
            }
        }
        history.add(last.history);
        history
    }
}

impl History {
    fn add(&mut self, other: Self) {
        self.records.extend(other.records);
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.unexpected.extend(other.unexpected);
    }
}

impl Shared {
    fn value(&self) -> Value {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }
}

struct Client {
    number: u64,
    apis: Vec<Api>,
    /// Until when each member is left alone.
    left_alone_until: Vec<Instant>,
    dice: Dice,
    shared: Arc<Shared>,
    history: History,
}

impl Client {
    fn new(number: u64, apis: Vec<Api>, dice: Dice, shared: Arc<Shared>) -> Self {
        let left_alone_until = vec![Instant::now(); apis.len()];
        Self { number, apis, left_alone_until, dice, shared, history: History::default() }
    }

    async fn work(mut self) -> History {
        while !self.shared.over.load(Ordering::Relaxed) {
            let now = Instant::now();
            let willing: Vec<_> = (0..self.apis.len()).filter(|member| self.left_alone_until[*member] <= now).collect();
            if willing.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            let member = *self.dice.pick(&willing);
            let key = self.dice.index(self.shared.versions.len());
            let input = match self.dice.within(0..100) {
                0..60 => Input::Read,
                60..85 => Input::Write(self.shared.value()),
                _ => {
                    let expected = self.shared.versions[key].load(Ordering::Relaxed);
                    Input::Swap { expected, value: self.shared.value() }
                }
            };
            self.operate(key, member, input).await;
        }
        self.history
    }

    fn leads(&self, member: usize) -> bool {
        let leader = *self.shared.leader.borrow();
        leader.is_none_or(|leader| leader == member)
    }

    async fn operate(&mut self, key: usize, member: usize, input: Input) {
        let led = self.leads(member);
        let called = moment(self.shared.began);
        let patience = PATIENCE + Duration::from_millis(200);
        let asked = tokio::time::timeout(patience, ask(&self.apis[member], key, input)).await;
        let answer = asked.unwrap_or(Answer::Unknown);
        let at = moment(self.shared.began);
        if matches!(answer, Answer::Unknown | Answer::NotNow) {
            self.left_alone_until[member] = Instant::now() + SPARED;
        }
        let (outcome, revision) = match answer {
            Answer::Output(output, revision) => {
                if let Output::Seen { version, .. } | Output::Changed { version } = output {
                    self.shared.versions[key].fetch_max(version, Ordering::Relaxed);
                }
                self.shared.completed.fetch_add(1, Ordering::Relaxed);
                (Outcome::Answered { at, output }, revision)
            }
            Answer::NotNow | Answer::Unknown if input == Input::Read => {
                self.history.unanswered += 1;
                return;
            }
            Answer::NotNow => {
                self.history.refused += 1;
                return;
            }
            Answer::Unknown => (Outcome::Unknown, None),
            Answer::Unexpected(why) => {
                self.history.unexpected.push(why);
                return;
            }
        };
        let on_follower = !led && !self.leads(member);
        let operation = Operation { client: self.number, called, input, outcome };
        self.history.records.push(Record { key, on_follower, operation, revision });
    }
}

/// What an operation ended with.
enum Answer {
    /// An output, and the revision that it speaks of.
    Output(Output, Option<u64>),
    /// It was not carried out, and is not.
    NotNow,
    /// It may be carried out or not.
    Unknown,
    /// It was refused for no reason that there is.
    Unexpected(String),
}

async fn ask(api: &Api, key: usize, input: Input) -> Answer {
    match input {
        Input::Read => {
            let asked = v1::GetVmRequest { name: name(key), ..v1::GetVmRequest::default() };
            match api.send(asked).await {
                Ok(answer) => seen(&answer),
                Err(status) => refused(input, &status),
            }
        }
        Input::Write(value) => change(api, key, input, value, None).await,
        Input::Swap { expected, value } => change(api, key, input, value, Some(expected)).await,
    }
}

fn seen(answer: &v1::VmAnswer) -> Answer {
    let Some(meta) = answer.vm.as_ref().and_then(|vm| vm.meta.as_ref()) else {
        return Answer::Unexpected("an answer about a VM does not hold it".to_owned());
    };
    match meta.labels.get(LABEL).map(|text| text.parse()) {
        Some(Ok(value)) => Answer::Output(Output::Seen { value, version: meta.revision }, Some(answer.revision)),
        other => Answer::Unexpected(format!("the register of {} holds {other:?}", meta.name)),
    }
}

async fn change(api: &Api, key: usize, input: Input, value: Value, expected: Option<Version>) -> Answer {
    let set = [(LABEL.to_owned(), value.to_string())].into();
    let mut asked = request::labels(&name(key), set, Vec::new());
    asked.write.as_mut().expect("a change says how it is written").expected_revision = expected;
    match api.send(asked).await {
        Ok(answer) => Answer::Output(Output::Changed { version: answer.revision }, Some(answer.revision)),
        Err(status) => refused(input, &status),
    }
}

fn refused(input: Input, status: &Status) -> Answer {
    match (code(status).as_str(), input) {
        ("BE-2003", Input::Swap { .. }) => Answer::Output(Output::Refused, None),
        // The one code by which a member promises that nothing was changed.
        ("BE-5001", _) => Answer::NotNow,
        // Whatever else the cluster cannot do at present.
        (code, _) if code.starts_with("BE-50") => Answer::Unknown,
        (code, _) if code.starts_with("no code") => Answer::Unknown,
        (code, _) => Answer::Unexpected(format!("{input:?}: {code} {}", status.message())),
    }
}
