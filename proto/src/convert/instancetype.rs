//! Instance types and preferences.

use berth_model::instancetype::{BUILT_IN, BUILT_IN_PREFERENCES, InstanceType, InstanceTypeSpec, Preference};

use crate::v1;

impl From<&InstanceType> for v1::InstanceType {
    fn from(instance_type: &InstanceType) -> Self {
        let InstanceType { meta, spec: InstanceTypeSpec { cpus, memory } } = instance_type;
        let built_in = BUILT_IN.iter().any(|(name, _)| *name == meta.name.as_str());
        Self { meta: Some(meta.into()), cpus: *cpus, memory_bytes: memory.0, built_in }
    }
}

impl From<&Preference> for v1::Preference {
    fn from(preference: &Preference) -> Self {
        let Preference { meta, spec } = preference;
        let built_in = BUILT_IN_PREFERENCES.iter().any(|(name, _)| *name == meta.name.as_str());
        Self { meta: Some(meta.into()), tuning: Some(spec.into()), built_in }
    }
}
