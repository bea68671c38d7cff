//! Metadata, to the wire.

use berth_model::Meta;
use berth_model::meta::OwnerRef;

use super::all;
use crate::v1;

impl From<&Meta> for v1::Meta {
    fn from(meta: &Meta) -> Self {
        let Meta {
            project,
            name,
            uid,
            labels,
            annotations,
            finalizers,
            owners,
            generation,
            created_at,
            deleted_at,
            revision,
        } = meta;
        Self {
            project: project.to_string(),
            name: name.to_string(),
            uid: uid.to_string(),
            labels: labels.clone(),
            annotations: annotations.clone(),
            finalizers: finalizers.clone(),
            owners: all(owners),
            generation: generation.0,
            created_at_ms: created_at.as_millis(),
            deleted_at_ms: deleted_at.map(berth_model::Timestamp::as_millis),
            revision: revision.0,
        }
    }
}

impl From<&OwnerRef> for v1::OwnerRef {
    fn from(owner: &OwnerRef) -> Self {
        let OwnerRef { kind, name, uid } = owner;
        Self { kind: kind.clone(), name: name.to_string(), uid: uid.to_string() }
    }
}
