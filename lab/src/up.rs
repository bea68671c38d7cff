//! Bringing a lab up, and removing all there is of one, whole or not.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;

use berth_pki::{Authority, Identity, Issued, Role, SealingKey};

use crate::error::{At as _, Error, Result};
use crate::machine::{self, Claim, Machine, Record};
use crate::plan::{self, Kind, NUMBERS, Plan};
use crate::{Client, KILLED, Lab, Options, config, libvirt, names, network, process, tool, validity};

/// In a state directory: what the lab is.
const DESCRIPTION: &str = "berth-lab.json";
/// What stays of a lab that was taken down.
const LOGS: &str = "logs";

/// Folders that a host sees its own of. A lab below one of them would not find itself.
const HIDDEN: [&str; 8] =
    ["/run", "/var/run", "/var/log", "/var/cache", "/var/lib/libvirt", "/etc/libvirt", "/sys", "/proc"];

pub(crate) fn up(options: &Options) -> Result<Lab> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    tool::check_installed()?;
    check_binaries(options)?;
    let members = plan::members(0, options.controllers, options.empty_controllers, options.hosts)?;
    check_memory(options)?;
    let state_dir = usable(&options.state_dir)?;

    let shared = Machine::lock()?;
    sweep(&shared, &state_dir)?;
    let claim = free_number(&shared, options.number)?;
    let record = Record {
        state_dir: state_dir.clone(),
        keep: options.keep,
        whole: false,
        boot: machine::boot()?,
        owner: process::Identity::own(),
    };
    claim.write(&record)?;
    (options.progress)(&format!("lab {}: {} members", claim.number, members.len()));
    let plan = Plan {
        number: claim.number,
        cluster: random_id()?,
        state_dir: state_dir.clone(),
        keep: options.keep,
        slice: options.slice.clone(),
        binaries: options.binaries.clone(),
        members: plan::members(claim.number, options.controllers, options.empty_controllers, options.hosts)?,
    };
    let mut lab = Lab { plan, claim: Some(claim), children: Mutex::default() };
    match bring_up(&lab, &shared, options) {
        Ok(()) => {}
        Err(error) => {
            drop(shared);
            // The first error is the one that tells; what the clean-up cannot remove the next one will.
            if let Err(second) = lab.take_down() {
                tracing::error!(error = &second as &dyn std::error::Error, "lab not taken down after a failed start");
            }
            return Err(error);
        }
    }
    drop(shared);
    if let Err(error) = start(&lab, options.progress) {
        if let Err(second) = lab.take_down() {
            tracing::error!(error = &second as &dyn std::error::Error, "lab not taken down after a failed start");
        }
        return Err(error);
    }
    let claim = lab.claim.take().expect("the claim of a lab that goes up is given back only by taking it down");
    claim.write(&Record { whole: true, ..record })?;
    if !options.keep {
        lab.claim = Some(claim);
    }
    Ok(lab)
}

/// Files, hugepages and network: everything that needs the machine's lock.
fn bring_up(lab: &Lab, shared: &Machine, options: &Options) -> Result<()> {
    let plan = &lab.plan;
    prepare_files(plan)?;
    (options.progress)("hugepages and network");
    shared.set_hugepages(plan.number, plan.slice.hugepages_2m * u64::from(options.hosts))?;
    network::up(plan)
}

fn check_binaries(options: &Options) -> Result<()> {
    let Options { binaries, controllers, empty_controllers, hosts, .. } = options;
    let needed = [
        (&binaries.controller, *controllers + *empty_controllers > 0),
        (&binaries.hostd, *hosts > 0),
        (&binaries.libvirtd, *hosts > 0),
    ];
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|(path, needed)| *needed && !path.is_file())
        .map(|(path, _)| path.display().to_string())
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Missing(missing.join(", "))) }
}

/// Memory that programs could still have, in bytes.
pub(crate) fn available_memory() -> Result<u64> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).at("read", path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kilobytes.map_or(u64::MAX, |kilobytes| kilobytes << 10))
}

/// The slices, which each host enforces for itself, must fit the machine together.
fn check_memory(options: &Options) -> Result<()> {
    let available = available_memory()?;
    let each = options.slice.memory_mib << 20;
    if each.saturating_mul(u64::from(options.hosts)) > available {
        return Err(Error::Memory { hosts: options.hosts, each, available });
    }
    Ok(())
}

/// The state directory as an absolute path, made and found to be a lab's or empty.
fn usable(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(path).at("make", path)?;
    let path = fs::canonicalize(path).at("find", path)?;
    let refuse = |why| Err(Error::StateDir { path: path.clone(), why });
    if HIDDEN.iter().any(|hidden| path.starts_with(hidden)) {
        return refuse("hosts see folders of their own there; choose another place, such as /var/tmp/lab".to_owned());
    }
    if !path.join(DESCRIPTION).exists() {
        for entry in fs::read_dir(&path).at("read", &path)? {
            let name = entry.at("read", &path)?.file_name();
            if name != LOGS && Path::new(&name) != machine::unfinished(Path::new(DESCRIPTION)) {
                return refuse(format!("it holds {}, which is not a lab's; choose an empty one", name.display()));
            }
        }
    }
    Ok(path)
}

/// Removes every lab that died, and the one in `state_dir` if it is not whole any more.
fn sweep(shared: &Machine, state_dir: &Path) -> Result<()> {
    for number in machine::registered() {
        let Some(claim) = machine::claim(number)? else {
            // In someone's hands. If it is in this very state directory, there is nothing to be done here.
            if machine::record(number)?.is_some_and(|record| record.state_dir == state_dir) {
                return Err(Error::Busy(number));
            }
            continue;
        };
        let record = claim.record()?;
        let here = record.as_ref().is_some_and(|record| record.state_dir == state_dir);
        let dead = match machine::is_dead(&claim)? {
            Some(false) if here => {
                let whole = match Lab::attach(state_dir) {
                    Ok(lab) => lab.runs_whole()?,
                    Err(Error::NoLab(_)) => false,
                    Err(error) => return Err(error),
                };
                if whole {
                    return Err(Error::AlreadyUp { number, state_dir: state_dir.to_owned() });
                }
                true
            }
            Some(dead) => dead,
            None => true,
        };
        if dead {
            tracing::info!(lab = number, "removing what a lab that died has left");
            clean(claim, shared, record.as_ref().map(|record| record.state_dir.as_path()), Vec::new())?;
        }
    }
    Ok(())
}

/// Takes the number asked for, or the lowest free one.
fn free_number(shared: &Machine, asked: Option<u8>) -> Result<Claim> {
    for number in (0..NUMBERS).filter(|number| asked.is_none_or(|asked| asked == *number)) {
        let Some(claim) = machine::claim(number)? else { continue };
        if claim.record()?.is_some() {
            continue;
        }
        if remains(number, shared)?.is_empty() {
            return Ok(claim);
        }
        // Unregistered and there: someone removed the registry. It is ours by its names.
        clean(claim, shared, None, Vec::new())?;
        if let Some(claim) = machine::claim(number)? {
            return Ok(claim);
        }
    }
    Err(asked.map_or(Error::NoNumber(NUMBERS), Error::Busy))
}

/// What the lab in a state directory is; `None` if there is none.
pub(crate) fn describe(state_dir: &Path) -> Result<Option<Plan>> {
    machine::load(&state_dir.join(DESCRIPTION))
}

/// An id for a cluster: 20 characters that may stand in a certificate's URI.
fn random_id() -> Result<String> {
    let path = "/dev/urandom";
    let mut bytes = [0; 20];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).at("read", path)?;
    let alphabet = b"0123456789abcdefghjkmnpqrstvwxyz";
    Ok(bytes.iter().map(|byte| char::from(alphabet[usize::from(byte % 32)])).collect())
}

/// Everything that is in files: the description first, then authority, certificates, keys and configurations.
fn prepare_files(plan: &Plan) -> Result<()> {
    empty(&plan.state_dir)?;
    machine::remove_file(&plan.state_dir.join(DESCRIPTION))?;
    if plan.logs().exists() {
        fs::remove_dir_all(plan.logs()).at("remove", plan.logs())?;
    }
    machine::store(&plan.state_dir.join(DESCRIPTION), plan)?;
    let authority = Authority::generate(&plan.cluster, validity())?;
    for folder in [plan.authority(), plan.logs(), plan.state_dir.join("pids")] {
        make(&folder)?;
    }
    authority.save(&plan.authority())?;
    let sealing = SealingKey::generate()?;
    for member in &plan.members {
        let folder = plan.folder(member);
        if member.empty {
            make(&folder)?;
            continue;
        }
        let tls = folder.join("tls");
        make(&tls)?;
        make(&folder.join("data"))?;
        let role = match member.kind {
            Kind::Controller => Role::Controller,
            Kind::Host => Role::Host,
        };
        let identity = Identity::new(&plan.cluster, role, &member.name)?;
        authority.issue(&identity, &names(member), validity())?.save(&tls)?;
        write(&plan.config(member), &config::member(plan, member))?;
        match member.kind {
            Kind::Controller => sealing.save(&folder.join("sealing.key"))?,
            Kind::Host => prepare_host(&folder)?,
        }
    }
    let operator = Identity::new(&plan.cluster, Role::Operator, "admin")?;
    save_client(plan, "admin", &authority.issue(&operator, &[], validity())?)?;
    Ok(())
}

fn prepare_host(folder: &Path) -> Result<()> {
    for below in ["images", "volumes"].into_iter().chain(libvirt::BOUND.map(|(below, _)| below)) {
        make(&folder.join(below))?;
    }
    let path = "/proc/sys/kernel/random/uuid";
    let uuid = fs::read_to_string(path).at("read", path)?;
    let settings = folder.join("etc-libvirt");
    write(&settings.join("libvirtd.conf"), &libvirt::libvirtd_conf(uuid.trim()))?;
    write(&settings.join("qemu.conf"), &libvirt::qemu_conf())
}

pub(crate) fn save_client(plan: &Plan, label: &str, issued: &Issued) -> Result<Client> {
    let folder = plan.state_dir.join("clients").join(label);
    make(&folder)?;
    issued.save(&folder)?;
    let config = folder.join("config.yaml");
    write(&config, &config::client(plan, &folder))?;
    Ok(Client { folder, config })
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).at("make", folder)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).at("write", path)
}

/// Starts every process and waits until all answer.
fn start(lab: &Lab, progress: fn(&str)) -> Result<()> {
    let plan = &lab.plan;
    let caches: Vec<_> = plan.of_kind(Kind::Host).map(|host| plan.folder(host).join("cache")).collect();
    let mut warm = true;
    for cache in &caches {
        warm &= libvirt::warm(cache)?;
    }
    let (mut rest, others): (Vec<_>, Vec<_>) =
        plan.first_processes().into_iter().map(|process| process.name).partition(|name| name.ends_with("-libvirtd"));
    let (keepers, daemons): (Vec<_>, Vec<_>) = others.into_iter().partition(|name| name.ends_with("-keeper"));
    for keeper in &keepers {
        lab.start(keeper)?;
    }
    if !warm {
        progress("libvirt finds out what QEMU can do, once");
        let first = rest.remove(0);
        lab.start(&first)?;
        lab.wait_ready(&first)?;
        for cache in &caches[1..] {
            libvirt::share(&caches[0], cache)?;
        }
    }
    progress("daemons");
    for name in rest.iter().chain(&daemons) {
        lab.start(name)?;
    }
    for name in rest.iter().chain(&daemons) {
        lab.wait_ready(name)?;
    }
    if let Some(cache) = caches.first() {
        libvirt::keep(cache)?;
    }
    Ok(())
}

/// Removes everything of a lab but its logs, and gives its number back.
///
/// Nothing is believed of what the lab noted of itself, but for where its files are: all else is found by the number.
pub(crate) fn clean(claim: Claim, shared: &Machine, state_dir: Option<&Path>, mut children: Vec<Child>) -> Result<()> {
    let number = claim.number;
    if let Some(record) = claim.record()? {
        claim.write(&Record { whole: false, owner: process::Identity::own(), ..record })?;
    }
    let left = process::kill_all(number, KILLED)?;
    for child in &mut children {
        // Killed, or gone long before; a child that outlived the kill is reported below.
        drop(child.try_wait());
    }
    if !left.is_empty() {
        return Err(Error::LeftBehind { number, what: left.into_iter().map(process::describe).collect() });
    }
    network::down(number)?;
    shared.set_hugepages(number, 0)?;
    if let Some(state_dir) = state_dir {
        machine::remove_file(&machine::unfinished(&state_dir.join(DESCRIPTION)))?;
    }
    if let Some(state_dir) = state_dir
        && describe(state_dir)?.is_some_and(|plan| plan.number == number)
    {
        for mount in mounts_below(state_dir)? {
            nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH).at("unmount", &mount)?;
        }
        empty(state_dir)?;
        machine::remove_file(&state_dir.join(DESCRIPTION))?;
    }
    let left = remains(number, shared)?;
    if !left.is_empty() {
        return Err(Error::LeftBehind { number, what: left });
    }
    claim.release()?;
    shared.tidy()
}

/// Removes everything in a lab's state directory but its description, which says whose the rest is, and its logs.
fn empty(state_dir: &Path) -> Result<()> {
    for entry in fs::read_dir(state_dir).at("read", state_dir)? {
        let entry = entry.at("read", state_dir)?;
        if entry.file_name() == LOGS || entry.file_name() == DESCRIPTION {
            continue;
        }
        let path = entry.path();
        let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.at("remove", &path)?;
    }
    Ok(())
}

/// Mounts in the machine's own namespace below a folder, the deepest first.
fn mounts_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let path = "/proc/self/mountinfo";
    let text = fs::read_to_string(path).at("read", path)?;
    // The kernel writes the few characters that would break the line as octal numbers.
    let plain = |field: &str| field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    let mut below: Vec<_> = text
        .lines()
        .filter_map(|line| Some(PathBuf::from(plain(line.split(' ').nth(4)?))))
        .filter(|point| point.starts_with(folder))
        .collect();
    below.reverse();
    Ok(below)
}

pub(crate) fn leftovers(number: u8) -> Result<Vec<String>> {
    let mut left: Vec<_> = machine::files(number).iter().map(|path| path.display().to_string()).collect();
    // Without a registry there is no account of hugepages to look into, and looking would make one.
    if Path::new(machine::FOLDER).exists() {
        let shared = Machine::lock()?;
        left.extend(remains(number, &shared)?);
        shared.tidy()?;
    } else {
        left.extend(visible(number));
    }
    Ok(left)
}

/// What is there of lab `number`, beside the files that register it.
fn remains(number: u8, shared: &Machine) -> Result<Vec<String>> {
    let mut left = visible(number);
    let pages = shared.hugepages(number)?;
    if pages > 0 {
        left.push(format!("{pages} hugepages"));
    }
    Ok(left)
}

fn visible(number: u8) -> Vec<String> {
    let mut left: Vec<_> = process::of_lab(number).into_iter().map(process::describe).collect();
    left.extend(process::network_namespaces(number).into_iter().map(|name| format!("network namespace {name}")));
    if network::root_link_exists(number) {
        left.push(format!("link {}", plan::root_link(number)));
    }
    left
}
