//! What a VM takes of things that every QEMU machine has few of: interrupt vectors and PCI slots.
//!
//! Both are counted at admission by the formulas here, because a guest that runs out of vectors silently loses its
//! queues, and QEMU that runs out of slots does not start (requirement C7).

use super::VmSpec;

/// The most MSI vectors of one VM: x86 guests have about 224 interrupt vectors a CPU beside the kernel's own, and a guest
/// that boots on one CPU must find all of its devices' vectors there.
pub const MSI_VECTORS: u32 = 200;

/// The most PCI Express slots of one VM: 31 free devices of the root bus with 8 functions each would be more; each
/// slot costs guest memory windows and boot time.
pub const PCI_SLOTS: u32 = 96;

/// Slots that are kept free for devices plugged in later.
pub const HOTPLUG_SLOTS: u32 = 4;

/// Queues beyond which a virtio device gains nothing (the host's limit of queues for one tap device).
pub const MOST_QUEUES: u32 = 256;

/// MSI vectors of one virtio-blk disk: one a queue and one for its configuration.
pub const fn disk_vectors(queues: u32) -> u32 {
    queues + 1
}

/// MSI vectors of one virtio-net card: a receive and a transmit queue a pair, the control queue and its configuration.
pub const fn nic_vectors(pairs: u32) -> u32 {
    2 * pairs + 2
}

/// MSI vectors of one PCI device that is passed through, where its own number is not known: what one queue a CPU and an
/// administration queue take, at most 33.
pub const fn passthrough_vectors(cpus: u32) -> u32 {
    if cpus < 32 { cpus + 1 } else { 33 }
}

/// MSI vectors of what every VM has: the serial port of the guest agent (2), the balloon (0, it uses a line), the random
/// number generator (0), the USB controller (1).
pub const BASE_VECTORS: u32 = 3;

const fn pci_slots(disks: u32, nics: u32, devices: u32) -> u32 {
    disks + nics + devices + 4 + HOTPLUG_SLOTS
}

const fn msi_vectors(cpus: u32, queues: u32, disks: u32, nics: u32, devices: u32) -> u32 {
    BASE_VECTORS
        + disks * disk_vectors(queues)
        + nics * nic_vectors(queues)
        + devices * passthrough_vectors(cpus)
        + pci_slots(disks, nics, devices)
}

/// Queues of each virtio device of a VM with so many CPUs and devices: one for each virtual CPU, halved until all vectors
/// fit into [`MSI_VECTORS`]. None: they do not fit with one queue either.
pub const fn queues(cpus: u32, disks: u32, nics: u32, devices: u32) -> Option<u32> {
    let mut queues = if cpus == 0 {
        1
    } else if cpus > MOST_QUEUES {
        MOST_QUEUES
    } else {
        cpus
    };
    while msi_vectors(cpus, queues, disks, nics, devices) > MSI_VECTORS {
        if queues == 1 {
            return None;
        }
        queues /= 2;
    }
    Some(queues)
}

impl VmSpec {
    /// PCI slots that its devices take, [`HOTPLUG_SLOTS`] included: each disk, card and passed-through device one, and
    /// four for the agent's port, the balloon, the random number generator and the USB controller.
    pub fn pci_slots(&self) -> u32 {
        pci_slots(self.disk_count(), self.nic_count(), self.device_count())
    }

    /// MSI vectors that its devices take: those of each device, and one of each root port.
    ///
    /// Disks have a queue for each virtual CPU, cards a pair of queues for each, as long as there are vectors: beyond the
    /// budget a VM of many CPUs gets fewer queues, see [`VmSpec::queues`].
    pub fn msi_vectors(&self, queues: u32) -> u32 {
        msi_vectors(self.cpus, queues, self.disk_count(), self.nic_count(), self.device_count())
    }

    /// Queues of each of its virtio devices: one for each virtual CPU, halved until all vectors fit into
    /// [`MSI_VECTORS`]. None: they do not fit with one queue either.
    pub fn queues(&self) -> Option<u32> {
        queues(self.cpus, self.disk_count(), self.nic_count(), self.device_count())
    }
}
