//! The window of remembered requests: the same id and body get the same answer, and never a second execution (law 8).
//!
//! Kept for 24 hours of entry time and at most 100,000, evicted in apply in the order of arrival, so that every
//! replica forgets the same id at the same entry. An id that is not remembered and was made at or before the newest
//! forgotten one cannot be told from a repetition and is refused.

use berth_model::{Actor, Millis, RequestId, Timestamp};
use imbl::OrdMap;

use crate::digest::{Digest, Part};
use crate::outcome::{Applied, Rejection};
use crate::record;

/// One remembered request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// Who asked.
    pub actor: Actor,
    /// The hash of what was asked.
    pub body: [u8; 32],
    /// What was answered.
    pub answer: Applied,
    /// When, by entry time.
    pub at: Timestamp,
    /// The order of arrival.
    pub sequence: u64,
}

/// What the window says of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not seen before: carry it out, then [`Requests::remember`] it.
    New,
    /// Seen before: this was the answer.
    Seen(Applied),
    /// Not to be carried out.
    Refused(Rejection),
}

/// The window.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Requests {
    pub(crate) by_id: OrdMap<RequestId, Remembered>,
    pub(crate) order: OrdMap<u64, RequestId>,
    pub(crate) next_sequence: u64,
    pub(crate) horizon: Timestamp,
    /// What is remembered, as the digest takes it.
    pub(crate) sum: Digest,
}

impl Requests {
    /// How long an answer is remembered, in entry time.
    pub const KEPT_FOR: Millis = Millis::seconds(24 * 3600);
    /// How many answers are remembered: about 30 MB, a day of more than one write a second.
    pub const KEPT: usize = 100_000;
    /// How far a client's clock may be ahead. An id from further ahead would, once forgotten, move the horizon there
    /// and refuse everyone else.
    pub const AHEAD: Millis = Millis::seconds(600);

    /// The sum over what is remembered, anew.
    pub(crate) fn summed(&self) -> Digest {
        let mut sum = Digest::default();
        for (id, held) in &self.by_id {
            sum.add(Part::Request, &[&record::request_body(*id, held)]);
        }
        sum
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// What is remembered, in the order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (RequestId, &Remembered)> {
        self.order.values().filter_map(|id| self.by_id.get(id).map(|held| (*id, held)))
    }

    /// What to do with a request that was proposed at `proposed`, by its proposer's clock; `at` is entry time, which is
    /// that or later.
    ///
    /// What an id may be too old by is measured by the proposer's clock: entry time never goes back, so that one step of
    /// one clock into the future would have every later request refused until the world has caught up. Nothing is carried
    /// out twice for it: what was forgotten is known by the horizon.
    pub fn look_up(
        &self,
        id: RequestId,
        body: &[u8; 32],
        actor: &Actor,
        proposed: Timestamp,
        at: Timestamp,
    ) -> Verdict {
        if let Some(held) = self.by_id.get(&id) {
            return if held.body == *body && held.actor == *actor {
                Verdict::Seen(held.answer.clone())
            } else {
                Verdict::Refused(Rejection::RequestReused { id: id.to_string() })
            };
        }
        if id.made_at() <= self.horizon {
            return Verdict::Refused(Rejection::RequestExpired { id: id.to_string(), horizon: self.horizon });
        }
        if id.made_at() > at.plus(Self::AHEAD) {
            let ahead_seconds = id.made_at().since(at).0 / 1000;
            return Verdict::Refused(Rejection::RequestFromFuture { id: id.to_string(), ahead_seconds });
        }
        // Older than any answer that would still be kept: its answer may have been forgotten before the horizon knew.
        if proposed.since(id.made_at()) > Self::KEPT_FOR {
            let horizon = Timestamp::from_millis(proposed.as_millis() - Self::KEPT_FOR.0);
            return Verdict::Refused(Rejection::RequestExpired { id: id.to_string(), horizon });
        }
        Verdict::New
    }

    /// Keeps an answer and forgets what is too old or too much.
    pub fn remember(&mut self, id: RequestId, actor: Actor, body: [u8; 32], answer: Applied, at: Timestamp) {
        self.take_in(id, Remembered { actor, body, answer, at, sequence: self.next_sequence });
        self.next_sequence += 1;
        self.evict(at, Self::KEPT);
    }

    /// Puts an answer in place, as it was.
    pub(crate) fn take_in(&mut self, id: RequestId, held: Remembered) {
        self.sum.add(Part::Request, &[&record::request_body(id, &held)]);
        self.order.insert(held.sequence, id);
        self.by_id.insert(id, held);
    }

    /// Forgets in the order of arrival.
    pub(crate) fn evict(&mut self, now: Timestamp, keep: usize) {
        while let Some((sequence, id)) = self.order.get_min().copied() {
            let too_many = self.by_id.len() > keep;
            let too_old = self.by_id.get(&id).is_none_or(|held| now.since(held.at) > Self::KEPT_FOR);
            if !too_many && !too_old {
                break;
            }
            self.order.remove(&sequence);
            if let Some(held) = self.by_id.remove(&id) {
                self.sum.remove(Part::Request, &[&record::request_body(id, &held)]);
            }
            self.horizon = self.horizon.max(id.made_at());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use berth_model::{ActorRole, Revision};

    fn actor(name: &str) -> Actor {
        Actor { role: ActorRole::Operator, name: name.into() }
    }

    fn answer(revision: u64) -> Applied {
        Applied { revision: Revision(revision), result: Ok(Outcome::Done) }
    }

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    #[test]
    fn the_same_id_and_body_get_the_first_answer_and_another_body_is_refused() {
        let mut requests = Requests::default();
        let id = RequestId::from_parts(NOW, 1);
        assert_eq!(requests.look_up(id, &[1; 32], &actor("a"), NOW, NOW), Verdict::New);
        requests.remember(id, actor("a"), [1; 32], answer(7), NOW);
        assert_eq!(requests.look_up(id, &[1; 32], &actor("a"), NOW, NOW), Verdict::Seen(answer(7)));
        for (body, who) in [([2; 32], "a"), ([1; 32], "b")] {
            let verdict = requests.look_up(id, &body, &actor(who), NOW, NOW);
            assert!(matches!(verdict, Verdict::Refused(Rejection::RequestReused { .. })), "{verdict:?}");
        }
    }

    #[test]
    fn a_forgotten_id_is_refused_and_never_carried_out_again() {
        let mut requests = Requests::default();
        let ids: Vec<_> = (0..5).map(|n| RequestId::from_parts(NOW.plus(Millis(n)), u128::from(n))).collect();
        for id in &ids {
            requests.remember(*id, actor("a"), [0; 32], answer(1), NOW);
        }
        requests.evict(NOW, 2);
        for id in &ids[..3] {
            let verdict = requests.look_up(*id, &[0; 32], &actor("a"), NOW, NOW);
            assert!(matches!(verdict, Verdict::Refused(Rejection::RequestExpired { .. })), "{verdict:?}");
        }
        assert!(matches!(requests.look_up(ids[4], &[0; 32], &actor("a"), NOW, NOW), Verdict::Seen(_)));
    }

    #[test]
    fn answers_are_forgotten_after_a_day_of_entry_time() {
        let mut requests = Requests::default();
        let old = RequestId::from_parts(NOW, 1);
        requests.remember(old, actor("a"), [0; 32], answer(1), NOW);
        let later = NOW.plus(Requests::KEPT_FOR).plus(Millis(1));
        requests.remember(RequestId::from_parts(later, 2), actor("a"), [0; 32], answer(2), later);
        assert_eq!(requests.len(), 1);
        let verdict = requests.look_up(old, &[0; 32], &actor("a"), later, later);
        assert!(matches!(verdict, Verdict::Refused(Rejection::RequestExpired { .. })));
    }

    #[test]
    fn a_step_of_one_clock_does_not_refuse_what_comes_after_it_and_repeats_nothing() {
        let mut requests = Requests::default();
        let (before, after) = (RequestId::from_parts(NOW, 1), RequestId::from_parts(NOW.plus(Millis(5)), 2));
        requests.remember(before, actor("a"), [0; 32], answer(1), NOW);
        let stepped = NOW.plus(Millis::seconds(3 * 24 * 3600));
        requests.evict(stepped, Requests::KEPT);
        assert_eq!(requests.look_up(after, &[0; 32], &actor("a"), NOW, stepped), Verdict::New);
        let verdict = requests.look_up(before, &[0; 32], &actor("a"), NOW, stepped);
        assert!(matches!(verdict, Verdict::Refused(Rejection::RequestExpired { .. })), "{verdict:?}");
    }

    #[test]
    fn an_id_from_the_far_future_is_refused() {
        let requests = Requests::default();
        let id = RequestId::from_parts(NOW.plus(Millis::seconds(3600)), 1);
        let verdict = requests.look_up(id, &[0; 32], &actor("a"), NOW, NOW);
        assert!(matches!(verdict, Verdict::Refused(Rejection::RequestFromFuture { ahead_seconds: 3600, .. })));
    }
}
