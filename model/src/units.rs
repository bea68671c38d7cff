//! Quantities with their units in the type.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not an amount of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// Not `<digits><unit>`.
    #[error("{0:?} is not an amount of memory; write a whole number and a unit: 256MiB, 8GiB, or plain bytes")]
    Shape(String),
    /// More than 2^64 - 1 bytes.
    #[error("{0:?} is more than can be counted")]
    Overflow(String),
}

/// An amount of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// 2^20 bytes, `count` times.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// 2^30 bytes, `count` times.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The sum, or the largest amount.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

const SUFFIXES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("B", 1),
];

impl FromStr for Bytes {
    type Err = BytesError;

    /// Takes `268435456`, `256MiB`, `256Mi` (the Kubernetes spelling) and `8 GiB`.
    fn from_str(text: &str) -> Result<Self, BytesError> {
        let trimmed = text.trim();
        let (digits, factor) = SUFFIXES
            .iter()
            .find_map(|(suffix, factor)| trimmed.strip_suffix(suffix).map(|digits| (digits.trim_end(), *factor)))
            .unwrap_or((trimmed, 1));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BytesError::Shape(text.to_owned()));
        }
        digits
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(factor))
            .map(Self)
            .ok_or_else(|| BytesError::Overflow(text.to_owned()))
    }
}

impl fmt::Display for Bytes {
    /// The largest unit that divides the amount, so that nothing is rounded away.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = SUFFIXES[..4]
            .iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .map_or_else(|| format!("{}B", self.0), |(suffix, factor)| format!("{}{suffix}", self.0 / factor));
        f.pad(&text)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The size of one page of guest memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum PageSize {
    /// Ordinary pages of 4 KiB.
    Small,
    /// Hugepages of 2 MiB.
    Huge2M,
    /// Hugepages of 1 GiB.
    Huge1G,
}

impl PageSize {
    /// Bytes in one page.
    pub const fn bytes(self) -> Bytes {
        match self {
            Self::Small => Bytes(4 << 10),
            Self::Huge2M => Bytes::mib(2),
            Self::Huge1G => Bytes::gib(1),
        }
    }

    /// How many pages hold `amount`, rounded up.
    pub const fn pages_for(self, amount: Bytes) -> u64 {
        amount.0.div_ceil(self.bytes().0)
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Small => "4KiB",
            Self::Huge2M => "2MiB",
            Self::Huge1G => "1GiB",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_amount_prints_and_parses_back_exactly(amount in any::<u64>()) {
            prop_assert_eq!(Bytes(amount).to_string().parse::<Bytes>().unwrap(), Bytes(amount));
        }

        #[test]
        fn parsing_an_amount_never_panics(text in ".{0,30}") {
            let _ = text.parse::<Bytes>();
        }
    }

    #[test]
    fn both_spellings_of_a_unit_are_understood_and_others_refused() {
        assert_eq!("256MiB".parse(), Ok(Bytes::mib(256)));
        assert_eq!("256Mi".parse(), Ok(Bytes::mib(256)));
        assert_eq!("4096".parse(), Ok(Bytes(4096)));
        assert!(matches!("256 MB".parse::<Bytes>(), Err(BytesError::Shape(_))));
        assert!(matches!("-1GiB".parse::<Bytes>(), Err(BytesError::Shape(_))));
        assert!(matches!("99999999TiB".parse::<Bytes>(), Err(BytesError::Overflow(_))));
    }
}
