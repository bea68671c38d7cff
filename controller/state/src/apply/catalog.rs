//! Commands about images, instance types and preferences.

use std::collections::BTreeMap;

use berth_model::image::{Image, ImageSpec};
use berth_model::instancetype::{self, InstanceType, InstanceTypeSpec, Preference, PreferenceSpec};
use berth_model::{ImageUid, Meta, Name, Timestamp, Uid};

use crate::cluster::Cluster;
use crate::outcome::{Change, Outcome, Rejection};

/// Gives a new cluster what is built in. Uids are the names, the same in every cluster.
pub(super) fn seed(cluster: &mut Cluster, at: Timestamp, changes: &mut Vec<Change>) {
    for (name, spec) in instancetype::BUILT_IN {
        cluster.put_instance_type(changes, InstanceType { meta: built_in(name, at), spec });
    }
    for (name, spec) in instancetype::BUILT_IN_PREFERENCES {
        cluster.put_preference(changes, Preference { meta: built_in(name, at), spec });
    }
}

fn built_in(name: &str, at: Timestamp) -> Meta {
    let uid = name.parse().expect("a built-in name is short enough for a uid");
    let name = name.parse().expect("a built-in name is a DNS label");
    Meta::new(Name::default_project(), name, uid, at)
}

pub(super) fn create_instance_type(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    uid: Uid,
    name: &Name,
    spec: InstanceTypeSpec,
) -> Result<Outcome, Rejection> {
    if cluster.instance_types.contains_key(name) {
        return Err(Rejection::NameTaken { kind: "instance type".into(), name: name.to_string() });
    }
    let meta = Meta::new(Name::default_project(), name.clone(), uid, at);
    cluster.put_instance_type(changes, InstanceType { meta, spec });
    Ok(Outcome::Done)
}

pub(super) fn delete_instance_type(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    name: &Name,
) -> Result<Outcome, Rejection> {
    let (kind, named) = (|| "instance type".to_owned(), name.to_string());
    if !cluster.instance_types.contains_key(name) {
        return Err(Rejection::NotFound { kind: kind(), name: named });
    }
    if instancetype::BUILT_IN.iter().any(|(built_in, _)| *built_in == name.as_str()) {
        return Err(Rejection::BuiltIn { kind: kind(), name: named });
    }
    cluster.remove_instance_type(changes, name);
    Ok(Outcome::Done)
}

pub(super) fn create_preference(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    uid: Uid,
    name: &Name,
    spec: PreferenceSpec,
) -> Result<Outcome, Rejection> {
    if cluster.preferences.contains_key(name) {
        return Err(Rejection::NameTaken { kind: "preference".into(), name: name.to_string() });
    }
    let meta = Meta::new(Name::default_project(), name.clone(), uid, at);
    cluster.put_preference(changes, Preference { meta, spec });
    Ok(Outcome::Done)
}

pub(super) fn delete_preference(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    name: &Name,
) -> Result<Outcome, Rejection> {
    let (kind, named) = (|| "preference".to_owned(), name.to_string());
    if !cluster.preferences.contains_key(name) {
        return Err(Rejection::NotFound { kind: kind(), name: named });
    }
    if instancetype::BUILT_IN_PREFERENCES.iter().any(|(built_in, _)| *built_in == name.as_str()) {
        return Err(Rejection::BuiltIn { kind: kind(), name: named });
    }
    cluster.remove_preference(changes, name);
    Ok(Outcome::Done)
}

pub(super) fn create_image(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    at: Timestamp,
    uid: ImageUid,
    name: &Name,
    labels: &BTreeMap<String, String>,
    spec: ImageSpec,
) -> Result<Outcome, Rejection> {
    if cluster.images.contains_key(name) {
        return Err(Rejection::NameTaken { kind: "image".into(), name: name.to_string() });
    }
    let meta = Meta { labels: labels.clone(), ..Meta::new(Name::default_project(), name.clone(), uid.0, at) };
    cluster.put_image(changes, Image { meta, spec });
    Ok(Outcome::Image(uid))
}

pub(super) fn delete_image(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    name: &Name,
) -> Result<Outcome, Rejection> {
    let Some(image) = cluster.images.get(name) else {
        return Err(Rejection::NotFound { kind: "image".into(), name: name.to_string() });
    };
    let digest = image.spec.sha256;
    if let Some(vm) = cluster.vms.values().find(|vm| vm.spec.image.name == *name && vm.spec.image.sha256 == digest) {
        return Err(Rejection::ImageInUse { name: name.clone(), vm: vm.meta.name.to_string() });
    }
    cluster.remove_image(changes, name);
    Ok(Outcome::Done)
}
