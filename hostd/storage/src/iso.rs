//! A writer of small ISO 9660 images: one folder, a few files, Joliet and Rock Ridge names.
//!
//! Our own because a seed must be the same bytes for the same input, and the writers at hand put the present time into
//! theirs. All times are fixed and nothing is random. The layout, in sectors of 2,048 bytes:
//!
//! ```text
//! 0-15 system area, empty   16 volume descriptor   17 Joliet's   18 their end
//! 19, 20 path tables (little, big endian)          21, 22 Joliet's
//! 23 the folder             24 Joliet's            25… the files, each from a sector of its own, and padding
//! ```
//!
//! References: ECMA-119; Joliet Specification 1995; SUSP and RRIP 1.10.

use std::iter;

/// Bytes in a sector.
pub(crate) const SECTOR: usize = 2048;

const PATH_TABLE: u32 = 19;
const JOLIET_PATH_TABLE: u32 = 21;
const ROOT: u32 = 23;
const JOLIET_ROOT: u32 = 24;
const FIRST_FILE: u32 = 25;

/// Empty sectors at the end, as many as mkisofs writes. busybox gives up on the label of a disk that ends within the
/// 64 KiB in which it looks for file systems, and some drives read ahead.
const PADDING: u32 = 150;

/// One file of the image.
pub(crate) struct IsoFile<'a> {
    /// As people see it: letters, digits, `-`, `.`, at most 30 characters.
    pub(crate) name: &'a str,
    pub(crate) bytes: &'a [u8],
}

/// The image. Files must be given in the order of their names.
pub(crate) fn write(label: &str, files: &[IsoFile<'_>]) -> Vec<u8> {
    let sectors_of = |file: &IsoFile<'_>| u32::try_from(file.bytes.len().div_ceil(SECTOR)).expect("files are small");
    let mut next = FIRST_FILE;
    let placed: Vec<(&IsoFile<'_>, u32)> = files
        .iter()
        .map(|file| {
            let at = next;
            next += sectors_of(file);
            (file, at)
        })
        .collect();
    let total = next + PADDING;

    let mut image = vec![0_u8; total as usize * SECTOR];
    let mut put = |sector: u32, bytes: &[u8]| {
        let at = sector as usize * SECTOR;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(16, &descriptor(Names::Plain, label, total));
    put(17, &descriptor(Names::Joliet, label, total));
    put(18, b"\xffCD001\x01");
    put(PATH_TABLE, &path_table(ROOT.to_le_bytes(), 1_u16.to_le_bytes()));
    put(PATH_TABLE + 1, &path_table(ROOT.to_be_bytes(), 1_u16.to_be_bytes()));
    put(JOLIET_PATH_TABLE, &path_table(JOLIET_ROOT.to_le_bytes(), 1_u16.to_le_bytes()));
    put(JOLIET_PATH_TABLE + 1, &path_table(JOLIET_ROOT.to_be_bytes(), 1_u16.to_be_bytes()));
    put(ROOT, &folder(Names::Plain, &placed));
    put(JOLIET_ROOT, &folder(Names::Joliet, &placed));
    for (file, at) in placed {
        put(at, file.bytes);
    }
    image
}

/// Which of the two trees.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Upper-case names with Rock Ridge's beside them.
    Plain,
    /// UCS-2.
    Joliet,
}

/// A number in both byte orders, little-endian first, as ECMA-119 7.3.3 has it.
fn both32(value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

fn both16(value: u16) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes[..2].copy_from_slice(&value.to_le_bytes());
    bytes[2..].copy_from_slice(&value.to_be_bytes());
    bytes
}

/// A text field of this many bytes, padded with spaces.
fn text(names: Names, value: &str, length: usize) -> Vec<u8> {
    let mut bytes = match names {
        Names::Plain => value.bytes().chain(iter::repeat(b' ')).take(length).collect::<Vec<_>>(),
        Names::Joliet => {
            let padded = value.encode_utf16().chain(iter::repeat(u16::from(b' '))).take(length / 2);
            padded.flat_map(u16::to_be_bytes).collect()
        }
    };
    bytes.resize(length, 0);
    bytes
}

/// Primary (ECMA-119 8.4) or supplementary (8.5) volume descriptor.
fn descriptor(names: Names, label: &str, total: u32) -> Vec<u8> {
    let (kind, root, table) = match names {
        Names::Plain => (1, ROOT, PATH_TABLE),
        Names::Joliet => (2, JOLIET_ROOT, JOLIET_PATH_TABLE),
    };
    let mut bytes = Vec::with_capacity(SECTOR);
    bytes.push(kind);
    bytes.extend(b"CD001\x01\0");
    bytes.extend(text(names, "", 32)); // system
    bytes.extend(text(names, label, 32));
    bytes.extend([0; 8]);
    bytes.extend(both32(total));
    let mut escapes = [0; 32];
    if names == Names::Joliet {
        escapes[..3].copy_from_slice(b"%/E"); // UCS-2, level 3
    }
    bytes.extend(escapes);
    bytes.extend(both16(1)); // volumes in the set
    bytes.extend(both16(1)); // number of this one
    bytes.extend(both16(2048));
    bytes.extend(both32(10)); // bytes in a path table of one folder
    bytes.extend(table.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend((table + 1).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(record(root, 2048, true, b"\0", &[]));
    bytes.extend(text(names, "", 128)); // set
    for _ in 0..3 {
        bytes.extend(text(names, "", 128)); // publisher, preparer, application
    }
    for _ in 0..3 {
        bytes.extend(text(names, "", 37)); // copyright, abstract, bibliography
    }
    for _ in 0..4 {
        bytes.extend([b'0'; 16]); // no time is said
        bytes.push(0);
    }
    bytes.push(1); // of the file structure
    bytes.resize(SECTOR, 0);
    bytes
}

/// A path table (ECMA-119 9.4) that holds only the root.
fn path_table(at: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    [&[1, 0][..], &at, &parent, &[0, 0]].concat()
}

/// The one folder. Records do not cross sectors, and a few of them fit into one.
fn folder(names: Names, files: &[(&IsoFile<'_>, u32)]) -> Vec<u8> {
    let root = match names {
        Names::Plain => ROOT,
        Names::Joliet => JOLIET_ROOT,
    };
    let ridge = |entries: &[Vec<u8>]| if names == Names::Plain { entries.concat() } else { Vec::new() };
    let own = ridge(&[b"SP\x07\x01\xbe\xef\0".to_vec(), mode(0o040_555, 2), rock_ridge()]);
    let mut bytes = record(root, 2048, true, b"\0", &own);
    bytes.extend(record(root, 2048, true, b"\x01", &ridge(&[mode(0o040_555, 2)])));
    for (file, at) in files {
        let size = u32::try_from(file.bytes.len()).expect("files are small");
        let identifier = match names {
            Names::Plain => plain_name(file.name),
            Names::Joliet => format!("{};1", file.name).encode_utf16().flat_map(u16::to_be_bytes).collect(),
        };
        // User data may hold secrets: readable by the guest's root alone.
        bytes.extend(record(*at, size, false, &identifier, &ridge(&[mode(0o100_400, 1), name(file.name)])));
    }
    assert!(bytes.len() <= SECTOR, "the folder holds a few files only");
    bytes.resize(SECTOR, 0);
    bytes
}

/// `user-data` as `USER_DATA.;1`.
fn plain_name(name: &str) -> Vec<u8> {
    let fold = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("{}.;1", name.chars().map(fold).collect::<String>()).into_bytes()
}

/// A directory record (ECMA-119 9.1).
fn record(at: u32, size: u32, is_folder: bool, identifier: &[u8], system_use: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(both32(at));
    bytes.extend(both32(size));
    bytes.extend([80, 1, 1, 0, 0, 0, 0]); // 1980-01-01, for all and for ever
    bytes.push(if is_folder { 2 } else { 0 });
    bytes.extend([0, 0]);
    bytes.extend(both16(1));
    bytes.push(u8::try_from(identifier.len()).expect("names are short"));
    bytes.extend(identifier);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes.extend(system_use);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes[0] = u8::try_from(bytes.len()).expect("records are short");
    bytes
}

/// Rock Ridge's POSIX attributes; everything belongs to root.
fn mode(mode: u32, links: u32) -> Vec<u8> {
    let mut bytes = b"PX\x24\x01".to_vec();
    for value in [mode, links, 0, 0] {
        bytes.extend(both32(value));
    }
    bytes
}

/// Rock Ridge's own name.
fn name(name: &str) -> Vec<u8> {
    let length = u8::try_from(5 + name.len()).expect("names are short");
    [b"NM", &[length, 1, 0][..], name.as_bytes()].concat()
}

/// Says that Rock Ridge is used, without which Linux does not look for it.
fn rock_ridge() -> Vec<u8> {
    const ID: &[u8] = b"RRIP_1991A";
    let length = u8::try_from(8 + ID.len()).expect("ten characters");
    let lengths = [length, 1, length - 8, 0, 0, 1];
    [b"ER", &lengths[..], ID].concat()
}

#[cfg(test)]
pub(crate) mod reading;
