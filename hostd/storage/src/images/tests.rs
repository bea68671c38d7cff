use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::format::testing::{qcow2, raw};

static GO: AtomicBool = AtomicBool::new(false);

struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("images")).unwrap();
        Self { root }
    }

    fn images(&self) -> Images {
        self.images_settled_after(-1)
    }

    /// With another idea of how long timestamps take to settle; with less than none, every verdict is remembered.
    fn images_settled_after(&self, nanos: i128) -> Images {
        let root = self.root.path();
        Images { settled_nanos: nanos, ..Images::open(&root.join("images"), &root.join("images.json")).unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join("images").join(name)
    }

    /// Puts a file under its digest, as an operator would.
    fn add(&self, make: impl FnOnce(&Path)) -> Sha256Digest {
        let path = self.root.path().join("new");
        make(&path);
        let digest = Sha256Digest(Sha256::digest(fs::read(&path).unwrap()).into());
        fs::rename(path, self.at(&digest.to_string())).unwrap();
        digest
    }
}

fn reason(found: &BTreeMap<Sha256Digest, ImageOnHost>, digest: Sha256Digest) -> &str {
    match &found[&digest] {
        ImageOnHost::Refused { reason } => reason,
        ImageOnHost::Verified { .. } => panic!("{digest} was verified"),
    }
}

#[test]
fn images_are_verified_and_other_files_are_the_operators_own() {
    let bench = Bench::new();
    let qcow = bench.add(|path| qcow2(path, "1G", &[]));
    let plain = bench.add(|path| raw(path, 64));
    fs::write(bench.at("README"), "ours").unwrap();
    fs::write(bench.at(&"A".repeat(64)), "not the spelling of a digest").unwrap();
    let found = bench.images().scan(&GO).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[&qcow], ImageOnHost::Verified { virtual_size: Bytes::gib(1) });
    assert_eq!(found[&plain], ImageOnHost::Verified { virtual_size: Bytes(64 * 512) });
    let base = bench.images().base(plain, &GO).unwrap();
    assert_eq!(base.format, ImageFormat::Raw);
    assert!(base.path.is_absolute() && base.path.ends_with(plain.to_string()));
}

#[test]
fn links_fifos_folders_wrong_digests_and_leading_headers_are_refused_with_a_reason() {
    let bench = Bench::new();
    let good = bench.add(|path| raw(path, 64));
    let digest = |byte| Sha256Digest([byte; 32]);
    symlink(bench.at(&good.to_string()), bench.at(&digest(1).to_string())).unwrap();
    nix::unistd::mkfifo(&bench.at(&digest(2).to_string()), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(bench.at(&digest(3).to_string())).unwrap();
    raw(&bench.at(&digest(4).to_string()), 8);
    let base = bench.at(&good.to_string()).to_str().unwrap().to_owned();
    let leading = bench.add(|path| qcow2(path, "1M", &["-F", "raw", "-b", &base]));
    let images = bench.images();
    let found = images.scan(&GO).unwrap();
    assert_eq!(found.len(), 6);
    assert!(matches!(found[&good], ImageOnHost::Verified { .. }));
    assert!(reason(&found, digest(1)).contains("symbolic link"));
    assert!(reason(&found, digest(2)).contains("not a regular file"));
    assert!(reason(&found, digest(3)).contains("not a regular file"));
    assert!(reason(&found, digest(4)).contains("its SHA-256 is"));
    assert!(reason(&found, leading).contains("backing file"));
    assert_eq!(images.base(digest(4), &GO).unwrap_err().reason(), "ImageRefused");
    assert_eq!(images.base(digest(9), &GO).unwrap_err().reason(), "ImageMissing");
}

#[test]
fn a_verdict_outlives_the_program_and_ends_when_the_file_changes() {
    let bench = Bench::new();
    let digest = bench.add(|path| raw(path, 64));
    bench.images().scan(&GO).unwrap();

    // A wish to stop ends hashing, so an answer in spite of it was remembered.
    let stop = AtomicBool::new(true);
    let again = bench.images();
    assert!(matches!(again.scan(&stop).unwrap()[&digest], ImageOnHost::Verified { .. }));

    let mut bytes = fs::read(bench.at(&digest.to_string())).unwrap();
    bytes[0] ^= 1;
    fs::write(bench.at(&digest.to_string()), bytes).unwrap();
    assert!(matches!(again.scan(&stop), Err(StorageError::Cancelled)));
    let found = again.scan(&GO).unwrap();
    assert!(reason(&found, digest).contains("altered"), "{found:?}");
    assert_eq!(again.base(digest, &GO).unwrap_err().reason(), "ImageRefused");
}

#[test]
fn an_image_that_went_away_is_not_reported_and_not_remembered() {
    let bench = Bench::new();
    let digest = bench.add(|path| raw(path, 64));
    let images = bench.images();
    assert_eq!(images.scan(&GO).unwrap().len(), 1);
    fs::remove_file(bench.at(&digest.to_string())).unwrap();
    assert_eq!(images.scan(&GO).unwrap().len(), 0);
    assert!(images.known().is_empty());
}

#[test]
fn a_damaged_memory_costs_time_and_nothing_else() {
    let bench = Bench::new();
    let digest = bench.add(|path| raw(path, 64));
    for damage in ["{", r#"{"version":9,"images":{}}"#, ""] {
        fs::write(bench.root.path().join("images.json"), damage).unwrap();
        assert!(matches!(bench.images().scan(&GO).unwrap()[&digest], ImageOnHost::Verified { .. }));
    }
}

#[test]
fn a_fresh_file_is_verified_but_not_remembered_before_its_timestamps_settle() {
    let bench = Bench::new();
    let digest = bench.add(|path| raw(path, 64));
    let images = bench.images_settled_after(i128::MAX);
    assert!(matches!(images.scan(&GO).unwrap()[&digest], ImageOnHost::Verified { .. }));
    assert!(images.known().is_empty());
}
