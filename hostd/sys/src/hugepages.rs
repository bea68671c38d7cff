//! Pools of hugepages by NUMA node: reading them, asking the kernel for them, and what it really gave.
//!
//! The kernel takes any number and gives as many pages as it finds whole, so every number here is read back.

use std::fs;
use std::path::{Path, PathBuf};

use berth_model::PageSize;
use berth_model::host::{HugepagePool, NodeId};

use crate::{Error, files};

/// The sizes that guests are given.
const SIZES: [PageSize; 2] = [PageSize::Huge2M, PageSize::Huge1G];

/// Where a machine without NUMA has its pools.
const WITHOUT_NODES: &str = "sys/kernel/mm/hugepages";

/// The pools of every node, in ascending order of node and size; sizes that the processor lacks are left out.
pub fn read(root: &Path) -> Result<Vec<HugepagePool>, Error> {
    let mut pools = Vec::new();
    for (node, folder) in folders(root)? {
        for page in SIZES {
            if let Some(pool) = pool(&folder, page) {
                pools.push(HugepagePool { node, page, total: files::number(&pool.join("nr_hugepages"))? });
            }
        }
    }
    Ok(pools)
}

/// Asks for `total` pages of one size on the whole machine, evenly over its nodes, and says what the kernel gave.
///
/// The answer may hold fewer pages than asked for, and more where pages that are no longer wanted are in use. Nothing
/// is written where a pool has its number already.
pub fn ensure(root: &Path, page: PageSize, total: u64) -> Result<Vec<HugepagePool>, Error> {
    let all = folders(root)?;
    let offering: Vec<_> =
        all.iter().filter_map(|(node, folder)| pool(folder, page).map(|pool| (*node, pool))).collect();
    if offering.is_empty() && total > 0 {
        let folder = all.first().map_or_else(|| root.join(WITHOUT_NODES), |(_, folder)| folder.clone());
        return Err(Error::NoSuchHugepages { size: page.bytes(), folder: folder.join(name(page)) });
    }
    let mut given = Vec::with_capacity(offering.len());
    for ((node, pool), wanted) in offering.iter().zip(spread(total, offering.len())) {
        let path = pool.join("nr_hugepages");
        let mut now: u64 = files::number(&path)?;
        if now != wanted {
            let text = wanted.to_string();
            fs::write(&path, &text).map_err(|source| Error::Write { path: path.clone(), text, source })?;
            now = files::number(&path)?;
        }
        given.push(HugepagePool { node: *node, page, total: now });
    }
    Ok(given)
}

/// `total` in `parts` that differ by one at most; the first ones are the larger.
fn spread(total: u64, parts: usize) -> impl Iterator<Item = u64> {
    let parts = parts as u64;
    (0..parts).map(move |part| total / parts + u64::from(part < total % parts))
}

/// For each node the folder that holds a folder per page size.
fn folders(root: &Path) -> Result<Vec<(NodeId, PathBuf)>, Error> {
    let nodes = files::nodes(root)?;
    Ok(if nodes.is_empty() {
        vec![(NodeId(0), root.join(WITHOUT_NODES))]
    } else {
        nodes.into_iter().map(|(node, folder)| (node, folder.join("hugepages"))).collect()
    })
}

fn pool(folder: &Path, page: PageSize) -> Option<PathBuf> {
    Some(folder.join(name(page))).filter(|pool| pool.exists())
}

fn name(page: PageSize) -> String {
    format!("hugepages-{}kB", page.bytes().0 >> 10)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn machine(nodes: &[u32]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sys/devices/system/node");
        for node in nodes {
            for size in ["hugepages-2048kB", "hugepages-1048576kB"] {
                let pool = folder.join(format!("node{node}/hugepages/{size}"));
                fs::create_dir_all(&pool).unwrap();
                fs::write(pool.join("nr_hugepages"), "0\n").unwrap();
            }
        }
        let online: Vec<_> = nodes.iter().map(u32::to_string).collect();
        fs::write(folder.join("online"), online.join(",")).unwrap();
        root
    }

    #[test]
    fn pages_are_spread_evenly_over_the_nodes_and_read_back() {
        let root = machine(&[0, 1, 4]);
        let given = ensure(root.path(), PageSize::Huge2M, 11).unwrap();
        assert_eq!(given.iter().map(|pool| (pool.node.0, pool.total)).collect::<Vec<_>>(), [(0, 4), (1, 4), (4, 3)]);
        let read = read(root.path()).unwrap();
        assert_eq!(read.len(), 6);
        assert_eq!(read.iter().filter(|pool| pool.page == PageSize::Huge2M).copied().collect::<Vec<_>>(), given);
        assert!(read.iter().filter(|pool| pool.page == PageSize::Huge1G).all(|pool| pool.total == 0));
    }

    #[test]
    fn a_machine_without_nodes_has_one_pool_of_each_size_as_node_0() {
        let root = tempfile::tempdir().unwrap();
        let pool = root.path().join(WITHOUT_NODES).join("hugepages-2048kB");
        fs::create_dir_all(&pool).unwrap();
        fs::write(pool.join("nr_hugepages"), "7\n").unwrap();
        let given = ensure(root.path(), PageSize::Huge2M, 9).unwrap();
        assert_eq!(given, [HugepagePool { node: NodeId(0), page: PageSize::Huge2M, total: 9 }]);
        let refused = ensure(root.path(), PageSize::Huge1G, 1).unwrap_err().to_string();
        assert!(refused.contains("1GiB") && refused.contains("hugepages-1048576kB"), "{refused}");
        assert_eq!(ensure(root.path(), PageSize::Huge1G, 0).unwrap(), []);
    }

    #[test]
    fn a_pool_that_has_its_number_is_not_written() {
        let root = machine(&[0]);
        let file = root.path().join("sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages");
        fs::write(&file, "5\n").unwrap();
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        ensure(root.path(), PageSize::Huge2M, 5).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), before);
        assert_eq!(fs::read_to_string(&file).unwrap(), "5\n");
    }

    #[test]
    fn this_machines_pools_are_read() {
        assert!(!read(Path::new("/")).unwrap().is_empty());
    }
}
