//! The private libvirtd of a host: its settings, and the cache that saves its first eight seconds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{At as _, Result};

/// Below a host's folder: what is bound over `/etc/libvirt`, `/var/cache`, and so on.
pub(crate) const BOUND: [(&str, &str); 5] = [
    ("run", "/run"),
    ("lib-libvirt", "/var/lib/libvirt"),
    ("log", "/var/log"),
    ("etc-libvirt", "/etc/libvirt"),
    ("cache", "/var/cache"),
];

/// Where a host sees its hugepages.
pub(crate) const HUGEPAGES: &str = "/run/hugepages";

/// libvirtd.conf of one host. The UUID is the host's own: libvirt refuses to migrate a VM to "itself".
pub(crate) fn libvirtd_conf(uuid: &str) -> String {
    format!(
        "host_uuid = \"{uuid}\"\n\
         auth_unix_ro = \"none\"\n\
         auth_unix_rw = \"none\"\n\
         unix_sock_group = \"root\"\n\
         log_outputs = \"3:stderr\"\n"
    )
}

/// qemu.conf of every host.
///
/// There is no virtlogd, no security driver and no cgroup that would be the host's own; and a mount namespace for each
/// QEMU would hide it from the host's others.
pub(crate) fn qemu_conf() -> String {
    format!(
        "user = \"root\"\n\
         group = \"root\"\n\
         dynamic_ownership = 0\n\
         remember_owner = 0\n\
         security_driver = \"none\"\n\
         namespaces = [ ]\n\
         cgroup_controllers = [ ]\n\
         stdio_handler = \"file\"\n\
         hugetlbfs_mount = [ \"{HUGEPAGES}\" ]\n"
    )
}

/// Where libvirt keeps what it found out about each QEMU, below the folder bound over `/var/cache`.
const CAPABILITIES: &str = "libvirt/qemu/capabilities";

/// Where that is kept between labs: `${BERTH_CACHE:-$HOME/.cache/berth}/libvirt-cache`.
fn kept() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("BERTH_CACHE").or_else(|| Some(set("HOME")?.join(".cache/berth")))?;
    Some(cache.join("libvirt-cache"))
}

/// Gives a host what earlier labs found out; says whether there was anything. libvirt checks itself whether it holds.
pub(crate) fn warm(cache: &Path) -> Result<bool> {
    kept().map_or(Ok(false), |kept| copy(&kept, &cache.join(CAPABILITIES)))
}

/// Gives one host what another one found out.
pub(crate) fn share(from: &Path, to: &Path) -> Result<()> {
    copy(&from.join(CAPABILITIES), &to.join(CAPABILITIES)).map(drop)
}

/// Keeps what a host found out.
pub(crate) fn keep(cache: &Path) -> Result<()> {
    kept().map_or(Ok(()), |kept| copy(&cache.join(CAPABILITIES), &kept).map(drop))
}

/// Copies the files that differ, each in one step because labs may do so at the same time; says whether there are any.
fn copy(from: &Path, to: &Path) -> Result<bool> {
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).at("read", from),
    };
    let mut any = false;
    for entry in entries {
        let entry = entry.at("read", from)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        any = true;
        let bytes = fs::read(&source).at("read", &source)?;
        if fs::read(&target).is_ok_and(|there| there == bytes) {
            continue;
        }
        fs::create_dir_all(to).at("make", to)?;
        let fresh = target.with_extension(format!("{}.new", std::process::id()));
        fs::write(&fresh, &bytes).at("write", &fresh)?;
        fs::rename(&fresh, &target).at("write", &target)?;
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_copied_whole_and_a_missing_one_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        assert!(!copy(&from, &to).unwrap());
        fs::create_dir(&from).unwrap();
        fs::write(from.join("a.xml"), "found").unwrap();
        fs::write(from.join("a.1.new"), "half").unwrap();
        assert!(copy(&from, &to).unwrap());
        assert_eq!(fs::read_to_string(to.join("a.xml")).unwrap(), "found");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }
}
