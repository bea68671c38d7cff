//! Whether the kernel takes `io_uring` requests: tried, because it can be compiled out, switched off or filtered.

use std::fs;
use std::path::Path;

use nix::libc;

/// Where a kernel says who may use it: 0 everybody, 1 nobody without a privilege, 2 nobody.
const WHO: &str = "proc/sys/kernel/io_uring_disabled";

/// Whether programs of this machine, QEMU's unprivileged user included, may use `io_uring`.
pub fn works(root: &Path) -> bool {
    // Kernels before 6.6 have no such switch.
    let is_open = fs::read_to_string(root.join(WHO)).map_or(true, |text| text.trim() == "0");
    is_open && can_be_set_up()
}

/// Sets up a queue of one entry and closes it again.
#[expect(unsafe_code, reason = "io_uring_setup has no wrapper")]
fn can_be_set_up() -> bool {
    // The kernel's `struct io_uring_params`: 120 bytes, all zero for a queue without any option.
    let mut parameters = [0_u64; 15];
    let entries: libc::c_uint = 1;
    // SAFETY: the kernel reads and writes the 120 bytes behind the pointer, which are valid for that, and nothing else.
    let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, parameters.as_mut_ptr()) };
    let Ok(descriptor) = i32::try_from(descriptor) else { return false };
    if descriptor < 0 {
        return false;
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    unsafe { libc::close(descriptor) };
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_closes_it_to_unprivileged_programs_does_not_have_it() {
        let root = tempfile::tempdir().unwrap();
        let switch = root.path().join(WHO);
        fs::create_dir_all(switch.parent().unwrap()).unwrap();
        for closed in ["1\n", "2\n"] {
            fs::write(&switch, closed).unwrap();
            assert!(!works(root.path()));
        }
        fs::write(&switch, "0\n").unwrap();
        assert_eq!(works(root.path()), can_be_set_up());
    }
}
