//! What must be known of a qcow2 file to name it: its digest and the size of its disk.
//!
//! Hosts verify the same again before they use a file (no backing file, no external data file); refusing here only
//! spares the operator the way there.

use std::io::{self, Read};

use berth_model::Bytes;
use berth_model::image::{ImageSpec, Sha256Digest};
use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// Bytes of the header that are looked at: up to and including the incompatible features.
const HEADER: usize = 80;
/// The incompatible feature that puts the data into another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// Reads a whole file.
pub(crate) fn examine(name: &str, mut file: impl Read) -> Result<ImageSpec, Failure> {
    let failed = |error: &io::Error| Failure::refused(format!("cannot read {name}: {error}"));
    let mut header = Vec::with_capacity(HEADER);
    file.by_ref().take(HEADER as u64).read_to_end(&mut header).map_err(|error| failed(&error))?;
    let virtual_size = virtual_size(&header).map_err(|why| {
        Failure::refused(format!("{name} is no image that hosts accept: {why}"))
            .code("BE-6002")
            .hint("make one with: qemu-img convert -O qcow2 SOURCE FILE")
    })?;
    let mut hash = Sha256::new();
    hash.update(&header);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(&error)),
        }
    }
    Ok(ImageSpec { sha256: Sha256Digest(hash.finalize().into()), virtual_size })
}

fn virtual_size(header: &[u8]) -> Result<Bytes, &'static str> {
    let number = |at: usize| {
        header.get(at..at + 8).map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes were taken")))
    };
    if header.get(..4) != Some(b"QFI\xfb") {
        return Err("it is not a qcow2 file");
    }
    let version = number(0).ok_or("its header is cut off")? & 0xffff_ffff;
    let size = number(24).ok_or("its header is cut off")?;
    if number(8).is_some_and(|offset| offset != 0) {
        return Err("it has a backing file");
    }
    match version {
        2 => {}
        3 => {
            if number(72).ok_or("its header is cut off")? & EXTERNAL_DATA != 0 {
                return Err("its data lies in another file");
            }
        }
        _ => return Err("it is a qcow2 file of a version other than 2 and 3"),
    }
    if size == 0 { Err("its disk has no size") } else { Ok(Bytes(size)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u32, backing: u64, size: u64, incompatible: u64) -> Vec<u8> {
        let mut bytes = vec![0; 104];
        bytes[..4].copy_from_slice(b"QFI\xfb");
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        bytes[8..16].copy_from_slice(&backing.to_be_bytes());
        bytes[24..32].copy_from_slice(&size.to_be_bytes());
        bytes[72..80].copy_from_slice(&incompatible.to_be_bytes());
        bytes
    }

    #[test]
    fn size_comes_from_the_header_and_the_digest_from_every_byte() {
        let bytes = header(3, 0, 64 << 20, 0);
        let spec = examine("f", bytes.as_slice()).unwrap();
        assert_eq!(spec.virtual_size, Bytes::mib(64));
        assert_eq!(spec.sha256, Sha256Digest(Sha256::digest(&bytes).into()));
    }

    #[test]
    fn files_that_lean_on_others_are_refused() {
        for (bytes, why) in [
            (header(3, 72, 1, 0), "backing file"),
            (header(3, 0, 1, EXTERNAL_DATA), "another file"),
            (header(4, 0, 1, 0), "version"),
            (header(2, 0, 0, 0), "no size"),
            (b"RAW".to_vec(), "not a qcow2"),
            (b"QFI\xfb\0\0\0\x03".to_vec(), "cut off"),
        ] {
            let text = examine("f", bytes.as_slice()).unwrap_err().render(false);
            assert!(text.contains(why), "{text}");
        }
    }
}
