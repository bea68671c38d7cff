//! Compiles the .proto files without protoc, and keeps their descriptors for gRPC reflection.

use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

const FILES: [&str; 13] = [
    "common",
    "rules",
    "vm",
    "image",
    "instancetype",
    "host",
    "placement",
    "cluster",
    "console",
    "peer",
    "agent",
    "history",
    "backup",
];

fn main() {
    println!("cargo:rerun-if-changed=proto");
    let root = Path::new("proto");
    let files = FILES.map(|name| root.join("berth/v1").join(format!("{name}.proto")));
    let descriptors = protox::compile(files, [root]).expect("the .proto files compile");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec()).expect("OUT_DIR is writable");
    tonic_prost_build::configure()
        // Ordered maps: the same message always has the same bytes.
        .btree_map(".")
        .out_dir(&out)
        .compile_fds(descriptors)
        .expect("the descriptors generate code");
}
