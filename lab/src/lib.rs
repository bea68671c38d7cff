//! A whole cluster on one Linux machine: network namespaces, a private libvirtd per host, real QEMU.
