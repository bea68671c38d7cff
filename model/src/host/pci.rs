//! PCI devices of a host that VMs may be given.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::NodeId;

/// Where a PCI function is, as the kernel writes it: `0000:3b:00.1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PciAddress {
    /// The domain (segment).
    pub domain: u32,
    /// The bus.
    pub bus: u8,
    /// The device on the bus, below 32.
    pub device: u8,
    /// The function of the device, below 8.
    pub function: u8,
}

/// Why a text is not a PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a PCI address; write it as 'lspci -D' does, such as 0000:3b:00.1")]
pub struct PciAddressError(pub String);

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        let parsed = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let hex = |digits: &str| {
                let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
            };
            let address = Self {
                domain: hex(domain)?,
                bus: u8::try_from(hex(bus)?).ok()?,
                device: u8::try_from(hex(device)?).ok()?,
                function: u8::try_from(hex(function)?).ok()?,
            };
            (address.device < 32 && address.function < 8).then_some(address)
        };
        parsed().ok_or_else(|| PciAddressError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a PCI function is, by the numbers of its maker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PciKind {
    /// The maker.
    pub vendor: u16,
    /// The maker's number of the product.
    pub product: u16,
}

impl FromStr for PciKind {
    type Err = PciAddressError;

    /// Takes `10de:2204`, as `lspci -n` prints it.
    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        let hex = |digits: &str| (digits.len() == 4).then(|| u16::from_str_radix(digits, 16).ok()).flatten();
        text.split_once(':')
            .and_then(|(vendor, product)| Some(Self { vendor: hex(vendor)?, product: hex(product)? }))
            .ok_or_else(|| PciAddressError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for PciKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.product)
    }
}

impl fmt::Debug for PciKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One PCI function that VMs of this host may be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PciDevice {
    /// Where it is.
    pub address: PciAddress,
    /// What it is.
    pub kind: PciKind,
    /// The NUMA node it hangs on, where the firmware says.
    pub node: Option<NodeId>,
    /// Functions of one group can be given to one VM only; none: it cannot be given to any.
    pub iommu_group: Option<u32>,
    /// The physical function whose virtual function (SR-IOV) it is.
    pub physical: Option<PciAddress>,
}

impl PciDevice {
    /// Whether the two can only be given to the same VM: they share an IOMMU group, or one is the virtual function of the
    /// other, which would see its traffic.
    pub fn is_tied_to(&self, other: &Self) -> bool {
        let same_group = self.iommu_group.is_some() && self.iommu_group == other.iommu_group;
        same_group || self.physical == Some(other.address) || other.physical == Some(self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_prints_and_parses_as_the_kernel_writes_it() {
        let address: PciAddress = "0000:3b:1f.7".parse().unwrap();
        assert_eq!(address.to_string(), "0000:3b:1f.7");
        for bad in ["", "3b:00.0", "0000:3b:20.0", "0000:3b:00.8", "0000:3b:+1.0", "zz00:3b:00.0"] {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
    }
}
