//! Hosts, as operators read them.

use berth_model::host::{Host, HostSpec};
use berth_model::{BootId, Condition};

use super::all;
use crate::v1;

/// A host with what of it is spoken for (see [`super::host_use`]) and its conditions, which the caller derives: those
/// that the host reported, and those that follow from the state.
pub fn host_to_wire(host: &Host, conditions: &[Condition], used: v1::HostUse) -> v1::Host {
    let Host {
        meta,
        spec: HostSpec { cordoned },
        address,
        boot: BootId(boot),
        liveness,
        liveness_since,
        inventory,
        conditions: _,
        images,
        orphans,
    } = host;
    v1::Host {
        meta: Some(meta.into()),
        cordoned: *cordoned,
        address: address.clone(),
        boot: boot.clone(),
        liveness: v1::Liveness::from(*liveness).into(),
        liveness_since_ms: liveness_since.as_millis(),
        inventory: Some(inventory.into()),
        conditions: all(conditions),
        images: images.iter().map(|(digest, found)| (digest.to_string(), found.into())).collect(),
        orphans: all(orphans),
        r#use: Some(used),
        holdings: Vec::new(),
    }
}
