//! What a disk image is, by its header, read by a bounded parser over the raw bytes.
//!
//! Guessing is how hosts leak files: a guest that can write the start of a "raw" disk can turn it into a qcow2 that
//! names `/etc/shadow` as its backing file. So the format is decided once, here, and said explicitly to everything
//! that opens the file afterwards. Only two formats exist:
//!
//! - **qcow2**, version 2 or 3, without backing file, external data file, encryption or unknown incompatible features;
//! - **raw**, which is what begins with a boot sector (`55 AA` at 510) and carries the mark of no other format that
//!   QEMU knows. A disk that firmware cannot boot is of no use as an image, and the demand keeps out truncated
//!   downloads, compressed files and web pages that were saved under a digest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use berth_model::Bytes;
use berth_model::vm::VmSpec;
use serde::{Deserialize, Serialize};

/// The format of an image or disk file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ImageFormat {
    /// qcow2, version 2 or 3.
    Qcow2,
    /// Plain bytes.
    Raw,
}

impl ImageFormat {
    /// As QEMU calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// What a header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The format.
    pub format: ImageFormat,
    /// The size of the disk that a guest sees.
    pub virtual_size: Bytes,
    /// The backing file, by name and format, as they stand in the header.
    pub backing: Option<Backing>,
}

/// A backing file as a header names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backing {
    /// Its name.
    pub name: String,
    /// Its format, if the header says one.
    pub format: Option<String>,
}

/// Why a file is no usable disk.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is something else, or damaged, or asks for what is not allowed.
    #[error("{0}")]
    Refused(String),
}

fn refuse<T>(why: impl Into<String>) -> Result<T, FormatError> {
    Err(FormatError::Refused(why.into()))
}

/// Reads the header of an image, which must stand alone: no backing file.
pub fn read_image(file: &File) -> Result<Header, FormatError> {
    let header = read(file)?;
    match header.backing {
        None => Ok(header),
        Some(Backing { name, .. }) if name.starts_with("json:") => refuse(format!(
            "it names a backing file by a json: name ({}); flatten it with `qemu-img convert`",
            cut(&name)
        )),
        Some(Backing { name, .. }) => {
            refuse(format!("it has a backing file ({}); flatten it with `qemu-img convert`", cut(&name)))
        }
    }
}

/// Reads the header of any disk.
pub fn read(file: &File) -> Result<Header, FormatError> {
    let length = file.metadata()?.len();
    let start = read_start(file, length, 0, 1024)?;
    if start.starts_with(QCOW_MAGIC) {
        return read_qcow2(file, length, &start);
    }
    if let Some(name) = other_format(&start, &read_start(file, length, length.saturating_sub(512), 512)?) {
        return refuse(format!("it is {name}; only qcow2 and raw are used, convert it with `qemu-img convert`"));
    }
    if start.get(510..512) != Some(&[0x55, 0xaa]) {
        return refuse("it is neither qcow2 nor a raw disk with a boot sector (55 AA at byte 510)");
    }
    if !length.is_multiple_of(512) {
        return refuse(format!("a raw disk is a whole number of 512-byte sectors, this has {length} bytes"));
    }
    if length > VmSpec::MAX_DISK.0 {
        return refuse("it is larger than the largest disk");
    }
    Ok(Header { format: ImageFormat::Raw, virtual_size: Bytes(length), backing: None })
}

fn read_start(file: &File, length: u64, from: u64, wanted: usize) -> io::Result<Vec<u8>> {
    let there = usize::try_from(length.saturating_sub(from)).unwrap_or(usize::MAX).min(wanted);
    let mut bytes = vec![0; there];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

fn cut(text: &str) -> String {
    text.chars().take(120).collect()
}

/// Marks at the start of formats that QEMU knows, and of what is often stored under the name of a disk image.
const MARKS: [(usize, &[u8], &str); 22] = [
    (0, b"QED\0", "a QED image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK description"),
    (0, b"conectix", "a VHD image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0x40, &[0x7f, 0x10, 0xda, 0xbe], "a VDI image"),
    (0, b"<<< ", "a VDI image"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (0, b"LUKS\xba\xbe", "a LUKS container"),
    (0, b"Bochs Virtual HD Image", "a Bochs image"),
    (0, b"#!/bin/sh\n#V2.0 Format", "a cloop image"),
    (0, b"OOOM\0", "a UML image"),
    (0, &[0x1f, 0x8b], "compressed by gzip"),
    (0, &[0xfd, b'7', b'z', b'X', b'Z', 0], "compressed by xz"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "compressed by zstd"),
    (0, b"BZh", "compressed by bzip2"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, &[b'7', b'z', 0xbc, 0xaf], "a 7z archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x7fELF", "a program"),
];

/// Marks in the last sector.
const TAIL_MARKS: [(&[u8], &str); 2] = [(b"conectix", "a VHD image"), (b"koly", "a DMG image")];

fn other_format(start: &[u8], tail: &[u8]) -> Option<&'static str> {
    let at_start = MARKS.iter().find(|(at, mark, _)| start.get(*at..).is_some_and(|rest| rest.starts_with(mark)));
    at_start
        .map(|(_, _, name)| *name)
        .or_else(|| TAIL_MARKS.iter().find(|(mark, _)| tail.starts_with(mark)).map(|(_, name)| *name))
}

const QCOW_MAGIC: &[u8] = b"QFI\xfb";

/// The longest name that qcow2 allows a backing file.
const LONGEST_BACKING_NAME: u32 = 1023;

/// Incompatible features that do not change what the file may lead to: compression type and extended L2 entries.
const HARMLESS_FEATURES: u64 = 1 << 3 | 1 << 4;

/// Header extensions.
mod extension {
    pub(super) const END: u32 = 0;
    pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(super) const DATA_FILE: u32 = 0x4441_5441;
    pub(super) const ENCRYPTION: u32 = 0x0537_be77;
    /// More than any version of QEMU writes.
    pub(super) const MOST: usize = 32;
}

/// Big-endian numbers at offsets of a byte slice; out of range is a refusal, never a panic.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> Result<u32, FormatError> {
        let bytes = self.0.get(at..at.saturating_add(4)).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or_else(|| FormatError::Refused("its qcow2 header is cut short".to_owned()))
    }

    fn u64(&self, at: usize) -> Result<u64, FormatError> {
        Ok(u64::from(self.u32(at)?) << 32 | u64::from(self.u32(at.saturating_add(4))?))
    }
}

fn read_qcow2(file: &File, length: u64, start: &[u8]) -> Result<Header, FormatError> {
    let fields = Fields(start);
    let version = fields.u32(4)?;
    if !matches!(version, 2 | 3) {
        return refuse(format!("it is a qcow image of version {version}; only versions 2 and 3 are used"));
    }
    let cluster_bits = fields.u32(20)?;
    if !(9..=21).contains(&cluster_bits) {
        return refuse(format!("its qcow2 header asks for clusters of 2^{cluster_bits} bytes"));
    }
    let cluster = 1_u64 << cluster_bits;
    let (backing_at, backing_size, size) = (fields.u64(8)?, fields.u32(16)?, fields.u64(24)?);
    if size == 0 || size > VmSpec::MAX_DISK.0 {
        return refuse(format!("its qcow2 header says that the disk has {size} bytes"));
    }
    if fields.u32(32)? != 0 {
        return refuse("it is encrypted");
    }
    let mut header_length = 72;
    if version == 3 {
        let features = fields.u64(72)?;
        if features & (1 << 2) != 0 {
            return refuse("it has an external data file");
        }
        if features & (1 << 1) != 0 {
            return refuse("it is marked as corrupt");
        }
        if features & 1 != 0 {
            return refuse("it was not closed cleanly; repair it with `qemu-img check -r all`");
        }
        if features & !HARMLESS_FEATURES != 0 {
            return refuse(format!("it has unknown incompatible features ({features:#x})"));
        }
        header_length = u64::from(fields.u32(100)?);
        if header_length < 104 || header_length > cluster || !header_length.is_multiple_of(8) {
            return refuse(format!("its qcow2 header says that it is {header_length} bytes long"));
        }
    }
    check_tables(&fields, length, cluster, size)?;
    // Header, extensions and the backing file's name all lie in the first cluster, which has 2 MiB at most.
    let first = read_start(file, length, 0, usize::try_from(cluster).expect("2 MiB at most"))?;
    let header_end = usize::try_from(header_length).expect("at most a cluster");
    let backing_format = read_extensions(&first, header_end)?;
    let backing = read_backing(&first, backing_at, backing_size)?.map(|name| Backing { name, format: backing_format });
    Ok(Header { format: ImageFormat::Qcow2, virtual_size: Bytes(size), backing })
}

/// The tables that QEMU will follow lie in the file and have sizes that it accepts.
fn check_tables(fields: &Fields<'_>, length: u64, cluster: u64, size: u64) -> Result<(), FormatError> {
    let (l1_entries, l1_at) = (u64::from(fields.u32(36)?), fields.u64(40)?);
    let (refcount_at, refcount_clusters) = (fields.u64(48)?, u64::from(fields.u32(56)?));
    // An L2 table fills a cluster with entries of 8 bytes (16 when extended, which needs no fewer L1 entries).
    let covered_by_entry = u128::from(cluster) * u128::from(cluster / 8);
    if l1_entries > (32 << 20) / 8 || u128::from(l1_entries) * covered_by_entry < u128::from(size) {
        return refuse(format!(
            "its first-level table has {l1_entries} entries, which does not fit a disk of {size} bytes"
        ));
    }
    let lies_within = |at: u64, bytes: u64| {
        at.is_multiple_of(cluster) && at >= cluster && at.checked_add(bytes).is_some_and(|end| end <= length)
    };
    if l1_entries > 0 && !lies_within(l1_at, l1_entries * 8) {
        return refuse("its first-level table lies outside the file; is it cut short?");
    }
    if refcount_clusters == 0
        || refcount_clusters * cluster > 8 << 20
        || !lies_within(refcount_at, refcount_clusters * cluster)
    {
        return refuse("its reference counts lie outside the file; is it cut short?");
    }
    Ok(())
}

/// Walks the extensions; returns the backing file's format.
fn read_extensions(first: &[u8], mut at: usize) -> Result<Option<String>, FormatError> {
    let fields = Fields(first);
    let mut backing_format = None;
    for _ in 0..extension::MOST {
        let (kind, length) = (fields.u32(at)?, fields.u32(at + 4)?);
        let body_at = at + 8;
        let body = usize::try_from(length).ok().and_then(|length| first.get(body_at..body_at.checked_add(length)?));
        match (kind, body) {
            (extension::END, _) => return Ok(backing_format),
            (_, None) => return refuse("a qcow2 header extension reaches beyond the first cluster"),
            (extension::DATA_FILE, _) => return refuse("it names an external data file"),
            (extension::ENCRYPTION, _) => return refuse("it is encrypted"),
            (extension::BACKING_FORMAT, Some(name)) => {
                backing_format = Some(String::from_utf8_lossy(name).into_owned());
            }
            (_, Some(_)) => {}
        }
        at = body_at + body.map_or(0, <[u8]>::len).next_multiple_of(8);
    }
    refuse("its qcow2 header has more extensions than any program writes")
}

fn read_backing(first: &[u8], at: u64, size: u32) -> Result<Option<String>, FormatError> {
    if at == 0 {
        // QEMU takes offset 0 as "none" and does not look at the size.
        return Ok(None);
    }
    if size > LONGEST_BACKING_NAME {
        return refuse("its backing file's name is longer than qcow2 allows");
    }
    let name = usize::try_from(at).ok().and_then(|at| first.get(at..at.checked_add(size as usize)?));
    match name {
        Some(name) => Ok(Some(String::from_utf8_lossy(name).into_owned())),
        None => refuse("its backing file's name lies outside the header"),
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
