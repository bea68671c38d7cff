//! Admission of a new VM, and of a change of what is asked of one.

use std::collections::{BTreeMap, BTreeSet};

use berth_model::image::ImageRef;
use berth_model::instancetype::PreferenceSpec;
use berth_model::placement::Rules;
use berth_model::vm::{DeviceDemand, VmSpec};
use berth_model::{Bytes, Name, Uid, VmUid};
use berth_state::{Body, Cluster, Expect};

use super::{Target, find_vm, labels, name, project, rules, spec};
use crate::error::Error;
use crate::ports::Seal;

/// A request to create a VM, as it came: nothing is checked yet.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CreateVm {
    /// Empty means the default project.
    pub project: String,
    /// Its name.
    pub name: String,
    /// For selection.
    pub labels: BTreeMap<String, String>,
    /// For programs and notes.
    pub annotations: BTreeMap<String, String>,
    /// A size by name.
    pub instance_type: Option<String>,
    /// A size by number, instead.
    pub cpus: Option<u32>,
    /// Bytes, instead.
    pub memory: Option<u64>,
    /// The tuning template; empty means `high`.
    pub performance: String,
    /// Wishes by name.
    pub preference: Option<String>,
    /// Wishes of its own, before those of the preference.
    pub tuning: PreferenceSpec,
    /// PCI devices that it gets for itself.
    pub devices: Vec<DeviceDemand>,
    /// Where it may and should run.
    pub rules: Rules,
    /// The name of its image.
    pub image: String,
    /// Bytes; none means the image's virtual size.
    pub disk_size: Option<u64>,
    /// A run strategy; empty means `Always`.
    pub run: String,
    /// Milliseconds that its guest has to shut down; none means half a minute.
    pub grace: Option<u64>,
    /// cloud-init user data.
    pub user_data: Option<Vec<u8>>,
}

impl std::fmt::Debug for CreateVm {
    /// Names the VM; its user data never shows.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateVm").field("project", &self.project).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Admits a VM.
pub fn create_vm(view: &Cluster, request: &CreateVm, random: u128, seal: &dyn Seal) -> Result<Body, Error> {
    let name = name("VM name", &request.name)?;
    let project = project(&request.project)?;
    labels("labels", &request.labels, 63)?;
    labels("annotations", &request.annotations, 16 * 1024)?;
    let image = spec::image(view, &request.image)?;
    let uid = VmUid(Uid::from_bits(random));
    let user_data = match &request.user_data {
        Some(plain) if !plain.is_empty() => Some(spec::sealed(plain, uid, seal)?),
        _ => None,
    };
    let spec = VmSpec { user_data, ..asked(view, request, image)? };
    spec::budget(&spec)?;
    spec::some_host_could_hold(view, &spec)?;
    if view.vm_by_name(&project, &name).is_some() {
        return Err(berth_state::Rejection::NameTaken { kind: "VM".into(), name: name.to_string() }.into());
    }
    Ok(Body::CreateVm {
        uid,
        project,
        name,
        labels: request.labels.clone(),
        annotations: request.annotations.clone(),
        spec: Box::new(spec),
    })
}

/// What VMs such as this one would ask for, whatever their names, and in which project: for questions about room. An image
/// may be left out.
pub(crate) fn wanted(view: &Cluster, request: &CreateVm) -> Result<(Name, VmSpec), Error> {
    let project = project(&request.project)?;
    labels("labels", &request.labels, 63)?;
    let image = if request.image.is_empty() { crate::room::no_image() } else { spec::image(view, &request.image)? };
    Ok((project, asked(view, request, image)?))
}

/// The spec, without user data.
fn asked(view: &Cluster, request: &CreateVm, image: ImageRef) -> Result<VmSpec, Error> {
    let disk_size = spec::disk_size(request.disk_size, &image)?;
    let (instance_type, cpus, memory) =
        spec::size(view, request.instance_type.as_deref(), request.cpus, request.memory)?;
    let performance = spec::performance(&request.performance)?;
    let preference = spec::preference(view, request.preference.as_deref())?;
    let spec = VmSpec {
        instance_type,
        cpus,
        memory,
        performance,
        tuning: spec::tuning(performance, preference.as_ref(), &request.tuning)?,
        preference: preference.map(|(name, _)| name),
        devices: request.devices.clone(),
        rules: request.rules.clone(),
        image,
        disk_size,
        run: spec::run(&request.run)?,
        grace: spec::grace(request.grace)?,
        user_data: None,
    };
    whole(view, &spec)?;
    Ok(spec)
}

/// What a spec must keep as a whole.
fn whole(view: &Cluster, spec: &VmSpec) -> Result<(), Error> {
    spec::within_limits(spec.cpus, spec.memory)?;
    spec::whole_pages(spec)?;
    spec::devices(&spec.devices, spec.performance)?;
    spec::budget(spec)?;
    rules::check(&spec.rules)?;
    rules::check_against(view, &spec.rules)
}

/// A request to change what is asked of a VM, as it came.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct UpdateVm {
    /// The fields of `to` that are taken, as the wire calls them; all others stay as they are.
    pub fields: Vec<String>,
    /// Where the new values are.
    pub to: CreateVm,
}

impl std::fmt::Debug for UpdateVm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpdateVm").field("fields", &self.fields).finish_non_exhaustive()
    }
}

/// The fields that can be changed. User data is read when the guest first boots, and never again.
const FIELDS: [&str; 19] = [
    "instance_type",
    "cpus",
    "memory_bytes",
    "performance",
    "preference",
    "tuning",
    "devices",
    "image",
    "disk_size_bytes",
    "run_strategy",
    "grace_ms",
    "rules",
    "rules.hosts",
    "rules.host_wishes",
    "rules.host_group",
    "rules.tolerations",
    "rules.affinity",
    "rules.spread",
    "rules.priority",
];

/// Admits a change of what is asked of a VM. Whether it is still without a berth is for apply to say.
pub fn update_vm(view: &Cluster, target: &Target, request: &UpdateVm) -> Result<Body, Error> {
    let UpdateVm { fields, to } = request;
    let asked: BTreeSet<&str> = fields.iter().map(String::as_str).collect();
    if asked.is_empty() {
        return Err(Error::invalid("BE-1012", "no field is named that shall change")
            .hint(format!("name one or more of {}", FIELDS.join(", "))));
    }
    if let Some((at, odd)) = fields.iter().enumerate().find(|(_, field)| !FIELDS.contains(&field.as_str())) {
        return Err(Error::invalid("BE-1007", format!("fields[{at}]: {:?} cannot be changed", super::shown(odd)))
            .hint(format!("these can: {}; 'berth vm start' and 'stop' say whether it runs", FIELDS.join(", "))));
    }
    let vm = find_vm(view, target)?;
    let held = &vm.spec;
    if fields == &["run_strategy"] {
        // Nothing else is written, so nothing else needs to be as it was read.
        return Ok(Body::SetRun { vm: vm.uid(), run: spec::run(&to.run)?, expect: target.expect() });
    }
    let mut spec = held.clone();
    if asked.contains("run_strategy") {
        spec.run = spec::run(&to.run)?;
    }
    if asked.contains("grace_ms") {
        spec.grace = spec::grace(to.grace)?;
    }
    resize(view, &asked, to, &mut spec)?;
    if ["performance", "preference", "tuning"].iter().any(|field| asked.contains(field)) {
        retune(view, &asked, to, &mut spec)?;
    }
    if asked.contains("devices") {
        spec.devices.clone_from(&to.devices);
    }
    if asked.contains("image") {
        spec.image = spec::image(view, &to.image)?;
    }
    if asked.contains("image") || asked.contains("disk_size_bytes") {
        let wanted = if asked.contains("disk_size_bytes") { to.disk_size } else { Some(held.disk_size.0) };
        spec.disk_size = spec::disk_size(wanted, &spec.image)?;
    }
    rule_anew(&asked, &to.rules, &mut spec.rules);
    whole(view, &spec)?;
    // Of a VM that has its berth only the rules can change, and they cannot make it too large.
    if vm.assignment.is_none() {
        spec::some_host_could_hold(view, &spec)?;
    }
    // The spec is written as a whole, so it must be the one that was read here.
    let expect = Expect { revision: Some(target.expect().revision.unwrap_or(vm.meta.revision)) };
    Ok(Body::SetSpec { vm: vm.uid(), spec: Box::new(spec), expect })
}

fn resize(view: &Cluster, asked: &BTreeSet<&str>, to: &CreateVm, spec: &mut VmSpec) -> Result<(), Error> {
    let (cpus, memory) = (asked.contains("cpus"), asked.contains("memory_bytes"));
    if asked.contains("instance_type") && (cpus || memory || to.instance_type.is_some()) {
        let (cpus, memory) = (to.cpus.filter(|_| cpus), to.memory.filter(|_| memory));
        let (name, cpus, memory) = spec::size(view, to.instance_type.as_deref(), cpus, memory)?;
        (spec.instance_type, spec.cpus, spec.memory) = (name, cpus, memory);
        return Ok(());
    }
    if asked.contains("instance_type") {
        spec.instance_type = None;
    }
    let missing = |field| Error::invalid("BE-1012", format!("{field} is missing")).hint("give the field that is named");
    if cpus {
        spec.cpus = to.cpus.ok_or_else(|| missing("cpus"))?;
    }
    if memory {
        spec.memory = Bytes(to.memory.ok_or_else(|| missing("memory_bytes"))?);
    }
    if cpus || memory {
        spec.instance_type = None;
    }
    Ok(())
}

/// Template, preference and wishes are looked at together: of an earlier wish only the result is known, so a new one of
/// these begins with the template. A preference that was taken before is taken again if it is still known.
fn retune(view: &Cluster, asked: &BTreeSet<&str>, to: &CreateVm, spec: &mut VmSpec) -> Result<(), Error> {
    if asked.contains("performance") {
        spec.performance = spec::performance(&to.performance)?;
    }
    let wanted = if asked.contains("preference") {
        to.preference.as_deref()
    } else {
        spec.preference.as_ref().map(Name::as_str).filter(|name| view.preferences.contains_key(*name))
    };
    let preference = spec::preference(view, wanted)?;
    let wishes = if asked.contains("tuning") { to.tuning } else { PreferenceSpec::default() };
    spec.tuning = spec::tuning(spec.performance, preference.as_ref(), &wishes)?;
    spec.preference = preference.map(|(name, _)| name);
    Ok(())
}

fn rule_anew(asked: &BTreeSet<&str>, to: &Rules, rules: &mut Rules) {
    let all = asked.contains("rules");
    let named = |field: &str| all || asked.contains(field);
    let Rules { hosts, host_wishes, host_group, tolerations, affinity, spread, priority } = to.clone();
    if named("rules.hosts") {
        rules.hosts = hosts;
    }
    if named("rules.host_wishes") {
        rules.host_wishes = host_wishes;
    }
    if named("rules.host_group") {
        rules.host_group = host_group;
    }
    if named("rules.tolerations") {
        rules.tolerations = tolerations;
    }
    if named("rules.affinity") {
        rules.affinity = affinity;
    }
    if named("rules.spread") {
        rules.spread = spread;
    }
    if named("rules.priority") {
        rules.priority = priority;
    }
}

#[cfg(test)]
mod tests;
