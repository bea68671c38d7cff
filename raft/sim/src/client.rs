//! Clients: they ask members at random, remember when they asked and what they were told, and do not trust it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use berth_linearizability::register::{Input, Output, Register, RegisterOperation, prepared};
use berth_linearizability::{Limits, Outcome, Verdict, check};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use crate::dice::Dice;
use crate::machine::{REPLY, Reply, Request};
use crate::member::CLIENT_PORT;
use crate::plan::Plan;
use crate::roster::Roster;
use crate::witness::Shared;

/// How long a client waits for a connection.
const CONNECTING: Duration = Duration::from_millis(300);

/// How long a client waits for an answer.
const ANSWERING: Duration = Duration::from_secs(2);

/// Effort allowed for one register's history.
const LIMITS: Limits = Limits { steps: 20_000_000, time: Duration::from_secs(30) };

/// What all clients together saw.
#[derive(Default)]
pub(crate) struct History {
    /// Each event of a client has a moment of its own; clients live on one machine, so their order is that of time.
    moment: Cell<u64>,
    /// Of values that are written, so that no two are alike.
    value: Cell<u64>,
    operations: RefCell<BTreeMap<u8, Vec<RegisterOperation>>>,
}

impl History {
    fn moment(&self, witness: &Shared) -> u64 {
        let now = witness.lock().now * 1_000_000;
        self.moment.update(|moment| now.max(moment + 1));
        self.moment.get()
    }

    fn value(&self) -> u64 {
        self.value.update(|value| value + 1);
        self.value.get()
    }

    /// Operations that were answered or may have happened.
    pub(crate) fn len(&self) -> usize {
        self.operations.borrow().values().map(Vec::len).sum()
    }

    /// Tells what is not linearizable.
    pub(crate) fn check(&self) -> Option<String> {
        let verdict =
            |(key, operations): (&u8, &Vec<RegisterOperation>)| match check(&Register, &prepared(operations), LIMITS) {
                Verdict::Linearizable => None,
                Verdict::Violation(violation) => {
                    Some(format!("linearizability is broken at register {key}: {violation}"))
                }
                Verdict::Undecided { explained, steps } => Some(format!(
                    "linearizability of register {key} is undecided: {explained} answers explained in {steps} steps"
                )),
            };
        self.operations.borrow().iter().find_map(verdict)
    }
}

/// One client.
pub(crate) struct Client {
    id: u64,
    roster: Rc<Roster>,
    keys: u8,
    think: std::ops::Range<u64>,
    dice: Dice,
    history: Rc<History>,
    witness: Shared,
    /// The version that it last saw, by key.
    seen: BTreeMap<u8, u64>,
}

impl Client {
    pub(crate) fn new(id: u64, plan: &mut Plan, history: &Rc<History>, roster: &Rc<Roster>, witness: &Shared) -> Self {
        Self {
            id,
            roster: Rc::clone(roster),
            keys: plan.keys,
            think: plan.think.clone(),
            dice: plan.dice.fork(),
            history: Rc::clone(history),
            witness: witness.clone(),
            seen: BTreeMap::new(),
        }
    }

    /// Asks until it is told to end.
    pub(crate) async fn run(mut self, is_over: Rc<Cell<bool>>) {
        let mut member = self.choose();
        while !is_over.get() {
            sleep(Duration::from_millis(self.dice.within(self.think.clone()))).await;
            if self.dice.percent(30) {
                member = self.choose();
            }
            let request = self.draw();
            if self.ask(member, request).await.is_none() {
                member = self.choose();
            }
        }
    }

    /// Any member, whether it still is one or not.
    fn choose(&mut self) -> u64 {
        self.dice.within(1..self.roster.known() + 1)
    }

    fn draw(&mut self) -> Request {
        let key = u8::try_from(self.dice.within(0..u64::from(self.keys))).expect("there are few keys");
        match self.dice.within(0..100) {
            0..35 => Request::Write { key, value: self.history.value() },
            35..60 => {
                let expected = self.seen.get(&key).copied().unwrap_or_default();
                Request::Swap { key, value: self.history.value(), expected }
            }
            60..80 => Request::Read { key, by_lease: false },
            _ => Request::Read { key, by_lease: true },
        }
    }

    /// Asks one member once, and notes what came of it; `None` if nothing that counts as an answer.
    pub(crate) async fn ask(&mut self, member: u64, request: Request) -> Option<Reply> {
        let called = self.history.moment(&self.witness);
        let reply = exchange(member, request).await;
        let at = self.history.moment(&self.witness);
        let id = self.id;
        self.witness.lock().event(format_args!("client {id} asks member {member} for {request:?}: {reply:?}"));
        let (key, input, value) = match request {
            Request::Write { key, value } => (key, Input::Write(value), Some(value)),
            Request::Swap { key, value, expected } => (key, Input::Swap { expected, value }, Some(value)),
            Request::Read { key, .. } => (key, Input::Read, None),
        };
        let output = match (reply, value) {
            (Reply::Changed { version }, Some(value)) => {
                self.seen.insert(key, version);
                self.witness.lock().acknowledged(value, version);
                Some(Output::Changed { version })
            }
            (Reply::Seen { value, version }, None) => {
                self.seen.insert(key, version);
                Some(Output::Seen { value, version })
            }
            (Reply::Mismatch, Some(_)) => Some(Output::Refused),
            (Reply::Refused, value) => {
                // It did not happen, and the witness sees to it that this stays so.
                if let Some(value) = value {
                    self.witness.lock().refused(value);
                }
                return None;
            }
            (Reply::Unknown, Some(_)) => None,
            (Reply::Unknown, None) => return None,
            (Reply::Changed { .. } | Reply::Mismatch, None) | (Reply::Seen { .. }, Some(_)) => {
                self.witness.lock().broken("honesty", format_args!("{request:?} was answered with {reply:?}"));
                return None;
            }
        };
        let outcome = output.map_or(Outcome::Unknown, |output| Outcome::Answered { at, output });
        let operation = RegisterOperation { client: id, called, input, outcome };
        self.history.operations.borrow_mut().entry(key).or_default().push(operation);
        output.map(|_| reply)
    }

    /// A write that nobody else writes, to see whether the cluster lives.
    pub(crate) fn sign_of_life(&self) -> Request {
        Request::Write { key: 0, value: self.history.value() }
    }
}

/// One request on a connection of its own.
async fn exchange(member: u64, request: Request) -> Reply {
    let connecting = TcpStream::connect(format!("member-{member}:{CLIENT_PORT}"));
    let Ok(Ok(mut stream)) = timeout(CONNECTING, connecting).await else { return Reply::Refused };
    let asking = async {
        stream.write_all(&request.encode()).await?;
        let mut bytes = [0; REPLY];
        stream.read_exact(&mut bytes).await?;
        Ok::<_, std::io::Error>(Reply::decode(&bytes))
    };
    match timeout(ANSWERING, asking).await {
        Ok(Ok(Some(reply))) => reply,
        Ok(Ok(None) | Err(_)) | Err(_) => Reply::Unknown,
    }
}
