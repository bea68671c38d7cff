//! A secret as it is kept: encrypted, with the name of the key that opens it.
//!
//! Replicated state, log, snapshots and backups hold secrets only in this form. The key is a file of each controller
//! and never travels with the data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An encrypted secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// Which key opens it.
    pub key_id: String,
    /// Used once per key.
    pub nonce: Vec<u8>,
    /// The secret and its authentication tag.
    pub ciphertext: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes under key {})", self.ciphertext.len(), self.key_id)
    }
}
