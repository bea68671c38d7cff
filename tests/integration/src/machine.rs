//! What the machine must have before a test can run. What is missing is a failure with what to do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use berth_lab::Binaries;
use serde::Deserialize;

/// The guest image `tiny`.
#[derive(Clone, Debug, Deserialize)]
pub struct Tiny {
    /// The qcow2 file.
    pub path: PathBuf,
    /// Its digest, 64 hexadecimal digits.
    pub sha256: String,
    /// Bytes of the disk that a guest sees.
    pub virtual_size: u64,
}

/// Where cargo put the programs: the folder above that of the tests, or that of this very program.
pub(crate) fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("the system knows this program's path");
    let folder = own.parent().expect("a program lies in a folder");
    let is_of_tests = folder.file_name().is_some_and(|name| name == "deps");
    let folder = if is_of_tests { folder.parent() } else { Some(folder) };
    folder.expect("cargo puts tests into a folder beside the programs").to_owned()
}

/// A program of ours; missing is a failure.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = programs().join(name);
    assert!(
        path.is_file(),
        "{} is missing: build it first by `cargo build --workspace --bins`, or run the tests by `./x test`",
        path.display()
    );
    path
}

/// The daemons that a lab runs. Root is needed for its namespaces.
pub(crate) fn binaries(hosts: u8) -> Binaries {
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests make network namespaces, mounts and virtual machines: run them as root"
    );
    program("berth-controller");
    if hosts > 0 {
        program("berth-hostd");
    }
    Binaries::in_folder(&programs())
}

/// The image that guests boot: as `./x test` hands it on, or as `./x image` finds or builds it.
pub fn tiny() -> &'static Tiny {
    static TINY: OnceLock<Tiny> = OnceLock::new();
    TINY.get_or_init(|| {
        let said = std::env::var("BERTH_IMAGE_TINY").unwrap_or_else(|_| made());
        serde_json::from_str(said.trim()).unwrap_or_else(|error| {
            panic!("BERTH_IMAGE_TINY is not what `./x image tiny --json` prints: {error}\n{said}")
        })
    })
}

fn made() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(root.join("x")).args(["image", "tiny", "--json"]).current_dir(&root).output();
    let output = output.unwrap_or_else(|error| panic!("./x cannot be run: {error}"));
    assert!(
        output.status.success(),
        "`./x image tiny --json` failed; run it by hand to see why:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
