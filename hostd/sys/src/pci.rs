//! PCI functions of this host: what they are, where they hang, and what can only be given away together.

use std::fs;
use std::path::Path;

use berth_model::host::{NodeId, PciAddress, PciDevice, PciKind};

use crate::{Error, files};

/// One PCI function that the kernel lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Function {
    /// What a VM would be given.
    pub device: PciDevice,
    /// Whether it leads to others: such a function stays with the host when its IOMMU group is given away.
    pub is_bridge: bool,
}

/// The class of bridges, the upper byte of the kernel's `class`.
const BRIDGE: u32 = 0x06;

/// Every PCI function, in ascending order of address; none on a machine without PCI.
pub fn read(root: &Path) -> Result<Vec<Function>, Error> {
    let folder = root.join("sys/bus/pci/devices");
    let Ok(entries) = fs::read_dir(&folder) else { return Ok(Vec::new()) };
    let mut functions = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| Error::Read { path: folder.clone(), source })?;
        let Some(address) = address_of(&entry.path()) else { continue };
        functions.push(function(&entry.path(), address)?);
    }
    functions.sort_by_key(|function| function.device.address);
    Ok(functions)
}

fn function(folder: &Path, address: PciAddress) -> Result<Function, Error> {
    let (vendor, product) = (number(&folder.join("vendor"))?, number(&folder.join("device"))?);
    let class = number(&folder.join("class"))?;
    // -1 where the firmware does not say; the file is missing on a kernel built without NUMA.
    let node = files::number::<i64>(&folder.join("numa_node")).ok().and_then(|node| u32::try_from(node).ok());
    let group = linked(&folder.join("iommu_group")).and_then(|name| name.parse().ok());
    let small = |number: u32| u16::try_from(number & 0xffff).unwrap_or(u16::MAX);
    Ok(Function {
        device: PciDevice {
            address,
            kind: PciKind { vendor: small(vendor), product: small(product) },
            node: node.map(NodeId),
            iommu_group: group,
            physical: linked(&folder.join("physfn")).and_then(|name| name.parse().ok()),
        },
        is_bridge: class >> 16 == BRIDGE,
    })
}

fn address_of(folder: &Path) -> Option<PciAddress> {
    folder.file_name()?.to_str()?.parse().ok()
}

/// The name of what a link points to.
fn linked(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

/// The whole file is one number in hexadecimal digits behind `0x`.
fn number(path: &Path) -> Result<u32, Error> {
    let text = files::text(path)?;
    text.strip_prefix("0x")
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| files::malformed(path, &text, "a hexadecimal number such as 0x10de"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn add(root: &Path, address: &str, [vendor, product, class]: [&str; 3], node: &str, links: &[(&str, &str)]) {
        let folder = root.join("sys/bus/pci/devices").join(address);
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in [("vendor", vendor), ("device", product), ("class", class), ("numa_node", node)] {
            fs::write(folder.join(file), format!("{text}\n")).unwrap();
        }
        for (link, target) in links {
            symlink(target, folder.join(link)).unwrap();
        }
    }

    #[test]
    fn functions_are_read_with_their_node_group_and_physical_function() {
        let root = tempfile::tempdir().unwrap();
        let group = ("iommu_group", "../../../../kernel/iommu_groups/17");
        add(
            root.path(),
            "0000:3b:00.1",
            ["0x8086", "0x154c", "0x020000"],
            "1",
            &[group, ("physfn", "../0000:3b:00.0")],
        );
        add(root.path(), "0000:00:1c.0", ["0x8086", "0xa190", "0x060400"], "-1", &[]);
        let functions = read(root.path()).unwrap();
        assert_eq!(functions.len(), 2);
        let (bridge, virtual_function) = (&functions[0], &functions[1]);
        assert!(bridge.is_bridge && bridge.device.node.is_none() && bridge.device.iommu_group.is_none());
        assert_eq!(
            virtual_function.device,
            PciDevice {
                address: "0000:3b:00.1".parse().unwrap(),
                kind: "8086:154c".parse().unwrap(),
                node: Some(NodeId(1)),
                iommu_group: Some(17),
                physical: Some("0000:3b:00.0".parse().unwrap()),
            }
        );
    }

    #[test]
    fn a_machine_without_pci_has_none_and_an_odd_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(read(root.path()).unwrap(), []);
        add(root.path(), "0000:00:02.0", ["intel", "0x1", "0x030000"], "0", &[]);
        let error = read(root.path()).unwrap_err().to_string();
        assert!(error.contains("0000:00:02.0/vendor") && error.contains("intel"), "{error}");
    }

    #[test]
    fn this_machines_functions_are_read() {
        read(Path::new("/")).unwrap();
    }
}
