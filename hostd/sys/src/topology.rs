//! The CPU threads that are online and where they sit, from sysfs.
//!
//! Only what is online counts: the kernel keeps folders of CPUs that are switched off. Core numbers are our own, dense
//! and in the order of each core's lowest thread, because the kernel's `core_id` repeats from socket to socket and,
//! on some machines, from die to die.

use std::collections::BTreeMap;
use std::path::Path;

use berth_model::host::{CoreId, NodeId, Thread, ThreadId, ThreadSet, Topology};

use crate::{Error, files};

/// Reads the topology below `root`. A machine without NUMA has the one node 0.
pub fn read(root: &Path) -> Result<Topology, Error> {
    let cpus = root.join("sys/devices/system/cpu");
    let online = files::threads(&cpus.join("online"))?;
    let nodes = files::nodes(root)?;
    let mut node_of = BTreeMap::new();
    for (node, folder) in &nodes {
        node_of.extend(files::threads(&folder.join("cpulist"))?.iter().map(|thread| (thread, *node)));
    }

    // A core is known by the lowest of its threads that is online.
    let mut core_of: BTreeMap<ThreadId, CoreId> = BTreeMap::new();
    let mut threads = Vec::with_capacity(online.len());
    for id in online.iter() {
        let folder = cpus.join(format!("cpu{id}/topology"));
        let siblings = siblings(&folder)?;
        let lowest = siblings.iter().find(|sibling| online.contains(*sibling)).unwrap_or(id);
        let next = CoreId(u32::try_from(core_of.len()).expect("a thread set holds far fewer than 2^32 threads"));
        let core = *core_of.entry(lowest).or_insert(next);
        let node = match node_of.get(&id) {
            Some(node) => *node,
            None if nodes.is_empty() => NodeId(0),
            None => {
                return Err(Error::ThreadWithoutNode { thread: id, folder: root.join("sys/devices/system/node") });
            }
        };
        // Where there are no packages to speak of, the kernel says -1.
        let package: i32 = files::number(&folder.join("physical_package_id"))?;
        threads.push(Thread { id, core, socket: u32::try_from(package).unwrap_or(0), node });
    }
    Ok(Topology { threads })
}

/// The threads of one core; the file got a better name in Linux 5.3 and the old one will go.
fn siblings(folder: &Path) -> Result<ThreadSet, Error> {
    let path = folder.join("core_cpus_list");
    if path.exists() { files::threads(&path) } else { files::threads(&folder.join("thread_siblings_list")) }
}

/// The part of `whole` that a slice of the machine may use; numbers stay as they are.
pub fn restrict(whole: &Topology, slice: &ThreadSet) -> Result<Topology, Error> {
    let threads =
        slice.iter().map(|id| whole.thread(id).copied().ok_or(Error::ThreadNotOnline(id))).collect::<Result<_, _>>()?;
    Ok(Topology { threads })
}

#[cfg(test)]
mod tests;
