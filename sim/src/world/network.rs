//! The network between hosts and controllers: connections that keep the order of their words, delay them, hold them back
//! while they are cut, and deliver what was held back long after its sender gave the connection up.

use std::collections::{BTreeMap, VecDeque};

use berth_host::agent::Input;
use berth_host::session::ConnectionId;
use berth_model::Incarnation;
use berth_model::session::{ToController, ToHost};

use super::{Event, MEMBERS, World, member};
use crate::tally::{self, Group};

/// One connection, in the order of dialling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct LineId(pub(crate) u64);

/// What comes from a host.
#[derive(Debug)]
enum Up {
    Word(Box<ToController>),
    End,
}

/// What comes from a controller.
#[derive(Debug)]
enum Down {
    /// And when it was said.
    Word(u64, Box<ToHost>),
    End,
}

/// What is on its way, and when it comes.
#[derive(Debug)]
struct Queue<T> {
    words: VecDeque<(u64, T)>,
    last: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { words: VecDeque::new(), last: 0 }
    }
}

impl<T> Queue<T> {
    /// Puts a word behind the others; when it comes.
    fn push(&mut self, at: u64, word: T) -> u64 {
        self.last = self.last.max(at);
        self.words.push_back((self.last, word));
        self.last
    }

    fn pop(&mut self, now: u64) -> Option<T> {
        self.words.front().filter(|(at, _)| *at <= now)?;
        self.words.pop_front().map(|(_, word)| word)
    }

    /// What was held back comes at this time.
    fn hold(&mut self, until: u64) -> bool {
        for (at, _) in &mut self.words {
            *at = (*at).max(until);
        }
        self.last = self.last.max(until);
        !self.words.is_empty()
    }
}

/// A controller's end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It was not reached yet.
    Away,
    /// The connection stands.
    Open,
    /// The controller closed it.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) host: usize,
    /// The start of the daemon that dialled.
    start: u64,
    connection: ConnectionId,
    /// Whom it reached, or will.
    member: usize,
    up: Queue<Up>,
    down: Queue<Down>,
    host_open: bool,
    member_end: End,
    /// When each heartbeat was sent.
    heartbeats: BTreeMap<u64, u64>,
    /// As the controller on it said.
    incarnation: Option<Incarnation>,
    /// Whether a whole set came.
    set_came: bool,
    /// Until when this line's words permit starts, and when the word was given.
    granted: Option<(u64, u64)>,
}

impl World {
    /// A host dials.
    pub(super) fn connect(&mut self, host: usize, connection: ConnectionId, address: &str) {
        self.last_line += 1;
        let id = LineId(self.last_line);
        let start = self.hosts[host].start;
        let member = member::at(address).unwrap_or(0);
        let member = if self.revenant_at == Some(member) { MEMBERS } else { member };
        let line = Line {
            host,
            start,
            connection,
            member,
            up: Queue::default(),
            down: Queue::default(),
            host_open: true,
            member_end: End::Away,
            heartbeats: BTreeMap::new(),
            incarnation: None,
            set_came: false,
            granted: None,
        };
        self.lines.insert(id, line);
        self.hosts[host].connections.insert(connection, id);
        let pause = self.latency(host) + self.latency(host);
        self.after(pause, Event::Dial(id));
    }

    fn latency(&mut self, host: usize) -> u64 {
        let network = self.settings.network.clone();
        let usual = self.between(&network);
        if self.hosts[host].slow_network > 0 { usual + self.dice.within(100..2500) } else { usual }
    }

    pub(super) fn dial(&mut self, id: LineId) {
        let Some(line) = self.lines.get(&id).filter(|line| line.host_open) else {
            self.lines.remove(&id);
            return;
        };
        let (host, member) = (line.host, line.member);
        if self.hosts[host].cut_up > 0 || self.hosts[host].cut_down > 0 {
            // Nobody answers; the machine tries again.
            return self.after(1000, Event::Dial(id));
        }
        if self.members.get(member).is_none_or(|member| !member.is_up()) {
            return self.host_hears_end(id, "connection refused");
        }
        let line = self.lines.get_mut(&id).expect("it was there a moment ago");
        line.member_end = End::Open;
        let (start, connection) = (line.start, line.connection);
        self.accept(member, id);
        self.feed_if(host, start, Input::Dialed(connection));
    }

    // --- from host to controller

    pub(super) fn send_up(&mut self, host: usize, connection: ConnectionId, word: ToController) {
        let Some(id) = self.hosts[host].connections.get(&connection).copied() else { return };
        let at = self.now + self.latency(host);
        let now = self.now;
        let Some(line) = self.lines.get_mut(&id).filter(|line| line.member_end != End::Away && line.host_open) else {
            return;
        };
        if let ToController::Heartbeat { number } = &word {
            line.heartbeats.insert(*number, now);
        }
        let at = line.up.push(at, Up::Word(Box::new(word)));
        self.at(at, Event::Up(id));
    }

    /// The host closes its end, in good order.
    pub(super) fn hang_up_on_member(&mut self, host: usize, connection: ConnectionId) {
        let Some(id) = self.hosts[host].connections.remove(&connection) else { return };
        let at = self.now + self.latency(host);
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.host_open = false;
        if line.member_end != End::Away {
            let at = line.up.push(at, Up::End);
            self.at(at, Event::Up(id));
        }
    }

    /// The host is gone without a word: its power is.
    pub(super) fn vanish(&mut self, host: usize) {
        for id in std::mem::take(&mut self.hosts[host].connections).into_values() {
            if let Some(line) = self.lines.get_mut(&id) {
                line.host_open = false;
            }
        }
    }

    pub(super) fn deliver_up(&mut self, id: LineId) {
        loop {
            let now = self.now;
            let Some(line) = self.lines.get_mut(&id) else { return };
            if self.hosts[line.host].cut_up > 0 {
                return;
            }
            let (host, member) = (line.host, line.member);
            let Some(word) = line.up.pop(now) else { return };
            let is_gone = self.members.get(member).is_none_or(|member| !member.is_up());
            match word {
                Up::Word(word) if !is_gone => self.hear(member, id, host, *word),
                Up::Word(_) => {}
                Up::End => {
                    if !is_gone {
                        self.host_left(member, id);
                    }
                    self.lines.remove(&id);
                    return;
                }
            }
        }
    }

    // --- from controller to host

    pub(super) fn send_down(&mut self, id: LineId, word: ToHost) {
        let Some(host) = self.lines.get(&id).map(|line| line.host) else { return };
        let at = self.now + self.latency(host);
        let now = self.now;
        let Some(line) = self.lines.get_mut(&id).filter(|line| line.member_end == End::Open) else { return };
        let at = line.down.push(at, Down::Word(now, Box::new(word)));
        self.at(at, Event::Down(id));
    }

    /// The controller closes its end, in good order.
    pub(super) fn hang_up_on_host(&mut self, id: LineId) {
        let Some(host) = self.lines.get(&id).map(|line| line.host) else { return };
        let at = self.now + self.latency(host);
        let Some(line) = self.lines.get_mut(&id).filter(|line| line.member_end == End::Open) else { return };
        line.member_end = End::Closed;
        let at = line.down.push(at, Down::End);
        self.at(at, Event::Down(id));
    }

    /// A controller died: its kernel, or whoever answers for it, resets what was open.
    pub(super) fn reset_lines_of(&mut self, member: usize) {
        let open: Vec<_> = self
            .lines
            .iter()
            .filter(|(_, line)| line.member == member && line.member_end == End::Open)
            .map(|(id, _)| *id)
            .collect();
        for id in open {
            self.hang_up_on_host(id);
        }
    }

    pub(super) fn deliver_down(&mut self, id: LineId) {
        loop {
            let now = self.now;
            let Some(line) = self.lines.get_mut(&id) else { return };
            if self.hosts[line.host].cut_down > 0 {
                return;
            }
            let Some(word) = line.down.pop(now) else { return };
            let (host, start, connection, open) = (line.host, line.start, line.connection, line.host_open);
            match word {
                Down::Word(said, word) => {
                    if open {
                        let name = tally::to_host(&word);
                        self.witness.count(Group::ToHost, name);
                        self.witness.event(format_args!("host {host} hears {name} on line {}: {word:?}", id.0));
                        let word = self.as_it_comes(id, said, *word);
                        self.feed_if(host, start, Input::Received(connection, word));
                    }
                }
                Down::End => return self.host_hears_end(id, "the controller closed the connection"),
            }
        }
    }

    /// Notes what a word permits, as the wire shows it.
    fn as_it_comes(&mut self, id: LineId, said: u64, word: ToHost) -> ToHost {
        let word = match self.settings.plant {
            Some(plant) => {
                let line = &self.lines[&id];
                super::plants::on_arrival(plant, word, self.hosts[line.host].agent.as_ref())
            }
            None => word,
        };
        let line = self.lines.get_mut(&id).expect("its word just came");
        match &word {
            ToHost::Welcome(welcome) => line.incarnation = Some(welcome.incarnation),
            ToHost::DesiredSet { revision, .. } => {
                line.set_came = true;
                let told = (line.incarnation.unwrap_or_default(), *revision);
                self.witness.told(line.host, told);
            }
            ToHost::DesiredDelta { revision, .. } => {
                let told = (line.incarnation.unwrap_or_default(), *revision);
                self.witness.told(line.host, told);
            }
            ToHost::HeartbeatAck { number, may_start_for } => {
                if let Some(sent) = line.heartbeats.get(number) {
                    line.granted = Some((sent + may_start_for.0, said));
                    let number = *number;
                    line.heartbeats.retain(|held, _| *held >= number);
                }
            }
            ToHost::Redirect { .. } | ToHost::Refuse { .. } | ToHost::ReportAck { .. } | ToHost::Controllers { .. } => {
            }
        }
        word
    }

    /// All connections of a host break at once, and both ends notice.
    pub(super) fn hiccup(&mut self, host: usize) {
        let open: Vec<_> = self.hosts[host].connections.values().copied().collect();
        for id in open {
            let Some(member) = self.lines.get(&id).map(|line| line.member) else { continue };
            if self.members.get(member).is_some_and(super::member::Member::is_up) {
                self.host_left(member, id);
            }
            self.host_hears_end(id, "the connection broke");
        }
    }

    fn host_hears_end(&mut self, id: LineId, why: &str) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        let (host, start, connection, open) = (line.host, line.start, line.connection, line.host_open);
        self.witness.event(format_args!("line {} of host {host} ends: {why}", id.0));
        self.lines.remove(&id);
        if open {
            self.hosts[host].connections.remove(&connection);
            self.feed_if(host, start, Input::Ended(connection, why.to_owned()));
        }
    }

    /// Until when a host may start by what was said on the wire, and when the last word on that was said.
    pub(super) fn grant(&self, host: usize) -> Option<(u64, u64)> {
        let lines = self.hosts[host].connections.values().filter_map(|id| self.lines.get(id));
        lines.filter(|line| line.set_came).filter_map(|line| line.granted).max()
    }

    /// The network heals for a host that was cut off for so long: what was held back comes with its senders' next attempt.
    pub(super) fn resume(&mut self, host: usize, cut_for: u64) {
        let held: Vec<_> = self.lines.iter().filter(|(_, line)| line.host == host).map(|(id, _)| *id).collect();
        for id in held {
            let until = self.now + self.dice.within(0..cut_for.clamp(1, 20_000));
            let line = self.lines.get_mut(&id).expect("it was just there");
            let (up, down) = (line.up.hold(until), line.down.hold(until));
            if up {
                self.at(until, Event::Up(id));
            }
            if down {
                self.at(until, Event::Down(id));
            }
        }
    }
}
