//! What was asked of a VM, as operators read it: user data is only said to be there.

use berth_model::image::ImageRef;
use berth_model::vm::VmSpec;

use super::all;
use crate::v1;

impl From<&VmSpec> for v1::VmSpec {
    fn from(spec: &VmSpec) -> Self {
        let VmSpec {
            instance_type,
            cpus,
            preference,
            memory,
            performance,
            tuning,
            devices,
            rules,
            image,
            disk_size,
            run,
            grace,
            user_data,
        } = spec;
        let ImageRef { name, sha256, virtual_size } = image;
        Self {
            instance_type: instance_type.as_ref().map(ToString::to_string).unwrap_or_default(),
            cpus: Some(*cpus),
            memory_bytes: Some(memory.0),
            performance: v1::Performance::from(*performance).into(),
            image: name.to_string(),
            disk_size_bytes: Some(disk_size.0),
            run_strategy: v1::RunStrategy::from(*run).into(),
            user_data: None,
            has_user_data: user_data.is_some(),
            image_sha256: sha256.to_string(),
            image_virtual_size_bytes: virtual_size.0,
            preference: preference.as_ref().map(ToString::to_string).unwrap_or_default(),
            tuning: Some(tuning.into()),
            devices: all(devices),
            rules: (!rules.is_empty()).then(|| rules.into()),
            grace_ms: Some(grace.0),
        }
    }
}
