//! Bugs made on purpose, to see that the simulation finds them.
//!
//! Each does what the bug would do, inside the simulation: it changes a word on its way, an answer, or a replica's state.
//! Nothing of it is in the programs that are shipped.

use clap::ValueEnum;

/// A bug made on purpose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Plant {
    /// Apply does not look whether a berth is free.
    CapacityUnchecked,
    /// Neither end compares incarnation, term and epoch with what it has heard.
    EpochUncompared,
    /// A scan that failed counts as one that showed nothing.
    UnknownIsAbsent,
    /// Record and bookings of a VM go when it is deleted, before its host reports it gone.
    ReleasedEarly,
    /// A host's daemon starts what its ledger holds before it has a session.
    StartFromLedger,
    /// A host removes what a whole set does not mention.
    AbsenceIsDelete,
    /// A late report of an older session is folded.
    LateReport,
    /// The remembered requests are lost now and then.
    RequestForgotten,
    /// A leader welcomes hosts without asking a majority first.
    StaleSet,
    /// What a host that returns smaller cannot carry any more is taken off its bookings.
    BookingDropped,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::CapacityUnchecked,
        Self::EpochUncompared,
        Self::UnknownIsAbsent,
        Self::ReleasedEarly,
        Self::StartFromLedger,
        Self::AbsenceIsDelete,
        Self::LateReport,
        Self::RequestForgotten,
        Self::StaleSet,
        Self::BookingDropped,
    ];
}
