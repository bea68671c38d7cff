//! Admission of a new VM.

use std::collections::BTreeMap;

use berth_model::image::ImageRef;
use berth_model::vm::{Performance, RunStrategy, VmSpec};
use berth_model::{Bytes, Name, Uid, VmUid};
use berth_state::{Body, Cluster};

use super::{labels, name, project};
use crate::error::{Error, Kind};
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
    /// The name of its image.
    pub image: String,
    /// Bytes; none means the image's virtual size.
    pub disk_size: Option<u64>,
    /// `Always` or `Halted`; empty means `Always`.
    pub run: String,
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
    let (instance_type, cpus, memory) = size(view, request)?;
    let performance = match request.performance.as_str() {
        "" | "high" => Performance::High,
        other => {
            return Err(Error::invalid("BE-1007", format!("performance {other:?} is not known"))
                .hint("the only template at present is 'high'"));
        }
    };
    let run = match request.run.as_str() {
        "" | "Always" => RunStrategy::Always,
        "Halted" => RunStrategy::Halted,
        other => {
            return Err(
                Error::invalid("BE-1007", format!("run strategy {other:?} is not known")).hint("use Always or Halted")
            );
        }
    };
    let image = image(view, &request.image)?;
    let disk_size = disk_size(request.disk_size, &image)?;
    let uid = VmUid(Uid::from_bits(random));
    let user_data = match &request.user_data {
        Some(plain) if !plain.is_empty() => Some(sealed(plain, uid, seal)?),
        _ => None,
    };
    let spec = VmSpec { instance_type, cpus, memory, performance, image, disk_size, run, user_data };
    if !memory.0.is_multiple_of(spec.page_size().bytes().0) {
        return Err(Error::invalid(
            "BE-1004",
            format!("memory {memory} is not a whole number of {} hugepages", spec.page_size()),
        )
        .hint("use a multiple of 2MiB"));
    }
    some_host_could_hold(view, &spec)?;
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

fn size(view: &Cluster, request: &CreateVm) -> Result<(Option<Name>, u32, Bytes), Error> {
    let (instance_type, cpus, memory) = match request.instance_type.as_deref().filter(|name| !name.is_empty()) {
        Some(wanted) => {
            if request.cpus.is_some() || request.memory.is_some() {
                return Err(Error::invalid("BE-1007", "an instance type and cpus or memory are both given")
                    .hint("give either the instance type or cpus and memory"));
            }
            let found = view.instance_types.get(wanted).ok_or_else(|| {
                let known: Vec<_> = view.instance_types.keys().map(Name::as_str).collect();
                let shown: String = wanted.chars().take(80).collect();
                Error::invalid("BE-1002", format!("unknown instance type {shown:?}"))
                    .hint(format!("known are {}", known.join(", ")))
            })?;
            (Some(found.meta.name.clone()), found.spec.cpus, found.spec.memory)
        }
        None => {
            let cpus = request.cpus.ok_or_else(|| missing("cpus"))?;
            let memory = request.memory.ok_or_else(|| missing("memory"))?;
            (None, cpus, Bytes(memory))
        }
    };
    if cpus == 0 || cpus > VmSpec::MAX_CPUS {
        return Err(Error::invalid("BE-1003", format!("cpus is {cpus}; a VM has 1 to {}", VmSpec::MAX_CPUS))
            .hint("each virtual CPU gets a CPU thread of the host for itself; 2 to 8 are usual"));
    }
    if memory < VmSpec::MIN_MEMORY || memory > VmSpec::MAX_MEMORY {
        return Err(Error::invalid(
            "BE-1004",
            format!("memory is {memory}; a VM has {} to {}", VmSpec::MIN_MEMORY, VmSpec::MAX_MEMORY),
        )
        .hint("give it with its unit, such as 4GiB"));
    }
    Ok((instance_type, cpus, memory))
}

fn missing(field: &str) -> Error {
    Error::invalid("BE-1012", format!("{field} is missing")).hint("give an instance type, or both cpus and memory")
}

fn image(view: &Cluster, wanted: &str) -> Result<ImageRef, Error> {
    if wanted.is_empty() {
        return Err(Error::invalid("BE-1012", "image is missing").hint("'berth image list' shows what is there"));
    }
    let found = view.images.get(wanted).ok_or_else(|| {
        let shown: String = wanted.chars().take(80).collect();
        Error::invalid("BE-1005", format!("unknown image {shown:?}"))
            .hint("'berth image list' shows what is there, 'berth image create' makes one known")
    })?;
    Ok(ImageRef { name: found.meta.name.clone(), sha256: found.spec.sha256, virtual_size: found.spec.virtual_size })
}

fn disk_size(wanted: Option<u64>, image: &ImageRef) -> Result<Bytes, Error> {
    let size = wanted.map_or(image.virtual_size, Bytes);
    if size < image.virtual_size {
        return Err(Error::invalid(
            "BE-1006",
            format!("disk size {size} is smaller than image {:?}, which has {}", image.name, image.virtual_size),
        )
        .hint("ask for at least the image's size, or leave the disk size out to have just that"));
    }
    if size > VmSpec::MAX_DISK || !size.0.is_multiple_of(512) {
        return Err(Error::invalid(
            "BE-1006",
            format!("disk size {size} is not a whole number of 512-byte sectors up to {}", VmSpec::MAX_DISK),
        )
        .hint("give it with its unit, such as 20GiB"));
    }
    Ok(size)
}

fn sealed(plain: &[u8], uid: VmUid, seal: &dyn Seal) -> Result<berth_model::Sealed, Error> {
    if plain.len() as u64 > VmSpec::MAX_USER_DATA.0 {
        return Err(Error::invalid(
            "BE-1008",
            format!("user data has {} bytes, at most {} are allowed", plain.len(), VmSpec::MAX_USER_DATA),
        )
        .hint("let the guest fetch what is large"));
    }
    if std::str::from_utf8(plain).is_err() {
        return Err(Error::invalid("BE-1008", "user data is not UTF-8 text")
            .hint("cloud-init wants text such as #cloud-config or a script"));
    }
    seal.seal(plain, uid.0.as_str().as_bytes()).map_err(|why| {
        let mut error = Error::new(Kind::Internal, "BE-9001", "the user data could not be sealed");
        error.context = Some(why);
        error
    })
}

/// Refuses what no known host could hold even if it were empty: waiting for it would be waiting for a purchase.
fn some_host_could_hold(view: &Cluster, spec: &VmSpec) -> Result<(), Error> {
    let mut refusals = Vec::new();
    for host in view.hosts.values() {
        match berth_planner::never_fits(host, spec) {
            None => return Ok(()),
            Some(why) => refusals.push(format!("{} {why}", host.meta.name)),
        }
    }
    if refusals.is_empty() {
        return Ok(());
    }
    refusals.sort();
    let more = refusals.len().saturating_sub(4);
    refusals.truncate(4);
    if more > 0 {
        refusals.push(format!("and {more} more"));
    }
    Err(Error::new(
        Kind::Precondition,
        "BE-3001",
        format!(
            "no host could ever hold a VM of {} CPUs and {}, even when empty: {}",
            spec.cpus,
            spec.memory,
            refusals.join("; ")
        ),
    )
    .hint("ask for less, or add a larger host first; 'berth host list' shows what there is"))
}
