//! What this host is: read from the machine, and told as an inventory and conditions.
//!
//! Only what the kernel really gave is told, because the cluster books what is told (law 9).

use std::path::Path;

use berth_hostsys::kvm::Preflight;
use berth_hostsys::{hugepages, memory, merging, pci, topology};
use berth_model::condition::{Condition, ConditionStatus};
use berth_model::host::{HugepagePool, Inventory, NodeMemory, Topology};
use berth_model::vm::Accelerator;
use berth_model::{PageSize, Timestamp};

use crate::config::{Config, LabSlice};
use crate::passthrough;

/// The host's own account of itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What it is.
    pub inventory: Inventory,
    /// Facts that an operator should know.
    pub conditions: Vec<Condition>,
}

/// Reads the machine, asks it for hugepages where that is configured, and adds what the preflight found.
pub fn gather(config: &Config, preflight: &Preflight, now: Timestamp) -> Result<Facts, berth_hostsys::Error> {
    let root = &config.sysfs_root;
    let whole = topology::read(root)?;
    let (topology, pools, memory, wanted) = match &config.lab_slice {
        Some(slice) => {
            let topology = topology::restrict(&whole, &slice.cpus)?;
            let pools = share(&hugepages::read(root)?, slice.hugepages_2m);
            let memory = slice_memory(slice, &topology, &pools);
            (topology, pools, memory, Some(slice.hugepages_2m))
        }
        None => {
            if let Some(total) = config.hugepages_2m {
                hugepages::ensure(root, PageSize::Huge2M, total)?;
            }
            if let Some(total) = config.hugepages_1g {
                hugepages::ensure(root, PageSize::Huge1G, total)?;
            }
            if let Some(run) = config.merge_pages {
                merging::set(root, run)?;
            }
            let pools: Vec<_> = hugepages::read(root)?.into_iter().filter(|pool| pool.total > 0).collect();
            let memory = memory::ordinary(&memory::read(root)?, &pools, config.host_memory);
            (whole, pools, memory, config.hugepages_2m)
        }
    };
    let wanted = [(PageSize::Huge2M, wanted), (PageSize::Huge1G, config.hugepages_1g)];
    let mut conditions = vec![kvm_usable(preflight, now), hugepages_ready(&pools, wanted, now)];
    conditions.push(swap_off(&memory::swaps(root)?, config.swap, now));
    conditions.extend(merging::read(root)?.map(|merging| pages_merged(merging.runs, now)));
    if let Some(slice) = &config.lab_slice {
        conditions.push(shared_machine(slice, now));
    }
    let (devices, problems) = passthrough::select(&pci::read(root)?, &config.pci_devices);
    if !config.pci_devices.is_empty() {
        conditions.push(devices_ready(devices.len(), &problems, now));
    }
    let reserve = topology.host_reserve(config.host_cores);
    let inventory = Inventory {
        topology,
        reserve,
        memory,
        hugepages: pools,
        devices,
        accelerator: preflight.report(),
        versions: vec![berth_hostsys::kernel_version(Path::new("/"))?],
        overlap: config.lab_slice.is_some(),
    };
    Ok(Facts { inventory, conditions })
}

/// The first `wanted` pages of 2 MiB of a machine's pools, node by node.
fn share(pools: &[HugepagePool], wanted: u64) -> Vec<HugepagePool> {
    let mut left = wanted;
    let mut shares = Vec::new();
    for pool in pools.iter().filter(|pool| pool.page == PageSize::Huge2M) {
        let total = pool.total.min(left);
        left -= total;
        if total > 0 {
            shares.push(HugepagePool { total, ..*pool });
        }
    }
    shares
}

/// The slice's memory beyond its hugepages, all on the node of its first thread: a slice lies on one node.
fn slice_memory(slice: &LabSlice, topology: &Topology, pools: &[HugepagePool]) -> Vec<NodeMemory> {
    let huge: u64 = pools.iter().map(|pool| pool.total * pool.page.bytes().0).sum();
    let node = topology.threads.first().map(|thread| thread.node);
    let ordinary = slice.memory.saturating_sub(berth_model::Bytes(huge));
    node.map(|node| NodeMemory { node, ordinary }).into_iter().collect()
}

fn kvm_usable(preflight: &Preflight, since: Timestamp) -> Condition {
    let report = preflight.report();
    let usable = report.accelerator == Accelerator::Kvm;
    let message = match (&report.failed_step, &report.detail) {
        _ if usable => "a guest ran through every step of the preflight".to_owned(),
        (step, detail) => format!(
            "VMs run by QEMU's translator, which is slow: the preflight failed at its step {}: {}",
            step.as_deref().unwrap_or("unknown"),
            detail.as_deref().unwrap_or("no detail is known")
        ),
    };
    let reason = if usable { "PreflightPassed" } else { "PreflightFailed" };
    condition("KvmUsable", usable, reason, message, since)
}

fn hugepages_ready(pools: &[HugepagePool], wanted: [(PageSize, Option<u64>); 2], since: Timestamp) -> Condition {
    let given = |page| pools.iter().filter(|pool| pool.page == page).map(|pool| pool.total).sum::<u64>();
    let short = wanted.into_iter().find_map(|(page, wanted)| {
        let wanted = wanted.filter(|wanted| given(page) < *wanted)?;
        Some((page, wanted))
    });
    let Some((page, wanted)) = short else {
        let message = match (given(PageSize::Huge2M), given(PageSize::Huge1G)) {
            (small, 0) => format!("{small} pages of 2MiB are there"),
            (small, large) => format!("{small} pages of 2MiB and {large} of 1GiB are there"),
        };
        return condition("HugepagesReady", true, "AsConfigured", message, since);
    };
    let (given, setting) = (given(page), if page == PageSize::Huge1G { "hugepages_1g" } else { "hugepages_2m" });
    let message = format!(
        "{wanted} pages of {page} are configured and the kernel gave {given}; memory may be in pieces: restart the machine, \
         or ask for fewer in {setting}"
    );
    condition("HugepagesReady", false, "FewerThanConfigured", message, since)
}

/// What is promised to a guest is memory, not a place on a disk.
fn swap_off(swaps: &[String], is_wanted: bool, since: Timestamp) -> Condition {
    let on = swaps.join(", ");
    match (swaps.is_empty(), is_wanted) {
        (true, _) => condition("SwapOff", true, "NoSwap", "guest memory stays in memory".to_owned(), since),
        (false, true) => {
            condition("SwapOff", false, "AsConfigured", format!("guest memory may be swapped to {on}, as asked"), since)
        }
        (false, false) => {
            let message = format!(
                "guest memory may be swapped to {on}: turn it off (`swapoff -a`, and in /etc/fstab), or say swap = true in \
                 the daemon's configuration"
            );
            condition("SwapOff", false, "SwapIsOn", message, since)
        }
    }
}

fn pages_merged(runs: bool, since: Timestamp) -> Condition {
    let (reason, message) = if runs {
        ("Merging", "the kernel merges pages that are alike, of VMs of the template density")
    } else {
        ("NotMerging", "the kernel merges no pages; merge_pages = true in the daemon's configuration lets it")
    };
    condition("PagesMerged", runs, reason, message.to_owned(), since)
}

fn devices_ready(count: usize, problems: &[String], since: Timestamp) -> Condition {
    if problems.is_empty() {
        return condition(
            "PciDevicesReady",
            true,
            "AsConfigured",
            format!("{count} devices can be given to VMs"),
            since,
        );
    }
    let message = format!("{count} devices can be given to VMs; {}", problems.join("; "));
    condition("PciDevicesReady", false, "NotAllUsable", message, since)
}

fn shared_machine(slice: &LabSlice, since: Timestamp) -> Condition {
    let message = format!(
        "this host is a slice of a machine that it shares with others (threads {}, {} of memory): for a lab, never for \
         production",
        slice.cpus, slice.memory
    );
    condition("SharedMachine", true, "LabSlice", message, since)
}

fn condition(kind: &str, holds: bool, reason: &str, message: String, since: Timestamp) -> Condition {
    let status = ConditionStatus::from_bool(holds);
    Condition { kind: kind.into(), status, reason: reason.into(), message, since }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use berth_hostsys::kvm::Step;

    use super::*;

    /// Two nodes with two cores of two threads each, 4 GiB and 100 hugepages a node.
    fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/devices/system/cpu/online", "0-7\n");
        for cpu in 0..8 {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            write(&format!("{folder}/core_cpus_list"), &format!("{},{}\n", cpu % 4, cpu % 4 + 4));
            write(&format!("{folder}/physical_package_id"), "0\n");
        }
        write("sys/devices/system/node/online", "0-1\n");
        for (node, cpus) in [(0, "0-1,4-5\n"), (1, "2-3,6-7\n")] {
            let folder = format!("sys/devices/system/node/node{node}");
            write(&format!("{folder}/cpulist"), cpus);
            write(&format!("{folder}/meminfo"), &format!("Node {node} MemTotal:       4194304 kB\n"));
            write(&format!("{folder}/hugepages/hugepages-2048kB/nr_hugepages"), "100\n");
        }
        write("proc/meminfo", "MemTotal:        8388608 kB\n");
        write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        write("sys/kernel/mm/ksm/run", "0\n");
        write("sys/kernel/mm/ksm/pages_sharing", "0\n");
        root
    }

    fn config(root: &Path, settings: &str, slice: &str) -> Config {
        let text = format!(
            "name = \"h1\"\nlisten = \"10.0.0.1:7443\"\ncontrollers = [\"c:7440\"]\nsysfs_root = {root:?}\n{settings}\n\
             [tls]\nca = \"/ca\"\ncert = \"/cert\"\nkey = \"/key\"\n{slice}"
        );
        Config::parse(&text).unwrap()
    }

    fn slice(cpus: &str, pages: u64) -> String {
        format!("[lab_slice]\ncpus = \"{cpus}\"\nmemory = \"2GiB\"\nhugepages_2m = {pages}\n")
    }

    fn facts_of(root: &Path, settings: &str, slice: &str) -> Facts {
        gather(&config(root, settings, slice), &preflight(), Timestamp::default()).unwrap()
    }

    fn preflight() -> Preflight {
        Preflight { passed: vec![], failure: Some((Step::Exception, "an internal error".into())) }
    }

    fn find<'a>(facts: &'a Facts, kind: &str) -> &'a Condition {
        facts.conditions.iter().find(|condition| condition.kind == kind).unwrap()
    }

    #[test]
    fn a_whole_machine_asks_for_hugepages_and_keeps_cores_and_memory() {
        let root = machine();
        let facts = facts_of(root.path(), "host_cores = 1\nhugepages_2m = 300", "");
        let inventory = &facts.inventory;
        assert_eq!(inventory.reserve.to_string(), "0,4");
        assert_eq!(inventory.hugepages.iter().map(|pool| pool.total).sum::<u64>(), 300);
        let ordinary: u64 = inventory.memory.iter().map(|memory| memory.ordinary.0 >> 20).sum();
        assert_eq!(ordinary, 8192 - 600 - 1024);
        assert!(!inventory.overlap);
        assert_eq!(find(&facts, "HugepagesReady").status, ConditionStatus::True);
    }

    #[test]
    fn a_slice_takes_its_share_and_writes_nothing() {
        let root = machine();
        let facts = facts_of(root.path(), "host_cores = 0", &slice("2-3", 150));
        let inventory = &facts.inventory;
        assert_eq!(inventory.topology.threads.len(), 2);
        assert!(inventory.reserve.is_empty() && inventory.overlap);
        assert_eq!(inventory.hugepages.iter().map(|pool| pool.total).collect::<Vec<_>>(), [100, 50]);
        assert_eq!(inventory.memory.iter().map(|memory| memory.ordinary.0 >> 20).collect::<Vec<_>>(), [2048 - 300]);
        assert_eq!(find(&facts, "SharedMachine").status, ConditionStatus::True);
        let pool = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
        assert_eq!(fs::read_to_string(root.path().join(pool)).unwrap(), "100\n");
    }

    #[test]
    fn a_slice_that_wants_more_pages_than_there_are_says_so() {
        let root = machine();
        let facts = facts_of(root.path(), "host_cores = 0", &slice("0", 500));
        let condition = find(&facts, "HugepagesReady");
        assert_eq!(condition.status, ConditionStatus::False);
        assert!(condition.message.contains("500") && condition.message.contains("gave 200"), "{}", condition.message);
    }

    #[test]
    fn swap_is_told_unless_there_is_none() {
        let root = machine();
        assert_eq!(find(&facts_of(root.path(), "", ""), "SwapOff").status, ConditionStatus::True);
        let swaps = "Filename\tType\tSize\tUsed\tPriority\n/dev/vdb partition 1 0 -2\n/swap file 1 0 -3\n";
        fs::write(root.path().join("proc/swaps"), swaps).unwrap();
        let facts = facts_of(root.path(), "", "");
        let condition = find(&facts, "SwapOff");
        assert_eq!((condition.status, condition.reason.as_str()), (ConditionStatus::False, "SwapIsOn"));
        assert!(condition.message.contains("/dev/vdb, /swap"), "{}", condition.message);
        assert_eq!(find(&facts_of(root.path(), "swap = true", ""), "SwapOff").reason, "AsConfigured");
    }

    #[test]
    fn pages_are_merged_as_configured_and_a_lab_leaves_the_machine_alone() {
        let root = machine();
        let run = || fs::read_to_string(root.path().join("sys/kernel/mm/ksm/run")).unwrap();
        let status = |settings: &str, slice: &str| find(&facts_of(root.path(), settings, slice), "PagesMerged").status;
        assert_eq!(status("merge_pages = true\nhost_cores = 0", &slice("2-3", 150)), ConditionStatus::False);
        assert_eq!(run(), "0\n");
        assert_eq!(status("merge_pages = true", ""), ConditionStatus::True);
        assert_eq!(status("", ""), ConditionStatus::True, "what is set stays");
        assert_eq!(status("merge_pages = false", ""), ConditionStatus::False);
        assert_eq!(run(), "2");
    }

    #[test]
    fn devices_that_are_named_and_not_there_are_told() {
        let root = machine();
        assert!(facts_of(root.path(), "", "").conditions.iter().all(|condition| condition.kind != "PciDevicesReady"));
        let facts = facts_of(root.path(), "pci_devices = [\"10de:2204\"]", "");
        let condition = find(&facts, "PciDevicesReady");
        assert_eq!(condition.status, ConditionStatus::False);
        assert!(condition.message.contains("no PCI device 10de:2204"), "{}", condition.message);
        assert!(facts.inventory.devices.is_empty());
    }

    #[test]
    fn a_failed_preflight_names_its_step() {
        let root = machine();
        let facts = facts_of(root.path(), "", "");
        let condition = find(&facts, "KvmUsable");
        assert_eq!(condition.status, ConditionStatus::False);
        assert!(condition.message.contains("exception: an internal error"), "{}", condition.message);
        assert_eq!(facts.inventory.accelerator.accelerator, Accelerator::Tcg);
    }
}
