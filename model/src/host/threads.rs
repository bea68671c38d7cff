//! Sets of CPU threads in the kernel's list form, `0-3,8`.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ThreadId;

/// Why a text is not a set of threads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a CPU list; write ranges such as 0-3,8")]
pub struct ThreadSetError(pub String);

/// A set of CPU threads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ThreadSet(pub BTreeSet<ThreadId>);

impl ThreadSet {
    /// The highest thread number that is understood: more than any machine has, few enough to hold in memory.
    pub const HIGHEST: u32 = 8191;

    /// Whether `thread` is in it.
    pub fn contains(&self, thread: ThreadId) -> bool {
        self.0.contains(&thread)
    }

    /// Its members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = ThreadId> + '_ {
        self.0.iter().copied()
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<ThreadId> for ThreadSet {
    fn from_iter<I: IntoIterator<Item = ThreadId>>(threads: I) -> Self {
        Self(threads.into_iter().collect())
    }
}

impl FromStr for ThreadSet {
    type Err = ThreadSetError;

    /// Takes the kernel's list form; blank means none.
    fn from_str(text: &str) -> Result<Self, ThreadSetError> {
        let refuse = || ThreadSetError(text.chars().take(80).collect());
        let number = |digits: &str| {
            digits.trim().parse::<u32>().ok().filter(|number| *number <= Self::HIGHEST).ok_or_else(refuse)
        };
        let mut threads = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.trim().is_empty()) {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(refuse());
            }
            threads.extend((first..=last).map(ThreadId));
        }
        Ok(Self(threads))
    }
}

impl fmt::Display for ThreadSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let mut threads = self.0.iter().map(|thread| thread.0).peekable();
        while let Some(first) = threads.next() {
            let mut last = first;
            while threads.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            let comma = if text.is_empty() { "" } else { "," };
            write!(text, "{comma}{first}")?;
            if last > first {
                write!(text, "-{last}")?;
            }
        }
        f.pad(&text)
    }
}

impl fmt::Debug for ThreadSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_prints_and_parses_back(threads in proptest::collection::btree_set(0_u32..300, 0..40)) {
            let set: ThreadSet = threads.into_iter().map(ThreadId).collect();
            prop_assert_eq!(set.to_string().parse::<ThreadSet>().unwrap(), set);
        }

        #[test]
        fn parsing_a_set_never_panics(text in "[0-9,\\- ]{0,30}") {
            let _ = text.parse::<ThreadSet>();
        }
    }

    #[test]
    fn absurd_ranges_are_refused_rather_than_expanded() {
        assert!("0-4294967295".parse::<ThreadSet>().is_err());
        assert!("3-1".parse::<ThreadSet>().is_err());
    }
}
