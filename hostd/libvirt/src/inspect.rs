//! What libvirt and QEMU say of a running VM, for whoever wants proof: pinning, queues, memory, the process.

use std::fs;
use std::time::Duration;

use berth_host::backend::BackendError;
use berth_model::host::{ThreadId, ThreadSet};
use berth_model::{Bytes, VmUid};
use serde_json::{Value, json};
use virt::domain::Domain;
use virt::error::Error;

use crate::execute::{LibvirtBackend, find};
use crate::ffi;

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
    /// Whether the host's page cache is bypassed.
    pub direct: bool,
    /// Whether the guest cannot write.
    pub read_only: bool,
}

/// What libvirt and QEMU say of a running VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Where each vCPU may run, in their order, as libvirt says.
    pub vcpus: Vec<ThreadSet>,
    /// Where QEMU's own threads may run, as libvirt says.
    pub emulator: ThreadSet,
    /// Where each IOThread may run, as libvirt says.
    pub iothreads: Vec<(u32, ThreadSet)>,
    /// Each disk, as QEMU says.
    pub disks: Vec<DiskFacts>,
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
            let failed = |error: Error| inner.failure("InspectFailed", &what, &error);
            let odd = |why: String| BackendError::Failed { reason: "InspectFailed", what: what.clone(), why };
            if !found.domain.is_active().map_err(failed)? {
                return Err(not_running());
            }
            let qmp = Qmp { domain: &found.domain };
            let vcpus = found.domain.get_vcpus_flags(0).map_err(failed)?;
            let thread = qmp.a_vcpu_thread().map_err(odd)?;
            let qemu_pid = process_of(thread).map_err(odd)?;
            Ok(Facts {
                vcpus: ffi::vcpu_pins(&found.domain, vcpus).map_err(failed)?.into_iter().map(threads).collect(),
                emulator: threads(ffi::emulator_pins(&found.domain).map_err(failed)?),
                iothreads: ffi::iothread_pins(&found.domain)
                    .map_err(failed)?
                    .into_iter()
                    .map(|(id, cpus)| (id, threads(cpus)))
                    .collect(),
                disks: qmp.disks().map_err(odd)?,
                qemu_pid,
                hugepages: hugepages_of(qemu_pid).map_err(odd)?,
            })
        })
    }
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

    fn disks(&self) -> Result<Vec<DiskFacts>, String> {
        let blocks = self.ask("query-block", &json!({}))?;
        let disk = |block: &Value| {
            let inserted = block.get("inserted")?;
            let at = block.get("qdev")?.as_str()?;
            // libvirt names the backend child of a virtio device; the properties are on the device itself or on it.
            let device = at.strip_suffix("/virtio-backend").unwrap_or(at);
            let iothread = self.property(device, "iothread");
            Some(DiskFacts {
                device: device.to_owned(),
                file: inserted.get("file").and_then(Value::as_str).unwrap_or_default().to_owned(),
                queues: self.property(device, "num-queues").and_then(|value| value.as_u64()),
                iothread: iothread
                    .as_ref()
                    .and_then(Value::as_str)
                    .and_then(|path| path.rsplit('/').next())
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned),
                direct: inserted.pointer("/cache/direct").and_then(Value::as_bool).unwrap_or(false),
                read_only: inserted.get("ro").and_then(Value::as_bool).unwrap_or(false),
            })
        };
        Ok(blocks.as_array().into_iter().flatten().filter_map(disk).collect())
    }

    fn a_vcpu_thread(&self) -> Result<u32, String> {
        let cpus = self.ask("query-cpus-fast", &json!({}))?;
        cpus.pointer("/0/thread-id")
            .and_then(Value::as_u64)
            .and_then(|thread| u32::try_from(thread).ok())
            .ok_or_else(|| "QEMU names no thread of vCPU 0".to_owned())
    }
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
    }
}
