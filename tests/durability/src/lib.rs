//! Power cuts and kill -9 over everything that Berth keeps on a disk: the replicated log and a host's ledger.
//!
//! A writer is a process of its own that says on its standard output what it has been told is safe. The harness takes the
//! power or the process away at a random moment, opens what is left, and looks for every word of that again.
//!
//! ```text
//! writer ── writes ──▶ ext4 on a loop device ──▶ image file ── copied while the writer is stopped ──▶ the disk after a power cut
//!    └──── "a 3 17" ─▶ harness ◀── opened: is lane 3 at 17 or beyond? ── journal replayed ◀──────────────────┘
//! ```
//!
//! The image holds what the file system had sent to its disk by then, so what was only in its memory is gone, as it is when the
//! power goes. That the harness would notice a missing barrier is shown by the same run with `fsync` and its relatives made to
//! do nothing.

mod disk;
mod harness;
mod ledger;
mod log;
mod said;
mod writer;

pub use harness::{Report, kills, power_cuts};
pub use said::Said;

use std::path::Path;

use clap::ValueEnum;

/// What is written and looked over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// One member of the replicated log, alone in its cluster.
    Log,
    /// A host's ledger.
    Ledger,
}

impl Subject {
    /// Writes into `folder` without end, and says on standard output what is safe.
    ///
    /// # Errors
    /// When the store gives up; the harness never ends a writer that way.
    pub fn write(self, folder: &Path) -> anyhow::Result<()> {
        match self {
            Self::Log => log::write(folder),
            Self::Ledger => ledger::write(folder),
        }
    }

    /// Opens what is in `folder` and looks for everything that was said.
    ///
    /// # Errors
    /// If something is missing or the store does not open: after a power cut or a kill both are losses.
    pub fn verify(self, folder: &Path, said: &Said) -> anyhow::Result<()> {
        match self {
            Self::Log => log::verify(folder, said),
            Self::Ledger => ledger::verify(folder, said),
        }
    }

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Ledger => "ledger",
        }
    }
}
