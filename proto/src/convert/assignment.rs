//! Assignments and the resources in them.

use berth_model::host::{NodeId, ThreadId};
use berth_model::vm::{Assignment, NodePages, Resources};
use berth_model::{Bytes, Epoch, Timestamp};

use super::{ConvertError, all, each, each_parsed, enums, parsed};
use crate::v1;

impl From<&Assignment> for v1::Assignment {
    fn from(assignment: &Assignment) -> Self {
        let Assignment { host, epoch, resources, at } = assignment;
        let Resources { vcpus, dedicated, idle, emulator, iothread, shared_cpu, memory, overhead, devices } = resources;
        Self {
            host: host.to_string(),
            epoch: epoch.0,
            vcpus: vcpus.iter().map(|thread| thread.0).collect(),
            emulator: emulator.to_string(),
            iothread: iothread.to_string(),
            memory: all(memory),
            overhead_bytes: overhead.0,
            at_ms: at.as_millis(),
            dedicated: dedicated.to_string(),
            idle: idle.to_string(),
            shared_cpu: *shared_cpu,
            devices: devices.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::Assignment> for Assignment {
    type Error = ConvertError;

    fn try_from(wire: v1::Assignment) -> Result<Self, ConvertError> {
        let v1::Assignment {
            host,
            epoch,
            vcpus,
            emulator,
            iothread,
            memory,
            overhead_bytes,
            at_ms,
            dedicated,
            idle,
            shared_cpu,
            devices,
        } = wire;
        Ok(Self {
            host: parsed(&host, "host")?,
            epoch: Epoch(epoch),
            resources: Resources {
                vcpus: vcpus.into_iter().map(ThreadId).collect(),
                dedicated: parsed(&dedicated, "dedicated")?,
                idle: parsed(&idle, "idle")?,
                emulator: parsed(&emulator, "emulator")?,
                iothread: parsed(&iothread, "iothread")?,
                shared_cpu,
                memory: each(memory, "memory")?,
                overhead: Bytes(overhead_bytes),
                devices: each_parsed(&devices, "devices")?,
            },
            at: Timestamp::from_millis(at_ms),
        })
    }
}

impl From<&NodePages> for v1::NodePages {
    fn from(pages: &NodePages) -> Self {
        let NodePages { node, page, count } = pages;
        Self { node: node.0, page: v1::PageSize::from(*page).into(), count: *count }
    }
}

impl TryFrom<v1::NodePages> for NodePages {
    type Error = ConvertError;

    fn try_from(wire: v1::NodePages) -> Result<Self, ConvertError> {
        let v1::NodePages { node, page, count } = wire;
        Ok(Self { node: NodeId(node), page: enums::page_size(page, "page")?, count })
    }
}
