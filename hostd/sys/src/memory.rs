//! How much ordinary memory each NUMA node has for VMs.

use std::path::Path;

use berth_model::Bytes;
use berth_model::host::{HugepagePool, NodeId, NodeMemory};

use crate::{Error, files};

/// All memory of each NUMA node, hugepages included, in ascending order of node; nodes without memory are left out.
///
/// A machine with one node has what `/proc/meminfo` says: where memory is plugged in at run time, the node's own
/// account lags behind.
pub fn read(root: &Path) -> Result<Vec<(NodeId, Bytes)>, Error> {
    let nodes = files::nodes(root)?;
    if let [] | [_] = nodes[..] {
        let node = nodes.first().map_or(NodeId(0), |(node, _)| *node);
        return Ok(vec![(node, Bytes(files::meminfo(&root.join("proc/meminfo"), "MemTotal")?))]);
    }
    let mut totals = Vec::with_capacity(nodes.len());
    for (node, folder) in nodes {
        let total = files::meminfo(&folder.join("meminfo"), "MemTotal")?;
        if total > 0 {
            totals.push((node, Bytes(total)));
        }
    }
    Ok(totals)
}

/// What is left for VMs on ordinary pages: beyond the hugepage pools and beyond `host_memory`, which is taken from all
/// nodes alike and, where a node has too little, from the others.
pub fn ordinary(totals: &[(NodeId, Bytes)], pools: &[HugepagePool], host_memory: Bytes) -> Vec<NodeMemory> {
    let mut left: Vec<_> = totals
        .iter()
        .map(|(node, total)| {
            let pooled = pools.iter().filter(|pool| pool.node == *node);
            let huge =
                pooled.fold(0_u64, |sum, pool| sum.saturating_add(pool.page.bytes().0.saturating_mul(pool.total)));
            NodeMemory { node: *node, ordinary: total.saturating_sub(Bytes(huge)) }
        })
        .collect();
    // From the smallest on, so that what it cannot give is shared by those that can.
    left.sort_by_key(|memory| memory.ordinary);
    let mut wanted = host_memory.0;
    let mut nodes = left.len() as u64;
    for memory in &mut left {
        let taken = wanted.div_ceil(nodes).min(memory.ordinary.0);
        memory.ordinary.0 -= taken;
        wanted -= taken;
        nodes -= 1;
    }
    left.sort_by_key(|memory| memory.node);
    left
}

/// Files and devices to which memory may be swapped at this moment.
pub fn swaps(root: &Path) -> Result<Vec<String>, Error> {
    let path = root.join("proc/swaps");
    if !path.exists() {
        return Ok(Vec::new()); // a kernel that cannot swap
    }
    let text = files::text(&path)?;
    // The first line names the columns.
    Ok(text.lines().skip(1).filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use berth_model::PageSize;

    use super::*;

    fn node(node: u32, mib: u64) -> (NodeId, Bytes) {
        (NodeId(node), Bytes::mib(mib))
    }

    fn left(totals: &[(NodeId, Bytes)], pools: &[HugepagePool], host: Bytes) -> Vec<u64> {
        ordinary(totals, pools, host).iter().map(|memory| memory.ordinary.0 >> 20).collect()
    }

    #[test]
    fn hugepages_and_the_hosts_own_memory_are_not_ordinary_memory() {
        let pools = [
            HugepagePool { node: NodeId(0), page: PageSize::Huge2M, total: 100 },
            HugepagePool { node: NodeId(0), page: PageSize::Huge1G, total: 1 },
            HugepagePool { node: NodeId(1), page: PageSize::Huge2M, total: 50 },
        ];
        assert_eq!(left(&[node(0, 4096), node(1, 4096)], &pools, Bytes::mib(512)), [2616, 3740]);
    }

    #[test]
    fn a_small_node_gives_what_it_has_and_the_others_give_the_rest() {
        assert_eq!(left(&[node(0, 4096), node(1, 100)], &[], Bytes::mib(1024)), [3172, 0]);
        assert_eq!(left(&[node(0, 10), node(1, 10)], &[], Bytes::mib(1024)), [0, 0]);
        assert_eq!(left(&[], &[], Bytes::mib(1024)), Vec::<u64>::new());
    }

    #[test]
    fn a_machine_without_nodes_or_with_one_has_what_the_kernel_says_of_the_whole() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/meminfo"), "MemTotal:       24684096 kB\nMemFree:  1 kB\n").unwrap();
        assert_eq!(read(root.path()).unwrap(), [(NodeId(0), Bytes(24_684_096 << 10))]);
        let nodes = root.path().join("sys/devices/system/node");
        fs::create_dir_all(nodes.join("node0")).unwrap();
        fs::write(nodes.join("online"), "0\n").unwrap();
        fs::write(nodes.join("node0/meminfo"), "Node 0 MemTotal:  7170264 kB\n").unwrap();
        assert_eq!(read(root.path()).unwrap(), [(NodeId(0), Bytes(24_684_096 << 10))]);
        fs::create_dir_all(nodes.join("node2")).unwrap();
        fs::write(nodes.join("online"), "0,2\n").unwrap();
        fs::write(nodes.join("node2/meminfo"), "Node 2 MemTotal:  1024 kB\nNode 2 MemFree: 8 kB\n").unwrap();
        assert_eq!(read(root.path()).unwrap(), [(NodeId(0), Bytes(7_170_264 << 10)), (NodeId(2), Bytes(1 << 20))]);
    }
}
