//! What a host is.

use berth_model::Bytes;
use berth_model::host::{
    AcceleratorReport, CoreId, HugepagePool, Inventory, NodeId, NodeMemory, PciDevice, Thread, ThreadId, Topology,
};

use super::{ConvertError, all, each, enums, parsed, required};
use crate::v1;

impl From<&Inventory> for v1::Inventory {
    fn from(inventory: &Inventory) -> Self {
        let Inventory { topology, reserve, memory, hugepages, devices, accelerator, versions, overlap } = inventory;
        Self {
            topology: Some(topology.into()),
            reserve: reserve.to_string(),
            memory: all(memory),
            hugepages: all(hugepages),
            accelerator: Some(accelerator.into()),
            versions: versions.clone(),
            overlap: *overlap,
            devices: all(devices),
        }
    }
}

impl TryFrom<v1::Inventory> for Inventory {
    type Error = ConvertError;

    fn try_from(wire: v1::Inventory) -> Result<Self, ConvertError> {
        let v1::Inventory { topology, reserve, memory, hugepages, accelerator, versions, overlap, devices } = wire;
        let devices: Vec<PciDevice> = each(devices, "devices")?;
        // The model searches devices by address, so their order is checked here once.
        if let Some(at) = devices.windows(2).position(|pair| pair[0].address >= pair[1].address) {
            return Err(ConvertError::new(format!("devices[{}].address", at + 1), "is not in ascending order"));
        }
        Ok(Self {
            topology: required(topology, "topology")?,
            reserve: parsed(&reserve, "reserve")?,
            memory: each(memory, "memory")?,
            hugepages: each(hugepages, "hugepages")?,
            devices,
            accelerator: required(accelerator, "accelerator")?,
            versions,
            overlap,
        })
    }
}

impl From<&Topology> for v1::Topology {
    fn from(topology: &Topology) -> Self {
        let Topology { threads } = topology;
        Self { threads: all(threads) }
    }
}

impl TryFrom<v1::Topology> for Topology {
    type Error = ConvertError;

    /// The model searches threads by number, so their order is checked here once.
    fn try_from(wire: v1::Topology) -> Result<Self, ConvertError> {
        let v1::Topology { threads } = wire;
        let threads: Vec<Thread> = each(threads, "threads")?;
        if let Some(at) = threads.windows(2).position(|pair| pair[0].id >= pair[1].id) {
            return Err(ConvertError::new(format!("threads[{}].id", at + 1), "is not in ascending order"));
        }
        Ok(Self { threads })
    }
}

impl From<&Thread> for v1::Thread {
    fn from(thread: &Thread) -> Self {
        let Thread { id, core, socket, node, cache } = thread;
        Self { id: id.0, core: core.0, socket: *socket, node: node.0, cache: *cache }
    }
}

impl TryFrom<v1::Thread> for Thread {
    type Error = ConvertError;

    fn try_from(wire: v1::Thread) -> Result<Self, ConvertError> {
        let v1::Thread { id, core, socket, node, cache } = wire;
        Ok(Self { id: ThreadId(id), core: CoreId(core), socket, node: NodeId(node), cache })
    }
}

impl From<&NodeMemory> for v1::NodeMemory {
    fn from(memory: &NodeMemory) -> Self {
        let NodeMemory { node, ordinary } = memory;
        Self { node: node.0, ordinary_bytes: ordinary.0 }
    }
}

impl TryFrom<v1::NodeMemory> for NodeMemory {
    type Error = ConvertError;

    fn try_from(wire: v1::NodeMemory) -> Result<Self, ConvertError> {
        let v1::NodeMemory { node, ordinary_bytes } = wire;
        Ok(Self { node: NodeId(node), ordinary: Bytes(ordinary_bytes) })
    }
}

impl From<&HugepagePool> for v1::HugepagePool {
    fn from(pool: &HugepagePool) -> Self {
        let HugepagePool { node, page, total } = pool;
        Self { node: node.0, page: v1::PageSize::from(*page).into(), total: *total }
    }
}

impl TryFrom<v1::HugepagePool> for HugepagePool {
    type Error = ConvertError;

    fn try_from(wire: v1::HugepagePool) -> Result<Self, ConvertError> {
        let v1::HugepagePool { node, page, total } = wire;
        Ok(Self { node: NodeId(node), page: enums::page_size(page, "page")?, total })
    }
}

impl From<&AcceleratorReport> for v1::AcceleratorReport {
    fn from(report: &AcceleratorReport) -> Self {
        let AcceleratorReport { accelerator, failed_step, detail } = report;
        Self {
            accelerator: v1::Accelerator::from(*accelerator).into(),
            failed_step: failed_step.clone(),
            detail: detail.clone(),
        }
    }
}

impl TryFrom<v1::AcceleratorReport> for AcceleratorReport {
    type Error = ConvertError;

    fn try_from(wire: v1::AcceleratorReport) -> Result<Self, ConvertError> {
        let v1::AcceleratorReport { accelerator, failed_step, detail } = wire;
        Ok(Self { accelerator: enums::accelerator(accelerator, "accelerator")?, failed_step, detail })
    }
}
