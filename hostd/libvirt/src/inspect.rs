//! What libvirt and QEMU say of a running VM, for whoever wants proof: pinning, queues, memory, the process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use berth_host::backend::BackendError;
use berth_model::host::{ThreadId, ThreadSet};
use berth_model::vm::Accelerator;
use berth_model::{Bytes, VmUid};
use serde_json::{Value, json};
use virt::domain::Domain;
use virt::error::Error;

use crate::execute::{LibvirtBackend, find};
use crate::ffi;
use crate::link::Link;

const INSPECT_LIMIT: Duration = Duration::from_secs(30);

/// One disk as QEMU has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskFacts {
    /// The path of the device in QEMU's object tree.
    pub device: String,
    /// The file it lies on.
    pub file: String,
    /// Queues that the guest sees.
    pub queues: Option<u64>,
    /// The IOThread that serves it, by its name in QEMU.
    pub iothread: Option<String>,
    /// The IOThreads to which its queues are dealt out, by their names in QEMU; none if one serves all.
    pub mapped: Vec<String>,
    /// Whether the host's page cache is bypassed.
    pub direct: bool,
    /// How its I/O is done, as QEMU was told: `native`, `io_uring` or `threads`.
    pub aio: Option<String>,
    /// Whether the guest cannot write.
    pub read_only: bool,
}

/// A part of guest memory as QEMU has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryFacts {
    /// Its name in QEMU.
    pub name: String,
    /// Its size.
    pub size: Bytes,
    /// Whether pages that are alike may be merged.
    pub merge: bool,
    /// The host's NUMA nodes that it is bound to; none if the kernel puts it where it likes.
    pub bound_to: Vec<u32>,
}

/// The balloon as QEMU has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BalloonFacts {
    /// Whether the guest gives free pages back by itself.
    pub reports_free_pages: bool,
    /// Whether it yields when the guest runs out of memory.
    pub yields: bool,
}

/// The virtual CPUs as QEMU has them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuFacts {
    /// What QEMU calls the model: `host`, `max`, `qemu64`.
    pub model: String,
    /// Sockets, cores of each, threads of each core.
    pub topology: (usize, usize, usize),
    /// Whether the guest is told that it has its threads for itself.
    pub hint_dedicated: bool,
    /// Where the kernel lets each run, in their order.
    pub allowed: Vec<ThreadSet>,
}

/// What libvirt and QEMU say of a running VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// What runs its code, as QEMU says.
    pub accelerator: Accelerator,
    /// Where each vCPU may run, in their order, as libvirt says.
    pub vcpus: Vec<ThreadSet>,
    /// The virtual CPUs, as QEMU and the kernel say.
    pub cpu: CpuFacts,
    /// Where QEMU's own threads may run, as libvirt says.
    pub emulator: ThreadSet,
    /// Where each IOThread may run, as libvirt says.
    pub iothreads: Vec<(u32, ThreadSet)>,
    /// Each disk, as QEMU says.
    pub disks: Vec<DiskFacts>,
    /// Guest memory, as QEMU says.
    pub memory: Vec<MemoryFacts>,
    /// The balloon, as QEMU says, if there is one.
    pub balloon: Option<BalloonFacts>,
    /// QEMU's process id.
    pub qemu_pid: u32,
    /// Memory of that process on hugepages, by the kernel's count.
    pub hugepages: Bytes,
}

impl LibvirtBackend {
    /// Asks libvirt, QEMU and the kernel about a running VM.
    pub fn inspect(&self, vm: VmUid) -> Result<Facts, BackendError> {
        let (options, link) = (self.options().clone(), self.scans());
        let inner = link.clone();
        link.call(INSPECT_LIMIT, move |connection| {
            let what = format!("inspecting VM {vm}");
            let not_running = || BackendError::Failed {
                reason: "NotRunning",
                what: what.clone(),
                why: "it does not run on this host".to_owned(),
            };
            let found = find(connection, &inner, options.cluster, vm, &what)?.ok_or_else(not_running)?;
            if !found.domain.is_active().map_err(|error| inner.failure("InspectFailed", &what, &error))? {
                return Err(not_running());
            }
            facts_of(&found.domain).map_err(|error| error.into_backend(&inner, &what))
        })
    }
}

/// Why a running VM could not be looked at.
#[derive(Debug)]
pub(crate) enum Unseen {
    /// Libvirt refused, or is away.
    Libvirt(Error),
    /// What was said cannot be understood.
    Odd(String),
}

impl Unseen {
    pub(crate) fn into_backend(self, link: &Link, what: &str) -> BackendError {
        match self {
            Self::Libvirt(error) => link.failure("InspectFailed", what, &error),
            Self::Odd(why) => BackendError::Failed { reason: "InspectFailed", what: what.to_owned(), why },
        }
    }
}

/// Asks libvirt, QEMU and the kernel about an active domain.
pub(crate) fn facts_of(domain: &Domain) -> Result<Facts, Unseen> {
    let (failed, odd) = (Unseen::Libvirt, Unseen::Odd);
    let qmp = Qmp { domain };
    let vcpus = domain.get_vcpus_flags(0).map_err(failed)?;
    let seen = qmp.ask("query-cpus-fast", &json!({})).map_err(odd)?;
    let threads_of_vcpus: Vec<u32> = values(&seen)
        .map(|cpu| cpu.get("thread-id").and_then(number))
        .collect::<Option<_>>()
        .ok_or_else(|| odd("QEMU names no thread of a vCPU".to_owned()))?;
    let first = threads_of_vcpus.first().ok_or_else(|| odd("QEMU names no vCPU".to_owned()))?;
    let qemu_pid = process_of(*first).map_err(odd)?;
    let pins = ffi::iothread_pins(domain).map_err(failed)?.into_iter();
    let mut iothreads: Vec<_> = pins.map(|(id, cpus)| (id, threads(cpus))).collect();
    iothreads.sort_unstable();
    Ok(Facts {
        accelerator: qmp.accelerator().map_err(odd)?,
        vcpus: ffi::vcpu_pins(domain, vcpus).map_err(failed)?.into_iter().map(threads).collect(),
        cpu: qmp.cpu(&seen, &threads_of_vcpus).map_err(odd)?,
        emulator: threads(ffi::emulator_pins(domain).map_err(failed)?),
        iothreads,
        disks: qmp.disks(&files_of(qemu_pid)).map_err(odd)?,
        memory: qmp.memory().map_err(odd)?,
        balloon: qmp.balloon(),
        qemu_pid,
        hugepages: hugepages_of(qemu_pid).map_err(odd)?,
    })
}

/// QEMU's own words, through libvirt. Reads only.
struct Qmp<'a> {
    domain: &'a Domain,
}

impl Qmp<'_> {
    fn ask(&self, command: &str, arguments: &Value) -> Result<Value, String> {
        let question = json!({ "execute": command, "arguments": arguments }).to_string();
        let answer = self.domain.qemu_monitor_command(&question, 0).map_err(|error| error.message().to_owned())?;
        let mut answer: Value = serde_json::from_str(&answer).map_err(|error| format!("QEMU's answer: {error}"))?;
        match answer.get_mut("return") {
            Some(value) => Ok(value.take()),
            None => Err(format!("QEMU refused {command}: {}", answer.get("error").unwrap_or(&Value::Null))),
        }
    }

    fn property(&self, path: &str, property: &str) -> Option<Value> {
        self.ask("qom-get", &json!({ "path": path, "property": property })).ok()
    }

    fn holds(&self, path: &str, property: &str) -> bool {
        self.property(path, property).and_then(|value| value.as_bool()).unwrap_or(false)
    }

    fn accelerator(&self) -> Result<Accelerator, String> {
        let kvm = self.ask("query-kvm", &json!({}))?;
        let is_kvm = kvm.get("enabled").and_then(Value::as_bool).ok_or("QEMU does not say whether KVM is used")?;
        Ok(if is_kvm { Accelerator::Kvm } else { Accelerator::Tcg })
    }

    /// From the answer to `query-cpus-fast`.
    fn cpu(&self, seen: &Value, threads: &[u32]) -> Result<CpuFacts, String> {
        let path = seen.pointer("/0/qom-path").and_then(Value::as_str).unwrap_or_default();
        let model = self.property(path, "type");
        let count = |names: &[&str]| {
            let place = |cpu: &Value| -> Vec<Option<u64>> {
                names.iter().map(|name| cpu.get("props")?.get(*name)?.as_u64()).collect()
            };
            values(seen).map(place).collect::<BTreeSet<_>>().len().max(1)
        };
        let (sockets, cores) = (count(&["socket-id"]), count(&["socket-id", "die-id", "core-id"]));
        Ok(CpuFacts {
            model: model
                .as_ref()
                .and_then(Value::as_str)
                .unwrap_or_default()
                .trim_end_matches("-x86_64-cpu")
                .to_owned(),
            topology: (sockets, cores / sockets, threads.len() / cores),
            hint_dedicated: self.holds(path, "kvm-hint-dedicated"),
            allowed: threads.iter().map(|thread| allowed(*thread)).collect::<Result<_, _>>()?,
        })
    }

    fn memory(&self) -> Result<Vec<MemoryFacts>, String> {
        let parts = self.ask("query-memdev", &json!({}))?;
        let part = |part: &Value| {
            let nodes = part.get("host-nodes").into_iter().flat_map(values).filter_map(number);
            let is_bound = part.get("policy").and_then(Value::as_str) == Some("bind");
            Some(MemoryFacts {
                name: part.get("id").and_then(Value::as_str).unwrap_or_default().to_owned(),
                size: Bytes(part.get("size")?.as_u64()?),
                merge: part.get("merge")?.as_bool()?,
                bound_to: if is_bound { nodes.collect() } else { Vec::new() },
            })
        };
        values(&parts).map(part).collect::<Option<_>>().ok_or_else(|| "QEMU does not say how memory lies".to_owned())
    }

    fn balloon(&self) -> Option<BalloonFacts> {
        // Libvirt calls the only balloon so.
        let at = "/machine/peripheral/balloon0";
        self.property(at, "type")?;
        let (reports_free_pages, yields) = (self.holds(at, "free-page-reporting"), self.holds(at, "deflate-on-oom"));
        Some(BalloonFacts { reports_free_pages, yields })
    }

    fn disks(&self, aio: &BTreeMap<String, String>) -> Result<Vec<DiskFacts>, String> {
        let blocks = self.ask("query-block", &json!({}))?;
        let disk = |block: &Value| {
            let inserted = block.get("inserted")?;
            let at = block.get("qdev")?.as_str()?;
            // libvirt names the backend child of a virtio device; the properties are on the device itself or on it.
            let device = at.strip_suffix("/virtio-backend").unwrap_or(at);
            let iothread = self.property(device, "iothread");
            let mapping = self.property(device, "iothread-vq-mapping").unwrap_or_default();
            let file = inserted.get("file").and_then(Value::as_str).unwrap_or_default();
            Some(DiskFacts {
                device: device.to_owned(),
                file: file.to_owned(),
                queues: self.property(device, "num-queues").and_then(|value| value.as_u64()),
                iothread: iothread
                    .as_ref()
                    .and_then(Value::as_str)
                    .and_then(|path| path.rsplit('/').next())
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned),
                mapped: values(&mapping).filter_map(|part| part.get("iothread")?.as_str().map(str::to_owned)).collect(),
                direct: inserted.pointer("/cache/direct").and_then(Value::as_bool).unwrap_or(false),
                aio: aio.get(file).cloned(),
                read_only: inserted.get("ro").and_then(Value::as_bool).unwrap_or(false),
            })
        };
        Ok(values(&blocks).filter_map(disk).collect())
    }
}

fn values(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn number(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

/// How QEMU does the I/O of each file that it was started with, by its command line: nothing that it answers tells.
fn files_of(process: u32) -> BTreeMap<String, String> {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let told = line.split(|byte| *byte == 0).filter_map(|word| serde_json::from_slice::<Value>(word).ok());
    told.filter_map(|node| {
        let text = |name: &str| node.get(name).and_then(Value::as_str).map(str::to_owned);
        Some((text("filename")?, text("aio").unwrap_or_else(|| "threads".to_owned())))
    })
    .collect()
}

/// Where the kernel lets a thread run.
fn allowed(thread: u32) -> Result<ThreadSet, String> {
    let path = format!("/proc/{thread}/status");
    let status = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    list.trim().parse().map_err(|error| format!("{path}: {error}"))
}

/// The process that a thread belongs to. libvirt does not tell QEMU's process id, but QEMU tells its threads'.
fn process_of(thread: u32) -> Result<u32, String> {
    let path = format!("/proc/{thread}/status");
    let status = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    number_after(&status, "Tgid:").ok_or_else(|| format!("{path} names no process"))
}

fn hugepages_of(process: u32) -> Result<Bytes, String> {
    let path = format!("/proc/{process}/smaps_rollup");
    let rollup = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let kib = |name| number_after::<u64>(&rollup, name).unwrap_or(0);
    Ok(Bytes((kib("Private_Hugetlb:") + kib("Shared_Hugetlb:")) * 1024))
}

fn number_after<T: std::str::FromStr>(text: &str, name: &str) -> Option<T> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn threads(cpus: Vec<u32>) -> ThreadSet {
    cpus.into_iter().map(ThreadId).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_leads_to_its_process_and_its_hugepages() {
        let me = std::process::id();
        assert_eq!(process_of(me), Ok(me));
        assert_eq!(hugepages_of(me), Ok(Bytes(0)));
        assert!(process_of(0).unwrap_err().contains("/proc/0/status"));
        assert!(!allowed(me).unwrap().is_empty());
    }
}
