//! Time as the host's brain is told it: two clocks, read by the daemon, never here.
//!
//! Whatever is decided by a span of time (permission to start, grace, pauses) goes by the boot clock, which nobody can
//! set and which counts while the machine sleeps. The wall clock is only for what people read.

use std::fmt;

use berth_model::{Millis, Timestamp};

/// Milliseconds since the machine's boot, by `CLOCK_BOOTTIME`; comparable only within one boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(u64);

impl BootTime {
    /// From milliseconds since boot.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since boot.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This moment and `span` more.
    #[must_use]
    pub const fn plus(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// How long after `earlier` this is; zero when it is before.
    pub const fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for BootTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot+{}ms", self.0)
    }
}

/// What both clocks said at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// The boot clock, by which is decided.
    pub boot: BootTime,
    /// The wall clock, which is shown.
    pub wall: Timestamp,
}
