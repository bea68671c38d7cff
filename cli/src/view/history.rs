//! Changes.

use berth_model::Timestamp;
use berth_proto::v1;
use serde::Serialize;

use super::{API_VERSION, time, word};

/// Changes, the newest first.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HistoryView {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) revision: u64,
    /// The oldest revision that can be asked for.
    pub(crate) oldest_revision: u64,
    /// Whether older changes fit too.
    pub(crate) more: bool,
    pub(crate) items: Vec<ChangeView>,
}

/// One change.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChangeView {
    pub(crate) revision: u64,
    #[serde(serialize_with = "time")]
    pub(crate) at: Timestamp,
    pub(crate) actor: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) request_id: String,
    pub(crate) command: String,
    pub(crate) object: String,
    pub(crate) project: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Whether it exists after the change.
    pub(crate) exists: bool,
    /// The revision that it was at before; 0 if it did not exist.
    pub(crate) previous_revision: u64,
}

impl From<v1::HistoryRecord> for ChangeView {
    fn from(wire: v1::HistoryRecord) -> Self {
        let object = word::<v1::ObjectKind>(wire.kind);
        let v1::HistoryRecord {
            revision,
            at_ms,
            actor,
            request_id,
            command,
            kind: _,
            project,
            name,
            uid,
            exists,
            previous_revision,
        } = wire;
        let at = Timestamp::from_millis(at_ms);
        Self { revision, at, actor, request_id, command, object, project, name, uid, exists, previous_revision }
    }
}

impl From<v1::ListHistoryResponse> for HistoryView {
    fn from(wire: v1::ListHistoryResponse) -> Self {
        let v1::ListHistoryResponse { records, more, revision, oldest_revision } = wire;
        let items = records.into_iter().map(ChangeView::from).collect();
        Self { api_version: API_VERSION, kind: "History", revision, oldest_revision, more, items }
    }
}
