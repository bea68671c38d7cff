//! `berth instancetype`.

pub(super) mod list;
