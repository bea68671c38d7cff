//! Whoever runs the cluster: has members added, given a vote, removed and replaced, and asks again until it is clear what
//! came of it.

use berth_raft::{Member, MembershipError, RefusalKind};
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::dice::Dice;
use crate::member::{Change, Order, newcomer};
use crate::world::World;

/// How long to wait before asking again, in milliseconds.
const AGAIN: u64 = 200;

/// What is to become of the members. Members go by their numbers here; ids are the cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A learner comes.
    Add { number: u64 },
    /// It gets its vote.
    Promote { number: u64 },
    /// A member goes.
    Remove { number: u64, force: bool },
    /// A member comes for one that is dead.
    Replace { dead: u64, number: u64 },
}

impl Wish {
    fn change(self, world: &World) -> Change {
        let id = |number| world.seat(number).id().expect("only members of the cluster are changed");
        match self {
            Self::Add { number } => Change::Add(newcomer(number)),
            Self::Promote { number } => Change::Promote(id(number)),
            Self::Remove { number, force } => Change::Remove { id: id(number), force },
            Self::Replace { dead, number } => Change::Replace { dead: id(dead), with: newcomer(number) },
        }
    }
}

/// What came of a wish.
#[derive(Debug)]
pub(crate) enum Fulfilment {
    /// It is so, with the member that was added.
    Granted(Option<Member>),
    /// It is not so, and never will be.
    Refused(String),
}

/// A wish on its way.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) wish: Wish,
    answer: Option<oneshot::Receiver<Result<Member, MembershipError>>>,
    not_before: u64,
    /// Whether an attempt may have succeeded of which nothing is known.
    is_open: bool,
}

impl Errand {
    pub(crate) fn new(wish: Wish) -> Self {
        Self { wish, answer: None, not_before: 0, is_open: false }
    }

    /// Asks, or looks at the answer; tells what came of it once that is known.
    pub(crate) fn go_on(&mut self, dice: &mut Dice, world: &World) -> Option<Fulfilment> {
        if let Some(answer) = &mut self.answer {
            match answer.try_recv() {
                Err(TryRecvError::Empty) => return None,
                Ok(Ok(member)) => return Some(Fulfilment::Granted(Some(member))),
                Ok(Err(MembershipError::Refused(refusal))) => match self.wish {
                    // An attempt whose answer was lost has done it.
                    Wish::Remove { .. } if self.is_open && refusal.kind == RefusalKind::UnknownMember => {
                        return Some(Fulfilment::Granted(None));
                    }
                    // Another one took its place meanwhile.
                    Wish::Promote { .. } if refusal.kind == RefusalKind::UnknownMember => {
                        return Some(Fulfilment::Refused(refusal.reason));
                    }
                    _ if !self.is_open => return Some(Fulfilment::Refused(refusal.reason)),
                    _ => {}
                },
                Ok(Err(MembershipError::NoLeader | MembershipError::Stopped { .. })) => {}
                // Whoever was asked may have died over it.
                Ok(Err(MembershipError::Unknown { .. })) | Err(TryRecvError::Closed) => self.is_open = true,
            }
            self.answer = None;
            self.not_before = world.now + AGAIN;
        }
        if world.now >= self.not_before {
            let through = *dice.pick(&world.present());
            let (sender, receiver) = oneshot::channel();
            if world.order(through, Order::Change(self.wish.change(world), sender)) {
                self.answer = Some(receiver);
            } else {
                self.not_before = world.now + AGAIN;
            }
        }
        None
    }
}
