//! `berth cluster`.

pub(super) mod status;
