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

    let mut cache_of: BTreeMap<ThreadId, u32> = BTreeMap::new();
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
        let sharers = last_level_cache(&cpus.join(format!("cpu{id}/cache")))?;
        let first = sharers.as_ref().and_then(|sharers| sharers.iter().find(|sharer| online.contains(*sharer)));
        let next = u32::try_from(cache_of.len()).expect("a thread set holds far fewer than 2^32 threads");
        // A machine that says nothing of caches, as many VMs do, has one a socket as far as anybody can tell.
        let socket = u32::try_from(package).unwrap_or(0);
        let cache = first.map_or(socket, |first| *cache_of.entry(first).or_insert(next));
        threads.push(Thread { id, core, socket, node, cache });
    }
    Ok(Topology { threads })
}

/// The threads of one core; the file got a better name in Linux 5.3 and the old one will go.
fn siblings(folder: &Path) -> Result<ThreadSet, Error> {
    let path = folder.join("core_cpus_list");
    if path.exists() { files::threads(&path) } else { files::threads(&folder.join("thread_siblings_list")) }
}

/// The threads that share the cache of the highest level; none where the kernel does not say.
fn last_level_cache(folder: &Path) -> Result<Option<ThreadSet>, Error> {
    let mut last: Option<(i32, ThreadSet)> = None;
    // The kernel numbers them from 0 without gaps.
    for index in 0.. {
        let cache = folder.join(format!("index{index}"));
        if !cache.join("level").exists() || !cache.join("shared_cpu_list").exists() {
            break;
        }
        let level = files::number(&cache.join("level"))?;
        if last.as_ref().is_none_or(|(highest, _)| level > *highest) {
            last = Some((level, files::threads(&cache.join("shared_cpu_list"))?));
        }
    }
    Ok(last.map(|(_, sharers)| sharers))
}

/// The part of `whole` that a slice of the machine may use; numbers stay as they are.
pub fn restrict(whole: &Topology, slice: &ThreadSet) -> Result<Topology, Error> {
    let threads =
        slice.iter().map(|id| whole.thread(id).copied().ok_or(Error::ThreadNotOnline(id))).collect::<Result<_, _>>()?;
    Ok(Topology { threads })
}

#[cfg(test)]
mod tests;
