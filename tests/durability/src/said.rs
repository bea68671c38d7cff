//! What a writer said was safe.

use std::collections::BTreeMap;
use std::fmt;

/// Several lanes are written at the same time, each in the order of its numbers, without gaps. So the last number of each lane is
/// all that must be kept in mind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The last number that was acknowledged in each lane.
    pub lanes: BTreeMap<u64, u64>,
    /// The last term in which the writer led; a vote for it was on the disk before.
    pub term: u64,
    /// Whether the writer had opened its store.
    pub is_ready: bool,
    /// Acknowledgements in all.
    pub count: u64,
}

/// One line of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// The store is open.
    Ready,
    /// This writer leads in this term.
    Term(u64),
    /// This number of this lane is safe.
    Safe { lane: u64, number: u64 },
}

impl fmt::Display for Word {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => write!(formatter, "ready"),
            Self::Term(term) => write!(formatter, "term {term}"),
            Self::Safe { lane, number } => write!(formatter, "safe {lane} {number}"),
        }
    }
}

impl Word {
    /// The word on a line; a line that was cut says nothing.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let kind = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        match kind {
            "ready" => Some(Self::Ready),
            "term" => Some(Self::Term(number()?)),
            "safe" => Some(Self::Safe { lane: number()?, number: number()? }),
            _ => None,
        }
    }
}

impl Said {
    pub(crate) fn hear(&mut self, word: Word) {
        match word {
            Word::Ready => self.is_ready = true,
            Word::Term(term) => self.term = self.term.max(term),
            Word::Safe { lane, number } => {
                let last = self.lanes.entry(lane).or_default();
                *last = number.max(*last);
                self.count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_was_said() {
        for word in [Word::Ready, Word::Term(7), Word::Safe { lane: 3, number: 17 }] {
            assert_eq!(Word::parse(&word.to_string()), Some(word));
        }
        assert_eq!(Word::parse("safe 3 "), None);
    }

    #[test]
    fn the_last_number_of_a_lane_is_kept() {
        let mut said = Said::default();
        for number in [1, 2, 3] {
            said.hear(Word::Safe { lane: 5, number });
        }
        assert_eq!((said.lanes[&5], said.count), (3, 3));
    }
}
