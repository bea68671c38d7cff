//! The Backend on libvirt and QEMU.
