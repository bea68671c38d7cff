//! Which boot of the machine this is, and the clock that counts from it.

use std::path::Path;
use std::time::Duration;

use berth_model::BootId;
use nix::time::{ClockId, clock_gettime};

use crate::{Error, files};

/// Names this boot of the machine; another one after every restart.
pub fn boot_id(root: &Path) -> Result<BootId, Error> {
    files::text(&root.join("proc/sys/kernel/random/boot_id")).map(BootId)
}

/// The kernel in the form in which versions are reported, `Linux 6.1.0-18-amd64`.
pub fn kernel_version(root: &Path) -> Result<String, Error> {
    files::text(&root.join("proc/sys/kernel/osrelease")).map(|release| format!("Linux {release}"))
}

/// Time since boot, suspension included (CLOCK_BOOTTIME): the clock of start permissions, which no one can set.
pub fn boottime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_id_stays_and_the_clock_runs() {
        let root = Path::new("/");
        let before = boottime();
        assert_eq!(boot_id(root).unwrap(), boot_id(root).unwrap());
        assert!(kernel_version(root).unwrap().starts_with("Linux "));
        assert!(boottime() > before);
    }
}
