//! The host's end of its session with the leader, free of I/O.
//!
//! The host dials every controller in turn until one says that it leads; followers say where the leader is. It knows the
//! controllers that it was told of last, which are tried first, and those of its configuration. A session
//! stands from the leader's `Welcome` until the stream ends, a word comes out of turn, or heartbeats stay unanswered:
//! a stream that is open but silent is no session. Permission to start counts from when the answered heartbeat was
//! *sent*, so that no delay on the way can lengthen it (law 4).
//!
//! ```text
//!  Resting --time--> Dialing --open--> Greeting --Welcome--> Open
//!     ^                 |                 |  \--Redirect--> Dialing (the leader)      |
//!     +--- fail, or all controllers tried-+----------- stream ends, silence ----------+
//! ```

use std::collections::VecDeque;

use berth_model::session::{DesiredEntry, Hello, Report, ToController, ToHost, Welcome};
use berth_model::{Millis, VmUid};

use crate::clock::BootTime;
use crate::plan::Permission;

/// How patient a session is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// `address:port` of each controller of the configuration.
    pub controllers: Vec<String>,
    /// `address:port` of each controller that a leader told of last; none if none ever did.
    pub learned: Vec<String>,
    /// How long a connection may take to stand, TLS included.
    pub dial_within: Millis,
    /// How long a controller may take to answer the first word: a leader that is just being elected needs a while.
    pub greet_within: Millis,
    /// The first pause after all controllers were tried in vain; doubled each time.
    pub first_pause: Millis,
    /// The longest pause.
    pub longest_pause: Millis,
    /// The pause after a refusal, which trying again at once would not change.
    pub refused_pause: Millis,
    /// So many heartbeats without any answer end a session.
    pub missed_heartbeats: u32,
}

impl Options {
    /// What the daemon uses.
    pub fn new(controllers: Vec<String>) -> Self {
        Self {
            controllers,
            learned: Vec::new(),
            dial_within: Millis::seconds(3),
            greet_within: Millis::seconds(5),
            first_pause: Millis(200),
            longest_pause: Millis::seconds(5),
            refused_pause: Millis::seconds(10),
            missed_heartbeats: 3,
        }
    }
}

impl Options {
    /// Those that are tried first, in turn: what a leader told is newer than what was configured.
    fn first(&self) -> &[String] {
        if self.learned.is_empty() { &self.controllers } else { &self.learned }
    }

    /// Those that are tried when none of the first has helped: all that were told of may have gone meanwhile.
    fn rest(&self) -> impl Iterator<Item = &String> {
        let first = self.first();
        self.controllers.iter().filter(|address| !first.contains(address))
    }

    fn count(&self) -> usize {
        self.first().len() + self.rest().count()
    }
}

/// Redirects followed without a pause: enough to find a leader, few enough that two members pointing at each other
/// cannot make a host spin.
const MOST_REDIRECTS: u32 = 3;
/// The longest `address:port`: a DNS name has at most 253 characters.
const LONGEST_ADDRESS: usize = 260;
/// Controllers that a host remembers, at most: several times as many as a cluster has.
const MOST_CONTROLLERS: usize = 32;
/// Heartbeats whose sending time is remembered; unanswered ones beyond that have ended the session long before.
const REMEMBERED_HEARTBEATS: usize = 16;

/// Names one connection, so that a late word of an earlier one is not mistaken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// What a session asks of the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Open a connection.
    Connect {
        /// It is named so from now on.
        connection: ConnectionId,
        /// `address:port`.
        address: String,
    },
    /// Send a word.
    Send {
        /// On this connection.
        connection: ConnectionId,
        /// It.
        message: ToController,
    },
    /// Close a connection, or give up opening it.
    Close {
        /// Which.
        connection: ConnectionId,
    },
    /// For the log: a session was lost or could not be had.
    Lost {
        /// A sentence.
        why: String,
    },
}

/// What a word from the controller means for the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// The session stands, if the ledger does not refuse it.
    Opened(Welcome),
    /// The whole desired set.
    Set(Vec<DesiredEntry>),
    /// Changes to it.
    Delta {
        /// New or changed entries.
        entries: Vec<DesiredEntry>,
        /// Entries that leave.
        forgotten: Vec<VmUid>,
    },
    /// A report is committed.
    ReportAck(u64),
    /// The controllers are others than before; these will be tried from now on.
    Controllers(Vec<String>),
    /// A heartbeat was answered: permission may have changed.
    Alive,
}

#[derive(Clone, Debug)]
struct Open {
    heartbeat_every: Millis,
    next_heartbeat: BootTime,
    sent: u64,
    sent_at: VecDeque<(u64, BootTime)>,
    answered: u64,
    last_answer: BootTime,
    may_start_until: Option<BootTime>,
    set_seen: bool,
    confirmed: bool,
}

#[derive(Clone, Debug)]
enum State {
    Resting { until: BootTime },
    Dialing { connection: ConnectionId, since: BootTime },
    Greeting { connection: ConnectionId, since: BootTime },
    Open { connection: ConnectionId, open: Box<Open> },
}

/// The host's end of its session.
#[derive(Clone, Debug)]
pub struct Session {
    options: Options,
    state: State,
    last_connection: u64,
    /// The controller to begin the next attempt with, of those that are tried first.
    next: usize,
    /// How many controllers were tried since the last pause.
    tried: usize,
    redirects: u32,
    /// Pauses in a row, by which the next one grows.
    pauses: u32,
    closed: bool,
}

impl Session {
    /// A session that will be sought at once. `entropy` decides which controller is tried first, so that the hosts of
    /// a cluster do not all knock at the same door.
    pub fn new(options: Options, entropy: u64) -> Self {
        let count = options.first().len().max(1) as u64;
        let next = usize::try_from(entropy % count).unwrap_or(0);
        Self {
            options,
            state: State::Resting { until: BootTime::default() },
            last_connection: 0,
            next,
            tried: 0,
            redirects: 0,
            pauses: 0,
            closed: false,
        }
    }

    /// Whether domains may be started, by this session.
    pub fn permission(&self) -> Permission {
        match &self.state {
            State::Open { open, .. } => Permission { until: open.may_start_until, confirmed: open.confirmed },
            State::Resting { .. } | State::Dialing { .. } | State::Greeting { .. } => Permission::default(),
        }
    }

    /// Whether a leader holds it.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Notes that this session's whole set was taken in.
    pub fn confirm(&mut self) {
        if let State::Open { open, .. } = &mut self.state {
            open.confirmed = true;
        }
    }

    /// When something is due even if nothing is heard.
    pub fn deadline(&self) -> Option<BootTime> {
        match &self.state {
            _ if self.closed => None,
            State::Resting { until } => Some(*until),
            State::Dialing { since, .. } => Some(since.plus(self.options.dial_within)),
            State::Greeting { since, .. } => Some(since.plus(self.options.greet_within)),
            State::Open { open, .. } => Some(open.next_heartbeat.min(self.silence_ends(open))),
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: BootTime, entropy: u64, effects: &mut Vec<Effect>) {
        if self.closed {
            return;
        }
        match &self.state {
            State::Resting { until } if now >= *until => self.dial_next(now, entropy, effects),
            State::Dialing { connection, since } if now >= since.plus(self.options.dial_within) => {
                let why = format!("no connection within {} ms", self.options.dial_within.0);
                self.fail(*connection, why, now, entropy, effects);
            }
            State::Greeting { connection, since } if now >= since.plus(self.options.greet_within) => {
                let why = format!("no answer to the first word within {} ms", self.options.greet_within.0);
                self.fail(*connection, why, now, entropy, effects);
            }
            State::Open { connection, open } if now >= self.silence_ends(open) => {
                let why = format!("{} heartbeats stayed unanswered", self.options.missed_heartbeats);
                self.fail(*connection, why, now, entropy, effects);
            }
            State::Open { .. } => self.heartbeat(now, effects),
            State::Resting { .. } | State::Dialing { .. } | State::Greeting { .. } => {}
        }
    }

    /// The connection stands: says the first word.
    pub fn dialed(&mut self, connection: ConnectionId, hello: Hello, now: BootTime, effects: &mut Vec<Effect>) {
        match self.state {
            State::Dialing { connection: awaited, .. } if awaited == connection => {
                effects.push(Effect::Send { connection, message: ToController::Hello(hello) });
                self.state = State::Greeting { connection, since: now };
            }
            _ => effects.push(Effect::Close { connection }),
        }
    }

    /// The connection could not be had, or ended.
    pub fn ended(
        &mut self,
        connection: ConnectionId,
        why: &str,
        now: BootTime,
        entropy: u64,
        effects: &mut Vec<Effect>,
    ) {
        if self.connection() == Some(connection) {
            effects.push(Effect::Lost { why: why.to_owned() });
            self.rest_or_dial(now, entropy, effects);
        }
    }

    /// A word came. What it means for the agent is returned; what is out of turn ends the session.
    pub fn received(
        &mut self,
        connection: ConnectionId,
        message: ToHost,
        now: BootTime,
        entropy: u64,
        effects: &mut Vec<Effect>,
    ) -> Option<Heard> {
        if self.connection() != Some(connection) {
            return None;
        }
        match (&mut self.state, message) {
            (State::Greeting { .. }, ToHost::Redirect { leader }) => {
                effects.push(Effect::Close { connection });
                match leader {
                    Some(address) if self.redirects < MOST_REDIRECTS => {
                        self.redirects += 1;
                        self.dial(address, now, effects);
                    }
                    Some(_) | None => self.rest_or_dial(now, entropy, effects),
                }
                None
            }
            (State::Open { .. }, ToHost::Redirect { .. }) => {
                // The leader stepped down and says so: no reason for a pause.
                self.fail(connection, "the controller no longer leads".into(), now, entropy, effects);
                None
            }
            (State::Greeting { .. } | State::Open { .. }, ToHost::Refuse { code, message }) => {
                self.refuse(format!("the controller refused: {code}: {message}"), now, entropy, effects);
                None
            }
            (State::Greeting { .. }, ToHost::Welcome(welcome)) => {
                self.state = State::Open {
                    connection,
                    open: Box::new(Open {
                        // A leader that asked for none would be beaten at without end.
                        heartbeat_every: Millis(welcome.heartbeat_every.0.max(10)),
                        next_heartbeat: now,
                        sent: 0,
                        sent_at: VecDeque::new(),
                        answered: 0,
                        last_answer: now,
                        may_start_until: None,
                        set_seen: false,
                        confirmed: false,
                    }),
                };
                Some(Heard::Opened(welcome))
            }
            (State::Open { open, .. }, ToHost::DesiredSet { revision: _, entries }) => {
                open.set_seen = true;
                Some(Heard::Set(entries))
            }
            (State::Open { open, .. }, ToHost::DesiredDelta { revision: _, entries, forgotten }) if open.set_seen => {
                Some(Heard::Delta { entries, forgotten })
            }
            (State::Open { open, .. }, ToHost::HeartbeatAck { number, may_start_for }) => {
                open.answer(number, may_start_for, now);
                // Only now: a leader that welcomes and hangs up at once must not be dialled without a pause.
                (self.tried, self.redirects, self.pauses) = (0, 0, 0);
                Some(Heard::Alive)
            }
            (State::Open { .. }, ToHost::ReportAck { number }) => Some(Heard::ReportAck(number)),
            (State::Open { .. }, ToHost::Controllers { addresses }) => self.learn(addresses),
            (
                State::Resting { .. } | State::Dialing { .. } | State::Greeting { .. } | State::Open { .. },
                ToHost::Welcome(_)
                | ToHost::DesiredSet { .. }
                | ToHost::DesiredDelta { .. }
                | ToHost::HeartbeatAck { .. }
                | ToHost::ReportAck { .. }
                | ToHost::Controllers { .. }
                | ToHost::Redirect { .. }
                | ToHost::Refuse { .. },
            ) => {
                self.fail(connection, "the controller said a word out of turn".into(), now, entropy, effects);
                None
            }
        }
    }

    /// The host will not obey this session: ends it, and waits before the next.
    pub fn refuse(&mut self, why: String, now: BootTime, entropy: u64, effects: &mut Vec<Effect>) {
        if let Some(connection) = self.connection() {
            effects.push(Effect::Close { connection });
        }
        effects.push(Effect::Lost { why });
        self.redirects = 0;
        // The others have their turn after the pause: who refuses may be the one that is no controller any more.
        if self.tried >= self.options.count() {
            self.tried = 0;
        }
        self.state = State::Resting { until: now.plus(jittered(self.options.refused_pause, entropy)) };
    }

    /// Sends a report, if a session stands.
    pub fn report(&mut self, report: Report, effects: &mut Vec<Effect>) {
        if let State::Open { connection, .. } = self.state {
            effects.push(Effect::Send { connection, message: ToController::Report(Box::new(report)) });
        }
    }

    /// Ends the session for good: the daemon goes down.
    pub fn close(&mut self, effects: &mut Vec<Effect>) {
        self.closed = true;
        if let Some(connection) = self.connection() {
            effects.push(Effect::Close { connection });
        }
        self.state = State::Resting { until: BootTime::default() };
    }

    /// Takes in where the controllers are. What is no address is passed over; a list without any changes nothing.
    fn learn(&mut self, mut addresses: Vec<String>) -> Option<Heard> {
        addresses.retain(|address| is_address(address));
        addresses.truncate(MOST_CONTROLLERS);
        if addresses.is_empty() || addresses == self.options.learned {
            return None;
        }
        self.options.learned.clone_from(&addresses);
        self.next %= addresses.len();
        Some(Heard::Controllers(addresses))
    }

    fn connection(&self) -> Option<ConnectionId> {
        match &self.state {
            State::Resting { .. } => None,
            State::Dialing { connection, .. } | State::Greeting { connection, .. } | State::Open { connection, .. } => {
                Some(*connection)
            }
        }
    }

    fn silence_ends(&self, open: &Open) -> BootTime {
        let patience = open.heartbeat_every.0.saturating_mul(u64::from(self.options.missed_heartbeats));
        open.last_answer.plus(Millis(patience))
    }

    fn heartbeat(&mut self, now: BootTime, effects: &mut Vec<Effect>) {
        if let State::Open { connection, open } = &mut self.state
            && now >= open.next_heartbeat
        {
            open.sent += 1;
            open.sent_at.push_back((open.sent, now));
            if open.sent_at.len() > REMEMBERED_HEARTBEATS {
                open.sent_at.pop_front();
            }
            open.next_heartbeat = now.plus(open.heartbeat_every);
            let message = ToController::Heartbeat { number: open.sent };
            effects.push(Effect::Send { connection: *connection, message });
        }
    }

    fn fail(&mut self, connection: ConnectionId, why: String, now: BootTime, entropy: u64, effects: &mut Vec<Effect>) {
        effects.push(Effect::Close { connection });
        effects.push(Effect::Lost { why });
        self.rest_or_dial(now, entropy, effects);
    }

    /// Tries the next controller, or rests once all were tried.
    fn rest_or_dial(&mut self, now: BootTime, entropy: u64, effects: &mut Vec<Effect>) {
        if self.tried < self.options.count() && !self.closed {
            self.dial_next(now, entropy, effects);
            return;
        }
        let doublings = self.pauses.min(16);
        let pause = Millis((self.options.first_pause.0 << doublings).min(self.options.longest_pause.0));
        self.pauses = self.pauses.saturating_add(1);
        (self.tried, self.redirects) = (0, 0);
        self.state = State::Resting { until: now.plus(jittered(pause, entropy)) };
    }

    fn dial_next(&mut self, now: BootTime, entropy: u64, effects: &mut Vec<Effect>) {
        let first = self.options.first();
        let address = if self.tried < first.len() {
            self.next = (self.next + 1) % first.len();
            Some(&first[(self.next + first.len() - 1) % first.len()])
        } else {
            self.options.rest().nth(self.tried - first.len())
        };
        let Some(address) = address.cloned() else {
            self.state = State::Resting { until: now.plus(jittered(self.options.longest_pause, entropy)) };
            return;
        };
        self.tried += 1;
        self.dial(address, now, effects);
    }

    fn dial(&mut self, address: String, now: BootTime, effects: &mut Vec<Effect>) {
        self.last_connection += 1;
        let connection = ConnectionId(self.last_connection);
        self.state = State::Dialing { connection, since: now };
        effects.push(Effect::Connect { connection, address });
    }
}

impl Open {
    fn answer(&mut self, number: u64, may_start_for: Millis, now: BootTime) {
        if number <= self.answered {
            return;
        }
        let Some((_, sent)) = self.sent_at.iter().find(|(sent, _)| *sent == number).copied() else { return };
        self.answered = number;
        self.last_answer = now;
        self.may_start_until = Some(sent.plus(may_start_for));
        self.sent_at.retain(|(sent, _)| *sent > number);
    }
}

fn is_address(text: &str) -> bool {
    text.len() <= LONGEST_ADDRESS
        && text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Between half of `pause` and all of it, so that the hosts of a cluster do not come back all at once.
fn jittered(pause: Millis, entropy: u64) -> Millis {
    let half = pause.0 / 2;
    Millis(pause.0 - half + entropy % (half + 1))
}

#[cfg(test)]
mod tests;
