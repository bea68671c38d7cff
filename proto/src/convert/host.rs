//! Hosts, as operators read them.

use berth_model::host::{Eviction, Host, HostSpec, Overcommit, Percent, ThreadSet};
use berth_model::{BootId, Condition, Name, Stamp};

use super::all;
use crate::v1;

/// A host with what of it is spoken for (see [`super::host_use`]) and its conditions, which the caller derives: those
/// that the host reported, and those that follow from the state.
pub fn host_to_wire(host: &Host, conditions: &[Condition], used: v1::HostUse) -> v1::Host {
    let Host {
        meta,
        spec: HostSpec { cordoned, zone, rack, groups, taints, overcommit },
        address,
        boot: BootId(boot),
        liveness,
        liveness_since,
        inventory,
        conditions: _,
        images,
        orphans,
        evictions,
        // Told as the reason why VMs wait.
        awaited: _,
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
        zone: zone.as_ref().map(Name::to_string).unwrap_or_default(),
        rack: rack.as_ref().map(Name::to_string).unwrap_or_default(),
        groups: groups.iter().map(Name::to_string).collect(),
        taints: taints.iter().map(v1::Taint::from).collect(),
        overcommit: Some(overcommit.into()),
        evictions: all(evictions),
    }
}

impl From<&Overcommit> for v1::Overcommit {
    fn from(overcommit: &Overcommit) -> Self {
        let Overcommit { cpu_percent: Percent(cpu_percent), memory_percent: Percent(memory_percent) } = *overcommit;
        Self { cpu_percent, memory_percent }
    }
}

impl From<&Eviction> for v1::Eviction {
    /// Without the VM's name, which only the state knows.
    fn from(eviction: &Eviction) -> Self {
        let Eviction { vm, stamp: Stamp { incarnation, epoch }, resources, with_disk } = eviction;
        Self {
            vm: vm.to_string(),
            called: String::new(),
            incarnation: incarnation.0,
            epoch: epoch.0,
            threads: resources.exclusive().collect::<ThreadSet>().to_string(),
            with_disk: *with_disk,
        }
    }
}
