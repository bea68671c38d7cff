//! `berth cluster`.

pub(super) mod backup;
pub(super) mod status;
