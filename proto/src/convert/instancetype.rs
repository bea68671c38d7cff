//! Instance types.

use berth_model::instancetype::{InstanceType, InstanceTypeSpec};

use crate::v1;

impl From<&InstanceType> for v1::InstanceType {
    fn from(instance_type: &InstanceType) -> Self {
        let InstanceType { meta, spec: InstanceTypeSpec { cpus, memory } } = instance_type;
        Self { meta: Some(meta.into()), cpus: *cpus, memory_bytes: memory.0 }
    }
}
