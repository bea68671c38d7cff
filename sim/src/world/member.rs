//! One controller: its replica, its sessions with hosts, and its office while it leads.
//!
//! Everything that decides is `berth_control`'s; this carries words between its parts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use berth_control::error::Error;
use berth_control::reception::{self, Arrival, REPORTS_WAITING};
use berth_control::reign::{self, Look, Reign, TICK};
use berth_control::session::{self, Deed, HostSession};
use berth_control::{ConsensusError, Leadership, desired};
use berth_model::session::{ToController, ToHost};
use berth_model::{HostUid, Millis, Timestamp};
use berth_state::{Body, Change, Cluster};

use super::log::{Told, is};
use super::network::LineId;
use super::shapes::Key;
use super::{EPOCH, Event, MEMBERS, World};
use crate::plant::Plant;
use crate::tally::{self, Group};
use crate::witness::Said;

/// Where a controller answers.
pub(crate) fn api(member: usize) -> String {
    format!("10.0.0.{}:7440", member + 1)
}

/// The controller that answers there.
pub(crate) fn at(address: &str) -> Option<usize> {
    (0..MEMBERS).find(|member| api(*member) == address)
}

/// Who waits for an answer of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiter {
    /// Nobody does any more.
    Nobody,
    /// The leader in this term.
    Office(u64),
    /// The session on this line, with the report of this number.
    Session(LineId, u64),
    /// A client with this request.
    Client(usize),
}

/// What a linearizable read is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// A new leader takes its office.
    Office,
    /// A host said Hello on this line.
    Session(LineId),
}

/// Where a session stands.
#[derive(Debug)]
enum Stage {
    /// The host said nothing yet.
    New,
    /// It said Hello.
    Arriving(Box<Arrival>),
    /// The session stands.
    Open(Box<HostSession>),
}

/// One host's session on one controller.
#[derive(Debug)]
pub(crate) struct Serving {
    stage: Stage,
    reports: VecDeque<(u64, Vec<Body>)>,
    is_folding: bool,
}

/// A leader's time in office.
#[derive(Debug)]
struct Office {
    term: u64,
    reign: Reign,
    /// What the last step wanted and was not proposed yet.
    wanted: Vec<Body>,
    is_proposing: bool,
    look_is_due: bool,
    tick: u64,
}

/// One controller.
#[derive(Debug)]
pub(crate) struct Member {
    /// Reasons for it to be off.
    pub(crate) down: u32,
    /// Reasons for it not to hear the other controllers.
    pub(crate) isolated: u32,
    /// Reasons for it to apply late.
    pub(crate) laggard: u32,
    /// Reasons for its key not to be there.
    pub(crate) keyless: u32,
    /// How far its wall clock is off, in milliseconds.
    pub(crate) skew: i64,
    pub(crate) cluster: Cluster,
    pub(crate) applied: u64,
    pub(crate) leadership: Leadership,
    /// Who waits for the outcome of something that cannot be committed any more.
    pub(crate) limbo: Vec<Waiter>,
    hopeless: Vec<Purpose>,
    unconfirmed: Vec<(u64, Purpose)>,
    office: Option<Office>,
    office_looks: bool,
    pub(crate) sessions: BTreeMap<LineId, Serving>,
    newest: BTreeMap<HostUid, LineId>,
    heard: BTreeMap<HostUid, Millis>,
    rung: BTreeSet<HostUid>,
    ticks: u64,
}

impl Member {
    pub(crate) fn new(_number: usize) -> Self {
        Self {
            down: 0,
            isolated: 0,
            laggard: 0,
            keyless: 0,
            skew: 0,
            cluster: Cluster::default(),
            applied: 0,
            leadership: Leadership::default(),
            limbo: Vec::new(),
            hopeless: Vec::new(),
            unconfirmed: Vec::new(),
            office: None,
            office_looks: false,
            sessions: BTreeMap::new(),
            newest: BTreeMap::new(),
            heard: BTreeMap::new(),
            rung: BTreeSet::new(),
            ticks: 0,
        }
    }

    /// A controller of the past that believes to lead.
    pub(crate) fn revenant(cluster: Cluster, term: u64) -> Self {
        let leadership = Leadership { term: berth_model::Term(term), here: true, leader_api: None };
        Self { cluster, leadership, ..Self::new(MEMBERS) }
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.down == 0
    }

    /// Its wall clock.
    pub(crate) fn clock(&self, now: u64) -> Timestamp {
        Timestamp::from_millis(EPOCH.as_millis().saturating_add_signed(self.skew).saturating_add(now))
    }

    const fn key(&self) -> Key {
        Key { is_there: self.keyless == 0 }
    }
}

/// Whether this is the controller of the past, who stands behind the others.
pub(super) const fn is_revenant(member: usize) -> bool {
    member >= MEMBERS
}

impl World {
    /// A controller knows who leads from now on.
    pub(super) fn lead(&mut self, number: usize, leadership: Leadership) {
        let member = &mut self.members[number];
        let before = std::mem::replace(&mut member.leadership, leadership);
        let now = member.leadership.clone();
        if before.here && now.here && before.term == now.term {
            return;
        }
        if before.here {
            member.office = None;
            let (limbo, hopeless) = (std::mem::take(&mut member.limbo), std::mem::take(&mut member.hopeless));
            let unconfirmed = std::mem::take(&mut member.unconfirmed);
            for waiter in limbo {
                let why = ConsensusError::Unknown("this controller no longer leads".into());
                self.tell(Told { member: number, waiter, result: Err(why) });
            }
            for purpose in hopeless.into_iter().chain(unconfirmed.into_iter().map(|(_, purpose)| purpose)) {
                self.barrier_failed(number, purpose);
            }
            let open: Vec<_> = self.members[number].sessions.keys().copied().collect();
            for line in open {
                let leader = now.leader_api.clone();
                self.end_session(number, line, Some(ToHost::Redirect { leader }));
            }
        }
        if now.here {
            self.witness.count(Group::Noted, "office taken");
            self.barrier(number, Purpose::Office);
        }
    }

    /// A controller dies.
    pub(super) fn crash_member(&mut self, number: usize) {
        let member = &mut self.members[number];
        member.down += 1;
        if member.down > 1 {
            return;
        }
        member.office = None;
        member.leadership = Leadership::default();
        member.sessions.clear();
        member.newest.clear();
        member.heard.clear();
        member.rung.clear();
        member.hopeless.clear();
        member.unconfirmed.clear();
        let mut waiters = std::mem::take(&mut member.limbo);
        if self.log.leader == Some(number) {
            self.lose_leader(number);
            waiters.append(&mut self.members[number].limbo);
        }
        self.witness.event(format_args!("controller {number} dies"));
        for waiter in waiters {
            if let Waiter::Client(_) = waiter {
                let why = ConsensusError::Unknown("the connection to the leader broke".into());
                self.tell(Told { member: number, waiter, result: Err(why) });
            }
        }
        self.reset_lines_of(number);
        self.reconsider();
    }

    /// A controller comes back, as far as nothing else keeps it down.
    pub(super) fn restart_member(&mut self, number: usize) {
        self.members[number].down -= 1;
        if !self.members[number].is_up() {
            return;
        }
        self.witness.event(format_args!("controller {number} starts"));
        if self.settings.is_thorough {
            let mut bytes = Vec::new();
            let cluster = &self.members[number].cluster;
            berth_state::record::write_snapshot(cluster, &mut bytes).expect("a state can be written down");
            let again = berth_state::record::read_snapshot(&mut &bytes[..]).expect("what was written can be read");
            if again.digest() != cluster.digest() {
                self.witness.broken("a snapshot is the state", format_args!("controller {number} read another one"));
            }
            self.members[number].cluster = again;
        }
        self.rejoin(number);
        self.reconsider();
    }

    /// A controller hears the others again.
    pub(super) fn rejoin(&mut self, number: usize) {
        let pause = self.dice.within(5..500);
        self.after(pause, Event::Learn(number));
        let upto = self.log.committed();
        let pause = self.dice.within(1..800);
        self.after(pause, Event::CatchUp { member: number, upto });
    }

    // --- linearizable reads

    fn barrier(&mut self, number: usize, purpose: Purpose) {
        let term = self.members[number].leadership.term.0;
        let skips = is(self.settings.plant, Plant::StaleSet) && matches!(purpose, Purpose::Session(_));
        if is_revenant(number) || skips {
            return self.barrier_passed(number, purpose);
        }
        if self.log.leader != Some(number) {
            self.members[number].hopeless.push(purpose);
            return;
        }
        let network = self.settings.network.clone();
        let pause = self.between(&network) + self.between(&network);
        let need = self.log.committed();
        self.after(pause, Event::Barrier { member: number, term, need, purpose });
    }

    pub(super) fn barrier_confirmed(&mut self, number: usize, term: u64, need: u64, purpose: Purpose) {
        let member = &self.members[number];
        if !member.is_up() || !member.leadership.here || member.leadership.term.0 != term {
            // It was told that it failed when the office ended.
            return self.barrier_failed(number, purpose);
        }
        if self.log.leader != Some(number) {
            self.members[number].hopeless.push(purpose);
        } else if member.applied >= need {
            self.barrier_passed(number, purpose);
        } else {
            self.members[number].unconfirmed.push((need, purpose));
        }
    }

    /// Reads that waited until enough was applied.
    pub(super) fn confirm_waiting(&mut self, number: usize) {
        let member = &mut self.members[number];
        if member.unconfirmed.is_empty() {
            return;
        }
        let applied = member.applied;
        let (ready, rest) = std::mem::take(&mut member.unconfirmed).into_iter().partition(|(need, _)| *need <= applied);
        member.unconfirmed = rest;
        for (_, purpose) in ready {
            self.barrier_passed(number, purpose);
        }
    }

    fn barrier_passed(&mut self, number: usize, purpose: Purpose) {
        match purpose {
            Purpose::Office => self.take_office(number),
            Purpose::Session(line) => self.enter(number, line),
        }
    }

    fn barrier_failed(&mut self, number: usize, purpose: Purpose) {
        match purpose {
            Purpose::Office => {}
            Purpose::Session(line) => self.end_session(number, line, Some(ToHost::Redirect { leader: None })),
        }
    }

    // --- the office

    fn take_office(&mut self, number: usize) {
        let (cluster, now) = (self.cluster_id, Millis(self.now));
        let member = &mut self.members[number];
        if !member.leadership.here {
            return;
        }
        member.heard.clear();
        member.ticks += 1;
        member.office = Some(Office {
            term: member.leadership.term.0,
            reign: Reign::new(cluster, now),
            wanted: Vec::new(),
            is_proposing: false,
            look_is_due: false,
            tick: member.ticks,
        });
        let tick = member.ticks;
        self.after(0, Event::Tick { member: number, number: tick });
    }

    pub(super) fn tick(&mut self, number: usize, tick: u64) {
        let Some(member) = self.members.get_mut(number) else { return };
        let Some(office) = member.office.as_mut().filter(|office| office.tick == tick) else { return };
        office.look_is_due = true;
        self.after(TICK.0, Event::Tick { member: number, number: tick });
        self.office_steps(number);
    }

    /// The state changed.
    pub(super) fn office_looks(&mut self, number: usize) {
        if let Some(member) = self.members.get_mut(number) {
            member.office_looks = false;
            self.office_steps(number);
        }
    }

    fn office_steps(&mut self, number: usize) {
        let now = Millis(self.now);
        let member = &mut self.members[number];
        let Some(office) = member.office.as_mut().filter(|office| !office.is_proposing) else { return };
        let look =
            std::mem::take(&mut office.look_is_due).then(|| Look { heard: std::mem::take(&mut member.heard), now });
        office.wanted = office.reign.step(&member.cluster, look);
        self.office_proposes(number);
    }

    fn office_proposes(&mut self, number: usize) {
        let now = self.now;
        let member = &mut self.members[number];
        let Some(office) = member.office.as_mut() else { return };
        let term = office.term;
        let next = reign::next_proposal(&mut office.wanted);
        office.is_proposing = next.is_some();
        let goes_on = office.look_is_due || office.reign.is_midway();
        match next {
            Some(bodies) => {
                let at = member.clock(now);
                self.propose(number, &reign::batch(bodies, at), None, Waiter::Office(term));
            }
            None if goes_on => self.office_wakes(number),
            None => {}
        }
    }

    fn office_wakes(&mut self, number: usize) {
        let member = &mut self.members[number];
        if member.office.is_some() && !member.office_looks {
            member.office_looks = true;
            self.after(0, Event::Office(number));
        }
    }

    // --- answers of the log

    pub(super) fn tell(&mut self, told: Told) {
        let Told { member, waiter, result } = told;
        if member >= self.members.len() {
            return;
        }
        match waiter {
            Waiter::Nobody => {}
            Waiter::Office(term) => self.office_told(member, term, result.is_ok()),
            Waiter::Session(line, number) => self.session_told(member, line, number, result),
            Waiter::Client(request) => self.client_told(request, result),
        }
    }

    fn office_told(&mut self, number: usize, term: u64, is_done: bool) {
        let member = &mut self.members[number];
        let Some(office) = member.office.as_mut().filter(|office| office.term == term && office.is_proposing) else {
            return;
        };
        office.is_proposing = false;
        if is_done {
            self.office_proposes(number);
            // What the state became meanwhile.
            if self.members[number].office.as_ref().is_some_and(|office| !office.is_proposing) {
                self.office_wakes(number);
            }
            return;
        }
        office.wanted.clear();
        office.reign.not_proposed();
        member.ticks += 1;
        office.tick = member.ticks;
        let tick = office.tick;
        self.after(TICK.0, Event::Tick { member: number, number: tick });
    }

    /// Entries were applied: readers of this controller look again.
    pub(super) fn published(&mut self, number: usize, changes: &[Change]) {
        let member = &mut self.members[number];
        let was_silent = member.rung.is_empty();
        for host in changes.iter().flat_map(desired::concerned) {
            if member.newest.contains_key(&host) {
                member.rung.insert(host);
            }
        }
        if was_silent && !member.rung.is_empty() {
            self.after(0, Event::Bells(number));
        }
        if !changes.is_empty() {
            self.office_wakes(number);
        }
    }

    pub(super) fn ring_bells(&mut self, number: usize) {
        let Some(member) = self.members.get_mut(number) else { return };
        let lines: Vec<_> =
            std::mem::take(&mut member.rung).iter().filter_map(|host| member.newest.get(host)).copied().collect();
        for line in lines {
            self.send_desired(number, line);
        }
    }

    // --- sessions

    /// A connection stands.
    pub(super) fn accept(&mut self, number: usize, line: LineId) {
        let serving = Serving { stage: Stage::New, reports: VecDeque::new(), is_folding: false };
        self.members[number].sessions.insert(line, serving);
    }

    /// A host says something.
    pub(super) fn hear(&mut self, number: usize, line: LineId, host: usize, mut word: ToController) {
        let name = tally::to_controller(&word);
        self.witness.count(Group::ToController, name);
        self.witness
            .event(format_args!("controller {number} hears {name} of host {host} on line {}: {word:?}", line.0));
        if is(self.settings.plant, Plant::LateReport) && !self.members[number].sessions.contains_key(&line) {
            return self.fold_late(number, line, host, word);
        }
        if is(self.settings.plant, Plant::EpochUncompared) {
            super::plants::uncompared_hello(&mut word);
        }
        let name = self.hosts[host].name.to_string();
        let now = Millis(self.now);
        let member = &mut self.members[number];
        let Some(serving) = member.sessions.get_mut(&line) else { return };
        match (&mut serving.stage, word) {
            (Stage::New, ToController::Hello(hello)) => {
                match reception::arrive(&hello, &name, &member.leadership, member.cluster.info) {
                    Ok(arrival) => {
                        serving.stage = Stage::Arriving(Box::new(arrival));
                        self.barrier(number, Purpose::Session(line));
                    }
                    Err(away) => self.end_session(number, line, Some(away.word())),
                }
            }
            (Stage::New | Stage::Arriving(_), _) => self.end_session(number, line, None),
            (Stage::Open(session), word) => {
                member.heard.insert(session.host(), now);
                match session.hear(word) {
                    Ok(Deed::Answer(word)) => self.send_down(line, word),
                    Ok(Deed::Fold { number: report, bodies }) => {
                        serving.reports.push_back((report, bodies));
                        if serving.reports.len() > REPORTS_WAITING {
                            let error = Error::invalid("BE-1009", "more reports than were acknowledged");
                            return self.end_session(number, line, Some(reception::last_word(&error)));
                        }
                        self.fold_next(number, line);
                    }
                    Err(error) => return self.end_session(number, line, Some(reception::last_word(&error))),
                }
                self.send_controllers(number, line);
            }
        }
    }

    /// What the plant does with a word on a line that is no session any more.
    fn fold_late(&mut self, number: usize, line: LineId, host: usize, word: ToController) {
        let ToController::Report(report) = word else { return };
        let said = Said { host, line: line.0, number: report.number };
        let member = &self.members[number];
        let uid = self.hosts[host].uid;
        let (Some(known), true) = (member.cluster.hosts.get(&uid), member.newest.contains_key(&uid)) else { return };
        let facts = berth_state::HostFacts {
            uid,
            name: known.meta.name.clone(),
            address: known.address.clone(),
            boot: known.boot.clone(),
        };
        let batch = session::batch(vec![Body::ReportHost { facts, report }], member.clock(self.now));
        self.propose(number, &batch, Some(said), Waiter::Nobody);
    }

    /// The linearizable read after a host's Hello is confirmed.
    fn enter(&mut self, number: usize, line: LineId) {
        let member = &mut self.members[number];
        let Some(serving) = member.sessions.get_mut(&line) else { return };
        let Stage::Arriving(arrival) = std::mem::replace(&mut serving.stage, Stage::New) else { return };
        match arrival.enter(&member.leadership, &member.cluster) {
            Err(away) => self.end_session(number, line, Some(away.word())),
            Ok((session, welcome)) => {
                let host = session.host();
                serving.stage = Stage::Open(Box::new(session));
                let older = member.newest.insert(host, line);
                member.heard.insert(host, Millis(self.now));
                if let Some(older) = older {
                    self.witness.count(Group::Noted, "session superseded");
                    self.end_session(number, older, None);
                }
                self.send_down(line, welcome);
                self.send_desired(number, line);
                self.send_controllers(number, line);
            }
        }
    }

    /// A session ends on the controller's side, with a last word or without.
    pub(super) fn end_session(&mut self, number: usize, line: LineId, last: Option<ToHost>) {
        let member = &mut self.members[number];
        if member.sessions.remove(&line).is_none() {
            return;
        }
        member.newest.retain(|_, newest| *newest != line);
        if let Some(last) = last {
            self.send_down(line, last);
        }
        self.hang_up_on_host(line);
    }

    /// A session ended on the host's side.
    pub(super) fn host_left(&mut self, number: usize, line: LineId) {
        let member = &mut self.members[number];
        member.sessions.remove(&line);
        member.newest.retain(|_, newest| *newest != line);
    }

    fn send_desired(&mut self, number: usize, line: LineId) {
        let member = &mut self.members[number];
        let key = member.key();
        let Some(Serving { stage: Stage::Open(session), .. }) = member.sessions.get_mut(&line) else { return };
        let (word, unopened) = session.desired(&member.cluster, &key);
        if !unopened.is_empty() {
            self.witness.count(Group::Noted, "secret not opened");
        }
        if let Some(word) = word {
            self.send_down(line, word);
        }
    }

    fn send_controllers(&mut self, number: usize, line: LineId) {
        if is_revenant(number) {
            return;
        }
        let Some(Serving { stage: Stage::Open(session), .. }) = self.members[number].sessions.get_mut(&line) else {
            return;
        };
        if let Some(word) = session.controllers((0..MEMBERS).map(api).collect()) {
            self.send_down(line, word);
        }
    }

    fn fold_next(&mut self, number: usize, line: LineId) {
        let Some(host) = self.lines.get(&line).map(|line| line.host) else { return };
        let member = &mut self.members[number];
        let Some(serving) = member.sessions.get_mut(&line).filter(|serving| !serving.is_folding) else { return };
        let Some((report, bodies)) = serving.reports.pop_front() else { return };
        serving.is_folding = true;
        let batch = session::batch(bodies, member.clock(self.now));
        let said = Said { host, line: line.0, number: report };
        self.propose(number, &batch, Some(said), Waiter::Session(line, report));
    }

    fn session_told(
        &mut self,
        number: usize,
        line: LineId,
        report: u64,
        result: Result<Vec<berth_state::Applied>, ConsensusError>,
    ) {
        let Some(serving) = self.members[number].sessions.get_mut(&line) else { return };
        serving.is_folding = false;
        let rejected = result.map(|answers| answers.into_iter().find_map(|answer| answer.result.err()));
        let error = match rejected {
            Ok(None) => {
                self.send_down(line, ToHost::ReportAck { number: report });
                return self.fold_next(number, line);
            }
            Ok(Some(rejection)) => Error::from(rejection),
            Err(error) => Error::from(error),
        };
        self.end_session(number, line, Some(reception::last_word(&error)));
    }
}
