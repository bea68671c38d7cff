//! What was asked of a VM, with every default expanded at admission and stored by value.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::image::ImageRef;
use crate::{Bytes, Name, PageSize, Sealed};

/// Which tuning template a VM gets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Performance {
    /// Exclusive pinned CPU threads, guest memory on 2 MiB hugepages, virtio-blk with a queue per vCPU and an IOThread.
    High,
}

impl fmt::Display for Performance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::High => "high",
        })
    }
}

/// When a VM should run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum RunStrategy {
    /// It runs; when the guest or QEMU ends, it is started again, with a growing pause after crashes.
    Always,
    /// It does not run; it keeps its disk and its booked resources.
    Halted,
}

impl fmt::Display for RunStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Always => "Always",
            Self::Halted => "Halted",
        })
    }
}

/// What was asked of a VM.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmSpec {
    /// The instance type whose size was taken, for people; `cpus` and `memory` are what counts.
    pub instance_type: Option<Name>,
    /// Virtual CPUs, 1 to [`VmSpec::MAX_CPUS`].
    pub cpus: u32,
    /// Guest memory, a whole number of hugepages of the template.
    pub memory: Bytes,
    /// The tuning template.
    pub performance: Performance,
    /// What its disk starts as.
    pub image: ImageRef,
    /// The size of its disk, at least the image's virtual size.
    pub disk_size: Bytes,
    /// When it should run.
    pub run: RunStrategy,
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

    /// The pages that guest memory lies on.
    pub const fn page_size(&self) -> PageSize {
        match self.performance {
            Performance::High => PageSize::Huge2M,
        }
    }

    /// Ordinary host memory that the VM needs beyond guest memory, booked with it (requirement C8).
    ///
    /// 96 MiB for QEMU itself, 8 MiB for each vCPU's stack and translation state, and 1/512 of guest memory for page
    /// tables; whole MiB, because people read it. To be calibrated by measurement; it errs on the large side so that a
    /// bound VM always starts.
    pub const fn overhead(&self) -> Bytes {
        let bytes = Bytes::mib(96).0 + self.cpus as u64 * Bytes::mib(8).0 + self.memory.0 / 512;
        Bytes::mib(bytes.div_ceil(Bytes::mib(1).0))
    }
}
