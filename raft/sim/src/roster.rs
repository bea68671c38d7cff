//! Who belongs to the cluster, as far as the cluster has said so.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// The members by their numbers, for everyone who has to do with them.
#[derive(Debug)]
pub(crate) struct Roster {
    known: Cell<u64>,
    present: RefCell<BTreeSet<u64>>,
    voters: RefCell<BTreeSet<u64>>,
}

impl Roster {
    /// The first members.
    pub(crate) fn new(members: u64) -> Self {
        let first: BTreeSet<u64> = (1..=members).collect();
        Self { known: Cell::new(members), present: RefCell::new(first.clone()), voters: RefCell::new(first) }
    }

    /// The highest number that was given so far.
    pub(crate) fn known(&self) -> u64 {
        self.known.get()
    }

    /// Gives the next number.
    pub(crate) fn announce(&self) -> u64 {
        self.known.update(|known| known + 1);
        self.known.get()
    }

    /// From now on it is a member.
    pub(crate) fn join(&self, number: u64) {
        self.present.borrow_mut().insert(number);
    }

    /// It has a vote, or will get it by itself.
    pub(crate) fn give_vote(&self, number: u64) {
        self.voters.borrow_mut().insert(number);
    }

    /// It is a member no more.
    pub(crate) fn leave(&self, number: u64) {
        self.present.borrow_mut().remove(&number);
        self.voters.borrow_mut().remove(&number);
    }

    /// Whether it votes.
    pub(crate) fn votes(&self, number: u64) -> bool {
        self.voters.borrow().contains(&number)
    }

    /// Whether it is a member.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.present.borrow().contains(&number)
    }

    /// The members, in order.
    pub(crate) fn present(&self) -> Vec<u64> {
        self.present.borrow().iter().copied().collect()
    }
}
