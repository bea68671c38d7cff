//! Admission of what is asked of a VM: each wish becomes a value, and what cannot be is refused by its field.

use berth_model::image::ImageRef;
use berth_model::instancetype::PreferenceSpec;
use berth_model::vm::{DeviceDemand, NumaPolicy, Performance, RunStrategy, SmtPolicy, Tuning, VmSpec, budget};
use berth_model::{Bytes, Millis, Name, PageSize, VmUid};
use berth_state::Cluster;

use super::shown;
use crate::error::{Error, Kind};
use crate::ports::Seal;

/// The size that is asked for: by the name of an instance type, or by numbers.
pub(super) fn size(
    view: &Cluster,
    instance_type: Option<&str>,
    cpus: Option<u32>,
    memory: Option<u64>,
) -> Result<(Option<Name>, u32, Bytes), Error> {
    let (instance_type, cpus, memory) = match instance_type.filter(|name| !name.is_empty()) {
        Some(wanted) => {
            if cpus.is_some() || memory.is_some() {
                return Err(Error::invalid("BE-1007", "an instance type and cpus or memory are both given")
                    .hint("give either the instance type or cpus and memory"));
            }
            let found = view.instance_types.get(wanted).ok_or_else(|| {
                let known: Vec<_> = view.instance_types.keys().take(20).map(Name::as_str).collect();
                let shown = shown(wanted);
                Error::invalid("BE-1002", format!("unknown instance type {shown:?}"))
                    .hint(format!("known are {}", known.join(", ")))
            })?;
            (Some(found.meta.name.clone()), found.spec.cpus, found.spec.memory)
        }
        None => {
            let cpus = cpus.ok_or_else(|| missing("cpus"))?;
            let memory = memory.ok_or_else(|| missing("memory"))?;
            (None, cpus, Bytes(memory))
        }
    };
    within_limits(cpus, memory)?;
    Ok((instance_type, cpus, memory))
}

/// Whether a VM may be of this size at all.
pub(super) fn within_limits(cpus: u32, memory: Bytes) -> Result<(), Error> {
    if cpus == 0 || cpus > VmSpec::MAX_CPUS {
        return Err(Error::invalid("BE-1003", format!("cpus is {cpus}; a VM has 1 to {}", VmSpec::MAX_CPUS))
            .hint("2 to 8 are usual; with the template 'high' each gets a CPU thread of the host for itself"));
    }
    if memory < VmSpec::MIN_MEMORY || memory > VmSpec::MAX_MEMORY {
        return Err(Error::invalid(
            "BE-1004",
            format!("memory is {memory}; a VM has {} to {}", VmSpec::MIN_MEMORY, VmSpec::MAX_MEMORY),
        )
        .hint("give it with its unit, such as 4GiB"));
    }
    Ok(())
}

fn missing(field: &str) -> Error {
    Error::invalid("BE-1012", format!("{field} is missing")).hint("give an instance type, or both cpus and memory")
}

/// The tuning template of this word; nothing said means `high`.
pub(super) fn performance(word: &str) -> Result<Performance, Error> {
    match word {
        "" | "high" | "high-performance" => Ok(Performance::High),
        "standard" => Ok(Performance::Standard),
        "density" | "high-density" => Ok(Performance::Density),
        other => Err(Error::invalid("BE-1007", format!("performance {:?} is not known", shown(other))).hint(
            "the templates are 'high' (CPU threads of its own, hugepages), 'standard' and 'density' (over-subscribed)",
        )),
    }
}

/// The run strategy of this word; nothing said means `Always`.
pub(super) fn run(word: &str) -> Result<RunStrategy, Error> {
    if word.is_empty() {
        return Ok(RunStrategy::Always);
    }
    RunStrategy::ALL.into_iter().find(|run| run.to_string() == word).ok_or_else(|| {
        Error::invalid("BE-1007", format!("run strategy {:?} is not known", shown(word)))
            .hint("use Always, RerunOnFailure, Manual, Once or Halted")
    })
}

/// The grace of so many milliseconds; nothing said means half a minute.
pub(super) fn grace(millis: Option<u64>) -> Result<Millis, Error> {
    let grace = millis.map_or(VmSpec::GRACE, Millis);
    if grace <= VmSpec::MAX_GRACE {
        return Ok(grace);
    }
    Err(Error::invalid("BE-1007", format!("a grace of {} s is longer than a day", grace.0 / 1000))
        .hint("a guest that needs longer is better shut down from within"))
}

/// The preference of this name, with its wishes.
pub(super) fn preference(view: &Cluster, wanted: Option<&str>) -> Result<Option<(Name, PreferenceSpec)>, Error> {
    let Some(wanted) = wanted.filter(|name| !name.is_empty()) else { return Ok(None) };
    let found = view.preferences.get(wanted).ok_or_else(|| {
        Error::invalid("BE-1014", format!("unknown preference {:?}", shown(wanted)))
            .hint("'berth preference list' shows what is there, 'berth preference create' makes one known")
    })?;
    Ok(Some((found.meta.name.clone(), found.spec)))
}

/// What the template, the preference and the VM's own wishes come to; a wish of the VM goes before one of the
/// preference, and both before the template.
pub(super) fn tuning(
    performance: Performance,
    preference: Option<&(Name, PreferenceSpec)>,
    wishes: &PreferenceSpec,
) -> Result<Tuning, Error> {
    let base = Tuning::of(performance);
    let theirs = preference.map(|(_, spec)| *spec).unwrap_or_default();
    let asked = Tuning {
        pages: wishes.pages.or(theirs.pages).unwrap_or(base.pages),
        smt: wishes.smt.or(theirs.smt).unwrap_or(base.smt),
        numa: wishes.numa.or(theirs.numa).unwrap_or(base.numa),
        dedicated_emulator: wishes.dedicated_emulator.or(theirs.dedicated_emulator).unwrap_or(base.dedicated_emulator),
        dedicated_iothreads: wishes
            .dedicated_iothreads
            .or(theirs.dedicated_iothreads)
            .unwrap_or(base.dedicated_iothreads),
        cpu_shape: wishes.cpu_shape.or(theirs.cpu_shape).unwrap_or(base.cpu_shape),
    };
    if asked.dedicated_iothreads > Tuning::MOST_IOTHREADS {
        let (count, most) = (asked.dedicated_iothreads, Tuning::MOST_IOTHREADS);
        return Err(Error::invalid(
            "BE-1015",
            format!("tuning.dedicated_iothreads is {count}; at most {most} are possible"),
        )
        .hint("one for each busy disk is plenty"));
    }
    if let Some((field, value)) = only_pinned(&asked).filter(|_| !performance.is_pinned()) {
        let whose = preference.filter(|_| !of_its_own(field, wishes)).map(|(name, _)| format!(" (preference {name})"));
        let whose = whose.unwrap_or_default();
        return Err(Error::invalid(
            "BE-1015",
            format!("tuning.{field} is {value}{whose}, which the template '{performance}' cannot give: its CPUs float and its memory lies on ordinary pages"),
        )
        .hint("use the template 'high', or leave it out"));
    }
    Ok(asked)
}

/// The first thing in it that only a VM with threads of its own can have.
fn only_pinned(tuning: &Tuning) -> Option<(&'static str, String)> {
    let Tuning { pages, smt, numa, dedicated_emulator, dedicated_iothreads, cpu_shape: _ } = *tuning;
    if pages != PageSize::Small {
        return Some(("pages", pages.to_string()));
    }
    if smt != SmtPolicy::Siblings {
        return Some(("smt", smt.to_string()));
    }
    if numa != NumaPolicy::Fewest {
        return Some(("numa", numa.to_string()));
    }
    if dedicated_emulator {
        return Some(("dedicated_emulator", "true".into()));
    }
    (dedicated_iothreads > 0).then(|| ("dedicated_iothreads", dedicated_iothreads.to_string()))
}

fn of_its_own(field: &str, wishes: &PreferenceSpec) -> bool {
    match field {
        "pages" => wishes.pages.is_some(),
        "smt" => wishes.smt.is_some(),
        "numa" => wishes.numa.is_some(),
        "dedicated_emulator" => wishes.dedicated_emulator.is_some(),
        _ => wishes.dedicated_iothreads.is_some(),
    }
}

/// Whether these devices can be asked for together with this template.
pub(super) fn devices(devices: &[DeviceDemand], performance: Performance) -> Result<(), Error> {
    let refuse = |why: String, advice: &str| Err(Error::invalid("BE-1016", why).hint(advice));
    let most = VmSpec::MOST_DEVICES;
    if devices.len() > most as usize {
        return refuse(
            format!("devices: {} kinds are given, at most {most} are allowed", devices.len()),
            "ask for less",
        );
    }
    let mut sum = 0_u32;
    for (at, demand) in devices.iter().enumerate() {
        if demand.count == 0 || demand.count > most {
            let why = format!("devices[{at}].count is {}; a VM has 1 to {most} devices", demand.count);
            return refuse(why, "leave out what is not wanted");
        }
        sum = sum.saturating_add(demand.count);
        if devices[..at].iter().any(|other| other.kind == demand.kind) {
            let why = format!("devices[{at}].kind {} is given twice", demand.kind);
            return refuse(why, "give each kind once, with how many are wanted");
        }
    }
    if sum > most {
        return refuse(format!("devices: {sum} are asked for, at most {most} are possible"), "ask for less");
    }
    if performance == Performance::Density && !devices.is_empty() {
        return refuse(
            "devices cannot be given to a VM of the template 'density': a device may write to all guest memory at any time, \
             so that all of it must be there"
                .into(),
            "use the template 'standard' or 'high'",
        );
    }
    Ok(())
}

/// Whether its devices find interrupt vectors and PCI slots (requirement C7).
pub(super) fn budget(spec: &VmSpec) -> Result<(), Error> {
    let (disks, cards, devices) = (spec.disk_count(), spec.nic_count(), spec.device_count());
    let parts = format!("{disks} disks, {cards} network cards and {devices} passed-through devices");
    if spec.queues().is_none() {
        let (needed, most) = (spec.msi_vectors(1), budget::MSI_VECTORS);
        return Err(Error::invalid(
            "BE-1017",
            format!(
                "{parts} of a VM of {} CPUs need {needed} interrupt vectors even with one queue each, a guest has {most}",
                spec.cpus
            ),
        )
        .hint("ask for fewer devices, or for fewer CPUs: each device takes a vector for each CPU, up to 33"));
    }
    let (needed, most) = (spec.pci_slots(), budget::PCI_SLOTS);
    if needed > most {
        return Err(Error::invalid("BE-1017", format!("{parts} need {needed} PCI slots, a VM has {most}"))
            .hint("ask for fewer devices"));
    }
    Ok(())
}

/// Whether its memory is a whole number of the pages that it lies on.
pub(super) fn whole_pages(spec: &VmSpec) -> Result<(), Error> {
    let page = spec.page_size();
    if spec.memory.0.is_multiple_of(page.bytes().0) {
        return Ok(());
    }
    let pages = if page == PageSize::Small { "pages" } else { "hugepages" };
    Err(Error::invalid("BE-1004", format!("memory {} is not a whole number of {page} {pages}", spec.memory))
        .hint(format!("use a multiple of {page}")))
}

pub(super) fn image(view: &Cluster, wanted: &str) -> Result<ImageRef, Error> {
    if wanted.is_empty() {
        return Err(Error::invalid("BE-1012", "image is missing").hint("'berth image list' shows what is there"));
    }
    let found = view.images.get(wanted).ok_or_else(|| {
        let shown = shown(wanted);
        Error::invalid("BE-1005", format!("unknown image {shown:?}"))
            .hint("'berth image list' shows what is there, 'berth image create' makes one known")
    })?;
    Ok(ImageRef { name: found.meta.name.clone(), sha256: found.spec.sha256, virtual_size: found.spec.virtual_size })
}

pub(super) fn disk_size(wanted: Option<u64>, image: &ImageRef) -> Result<Bytes, Error> {
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

pub(super) fn sealed(plain: &[u8], uid: VmUid, seal: &dyn Seal) -> Result<berth_model::Sealed, Error> {
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
pub(super) fn some_host_could_hold(view: &Cluster, spec: &VmSpec) -> Result<(), Error> {
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
