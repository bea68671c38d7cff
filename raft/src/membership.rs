//! Who belongs to the cluster, and how that may change: decisions over a view that only the leader has.
//!
//! A change is one entry, or two with a joint one between them when it concerns who votes. The log makes sure that one is
//! committed before the next begins; what is decided here is whether the cluster would still stand afterwards. A change
//! that a leader leaves half done is finished by whoever leads next ([`upkeep`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use openraft::ChangeMembers;

use crate::error::{Refusal, RefusalKind};
use crate::options::{Member, NewMember};
use crate::types::Address;

/// A learner may lag behind the leader by this many entries and still be promoted: as much as is under way to any member
/// at a high load, and little enough to be sent within a moment.
const CAUGHT_UP: u64 = 1000;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A learner comes.
    Add(NewMember),
    /// A learner gets a vote.
    Promote(u64),
    /// A member goes.
    Remove { id: u64, force: bool },
    /// A member comes, and another one goes when the new one has caught up.
    Replace { dead: u64, with: NewMember },
    /// A member is reached elsewhere, or fails with others.
    Update(Member),
}

/// The members as the leader sees them.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// The leader's id.
    pub(crate) leader: u64,
    /// Index of the last entry of the leader's log.
    pub(crate) last_log: u64,
    pub(crate) members: BTreeMap<u64, Seat>,
    /// The voters; while a change is half done, those that it leads to.
    pub(crate) voters: BTreeSet<u64>,
    /// Whether anything after the list of the first members is committed.
    pub(crate) has_committed: bool,
    /// Whether the last change is committed.
    pub(crate) is_committed: bool,
    /// Whether a change of the voters is half done.
    pub(crate) is_joint: bool,
}

/// One of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seat {
    pub(crate) address: Address,
    /// Up to where its log agrees with the leader's.
    pub(crate) replicated: Option<u64>,
    /// Whether it answered a moment ago.
    pub(crate) answers: bool,
    /// Whether it came back without what it had acknowledged.
    pub(crate) has_forgotten: bool,
}

/// What is to be done about a change.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// It is so already.
    Done(Member),
    /// Not yet; if it stays so until the time is up, the change is refused.
    Wait(Refusal),
    /// It is to be made.
    Submit { changes: ChangeMembers<u64, Address>, member: Member },
}

fn refuse<T>(kind: RefusalKind, reason: String) -> Result<T, Refusal> {
    Err(Refusal { kind, reason })
}

impl View {
    fn name(&self, id: u64) -> &str {
        self.members.get(&id).map_or("?", |seat| &seat.address.name)
    }

    fn named(&self, name: &str) -> Option<(u64, &Seat)> {
        self.members.iter().find(|(_, seat)| seat.address.name == name).map(|(id, seat)| (*id, seat))
    }

    fn known(&self, id: u64) -> Result<&Seat, Refusal> {
        self.members.get(&id).map_or_else(
            || refuse(RefusalKind::UnknownMember, format!("there is no member {id}; list the members")),
            Ok,
        )
    }

    fn answers(&self, id: u64) -> bool {
        id == self.leader || self.members.get(&id).is_some_and(|seat| seat.answers && !seat.has_forgotten)
    }

    fn lag(&self, seat: &Seat) -> u64 {
        self.last_log.saturating_sub(seat.replicated.unwrap_or_default())
    }

    /// Refuses if not enough of `voters` answer to make a majority of them.
    fn keeps_quorum(&self, voters: &BTreeSet<u64>) -> Result<(), Refusal> {
        let needed = voters.len() / 2 + 1;
        let answering = voters.iter().filter(|&&id| self.answers(id)).count();
        if answering >= needed {
            return Ok(());
        }
        let silent: Vec<_> = voters.iter().filter(|&&id| !self.answers(id)).map(|&id| self.name(id)).collect();
        refuse(
            RefusalKind::WouldLoseQuorum,
            format!(
                "of the {} voters that would be left, {needed} must answer, and only {answering} do; {} not; bring back or replace what is silent first",
                voters.len(),
                if let [one] = silent[..] { format!("{one} does") } else { format!("{} do", silent.join(" and ")) }
            ),
        )
    }

    fn check_new(&self, new: &NewMember) -> Result<(), Refusal> {
        if new.name.is_empty() || new.raft_addr.is_empty() {
            return refuse(RefusalKind::Invalid, "a member needs a name and an address".to_owned());
        }
        self.check_address(&new.name, &new.raft_addr)
    }

    fn check_address(&self, name: &str, raft_addr: &str) -> Result<(), Refusal> {
        let taken = self.members.values().find(|seat| seat.address.name != name && seat.address.raft_addr == raft_addr);
        match taken {
            None => Ok(()),
            Some(seat) => {
                let reason = format!("the address {raft_addr} is that of {}", seat.address.name);
                refuse(RefusalKind::AddressTaken, reason)
            }
        }
    }

    /// A new learner, under an id that no member ever had: ids come from the log's indexes, and the entry that adds a
    /// member takes an index itself.
    fn newcomer(&self, new: &NewMember, replaces: Option<u64>) -> (u64, Address) {
        let largest = self.members.keys().next_back().copied().unwrap_or_default();
        let NewMember { name, raft_addr, api_addr, domain } = new.clone();
        let lineage = self.members.get(&self.leader).map_or(0, |seat| seat.address.lineage);
        let address = Address { name, raft_addr, api_addr, domain, lineage, is_seated: false, replaces };
        (largest.max(self.last_log) + 1, address)
    }

    fn under_way(&self) -> Option<Refusal> {
        (!self.is_committed || self.is_joint).then(|| Refusal {
            kind: RefusalKind::UnderWay,
            reason:
                "another change of the members is under way; wait for its end, which needs a majority of the members"
                    .to_owned(),
        })
    }
}

fn matches(address: &Address, new: &NewMember) -> bool {
    let NewMember { name, raft_addr, api_addr, domain } = new;
    address.name == *name
        && address.raft_addr == *raft_addr
        && address.api_addr == *api_addr
        && address.domain == *domain
}

/// What to do about a change that was asked for.
pub(crate) fn decide(view: &View, change: &Change) -> Result<Step, Refusal> {
    let step = match change {
        Change::Add(new) => add(view, new),
        Change::Promote(id) => promote(view, *id),
        Change::Remove { id, force } => remove(view, *id, *force),
        Change::Replace { dead, with } => replace(view, *dead, with),
        Change::Update(member) => update(view, member),
    };
    match (step, view.under_way()) {
        // What is in the log and not committed may still be lost, also if it is just what is asked for.
        (Ok(Step::Submit { .. } | Step::Done(_)), Some(refusal)) => Ok(Step::Wait(refusal)),
        (Err(unknown), Some(refusal)) if unknown.kind == RefusalKind::UnknownMember => Ok(Step::Wait(refusal)),
        (step, _) => step,
    }
}

fn name_taken<T>(id: u64, name: &str) -> Result<T, Refusal> {
    let reason = format!(
        "member {id} is called {name:?} already, with another address or failure domain; update or remove that one first"
    );
    refuse(RefusalKind::NameTaken, reason)
}

fn add(view: &View, new: &NewMember) -> Result<Step, Refusal> {
    view.check_new(new)?;
    match view.named(&new.name) {
        Some((id, seat)) if matches(&seat.address, new) => Ok(Step::Done(seat.address.member(id))),
        Some((id, _)) => name_taken(id, &new.name),
        None => {
            let (id, address) = view.newcomer(new, None);
            let member = address.member(id);
            Ok(Step::Submit { changes: ChangeMembers::AddNodes(BTreeMap::from([(id, address)])), member })
        }
    }
}

fn promote(view: &View, id: u64) -> Result<Step, Refusal> {
    let seat = view.known(id)?;
    let (member, name) = (seat.address.member(id), &seat.address.name);
    if view.voters.contains(&id) {
        // While the change is half done it is not yet so.
        return Ok(view.under_way().map_or(Step::Done(member), Step::Wait));
    }
    if seat.has_forgotten {
        return refuse(RefusalKind::HasForgotten, forgotten(name));
    }
    if !seat.answers {
        let reason =
            format!("{name} does not answer; start it, and see that its address {} is right", member.raft_addr);
        return Ok(Step::Wait(Refusal { kind: RefusalKind::Silent, reason }));
    }
    let lag = view.lag(seat);
    if seat.replicated.is_none() || lag > CAUGHT_UP {
        let reason = format!("{name} lags by {lag} entries; wait until it has caught up");
        return Ok(Step::Wait(Refusal { kind: RefusalKind::Lagging, reason }));
    }
    let voters = view.voters.iter().copied().chain([id]).collect();
    view.keeps_quorum(&voters)?;
    Ok(Step::Submit { changes: ChangeMembers::AddVoterIds(BTreeSet::from([id])), member })
}

fn remove(view: &View, id: u64, force: bool) -> Result<Step, Refusal> {
    let seat = view.known(id)?;
    let (member, ids) = (seat.address.member(id), BTreeSet::from([id]));
    if !view.voters.contains(&id) {
        // A change that is half done may just be taking its vote; the second half removes it.
        return Ok(match view.under_way() {
            Some(refusal) => Step::Wait(refusal),
            None => Step::Submit { changes: ChangeMembers::RemoveNodes(ids), member },
        });
    }
    let left: BTreeSet<u64> = view.voters.difference(&ids).copied().collect();
    if left.is_empty() {
        let reason = format!("{} is the last voter; without it there is no cluster", member.name);
        return refuse(RefusalKind::LastVoter, reason);
    }
    if !force {
        view.keeps_quorum(&left)?;
    }
    Ok(Step::Submit { changes: ChangeMembers::RemoveVoters(ids), member })
}

fn replace(view: &View, dead: u64, with: &NewMember) -> Result<Step, Refusal> {
    view.check_new(with)?;
    let standing = view.named(&with.name);
    if let Some((id, seat)) = standing {
        if id == dead || !matches(&seat.address, with) {
            return name_taken(id, &with.name);
        }
        if seat.address.replaces == Some(dead) || !view.members.contains_key(&dead) {
            return Ok(Step::Done(seat.address.member(id)));
        }
        if view.voters.contains(&id) {
            let reason = format!("{} is a voter already; remove {} instead", with.name, view.name(dead));
            return refuse(RefusalKind::Invalid, reason);
        }
    }
    view.known(dead)?;
    if view.voters.contains(&dead) {
        // The newcomer must answer before it takes the place, so it is counted as if it did.
        let mut imagined = view.clone();
        let newcomer = u64::MAX;
        imagined.members.insert(newcomer, Seat { answers: true, ..Seat::default() });
        let voters = view.voters.iter().copied().filter(|&id| id != dead).chain([newcomer]).collect();
        imagined.keeps_quorum(&voters)?;
    }
    Ok(match standing {
        Some((id, seat)) => {
            let address = Address { replaces: Some(dead), ..seat.address.clone() };
            let member = address.member(id);
            Step::Submit { changes: ChangeMembers::SetNodes(BTreeMap::from([(id, address)])), member }
        }
        None => {
            let (id, address) = view.newcomer(with, Some(dead));
            let member = address.member(id);
            Step::Submit { changes: ChangeMembers::AddNodes(BTreeMap::from([(id, address)])), member }
        }
    })
}

fn update(view: &View, member: &Member) -> Result<Step, Refusal> {
    let seat = view.known(member.id)?;
    if seat.address.name != member.name {
        let reason = format!("member {} is called {:?}, and a name never changes", member.id, seat.address.name);
        return refuse(RefusalKind::Invalid, reason);
    }
    if member.raft_addr.is_empty() {
        return refuse(RefusalKind::Invalid, "a member needs an address".to_owned());
    }
    view.check_address(&member.name, &member.raft_addr)?;
    if seat.address.member(member.id) == *member {
        return Ok(Step::Done(member.clone()));
    }
    let Address { lineage, is_seated, replaces, .. } = seat.address;
    let address = Address { lineage, is_seated, replaces, ..Address::from(member) };
    let changes = ChangeMembers::SetNodes(BTreeMap::from([(member.id, address)]));
    Ok(Step::Submit { changes, member: member.clone() })
}

/// What is said of a member that came back with an empty directory.
pub(crate) fn forgotten(name: &str) -> String {
    format!(
        "{name} came back without what it had acknowledged, so it has forgotten its vote and must not be counted; remove it and add it anew, with an empty directory"
    )
}

/// What a leader does by itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Upkeep {
    /// The second half of a change whose first half is committed.
    Finish,
    /// Notes that these have acknowledged something.
    Seat(BTreeMap<u64, Address>),
    /// A member that has caught up takes the place of another.
    Replace { changes: ChangeMembers<u64, Address>, newcomer: u64, dead: u64 },
}

impl fmt::Display for Upkeep {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finish => formatter.write_str("a change of the voters that was half done is finished"),
            Self::Seat(members) => write!(formatter, "{} members have begun to take part", members.len()),
            Self::Replace { newcomer, dead, .. } => write!(formatter, "member {newcomer} takes the place of {dead}"),
        }
    }
}

impl Upkeep {
    /// The change that the log is asked for.
    pub(crate) fn changes(&self) -> ChangeMembers<u64, Address> {
        match self {
            // No voter comes and none goes: only the joint entry is left behind.
            Self::Finish => ChangeMembers::AddVoterIds(BTreeSet::new()),
            Self::Seat(members) => ChangeMembers::SetNodes(members.clone()),
            Self::Replace { changes, .. } => changes.clone(),
        }
    }
}

/// What the leader has to do unasked, if anything.
pub(crate) fn upkeep(view: &View) -> Option<Upkeep> {
    if !view.is_committed {
        return None;
    }
    if view.is_joint {
        return Some(Upkeep::Finish);
    }
    // What is committed is never cut off again, so who holds more than the first entry can only have less by losing it.
    let unseated: BTreeMap<u64, Address> = view
        .members
        .iter()
        .filter(|(_, seat)| view.has_committed && !seat.address.is_seated && seat.replicated > Some(0))
        .map(|(id, seat)| (*id, Address { is_seated: true, ..seat.address.clone() }))
        .collect();
    if !unseated.is_empty() {
        return Some(Upkeep::Seat(unseated));
    }
    view.members.iter().find_map(|(&id, seat)| {
        let dead = seat.address.replaces?;
        let is_ready = view.answers(id) && seat.replicated.is_some() && view.lag(seat) <= CAUGHT_UP;
        let voters: BTreeSet<u64> = view.voters.iter().copied().filter(|&voter| voter != dead).chain([id]).collect();
        if !is_ready || view.keeps_quorum(&voters).is_err() {
            return None;
        }
        let address = Address { replaces: None, ..seat.address.clone() };
        let mut changes =
            vec![ChangeMembers::SetNodes(BTreeMap::from([(id, address)])), ChangeMembers::ReplaceAllVoters(voters)];
        if view.members.contains_key(&dead) && !view.voters.contains(&dead) {
            changes.push(ChangeMembers::RemoveNodes(BTreeSet::from([dead])));
        }
        Some(Upkeep::Replace { changes: ChangeMembers::Batch(changes), newcomer: id, dead })
    })
}

#[cfg(test)]
mod tests;
