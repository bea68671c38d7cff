//! Instance types.

use berth_model::Bytes;
use berth_proto::v1;
use serde::Serialize;

use super::{API_VERSION, MetaView, amount};

/// An instance type.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InstanceTypeView {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) metadata: MetaView,
    pub(crate) spec: InstanceTypeSpecView,
    pub(crate) built_in: bool,
}

/// Its size.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct InstanceTypeSpecView {
    pub(crate) cpus: u32,
    #[serde(serialize_with = "amount")]
    pub(crate) memory: Bytes,
}

impl From<v1::InstanceType> for InstanceTypeView {
    fn from(wire: v1::InstanceType) -> Self {
        let v1::InstanceType { meta, cpus, memory_bytes, built_in } = wire;
        Self {
            api_version: API_VERSION,
            kind: "InstanceType",
            metadata: meta.into(),
            spec: InstanceTypeSpecView { cpus, memory: Bytes(memory_bytes) },
            built_in,
        }
    }
}
