//! Entries of a host's desired set.

use berth_model::Stamp;
use berth_model::image::ImageRef;
use berth_model::session::{Absent, DesiredEntry, Present, UserData};
use berth_model::vm::VmSpec;
use berth_model::{Bytes, Millis, Sealed};

use super::{ConvertError, all, each, enums, optional, parsed, required};
use crate::v1;
use crate::v1::desired_entry::Entry;

impl From<&DesiredEntry> for v1::DesiredEntry {
    fn from(entry: &DesiredEntry) -> Self {
        let entry = match entry {
            DesiredEntry::Present(present, stamp) => Entry::Present(present_to_wire(present, stamp)),
            DesiredEntry::Absent(absent) => Entry::Absent(absent.into()),
        };
        Self { entry: Some(entry) }
    }
}

impl TryFrom<v1::DesiredEntry> for DesiredEntry {
    type Error = ConvertError;

    fn try_from(wire: v1::DesiredEntry) -> Result<Self, ConvertError> {
        let v1::DesiredEntry { entry } = wire;
        Ok(match entry.ok_or_else(|| ConvertError::missing("entry"))? {
            Entry::Present(present) => {
                let (present, stamp) = present_from_wire(present).map_err(|inner| inner.within("present"))?;
                Self::Present(Box::new(present), stamp)
            }
            Entry::Absent(absent) => Self::Absent(required(Some(absent), "absent")?),
        })
    }
}

fn present_to_wire(present: &Present, stamp: &Stamp) -> v1::Present {
    let Present { vm, project, name, spec, assignment, restart_count, power, user_data } = present;
    v1::Present {
        vm: vm.to_string(),
        stamp: Some(stamp.into()),
        project: project.to_string(),
        name: name.to_string(),
        spec: Some(spec.into()),
        assignment: Some(assignment.into()),
        restart_count: *restart_count,
        power: Some(power.into()),
        user_data: user_data.as_ref().map(|UserData(bytes)| bytes.clone()),
    }
}

fn present_from_wire(wire: v1::Present) -> Result<(Present, Stamp), ConvertError> {
    let v1::Present { vm, stamp, project, name, spec, assignment, restart_count, power, user_data } = wire;
    let present = Present {
        vm: parsed(&vm, "vm")?,
        project: parsed(&project, "project")?,
        name: parsed(&name, "name")?,
        spec: required(spec, "spec")?,
        assignment: required(assignment, "assignment")?,
        restart_count,
        power: power.map(Into::into).unwrap_or_default(),
        user_data: user_data.map(UserData),
    };
    Ok((present, required(stamp, "stamp")?))
}

impl From<&Absent> for v1::Absent {
    fn from(absent: &Absent) -> Self {
        let Absent { vm, stamp, with_disk } = absent;
        Self { vm: vm.to_string(), stamp: Some(stamp.into()), with_disk: *with_disk }
    }
}

impl TryFrom<v1::Absent> for Absent {
    type Error = ConvertError;

    fn try_from(wire: v1::Absent) -> Result<Self, ConvertError> {
        let v1::Absent { vm, stamp, with_disk } = wire;
        Ok(Self { vm: parsed(&vm, "vm")?, stamp: required(stamp, "stamp")?, with_disk })
    }
}

impl From<&VmSpec> for v1::DesiredSpec {
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
        Self {
            instance_type: instance_type.as_ref().map(ToString::to_string),
            cpus: *cpus,
            memory_bytes: memory.0,
            performance: v1::Performance::from(*performance).into(),
            image: Some(image.into()),
            disk_size_bytes: disk_size.0,
            run_strategy: v1::RunStrategy::from(*run).into(),
            user_data: user_data.as_ref().map(Into::into),
            preference: preference.as_ref().map(ToString::to_string),
            tuning: Some(tuning.into()),
            devices: all(devices),
            rules: (!rules.is_empty()).then(|| rules.into()),
            grace_ms: grace.0,
        }
    }
}

impl TryFrom<v1::DesiredSpec> for VmSpec {
    type Error = ConvertError;

    fn try_from(wire: v1::DesiredSpec) -> Result<Self, ConvertError> {
        let v1::DesiredSpec {
            instance_type,
            cpus,
            memory_bytes,
            performance,
            image,
            disk_size_bytes,
            run_strategy,
            user_data,
            preference,
            tuning,
            devices,
            rules,
            grace_ms,
        } = wire;
        Ok(Self {
            instance_type: instance_type.map(|name| parsed(&name, "instance_type")).transpose()?,
            cpus,
            preference: preference.map(|name| parsed(&name, "preference")).transpose()?,
            memory: Bytes(memory_bytes),
            performance: enums::exact_performance(performance, "performance")?,
            tuning: required(tuning, "tuning")?,
            devices: each(devices, "devices")?,
            rules: optional(rules, "rules")?.unwrap_or_default(),
            image: required(image, "image")?,
            disk_size: Bytes(disk_size_bytes),
            run: enums::exact_run_strategy(run_strategy, "run_strategy")?,
            grace: Millis(grace_ms),
            user_data: optional(user_data, "user_data")?,
        })
    }
}

impl From<&ImageRef> for v1::ImageRef {
    fn from(image: &ImageRef) -> Self {
        let ImageRef { name, sha256, virtual_size } = image;
        Self { name: name.to_string(), sha256: sha256.to_string(), virtual_size_bytes: virtual_size.0 }
    }
}

impl TryFrom<v1::ImageRef> for ImageRef {
    type Error = ConvertError;

    fn try_from(wire: v1::ImageRef) -> Result<Self, ConvertError> {
        let v1::ImageRef { name, sha256, virtual_size_bytes } = wire;
        Ok(Self {
            name: parsed(&name, "name")?,
            sha256: parsed(&sha256, "sha256")?,
            virtual_size: Bytes(virtual_size_bytes),
        })
    }
}

impl From<&Sealed> for v1::Sealed {
    fn from(sealed: &Sealed) -> Self {
        let Sealed { key_id, nonce, ciphertext } = sealed;
        Self { key_id: key_id.clone(), nonce: nonce.clone(), ciphertext: ciphertext.clone() }
    }
}

impl TryFrom<v1::Sealed> for Sealed {
    type Error = ConvertError;

    fn try_from(wire: v1::Sealed) -> Result<Self, ConvertError> {
        let v1::Sealed { key_id, nonce, ciphertext } = wire;
        Ok(Self { key_id, nonce, ciphertext })
    }
}
