//! Identifiers: opaque, typed, and never reused.
//!
//! A [`Uid`] has at most 20 characters because it becomes a disk serial inside guests, and a virtio-blk serial holds
//! 20 bytes. Ids are minted by whoever composes the program (96 random bits); this crate only prints and parses them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty, or longer than the kind allows.
    #[error("an id has 1 to {limit} characters, this has {length}")]
    Length {
        /// Characters found.
        length: usize,
        /// Characters allowed.
        limit: usize,
    },
    /// A character outside `a-z`, `0-9` and `-`.
    #[error("an id holds only a-z, 0-9 and '-', not {0:?}")]
    Character(char),
    /// Not a UUID of version 7 in its usual form.
    #[error("a request id is a UUID of version 7, such as 0192f0c1-2c5e-7d4a-8f00-0123456789ab")]
    NotUuidV7,
}

/// An opaque identifier of 1 to 20 characters `a-z0-9-`, unique for ever within its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid {
    bytes: [u8; Uid::LIMIT],
    length: u8,
}

impl Uid {
    /// The longest uid: what a virtio-blk serial holds.
    pub const LIMIT: usize = 20;
    const ALPHABET: &'static [u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

    /// The 20-character uid made of 96 bits, five bits a character, most significant first.
    ///
    /// The caller supplies the randomness.
    pub fn from_bits(bits: u128) -> Self {
        let mut bytes = [0; Self::LIMIT];
        for (position, byte) in bytes.iter_mut().enumerate() {
            let shift = 5 * (Self::LIMIT - 1 - position);
            *byte = Self::ALPHABET[((bits >> shift) & 31) as usize];
        }
        Self { bytes, length: 20 }
    }

    /// The text of this uid.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("a uid is ASCII by construction")
    }
}

impl FromStr for Uid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.is_empty() || text.len() > Self::LIMIT {
            return Err(IdError::Length { length: text.chars().count(), limit: Self::LIMIT });
        }
        if let Some(odd) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
            return Err(IdError::Character(odd));
        }
        let mut bytes = [0; Self::LIMIT];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes, length: u8::try_from(text.len()).expect("at most 20") })
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Uid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! uid_kinds {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                text.parse().map(Self)
            }
        }
    )*};
}

uid_kinds! {
    /// A cluster: one Raft group and what it governs, from its bootstrap to its end.
    ClusterId;
    /// A host, minted by its daemon at its first start and kept in its ledger.
    HostUid;
    /// An image.
    ImageUid;
    /// A virtual machine.
    VmUid;
}

/// One boot of one machine, as `/proc/sys/kernel/random/boot_id` names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one request of one client, so that sending it again cannot execute it again (law 8).
///
/// A UUID of version 7: its first 48 bits are the client's clock in milliseconds, by which an id older than the
/// window of remembered requests is recognised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(u128);

impl RequestId {
    /// Takes the 128 bits of a UUID of version 7.
    pub fn from_u128(bits: u128) -> Result<Self, IdError> {
        let version = (bits >> 76) & 0xf;
        let variant = (bits >> 62) & 0x3;
        if version == 7 && variant == 2 { Ok(Self(bits)) } else { Err(IdError::NotUuidV7) }
    }

    /// Builds an id of the given time from 74 random bits that the caller supplies.
    pub fn from_parts(at: crate::Timestamp, random: u128) -> Self {
        let time = u128::from(at.as_millis() & 0xffff_ffff_ffff) << 80;
        let high = ((random >> 62) & 0xfff) << 64;
        let low = random & ((1 << 62) - 1);
        Self(time | (7 << 76) | high | (2 << 62) | low)
    }

    /// The 128 bits.
    pub fn as_u128(self) -> u128 {
        self.0
    }

    /// When the client made this id, by the client's clock.
    pub fn made_at(self) -> crate::Timestamp {
        crate::Timestamp::from_millis((self.0 >> 80) as u64)
    }
}

impl FromStr for RequestId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let shape_holds = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        if !shape_holds {
            return Err(IdError::NotUuidV7);
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let bits = u128::from_str_radix(&digits, 16).map_err(|_| IdError::NotUuidV7)?;
        Self::from_u128(bits)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            (bits >> 96) & 0xffff_ffff,
            (bits >> 80) & 0xffff,
            (bits >> 64) & 0xffff,
            (bits >> 48) & 0xffff,
            bits & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_minted_uid_prints_and_parses_back(bits in any::<u128>()) {
            let uid = Uid::from_bits(bits);
            prop_assert_eq!(uid.as_str().len(), 20);
            prop_assert_eq!(uid.to_string().parse::<Uid>().unwrap(), uid);
        }

        #[test]
        fn a_request_id_keeps_its_time_and_prints_and_parses_back(at in 0..1_u64 << 48, random in any::<u128>()) {
            let id = RequestId::from_parts(crate::Timestamp::from_millis(at), random);
            prop_assert_eq!(id.made_at().as_millis(), at);
            prop_assert_eq!(id.to_string().parse::<RequestId>().unwrap(), id);
        }

        #[test]
        fn parsing_an_id_never_panics(text in ".{0,50}") {
            let _ = text.parse::<Uid>();
            let _ = text.parse::<RequestId>();
        }
    }

    #[test]
    fn a_uid_longer_than_a_disk_serial_is_refused() {
        assert!(matches!("a".repeat(21).parse::<Uid>(), Err(IdError::Length { length: 21, limit: 20 })));
    }

    #[test]
    fn a_uuid_of_another_version_is_no_request_id() {
        assert_eq!("f81d4fae-7dec-41d0-a765-00a0c91e6bf6".parse::<RequestId>(), Err(IdError::NotUuidV7));
    }
}
