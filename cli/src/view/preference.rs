//! Preferences.

use berth_proto::v1;
use serde::Serialize;

use super::{API_VERSION, MetaView};
use crate::placement::Tuning;

/// A preference.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PreferenceView {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) metadata: MetaView,
    /// What it wishes.
    pub(crate) spec: Tuning,
    pub(crate) built_in: bool,
}

impl From<v1::Preference> for PreferenceView {
    fn from(wire: v1::Preference) -> Self {
        let v1::Preference { meta, tuning, built_in } = wire;
        Self {
            api_version: API_VERSION,
            kind: "Preference",
            metadata: meta.into(),
            spec: Tuning::read(tuning.unwrap_or_default()),
            built_in,
        }
    }
}
