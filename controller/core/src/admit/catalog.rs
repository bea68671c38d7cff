//! Admission of instance types and preferences.

use berth_model::instancetype::{InstanceTypeSpec, PreferenceSpec};
use berth_model::vm::Performance;
use berth_model::{Bytes, Uid};
use berth_state::{Body, Cluster, Rejection};

use super::{name, shown, spec};
use crate::error::{Error, Kind};

/// Admits an instance type.
pub fn create_instance_type(view: &Cluster, called: &str, cpus: u32, memory: u64, random: u128) -> Result<Body, Error> {
    let name = name("instance type name", called)?;
    let memory = Bytes(memory);
    spec::within_limits(cpus, memory)?;
    if !memory.0.is_multiple_of(Bytes::mib(2).0) {
        return Err(Error::invalid("BE-1004", format!("memory {memory} is not a whole number of 2MiB hugepages"))
            .hint("use a multiple of 2MiB, so that every template can take it"));
    }
    if view.instance_types.contains_key(&name) {
        return Err(Rejection::NameTaken { kind: "instance type".into(), name: name.to_string() }.into());
    }
    Ok(Body::CreateInstanceType { uid: Uid::from_bits(random), name, spec: InstanceTypeSpec { cpus, memory } })
}

/// Admits that an instance type is forgotten. Whether it is built in is for apply to say.
pub fn delete_instance_type(view: &Cluster, called: &str) -> Result<Body, Error> {
    match view.instance_types.get(called) {
        Some(held) => Ok(Body::DeleteInstanceType { name: held.meta.name.clone() }),
        None => Err(no_such("instance type", called, "instancetype")),
    }
}

/// Admits a preference: wishes that some VM can have.
pub fn create_preference(view: &Cluster, called: &str, wishes: PreferenceSpec, random: u128) -> Result<Body, Error> {
    let name = name("preference name", called)?;
    if wishes == PreferenceSpec::default() {
        return Err(Error::invalid("BE-1012", "the preference wishes nothing")
            .hint("'berth preference create --help' shows what can be wished"));
    }
    spec::tuning(Performance::High, None, &wishes)?;
    if view.preferences.contains_key(&name) {
        return Err(Rejection::NameTaken { kind: "preference".into(), name: name.to_string() }.into());
    }
    Ok(Body::CreatePreference { uid: Uid::from_bits(random), name, spec: wishes })
}

/// Admits that a preference is forgotten. Whether it is built in is for apply to say.
pub fn delete_preference(view: &Cluster, called: &str) -> Result<Body, Error> {
    match view.preferences.get(called) {
        Some(held) => Ok(Body::DeletePreference { name: held.meta.name.clone() }),
        None => Err(no_such("preference", called, "preference")),
    }
}

fn no_such(kind: &str, called: &str, command: &str) -> Error {
    Error::new(Kind::NotFound, "BE-2002", format!("there is no {kind} {:?}", shown(called)))
        .hint(format!("'berth {command} list' shows what is there"))
}
