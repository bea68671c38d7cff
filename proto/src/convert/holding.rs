//! What hosts remember of their orphans.

use berth_model::Bytes;
use berth_model::host::{NodeId, ThreadId};
use berth_model::session::Holding;
use berth_model::vm::{NodePages, Resources};

use super::{ConvertError, all, each, each_parsed, enums, parsed, required};
use crate::v1;

impl From<&Holding> for v1::Holding {
    fn from(holding: &Holding) -> Self {
        let Holding {
            vm,
            project,
            name,
            cpus,
            memory,
            performance,
            tuning,
            devices,
            image_name,
            image,
            disk_size,
            run,
            resources:
                Resources {
                    vcpus,
                    dedicated,
                    idle,
                    emulator,
                    iothread,
                    shared_cpu,
                    memory: pages,
                    overhead,
                    devices: given_devices,
                },
            restart_count,
        } = holding;
        Self {
            vm: vm.to_string(),
            project: project.to_string(),
            name: name.to_string(),
            cpus: *cpus,
            memory_bytes: memory.0,
            image: image_name.to_string(),
            image_sha256: image.to_string(),
            disk_size_bytes: disk_size.0,
            run_strategy: v1::RunStrategy::from(*run).into(),
            restart_count: *restart_count,
            vcpus: vcpus.iter().map(|thread| thread.0).collect(),
            emulator: emulator.to_string(),
            iothread: iothread.to_string(),
            memory: pages
                .iter()
                .map(|NodePages { node, page, count }| v1::HeldPages {
                    node: node.0,
                    page: v1::PageSize::from(*page).into(),
                    count: *count,
                })
                .collect(),
            overhead_bytes: overhead.0,
            performance: v1::Performance::from(*performance).into(),
            tuning: Some(tuning.into()),
            devices: all(devices),
            dedicated: dedicated.to_string(),
            idle: idle.to_string(),
            shared_cpu: *shared_cpu,
            given_devices: given_devices.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::Holding> for Holding {
    type Error = ConvertError;

    fn try_from(wire: v1::Holding) -> Result<Self, ConvertError> {
        let v1::Holding {
            vm,
            project,
            name,
            cpus,
            memory_bytes,
            image,
            image_sha256,
            disk_size_bytes,
            run_strategy,
            restart_count,
            vcpus,
            emulator,
            iothread,
            memory,
            overhead_bytes,
            performance,
            tuning,
            devices,
            dedicated,
            idle,
            shared_cpu,
            given_devices,
        } = wire;
        Ok(Self {
            vm: parsed(&vm, "vm")?,
            project: parsed(&project, "project")?,
            name: parsed(&name, "name")?,
            cpus,
            memory: Bytes(memory_bytes),
            performance: enums::exact_performance(performance, "performance")?,
            tuning: required(tuning, "tuning")?,
            devices: each(devices, "devices")?,
            image_name: parsed(&image, "image")?,
            image: parsed(&image_sha256, "image_sha256")?,
            disk_size: Bytes(disk_size_bytes),
            run: enums::exact_run_strategy(run_strategy, "run_strategy")?,
            resources: Resources {
                vcpus: vcpus.into_iter().map(ThreadId).collect(),
                dedicated: parsed(&dedicated, "dedicated")?,
                idle: parsed(&idle, "idle")?,
                emulator: parsed(&emulator, "emulator")?,
                iothread: parsed(&iothread, "iothread")?,
                shared_cpu,
                memory: each::<v1::HeldPages, NodePages>(memory, "memory")?,
                overhead: Bytes(overhead_bytes),
                devices: each_parsed(&given_devices, "given_devices")?,
            },
            restart_count,
        })
    }
}

impl TryFrom<v1::HeldPages> for NodePages {
    type Error = ConvertError;

    fn try_from(wire: v1::HeldPages) -> Result<Self, ConvertError> {
        let v1::HeldPages { node, page, count } = wire;
        Ok(Self { node: NodeId(node), page: enums::page_size(page, "page")?, count })
    }
}
