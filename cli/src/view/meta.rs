//! Metadata.

use std::collections::BTreeMap;

use berth_model::Timestamp;
use berth_proto::v1;
use serde::Serialize;

use super::{some_time, time};

/// The metadata of one object.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MetaView {
    pub(crate) name: String,
    pub(crate) project: String,
    pub(crate) uid: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) finalizers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) owners: Vec<OwnerView>,
    pub(crate) generation: u64,
    pub(crate) revision: u64,
    #[serde(serialize_with = "time")]
    pub(crate) created_at: Timestamp,
    #[serde(serialize_with = "some_time", skip_serializing_if = "Option::is_none")]
    pub(crate) deleted_at: Option<Timestamp>,
}

/// A reference to an owner.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnerView {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl From<Option<v1::Meta>> for MetaView {
    fn from(wire: Option<v1::Meta>) -> Self {
        let v1::Meta {
            project,
            name,
            uid,
            labels,
            annotations,
            finalizers,
            owners,
            generation,
            created_at_ms,
            deleted_at_ms,
            revision,
        } = wire.unwrap_or_default();
        Self {
            name,
            project,
            uid,
            labels,
            annotations,
            finalizers,
            owners: owners.into_iter().map(|v1::OwnerRef { kind, name, uid }| OwnerView { kind, name, uid }).collect(),
            generation,
            revision,
            created_at: Timestamp::from_millis(created_at_ms),
            deleted_at: deleted_at_ms.map(Timestamp::from_millis),
        }
    }
}
