//! The real clock and dice.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use berth_control::Environment;
use berth_model::{Millis, Timestamp};

/// This machine's clock, and the kernel's randomness.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine;

/// Wall-clock time; a clock before 1970 reads as 1970.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Environment for Machine {
    fn now(&self) -> Timestamp {
        now()
    }

    fn uptime(&self) -> Millis {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        Millis(u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn random(&self) -> u128 {
        // Two, because version and variant take six bits of each.
        let (a, b) = (uuid::Uuid::new_v4().as_u128(), uuid::Uuid::new_v4().as_u128());
        a ^ b.rotate_left(64)
    }
}
