//! Image files that tests make.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

/// Runs `qemu-img` and expects it to succeed.
pub(crate) fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img is installed");
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn qcow2(path: &Path, size: &str, more: &[&str]) {
    let path = path.to_str().unwrap();
    qemu_img(&[&["create", "-q", "-f", "qcow2"], more, &[path, size]].concat());
}

/// A raw disk with a boot sector and nothing else.
pub(crate) fn raw(path: &Path, sectors: usize) {
    let mut bytes = vec![0; sectors * 512];
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(path, bytes).unwrap();
}

pub(crate) fn open(path: &Path) -> File {
    File::open(path).unwrap()
}
