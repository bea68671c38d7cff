//! PCI devices of hosts.

use berth_model::host::{NodeId, PciDevice};

use super::{ConvertError, parsed};
use crate::v1;

impl From<&PciDevice> for v1::PciDevice {
    fn from(device: &PciDevice) -> Self {
        let PciDevice { address, kind, node, iommu_group, physical } = device;
        Self {
            address: address.to_string(),
            kind: kind.to_string(),
            node: node.map(|NodeId(node)| node),
            iommu_group: *iommu_group,
            physical: physical.map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::PciDevice> for PciDevice {
    type Error = ConvertError;

    fn try_from(wire: v1::PciDevice) -> Result<Self, ConvertError> {
        let v1::PciDevice { address, kind, node, iommu_group, physical } = wire;
        Ok(Self {
            address: parsed(&address, "address")?,
            kind: parsed(&kind, "kind")?,
            node: node.map(NodeId),
            iommu_group,
            physical: if physical.is_empty() { None } else { Some(parsed(&physical, "physical")?) },
        })
    }
}
