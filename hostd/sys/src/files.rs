//! Reading the kernel's small text files, with errors that name the file.

use std::fs;
use std::path::{Path, PathBuf};

use berth_model::host::{NodeId, ThreadSet};

use crate::Error;

/// The file's text without white space around it.
pub(crate) fn text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// The whole file is one number.
pub(crate) fn number<N: std::str::FromStr>(path: &Path) -> Result<N, Error> {
    let text = text(path)?;
    text.parse().map_err(|_| malformed(path, &text, "a number"))
}

/// The whole file is a CPU list.
pub(crate) fn threads(path: &Path) -> Result<ThreadSet, Error> {
    let text = text(path)?;
    text.parse().map_err(|_| malformed(path, &text, "a list of CPUs such as 0-3,8"))
}

pub(crate) fn malformed(path: &Path, text: &str, expected: &'static str) -> Error {
    Error::Malformed { path: path.to_owned(), text: text.chars().take(80).collect(), expected }
}

/// The amount in kB that stands behind `key` in a file of the shape of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(path: &Path, key: &str) -> Result<u64, Error> {
    let text = text(path)?;
    text.lines()
        .find_map(|line| {
            // A node's file says `Node 0 MemTotal: …` where the machine's says `MemTotal: …`.
            let (words, amount) = line.split_once(':')?;
            (words.split_whitespace().last()? == key).then(|| amount.trim().strip_suffix("kB")?.trim().parse().ok())?
        })
        .and_then(|kilobytes: u64| kilobytes.checked_mul(1024))
        .ok_or_else(|| malformed(path, &text, "an account of memory in kB"))
}

/// The folders of the NUMA nodes that are online, in ascending order; none on a kernel built without NUMA.
pub(crate) fn nodes(root: &Path) -> Result<Vec<(NodeId, PathBuf)>, Error> {
    let folder = root.join("sys/devices/system/node");
    let online = folder.join("online");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    // The list of nodes has the form of a list of CPUs.
    Ok(threads(&online)?.iter().map(|node| (NodeId(node.0), folder.join(format!("node{node}")))).collect())
}
