//! The cluster of controllers.

use berth_proto::v1;
use serde::Serialize;

use super::{API_VERSION, word};

/// How the controllers are.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterView {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) cluster: String,
    pub(crate) incarnation: u64,
    pub(crate) revision: u64,
    pub(crate) cluster_version: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) leader: String,
    pub(crate) answered_by: String,
    pub(crate) hosts: u32,
    pub(crate) hosts_alive: u32,
    pub(crate) vms: u32,
    pub(crate) members: Vec<MemberView>,
    pub(crate) warnings: Vec<WarningView>,
}

/// Something that an operator should look at.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WarningView {
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) member: String,
    pub(crate) message: String,
}

/// A snapshot on its way to a member.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SnapshotView {
    pub(crate) sent_bytes: u64,
    pub(crate) total_bytes: u64,
}

/// One controller.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MemberView {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) voter: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) domain: String,
    pub(crate) term: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lag: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) silent_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store_limit_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snapshot: Option<SnapshotView>,
    pub(crate) reachable: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) version: String,
    pub(crate) api_address: String,
    pub(crate) raft_address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) trouble: String,
}

impl From<v1::ClusterStatus> for ClusterView {
    fn from(wire: v1::ClusterStatus) -> Self {
        let v1::ClusterStatus {
            cluster,
            incarnation,
            revision,
            cluster_version,
            leader,
            answered_by,
            members,
            hosts,
            hosts_alive,
            vms,
            warnings,
        } = wire;
        Self {
            api_version: API_VERSION,
            kind: "Cluster",
            cluster,
            incarnation,
            revision,
            cluster_version,
            leader,
            answered_by,
            hosts,
            hosts_alive,
            vms,
            members: members.into_iter().map(Into::into).collect(),
            warnings: warnings
                .into_iter()
                .map(|v1::Warning { kind, member, message }| WarningView { kind, member, message })
                .collect(),
        }
    }
}

impl From<v1::Member> for MemberView {
    fn from(wire: v1::Member) -> Self {
        let v1::Member {
            id,
            name,
            api_address,
            raft_address,
            role,
            term,
            committed,
            applied,
            reachable,
            version,
            trouble,
            domain,
            voter,
            lag,
            silent_ms,
            store_bytes,
            store_limit_bytes,
            snapshot,
        } = wire;
        let role = if role == 0 { "Unknown".into() } else { word::<v1::MemberRole>(role) };
        let snapshot =
            snapshot.map(|v1::SnapshotProgress { sent_bytes, total_bytes }| SnapshotView { sent_bytes, total_bytes });
        Self {
            id,
            name,
            role,
            voter,
            domain,
            term,
            committed,
            applied,
            lag,
            silent_ms,
            store_bytes,
            store_limit_bytes,
            snapshot,
            reachable,
            version,
            api_address,
            raft_address,
            trouble,
        }
    }
}
