//! Admission: a request becomes a command with every default expanded, or a refusal that says what to do.
//!
//! Admission looks at one view and may be stale; what matters for safety is checked again in apply (law 2).

mod catalog;
mod host;
mod orphan;
mod rules;
mod spec;
mod vm;

use std::collections::BTreeMap;

use berth_model::image::{ImageSpec, Sha256Digest};
use berth_model::{Bytes, ImageUid, Meta, Name, Revision, Uid};
use berth_state::{Body, Cluster, Expect};

pub use catalog::{create_instance_type, create_preference, delete_instance_type, delete_preference};
pub use host::{HostTarget, UpdateHost, confirm_dead, find_host, remove_host, update_host};
pub use orphan::{OrphanTarget, find_orphan};
pub(crate) use vm::wanted;
pub use vm::{CreateVm, UpdateVm, create_vm, update_vm};

use crate::error::Error;

/// How an object is addressed by a client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Target {
    /// Its project; empty means the default project.
    pub project: String,
    /// Its name.
    pub name: String,
    /// Its uid as the client saw it; empty means any.
    pub uid: String,
    /// Its revision as the client saw it.
    pub revision: Option<u64>,
}

impl Target {
    pub(crate) fn expect(&self) -> Expect {
        Expect { revision: self.revision.map(Revision) }
    }
}

/// Parses a name, or says what is wrong with it.
pub fn name(field: &str, text: &str) -> Result<Name, Error> {
    text.parse().map_err(|why| {
        let shown: String = text.chars().take(80).collect();
        Error::invalid("BE-1001", format!("{field} {shown:?} is not a valid name: {why}"))
            .hint("use 1 to 63 characters of a-z, 0-9 and '-', with a letter or digit at both ends, such as web-1")
    })
}

/// Parses a project, which may be left out.
pub fn project(text: &str) -> Result<Name, Error> {
    if text.is_empty() { Ok(Name::default_project()) } else { name("project", text) }
}

/// Finds a VM by name, checking the uid that the client saw.
pub fn find_vm<'a>(view: &'a Cluster, target: &Target) -> Result<&'a std::sync::Arc<berth_model::vm::Vm>, Error> {
    let (project, name) = (project(&target.project)?, name("VM name", &target.name)?);
    let vm = view.vm_by_name(&project, &name).ok_or_else(|| {
        Error::new(crate::Kind::NotFound, "BE-2002", format!("there is no VM {name:?} in project {project:?}"))
            .hint("'berth vm list' shows what is there")
    })?;
    if !target.uid.is_empty() && vm.meta.uid.as_str() != target.uid {
        return Err(Error::new(
            crate::Kind::Conflict,
            "BE-2003",
            format!("VM {name:?} is another one than you saw: expected uid {}, it has {}", target.uid, vm.meta.uid),
        )
        .hint("read it again and repeat the request if it still makes sense"));
    }
    Ok(vm)
}

/// Limits of labels and annotations: those of Kubernetes, and few enough that one object stays small in the log.
pub(crate) fn labels(field: &str, map: &BTreeMap<String, String>, value_limit: usize) -> Result<(), Error> {
    let refuse = |why: String| {
        Err(Error::invalid("BE-1013", format!("{field}: {why}"))
            .hint("keys are [prefix/]name with at most 63 characters of letters, digits, '-', '_' and '.' in the name"))
    };
    if map.len() > Meta::MOST_LABELS {
        return refuse(format!("{} are given, at most {} are allowed", map.len(), Meta::MOST_LABELS));
    }
    for (key, value) in map {
        let shown = shown(key);
        if !is_key(key) {
            return refuse(format!("{shown:?} is not a valid key"));
        }
        if value.len() > value_limit {
            return refuse(format!(
                "the value of {shown:?} has {} bytes, at most {value_limit} are allowed",
                value.len()
            ));
        }
        if field == "labels" && !(value.is_empty() || word(value, value_limit)) {
            return refuse(format!("the value of {shown:?} is not a valid label value"));
        }
    }
    Ok(())
}

/// So much of a text as belongs into a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Whether this is a word of a label: letters and digits, with `-`, `_` and `.` between them.
fn word(text: &str, limit: usize) -> bool {
    !text.is_empty()
        && text.len() <= limit
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// Whether this is `[prefix/]name`.
fn is_key(key: &str) -> bool {
    let (prefix, base) = key.split_once('/').map_or((None, key), |(prefix, base)| (Some(prefix), base));
    word(base, 63) && prefix.is_none_or(|prefix| word(prefix, 253))
}

/// A request to change labels of a VM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UpdateLabels {
    /// Labels that it shall have.
    pub set: BTreeMap<String, String>,
    /// Keys of labels that it shall not have.
    pub remove: Vec<String>,
}

/// Admits a change of labels.
pub fn update_labels(view: &Cluster, target: &Target, request: &UpdateLabels) -> Result<Body, Error> {
    let UpdateLabels { set, remove } = request;
    if set.is_empty() && remove.is_empty() {
        return Err(Error::invalid("BE-1012", "no label is given to set or to remove")
            .hint("give labels as KEY=VALUE to set them and as KEY- to remove them"));
    }
    labels("labels", set, 63)?;
    if remove.len() > Meta::MOST_LABELS {
        let message = format!("labels: {} keys are to be removed, at most {} can be", remove.len(), Meta::MOST_LABELS);
        return Err(Error::invalid("BE-1013", message).hint("remove them in several requests"));
    }
    if let Some(key) = remove.iter().find(|key| !is_key(key)) {
        return Err(Error::invalid("BE-1013", format!("labels: {:?} is not a valid key", shown(key)))
            .hint("'berth vm show' shows which labels are there"));
    }
    if let Some(key) = remove.iter().find(|key| set.contains_key(*key)) {
        return Err(Error::invalid("BE-1013", format!("labels: {key:?} is to be set and to be removed"))
            .hint("say one of the two"));
    }
    let vm = find_vm(view, target)?.uid();
    Ok(Body::SetLabels { vm, set: set.clone(), remove: remove.clone(), expect: target.expect() })
}

/// A request to make an image known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CreateImage {
    /// Its name.
    pub name: String,
    /// For selection.
    pub labels: BTreeMap<String, String>,
    /// 64 hexadecimal digits.
    pub sha256: String,
    /// Bytes.
    pub virtual_size: u64,
}

/// Admits an image.
pub fn create_image(view: &Cluster, request: &CreateImage, random: u128) -> Result<Body, Error> {
    let name = name("image name", &request.name)?;
    labels("labels", &request.labels, 63)?;
    let sha256: Sha256Digest = request
        .sha256
        .parse()
        .map_err(|why| Error::invalid("BE-1011", format!("sha256: {why}")).hint("'sha256sum FILE' prints it"))?;
    let virtual_size = Bytes(request.virtual_size);
    if virtual_size.0 == 0 || !virtual_size.0.is_multiple_of(512) || virtual_size > berth_model::vm::VmSpec::MAX_DISK {
        return Err(Error::invalid(
            "BE-1006",
            format!("virtual_size {} is not a whole number of 512-byte sectors up to 64TiB", virtual_size.0),
        )
        .hint("'qemu-img info FILE' prints it"));
    }
    if view.images.contains_key(&name) {
        return Err(berth_state::Rejection::NameTaken { kind: "image".into(), name: name.to_string() }.into());
    }
    let uid = ImageUid(Uid::from_bits(random));
    Ok(Body::CreateImage { uid, name, labels: request.labels.clone(), spec: ImageSpec { sha256, virtual_size } })
}

#[cfg(test)]
mod tests;
