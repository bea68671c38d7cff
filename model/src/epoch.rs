//! The counters that refuse the past.
//!
//! A [`Revision`] counts changed objects in the replicated state and is never the log index; an [`Epoch`] is the
//! revision of the `Assign` that placed a VM; an [`Incarnation`] counts restores of the whole cluster from a backup.
//! Hosts obey the larger [`Stamp`] and refuse the smaller, so that a word from before a failover or a restore can
//! never be carried out after it (law 3). [`Generation`] counts changes of a spec and nothing else.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

counters! {
    /// How many object changes the replicated state has seen; the Kubernetes `resourceVersion`.
    Revision;
    /// The revision of the `Assign` that placed a VM.
    Epoch;
    /// How often the cluster was restored from a backup or forced anew from a survivor.
    Incarnation;
    /// How often a spec was changed.
    Generation;
    /// A Raft term.
    Term;
}

/// What a host compares before it obeys: the incarnation first, the epoch second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Stamp {
    /// Of the cluster.
    pub incarnation: Incarnation,
    /// Of the placement.
    pub epoch: Epoch,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.incarnation, self.epoch)
    }
}
