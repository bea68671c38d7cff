//! The log and the vote on a disk.
//!
//! ```text
//! raft core ──append──▶ tail (memory, readable at once)
//!                  └──▶ writer ──batch──▶ engine (write-ahead log) ──barrier──▶ disk, then the callback
//! ```
//!
//! One thread owns all writing. It takes whatever has queued up, writes it as one batch and pays for one barrier, so the
//! disk's latency is shared by all that wait for it. Nothing is acknowledged before the barrier: that is the law this
//! module keeps.

pub(crate) mod directory;
pub(crate) mod engine;
pub(crate) mod files;
pub(crate) mod log;
#[cfg(feature = "testing")]
pub(crate) mod memory;
pub(crate) mod record;
pub(crate) mod tail;
mod wal;
mod writer;

/// What a caught panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked without a message".to_owned())
}

#[cfg(test)]
mod tests;
