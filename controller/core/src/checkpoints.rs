//! Whether the members' states are the same (law 11): a comparison of the digests that each kept at the same points.
//!
//! The log is the same on every member, so a difference means that one of them applied it differently: a fault of the
//! program, of its memory or of its disk. Nobody can tell from inside which of two is right; more than half of the voters
//! are. So a member serves only while no difference is known, or while more than half of all voters have its digest:
//!
//! ```text
//!   all that were heard agree                        serve
//!   a difference, more than half have mine           serve, and say who strays
//!   a difference, more than half have another        stop for good: this member must be removed and added anew
//!   a difference, and no digest has more than half   stop until there is one: of two members both stop, and so do two of
//!                                                    three that differ while the third is away
//! ```

use std::collections::BTreeMap;

use berth_state::{Checkpoint, Digest};

/// What follows from a comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// No difference is known.
    Agreed,
    /// More than half of the voters agree with this member; these do not.
    Others(Vec<String>),
    /// There is a difference at this checkpoint, and no digest has more than half of the voters.
    Undecided(u64),
    /// More than half of the voters agree on another digest at this checkpoint.
    Strays(u64),
}

/// Compares what this member kept with what others did, by their names; `voters` counts all, those not heard of too.
pub fn judge(own: &[Checkpoint], others: &BTreeMap<String, Vec<Checkpoint>>, voters: usize) -> Verdict {
    let mut verdict = Verdict::Agreed;
    for mine in own {
        let mut groups: BTreeMap<Digest, usize> = BTreeMap::from([(mine.digest, 1)]);
        let mut differing = Vec::new();
        for (name, theirs) in others {
            let Some(held) = theirs.iter().find(|held| held.number == mine.number) else { continue };
            *groups.entry(held.digest).or_default() += 1;
            if held.digest != mine.digest {
                differing.push(name.clone());
            }
        }
        if differing.is_empty() {
            continue;
        }
        let is_majority = |count: &usize| 2 * count > voters;
        match groups.iter().find(|(_, count)| is_majority(count)) {
            Some((digest, _)) if *digest == mine.digest => {
                if verdict == Verdict::Agreed {
                    verdict = Verdict::Others(differing);
                }
            }
            Some(_) => return Verdict::Strays(mine.number),
            None => verdict = Verdict::Undecided(mine.number),
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use berth_model::Revision;

    use super::*;

    fn kept(points: &[(u64, u64)]) -> Vec<Checkpoint> {
        let digest = |seed: u64| Digest::from_bytes([u8::try_from(seed).unwrap(); 32]);
        let point = |(number, seed): &(u64, u64)| Checkpoint {
            number: *number,
            revision: Revision(number * 1000),
            digest: digest(*seed),
        };
        points.iter().map(point).collect()
    }

    fn others(heard: &[(&str, &[(u64, u64)])]) -> BTreeMap<String, Vec<Checkpoint>> {
        heard.iter().map(|(name, points)| ((*name).to_owned(), kept(points))).collect()
    }

    #[test]
    fn members_that_agree_or_have_nothing_in_common_serve() {
        let own = kept(&[(1, 7), (2, 8)]);
        assert_eq!(judge(&own, &others(&[("c2", &[(1, 7), (2, 8)]), ("c3", &[(1, 7)])]), 3), Verdict::Agreed);
        assert_eq!(judge(&own, &others(&[("c2", &[(9, 1)])]), 3), Verdict::Agreed);
        assert_eq!(judge(&own, &BTreeMap::new(), 3), Verdict::Agreed);
        assert_eq!(judge(&[], &others(&[("c2", &[(9, 1)])]), 3), Verdict::Agreed);
    }

    #[test]
    fn one_of_three_that_strays_stops_and_the_others_say_who_it_is() {
        let (right, wrong): (&[_], &[_]) = (&[(1, 7), (2, 8)], &[(1, 7), (2, 9)]);
        assert_eq!(judge(&kept(wrong), &others(&[("c2", right), ("c3", right)]), 3), Verdict::Strays(2));
        let told = judge(&kept(right), &others(&[("c2", right), ("c3", wrong)]), 3);
        assert_eq!(told, Verdict::Others(vec!["c3".into()]));
    }

    #[test]
    fn without_a_majority_both_sides_stop_until_there_is_one() {
        let (one, two): (&[_], &[_]) = (&[(1, 7)], &[(1, 9)]);
        assert_eq!(judge(&kept(one), &others(&[("c2", two)]), 2), Verdict::Undecided(1), "a cluster of two");
        assert_eq!(judge(&kept(one), &others(&[("c2", two)]), 3), Verdict::Undecided(1), "the third is away");
        assert_eq!(judge(&kept(one), &others(&[("c2", two), ("c3", one)]), 3), Verdict::Others(vec!["c2".into()]));
        let three: &[_] = &[(1, 11)];
        assert_eq!(judge(&kept(one), &others(&[("c2", two), ("c3", three)]), 3), Verdict::Undecided(1));
        // Two of five against one: nobody has three yet.
        assert_eq!(judge(&kept(two), &others(&[("c2", one), ("c3", one)]), 5), Verdict::Undecided(1));
        assert_eq!(judge(&kept(two), &others(&[("c2", one), ("c3", one), ("c4", one)]), 5), Verdict::Strays(1));
    }

    #[test]
    fn a_difference_at_an_older_checkpoint_counts_as_much() {
        let own = kept(&[(1, 7), (2, 8)]);
        let heard = others(&[("c2", &[(1, 5), (2, 8)]), ("c3", &[(1, 5), (2, 8)])]);
        assert_eq!(judge(&own, &heard, 3), Verdict::Strays(1));
    }
}
