//! Which PCI devices of this host VMs may be given: those that its configuration names, as far as they can be given away.

use std::fmt;
use std::str::FromStr;

use berth_hostsys::pci::Function;
use berth_model::host::{PciAddress, PciAddressError, PciDevice, PciKind};

/// Devices that VMs may be given, as the configuration names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chosen {
    /// One function, `0000:3b:00.0`.
    At(PciAddress),
    /// Every function of this kind, `10de:2204`.
    Kind(PciKind),
}

impl FromStr for Chosen {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        text.parse().map(Self::Kind).or_else(|_| text.parse().map(Self::At))
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Kind(kind) => kind.fmt(f),
        }
    }
}

impl Chosen {
    fn includes(&self, device: &PciDevice) -> bool {
        match self {
            Self::At(address) => device.address == *address,
            Self::Kind(kind) => device.kind == *kind,
        }
    }
}

/// The chosen devices that can be given away, and a sentence for each that cannot, or is not there.
pub fn select(functions: &[Function], chosen: &[Chosen]) -> (Vec<PciDevice>, Vec<String>) {
    let mut problems = Vec::new();
    for choice in chosen {
        if !functions.iter().any(|function| choice.includes(&function.device)) {
            problems.push(format!("there is no PCI device {choice}"));
        }
    }
    let is_chosen = |function: &Function| chosen.iter().any(|choice| choice.includes(&function.device));
    let mut devices = Vec::new();
    for Function { device, is_bridge } in functions.iter().filter(|function| is_chosen(function)) {
        let address = device.address;
        let Some(group) = device.iommu_group else {
            problems.push(format!("{address} is in no IOMMU group: is the IOMMU switched on in firmware and kernel?"));
            continue;
        };
        // The kernel gives a group away as a whole, so nothing in it may be the host's.
        let stranger = functions
            .iter()
            .find(|other| other.device.iommu_group == Some(group) && !other.is_bridge && !is_chosen(other));
        match stranger {
            _ if *is_bridge => problems.push(format!("{address} is a bridge, which no VM can be given")),
            Some(other) => problems.push(format!(
                "{address} shares its IOMMU group {group} with {}, which is not named in pci_devices",
                other.device.address
            )),
            None => devices.push(*device),
        }
    }
    (devices, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(address: &str, group: Option<u32>) -> Function {
        let (address, kind) = (address.parse().unwrap(), "10de:2204".parse().unwrap());
        Function {
            device: PciDevice { address, kind, node: None, iommu_group: group, physical: None },
            is_bridge: false,
        }
    }

    fn chosen(texts: &[&str]) -> Vec<Chosen> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_named_by_address_or_by_kind_is_given_and_nothing_else() {
        let functions = [function("0000:3b:00.0", Some(1)), function("0000:af:00.0", Some(2))];
        let addresses = |texts: &[&str]| {
            let (devices, problems) = select(&functions, &chosen(texts));
            assert_eq!(problems, Vec::<String>::new());
            devices.iter().map(|device| device.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(addresses(&["0000:af:00.0"]), ["0000:af:00.0"]);
        assert_eq!(addresses(&["10de:2204"]), ["0000:3b:00.0", "0000:af:00.0"]);
        assert!(addresses(&[]).is_empty());
        assert!("a gpu".parse::<Chosen>().is_err());
    }

    #[test]
    fn a_device_that_cannot_be_given_away_is_left_out_and_named() {
        let bridge = Function { is_bridge: true, ..function("0000:00:01.0", Some(1)) };
        let functions = [
            bridge,
            function("0000:3b:00.0", Some(1)),
            function("0000:3b:00.1", Some(1)),
            function("0000:5e:00.0", None),
        ];
        let (devices, problems) = select(&functions, &chosen(&["0000:3b:00.0", "0000:5e:00.0", "0000:ff:00.0"]));
        assert!(devices.is_empty());
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("no PCI device 0000:ff:00.0"), "{problems:?}");
        assert!(problems[1].contains("with 0000:3b:00.1"), "{problems:?}");
        assert!(problems[2].contains("no IOMMU group"), "{problems:?}");
        let both = chosen(&["0000:3b:00.0", "0000:3b:00.1"]);
        assert_eq!(select(&functions, &both).0.len(), 2, "a bridge in the group stays with the host");
    }
}
