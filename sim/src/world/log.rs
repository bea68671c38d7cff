//! The replicated log, without the consensus that makes it: one order of entries, leaders that come and go, and answers that
//! are lost.
//!
//! What holds is what Raft gives: an entry that is committed stays; of what an old leader had not committed, the next one
//! carries on with some from the front and forgets the rest; an old leader that does not know it yet goes on believing, and
//! nothing that it proposes comes to anything. The real consensus has simulations of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use berth_control::{ConsensusError, Leadership};
use berth_model::Term;
use berth_state::{Applied, Batch, Body, Command, apply, record};

use super::member::Waiter;
use super::{Event, MEMBERS, World};
use crate::plant::Plant;
use crate::tally::Group;
use crate::witness::Said;

/// One committed entry.
#[derive(Clone, Debug)]
struct Entry {
    bytes: Arc<[u8]>,
    said: Option<Said>,
}

/// One proposal that a leader took and did not commit yet.
#[derive(Debug)]
struct Pending {
    entry: Entry,
    waiter: Waiter,
    due: u64,
}

/// What a proposer is told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) member: usize,
    pub(crate) waiter: Waiter,
    pub(crate) result: Result<Vec<Applied>, ConsensusError>,
}

/// The log as it would be seen from above.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Entries before these are applied everywhere and forgotten.
    base: u64,
    entries: VecDeque<Entry>,
    pending: VecDeque<Pending>,
    pub(crate) term: u64,
    pub(crate) leader: Option<usize>,
    election_is_due: bool,
    last_due: u64,
    /// Who waits for which entry to be applied on the leader.
    waiting: BTreeMap<u64, Waiter>,
    /// Commands that were committed.
    pub(crate) commands: u64,
    /// Bytes of committed entries.
    pub(crate) bytes: u64,
}

impl Log {
    pub(crate) fn committed(&self) -> u64 {
        self.base + self.entries.len() as u64
    }
}

fn unknown() -> ConsensusError {
    ConsensusError::Unknown("nobody heard what became of it".into())
}

impl World {
    /// A member asks for a batch to be committed, as the leader that it believes to be.
    pub(super) fn propose(&mut self, member: usize, batch: &Batch, said: Option<Said>, waiter: Waiter) {
        if super::member::is_revenant(member) {
            return self.revenant_applies(member, batch, waiter);
        }
        let is_up = self.members[member].is_up();
        if !is_up || !self.members[member].leadership.here {
            let told = Told { member, waiter, result: Err(ConsensusError::NoLeader) };
            return self.after(1, Event::Tell(Box::new(told)));
        }
        if self.log.leader != Some(member) {
            // Its followers follow another, or nobody.
            self.members[member].limbo.push(waiter);
            return;
        }
        let bytes = record::encode_batch(batch).expect("a batch of a simulated world can be written down");
        let commit = self.settings.commit.clone();
        let mut due = (self.now + self.between(&commit)).max(self.log.last_due);
        let mut waiter = waiter;
        if self.lost_answers > 0 && self.dice.percent(50) {
            let pause = self.dice.within(1..400);
            self.after(pause, Event::Tell(Box::new(Told { member, waiter, result: Err(unknown()) })));
            self.witness.count(Group::Noted, "answer lost");
            if self.dice.percent(30) {
                return;
            }
            waiter = Waiter::Nobody;
            due += self.dice.within(0..1500);
        }
        self.log.last_due = due;
        self.log.pending.push_back(Pending { entry: Entry { bytes: bytes.into(), said }, waiter, due });
        self.at(due, Event::Commit);
    }

    pub(super) fn commit(&mut self) {
        let Some(leader) = self.log.leader else { return };
        while self.log.pending.front().is_some_and(|pending| pending.due <= self.now) {
            let Some(Pending { entry, waiter, .. }) = self.log.pending.pop_front() else { return };
            self.append(entry);
            let index = self.log.committed();
            self.log.waiting.insert(index, waiter);
            if self.members[leader].applied + 1 == index {
                self.apply_next(leader);
            }
            self.spread(index);
        }
    }

    fn append(&mut self, entry: Entry) {
        self.log.bytes += entry.bytes.len() as u64;
        self.log.entries.push_back(entry);
    }

    /// The others hear of an entry.
    fn spread(&mut self, index: u64) {
        for member in 0..MEMBERS {
            if self.log.leader != Some(member) {
                let network = self.settings.network.clone();
                let mut pause = self.between(&network);
                if self.members[member].laggard > 0 {
                    pause += self.dice.within(500..6000);
                }
                self.after(pause, Event::CatchUp { member, upto: index });
            }
        }
    }

    pub(super) fn catch_up(&mut self, member: usize, upto: u64) {
        if !self.members[member].is_up() || self.members[member].isolated > 0 {
            return;
        }
        // A leader that catches up carries on with what was committed meanwhile.
        let is_leader = self.log.leader == Some(member);
        let upto = if is_leader { self.log.committed() } else { upto.min(self.log.committed()) };
        while self.members[member].applied < upto {
            self.apply_next(member);
        }
    }

    fn apply_next(&mut self, number: usize) {
        let index = self.members[number].applied + 1;
        let at = usize::try_from(index - self.log.base - 1).expect("entries that are kept are counted in memory");
        let Entry { bytes, said } = self.log.entries[at].clone();
        let batch = record::decode_batch(&bytes).expect("what was written can be read");
        let is_first = self.members[..MEMBERS].iter().all(|member| member.applied < index);
        let plant = self.settings.plant;
        let member = &mut self.members[number];
        let (answers, changes) = match plant {
            None => apply::apply(&mut member.cluster, &batch),
            Some(plant) => super::plants::apply(plant, index, &mut member.cluster, &batch),
        };
        member.applied = index;
        let (digest, incarnation) = (member.cluster.digest(), member.cluster.info.map(|info| info.incarnation));
        self.witness.replica(number, index, digest);
        if is_first {
            self.log.commands += batch.commands.len() as u64;
            let (hosts, homes) = (&self.hosts, &self.homes);
            let is_there = |uid, vm| {
                let machine = &hosts[*homes.get(&uid)?].machine;
                if machine.domains().contains_key(&vm) {
                    Some("its domain is")
                } else {
                    machine.has_disk(vm).then_some("its disk is")
                }
            };
            self.witness.event(format_args!("entry {index}: {}", names(&batch)));
            self.witness.applied(index, incarnation.unwrap_or_default(), &batch, &answers, &changes, is_there);
            if let Some(said) = said {
                self.witness.report_applied(said);
            }
            // A state of before a host was given up must not be put back: its VMs run elsewhere since.
            let gives_up = |(command, answer): (&Command, &Applied)| {
                matches!(command.body, Body::ConfirmDead { .. }) && answer.result.is_ok()
            };
            if batch.commands.iter().zip(&answers).any(gives_up) {
                self.backups.clear();
            }
        }
        self.published(number, &changes);
        if self.log.leader == Some(number)
            && let Some(waiter) = self.log.waiting.remove(&index)
        {
            self.tell(Told { member: number, waiter, result: Ok(answers) });
        }
        self.confirm_waiting(number);
        self.forget_entries();
    }

    fn forget_entries(&mut self) {
        let everywhere = self.members[..MEMBERS].iter().map(|member| member.applied).min().unwrap_or(0);
        while self.log.base < everywhere && self.log.entries.len() > 64 {
            self.log.entries.pop_front();
            self.log.base += 1;
        }
        self.witness.everywhere(everywhere);
    }

    fn connected(&self) -> Vec<usize> {
        (0..MEMBERS).filter(|member| self.members[*member].is_up() && self.members[*member].isolated == 0).collect()
    }

    /// Controllers came or went.
    pub(super) fn reconsider(&mut self) {
        let connected = self.connected();
        let has_majority = connected.len() * 2 > MEMBERS;
        if let Some(leader) = self.log.leader
            && (!has_majority || !connected.contains(&leader))
        {
            self.lose_leader(leader);
        }
        if self.log.leader.is_none() && has_majority && !self.log.election_is_due {
            self.log.election_is_due = true;
            let pause = self.dice.within(300..2500);
            self.after(pause, Event::Election);
        }
    }

    /// Nobody follows the leader any more.
    pub(super) fn lose_leader(&mut self, leader: usize) {
        self.log.leader = None;
        let mut waiters: Vec<_> = std::mem::take(&mut self.log.waiting).into_values().collect();
        for pending in &mut self.log.pending {
            waiters.push(std::mem::replace(&mut pending.waiter, Waiter::Nobody));
        }
        self.members[leader].limbo.extend(waiters);
        if self.members[leader].is_up() {
            let term = self.members[leader].leadership.term.0;
            let pause = self.dice.within(0..5000);
            self.after(pause, Event::StepDown { member: leader, term });
        }
    }

    pub(super) fn elect(&mut self) {
        self.log.election_is_due = false;
        let connected = self.connected();
        if self.log.leader.is_some() || connected.len() * 2 <= MEMBERS {
            return;
        }
        let Some(leader) = self.dice.pick(&connected) else { return };
        // What the last leader had not committed: the new one has some of it, from the front.
        let kept = self.dice.index(self.log.pending.len() + 1);
        let dropped = self.log.pending.len() - kept;
        if dropped > 0 {
            self.witness.count(Group::Noted, "proposal dropped");
        }
        self.log.pending.truncate(kept);
        while let Some(pending) = self.log.pending.pop_front() {
            self.append(pending.entry);
            self.witness.count(Group::Noted, "carried on");
        }
        self.log.last_due = self.now;
        self.log.term += 1;
        self.log.leader = Some(leader);
        let index = self.log.committed();
        self.witness.event(format_args!("controller {leader} leads in term {}", self.log.term));
        self.spread(index);
        let mut pause = self.dice.within(1..50);
        if self.members[leader].laggard > 0 {
            pause += self.dice.within(500..4000);
        }
        self.after(pause, Event::CatchUp { member: leader, upto: index });
        self.learn(leader);
        for member in connected {
            if member != leader {
                let pause = self.dice.within(1..300);
                self.after(pause, Event::Learn(member));
            }
        }
    }

    pub(super) fn step_down(&mut self, member: usize, term: u64) {
        if self.log.leader != Some(member) && self.members[member].leadership.term == Term(term) {
            let nobody = Leadership { term: Term(term), here: false, leader_api: None };
            self.lead(member, nobody);
        }
    }

    /// A controller learns who leads, if it hears the others.
    pub(super) fn learn(&mut self, member: usize) {
        if !self.members[member].is_up() || self.members[member].isolated > 0 {
            return;
        }
        let leader_api = self.log.leader.map(super::member::api);
        let here = self.log.leader == Some(member);
        self.lead(member, Leadership { term: Term(self.log.term), here, leader_api });
    }

    /// The leader hands its office over.
    pub(super) fn transfer(&mut self) {
        if let Some(leader) = self.log.leader {
            self.lose_leader(leader);
            self.log.election_is_due = true;
            self.after(20, Event::Election);
        }
    }

    /// Members begin anew with a state that was put back.
    pub(super) fn begin_anew(&mut self) {
        let committed = self.log.committed();
        self.log.entries.clear();
        self.log.pending.clear();
        self.log.waiting.clear();
        self.log.base = committed;
        self.log.term = 0;
        self.log.leader = None;
    }

    /// A controller of the past decides alone: what it knows as its majority is gone with it.
    fn revenant_applies(&mut self, member: usize, batch: &Batch, waiter: Waiter) {
        let (answers, changes) = apply::apply(&mut self.members[member].cluster, batch);
        self.published(member, &changes);
        self.after(5, Event::Tell(Box::new(Told { member, waiter, result: Ok(answers) })));
    }
}

fn names(batch: &Batch) -> String {
    let mut text = String::new();
    for (number, command) in batch.commands.iter().take(4).enumerate() {
        text.push_str(if number == 0 { "" } else { ", " });
        text.push_str(command.body.name());
    }
    if batch.commands.len() > 4 {
        text.push_str(", …");
    }
    text
}

/// Whether the plant is this one.
pub(super) fn is(plant: Option<Plant>, which: Plant) -> bool {
    plant == Some(which)
}
