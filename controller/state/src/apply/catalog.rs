//! Commands about images, and the built-in instance types.

use std::collections::BTreeMap;

use berth_model::image::{Image, ImageSpec};
use berth_model::instancetype::{self, InstanceType};
use berth_model::{ImageUid, Meta, Name, Timestamp};

use crate::cluster::Cluster;
use crate::outcome::{Change, Outcome, Rejection};

/// Gives a new cluster the built-in instance types. Their uids are their names, the same in every cluster.
pub(super) fn seed_instance_types(cluster: &mut Cluster, at: Timestamp, changes: &mut Vec<Change>) {
    for (name, spec) in instancetype::BUILT_IN {
        let uid = name.parse().expect("a built-in name is short enough for a uid");
        let name = name.parse().expect("a built-in name is a DNS label");
        cluster
            .put_instance_type(changes, InstanceType { meta: Meta::new(Name::default_project(), name, uid, at), spec });
    }
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
