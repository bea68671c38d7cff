//! What was asked of a VM, with every default expanded at admission and stored by value.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Performance, Tuning};
use crate::host::{Overcommit, PciKind};
use crate::image::ImageRef;
use crate::placement::Rules;
use crate::{Bytes, Millis, Name, PageSize, Sealed};

/// When a VM should run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum RunStrategy {
    /// It runs; when the guest or QEMU ends, it is started again, with a growing pause after crashes.
    Always,
    /// It does not run; it keeps its disk and its booked resources.
    Halted,
    /// It runs; it is started again unless its guest shut itself down in good order.
    RerunOnFailure,
    /// It runs once for each start that is asked for, however the run ends.
    Manual,
    /// It runs once, and is never started again.
    Once,
}

impl RunStrategy {
    /// Every strategy.
    pub const ALL: [Self; 5] = [Self::Always, Self::Halted, Self::RerunOnFailure, Self::Manual, Self::Once];
}

impl fmt::Display for RunStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Always => "Always",
            Self::Halted => "Halted",
            Self::RerunOnFailure => "RerunOnFailure",
            Self::Manual => "Manual",
            Self::Once => "Once",
        })
    }
}

/// PCI devices of one kind that a VM gets for itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DeviceDemand {
    /// What they are.
    pub kind: PciKind,
    /// How many, at least one.
    pub count: u32,
}

/// What was asked of a VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmSpec {
    /// The instance type whose size was taken, for people; `cpus` and `memory` are what counts.
    pub instance_type: Option<Name>,
    /// Virtual CPUs, 1 to [`VmSpec::MAX_CPUS`].
    pub cpus: u32,
    /// The preference whose wishes were taken, for people; `tuning` is what counts.
    pub preference: Option<Name>,
    /// Guest memory, a whole number of the pages it lies on.
    pub memory: Bytes,
    /// The tuning template.
    pub performance: Performance,
    /// What the template and the preference came to.
    pub tuning: Tuning,
    /// PCI devices that it gets for itself.
    pub devices: Vec<DeviceDemand>,
    /// Where it may and should run.
    pub rules: Rules,
    /// What its disk starts as.
    pub image: ImageRef,
    /// The size of its disk, at least the image's virtual size.
    pub disk_size: Bytes,
    /// When it should run.
    pub run: RunStrategy,
    /// How long its guest has to shut down before it is ended.
    pub grace: Millis,
    /// cloud-init user data, sealed.
    pub user_data: Option<Sealed>,
}

impl VmSpec {
    /// The most virtual CPUs of one VM (requirement B5).
    pub const MAX_CPUS: u32 = 248;
    /// The most guest memory of one VM (requirement B5).
    pub const MAX_MEMORY: Bytes = Bytes::gib(1024);
    /// The least guest memory: what a small Linux guest boots in.
    pub const MIN_MEMORY: Bytes = Bytes::mib(64);
    /// The largest disk.
    pub const MAX_DISK: Bytes = Bytes::gib(64 * 1024);
    /// The most user data, in plain bytes.
    pub const MAX_USER_DATA: Bytes = Bytes::mib(1);

    /// The grace where nothing else is asked: what a service manager gives its services.
    pub const GRACE: Millis = Millis::seconds(30);
    /// The longest grace: a day.
    pub const MAX_GRACE: Millis = Millis::seconds(86_400);

    /// The most PCI devices of one VM.
    pub const MOST_DEVICES: u32 = 32;

    /// The pages that guest memory lies on.
    pub const fn page_size(&self) -> PageSize {
        self.tuning.pages
    }

    /// Its block devices: the disk made of its image, and its seed.
    pub const fn disk_count(&self) -> u32 {
        1 + self.user_data.is_some() as u32
    }

    /// Its network cards.
    pub const fn nic_count(&self) -> u32 {
        1
    }

    /// Its passed-through PCI devices.
    pub fn device_count(&self) -> u32 {
        self.devices.iter().fold(0, |sum, demand| sum.saturating_add(demand.count))
    }

    /// Thousandths of a CPU thread that are booked for a VM whose CPUs float, under these ratios; none for a pinned one.
    pub const fn shared_cpu(&self, ratios: Overcommit) -> u64 {
        let asked = self.cpus as u64 * 1000;
        match self.performance {
            Performance::High => 0,
            Performance::Standard => asked,
            Performance::Density => (asked * 100).div_ceil(ratios.cpu_percent.get()),
        }
    }

    /// Guest memory that is booked, under these ratios: whole pages.
    pub const fn booked_memory(&self, ratios: Overcommit) -> Bytes {
        let asked = match self.performance {
            Performance::High | Performance::Standard => self.memory.0,
            Performance::Density => {
                // Of a product that could overflow, the whole and the rest apart.
                let percent = ratios.memory_percent.get();
                (self.memory.0 / percent) * 100 + ((self.memory.0 % percent) * 100).div_ceil(percent)
            }
        };
        Bytes(self.page_size().pages_for(Bytes(asked)).saturating_mul(self.page_size().bytes().0))
    }

    /// Ordinary host memory that the VM needs beyond guest memory, booked with it (requirement C8).
    ///
    /// 96 MiB for QEMU itself, 8 MiB for each vCPU's stack and translation state, and 1/512 of guest memory for page
    /// tables; 4 MiB for each IOThread of its own; and for a passed-through device 1 GiB once, which the kernel counts as
    /// locked beside guest memory. Whole MiB, because people read it. To be calibrated by measurement; it errs on the large side so that a
    /// bound VM always starts.
    pub fn overhead(&self) -> Bytes {
        let locked = if self.devices.is_empty() { 0 } else { Bytes::gib(1).0 };
        let iothreads = u64::from(self.tuning.dedicated_iothreads) * Bytes::mib(4).0;
        let bytes =
            Bytes::mib(96).0 + u64::from(self.cpus) * Bytes::mib(8).0 + self.memory.0 / 512 + iothreads + locked;
        Bytes::mib(bytes.div_ceil(Bytes::mib(1).0))
    }
}
