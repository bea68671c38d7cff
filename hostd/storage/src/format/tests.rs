use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::testing::{open, qcow2, qemu_img, raw};
use super::*;

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A qcow2 file whose bytes were changed.
    fn altered(&self, change: impl FnOnce(&mut Vec<u8>)) -> Result<Header, FormatError> {
        let path = self.at("altered");
        qcow2(&path, "16M", &[]);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        read_image(&open(&path))
    }
}

fn refused(outcome: Result<Header, FormatError>, part: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, FormatError::Refused(_)) && error.to_string().contains(part), "{error}, not {part}");
}

#[test]
fn what_qemu_img_makes_is_read_as_it_was_made() {
    let bench = Bench::new();
    for options in [
        &[][..],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=2M"],
        &["-o", "extended_l2=on,cluster_size=128k"],
        &["-o", "compression_type=zstd"],
    ] {
        let path = bench.at("disk");
        qcow2(&path, "3G", options);
        let header = read_image(&open(&path)).unwrap();
        assert_eq!(
            header,
            Header { format: ImageFormat::Qcow2, virtual_size: Bytes::gib(3), backing: None },
            "{options:?}"
        );
        fs::remove_file(path).unwrap();
    }
    raw(&bench.at("raw"), 8);
    let header = read_image(&open(&bench.at("raw"))).unwrap();
    assert_eq!(header, Header { format: ImageFormat::Raw, virtual_size: Bytes(4096), backing: None });
}

#[test]
fn files_that_lead_to_other_files_are_refused() {
    let bench = Bench::new();
    raw(&bench.at("base"), 2048);
    let base = bench.at("base").to_str().unwrap().to_owned();
    qcow2(&bench.at("overlay"), "1M", &["-F", "raw", "-b", &base]);
    refused(read_image(&open(&bench.at("overlay"))), "it has a backing file");
    let header = read(&open(&bench.at("overlay"))).unwrap();
    assert_eq!(header.backing, Some(Backing { name: base.clone(), format: Some("raw".to_owned()) }));

    let json = format!(r#"json:{{"driver":"raw","file":{{"driver":"file","filename":"{base}"}}}}"#);
    qcow2(&bench.at("json"), "1M", &["-F", "raw", "-b", &json]);
    refused(read_image(&open(&bench.at("json"))), "json: name");

    let data = format!("data_file={}", bench.at("data").display());
    qcow2(&bench.at("external"), "1M", &["-o", &data]);
    refused(read_image(&open(&bench.at("external"))), "external data file");

    // The name alone, without the feature bit that QEMU sets with it.
    let mut bytes = fs::read(bench.at("external")).unwrap();
    bytes[79] &= !(1 << 2);
    fs::write(bench.at("external"), bytes).unwrap();
    refused(read_image(&open(&bench.at("external"))), "names an external data file");
}

#[test]
fn damaged_and_absurd_headers_are_refused() {
    let bench = Bench::new();
    bench.altered(|_| {}).expect("unaltered it is fine");
    refused(bench.altered(|bytes| bytes[7] = 1), "version 1");
    refused(bench.altered(|bytes| bytes[23] = 40), "2^40");
    refused(bench.altered(|bytes| bytes[24] = 0x7f), "bytes");
    refused(bench.altered(|bytes| bytes[24..32].fill(0)), "0 bytes");
    refused(bench.altered(|bytes| bytes[35] = 2), "encrypted");
    refused(bench.altered(|bytes| bytes[79] |= 1), "not closed cleanly");
    refused(bench.altered(|bytes| bytes[79] |= 2), "corrupt");
    refused(bench.altered(|bytes| bytes[72] |= 0x80), "unknown incompatible");
    refused(bench.altered(|bytes| bytes[100] = 0xff), "bytes long");
    refused(bench.altered(|bytes| bytes[39] = 0), "first-level table");
    refused(bench.altered(|bytes| bytes[40] = 1), "outside the file");
    refused(bench.altered(|bytes| bytes[48] = 1), "reference counts");
    refused(bench.altered(|bytes| bytes.truncate(70_000)), "outside the file");
    refused(bench.altered(|bytes| bytes.truncate(60)), "cut short");
    refused(bench.altered(|bytes| bytes[116..120].fill(0xff)), "beyond the first cluster");
}

#[test]
fn other_formats_are_named_and_what_cannot_boot_is_no_raw_disk() {
    let bench = Bench::new();
    for (format, part) in [("vmdk", "VMDK"), ("vdi", "VDI"), ("vpc", "VHD"), ("vhdx", "VHDX"), ("qed", "QED")] {
        let path = bench.at(format);
        qemu_img(&["create", "-q", "-f", format, path.to_str().unwrap(), "4M"]);
        refused(read_image(&open(&path)), part);
    }
    fs::write(bench.at("page"), "<!DOCTYPE html><title>404</title>").unwrap();
    refused(read_image(&open(&bench.at("page"))), "neither qcow2 nor a raw disk");
    fs::write(bench.at("empty"), "").unwrap();
    refused(read_image(&open(&bench.at("empty"))), "neither qcow2 nor a raw disk");
    raw(&bench.at("odd"), 3);
    fs::OpenOptions::new().write(true).open(bench.at("odd")).unwrap().set_len(1500).unwrap();
    refused(read_image(&open(&bench.at("odd"))), "whole number of 512-byte sectors");
    // A boot sector in front does not hide another format.
    raw(&bench.at("hidden"), 2048);
    let mut bytes = fs::read(bench.at("hidden")).unwrap();
    bytes[..4].copy_from_slice(b"KDMV");
    fs::write(bench.at("hidden"), bytes).unwrap();
    refused(read_image(&open(&bench.at("hidden"))), "VMDK");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(changes in proptest::collection::vec((0_usize..512, any::<u8>()), 0..12), cut in 0_usize..3000) {
        // A small but valid header, then changed at random.
        let mut bytes = vec![0_u8; 3000];
        bytes[..4].copy_from_slice(QCOW_MAGIC);
        for (at, value) in [(7, 3), (23, 9), (30, 0x10), (39, 1), (46, 2), (54, 4), (59, 1), (103, 112)] {
            bytes[at] = value;
        }
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(cut);
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let _ = read(&file);
    }
}
