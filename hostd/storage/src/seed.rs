//! NoCloud seeds: what a guest reads at its first boot to learn its name, its keys and its commands.
//!
//! An ISO 9660 image labelled `cidata` with `meta-data`, `user-data` and, if given, `network-config`, the same bytes
//! for the same input. User data may hold secrets, so seeds lie in the run folder (memory), readable by root alone.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use berth_model::vm::VmSpec;
use berth_model::{Name, VmUid};
use nix::fcntl::OFlag;

use crate::StorageError;
use crate::folder::Folder;
use crate::iso::{self, IsoFile};

/// The label by which cloud-init finds a seed.
const LABEL: &str = "cidata";

/// What a guest gets when nobody gave user data: cloud-init wants the file, even if it says nothing.
const NO_USER_DATA: &[u8] = b"#cloud-config\n";

/// The most network configuration; hundreds of NICs need less.
const LONGEST_NETWORK_CONFIG: usize = 1 << 20;

/// What goes into a seed.
#[derive(Clone, Copy, Debug)]
pub struct Seed<'a> {
    /// The instance: a guest that sees another one runs its first-boot work again.
    pub vm: VmUid,
    /// The guest's hostname.
    pub name: &'a Name,
    /// cloud-init user data, as given.
    pub user_data: Option<&'a [u8]>,
    /// cloud-init network configuration.
    pub network_config: Option<&'a [u8]>,
}

/// The seed as an ISO 9660 image.
pub fn render(seed: &Seed<'_>) -> Result<Vec<u8>, StorageError> {
    let longest_user_data = usize::try_from(VmSpec::MAX_USER_DATA.0).unwrap_or(usize::MAX);
    check("user data", seed.user_data, longest_user_data)?;
    check("the network configuration", seed.network_config, LONGEST_NETWORK_CONFIG)?;
    // In quotes: a VM may be called 123 or null, and must not become a number or nothing in YAML.
    let meta_data = format!("instance-id: \"{}\"\nlocal-hostname: \"{}\"\n", seed.vm, seed.name);
    let mut files = vec![IsoFile { name: "meta-data", bytes: meta_data.as_bytes() }];
    if let Some(bytes) = seed.network_config {
        files.push(IsoFile { name: "network-config", bytes });
    }
    files.push(IsoFile { name: "user-data", bytes: seed.user_data.unwrap_or(NO_USER_DATA) });
    Ok(iso::write(LABEL, &files))
}

fn check(what: &'static str, bytes: Option<&[u8]>, limit: usize) -> Result<(), StorageError> {
    match bytes.map(<[u8]>::len) {
        Some(size) if size > limit => Err(StorageError::TooLarge { what, size, limit }),
        _ => Ok(()),
    }
}

/// The folder of seeds.
#[derive(Debug)]
pub struct Seeds {
    folder: Folder,
}

impl Seeds {
    /// Opens the folder, which must exist.
    pub fn open(folder: &Path) -> Result<Self, StorageError> {
        Folder::open(folder).map(|folder| Self { folder })
    }

    /// Where a VM's seed is, whether it exists or not.
    pub fn path(&self, vm: VmUid) -> PathBuf {
        self.folder.path_of(&file_name(vm))
    }

    /// Writes a VM's seed, in place of an older one. Returns where it is.
    pub fn write(&self, seed: &Seed<'_>) -> Result<PathBuf, StorageError> {
        let image = render(seed)?;
        let path = self.path(seed.vm);
        let temporary = format!(".{}.new", file_name(seed.vm));
        let write = || {
            self.folder.remove(&temporary)?;
            let mut file = self.folder.create_new(&temporary, OFlag::empty())?;
            file.write_all(&image)?;
            file.sync_all()?;
            self.folder.rename(&temporary, &file_name(seed.vm), true)
        };
        write().map_err(StorageError::io("writing", &path))?;
        Ok(path)
    }

    /// Whether a seed of this VM is there.
    pub fn exists(&self, vm: VmUid) -> Result<bool, StorageError> {
        let status = self.folder.status(&file_name(vm)).map_err(StorageError::io("looking at", self.path(vm)))?;
        Ok(status.is_some())
    }

    /// Removes a VM's seed and what a crash may have left of its making. Returns whether there was one.
    pub fn remove(&self, vm: VmUid) -> Result<bool, StorageError> {
        let failed = || StorageError::io("removing", self.path(vm));
        self.folder.remove(&format!(".{}.new", file_name(vm))).map_err(failed())?;
        self.folder.remove(&file_name(vm)).map_err(failed())
    }
}

fn file_name(vm: VmUid) -> String {
    format!("{vm}.seed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iso::reading::{files, volume_label};
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    fn seed<'a>(name: &'a Name, user_data: Option<&'a [u8]>) -> Seed<'a> {
        Seed { vm: "0123456789abcdefghjk".parse().unwrap(), name, user_data, network_config: None }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_goes_in_comes_out_of_both_trees(
            length in prop_oneof![0_usize..5000, Just(2047), Just(2048), Just(2049), Just(1 << 20), 0_usize..1 << 20],
            network in proptest::option::of(0_usize..5000),
            byte in any::<u8>(),
        ) {
            let name: Name = "web-1".parse().unwrap();
            let (user_data, network) = (vec![byte; length], network.map(|length| vec![!byte; length]));
            let image = render(&Seed { network_config: network.as_deref(), ..seed(&name, Some(&user_data)) }).unwrap();
            prop_assert_eq!(image.len() % 2048, 0);
            let mut expected = vec![("meta-data".to_owned(), b"instance-id: \"0123456789abcdefghjk\"\nlocal-hostname: \"web-1\"\n".to_vec())];
            expected.extend(network.map(|bytes| ("network-config".to_owned(), bytes)));
            expected.push(("user-data".to_owned(), user_data));
            prop_assert_eq!(&files(&image, false), &expected);
            let versioned: Vec<_> = expected.into_iter().map(|(name, bytes)| (format!("{name};1"), bytes)).collect();
            prop_assert_eq!(files(&image, true), versioned);
        }
    }

    #[test]
    fn the_label_is_cidata_in_both_trees() {
        let name: Name = "web-1".parse().unwrap();
        let image = render(&seed(&name, None)).unwrap();
        assert_eq!(volume_label(&image, false), "cidata");
        assert_eq!(volume_label(&image, true), "cidata");
    }

    #[test]
    fn the_same_input_is_the_same_bytes_on_every_machine() {
        let name: Name = "web-1".parse().unwrap();
        let image = render(&seed(&name, Some(b"#cloud-config\nhostname: a\n"))).unwrap();
        let digest = berth_model::image::Sha256Digest(Sha256::digest(&image).into()).to_string();
        assert_eq!(digest, "379d025e7c951a2947a16884df8f8b870050b7179aa01f4808bca98fb2302ba6");
    }

    #[test]
    fn other_programs_read_it_too() {
        let folder = tempfile::tempdir().unwrap();
        let name: Name = "web-1".parse().unwrap();
        let path = Seeds::open(folder.path()).unwrap().write(&seed(&name, Some(b"#!/bin/sh\n"))).unwrap();
        let output =
            Command::new("blkid").args(["-p", "-o", "export"]).arg(&path).output().expect("blkid of util-linux");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("LABEL=cidata") && text.contains("TYPE=iso9660"), "{text}");
    }

    #[test]
    fn too_much_user_data_is_refused() {
        let name: Name = "web-1".parse().unwrap();
        let too_long = vec![b'#'; (1 << 20) + 1];
        let error = render(&seed(&name, Some(&too_long))).unwrap_err();
        assert!(matches!(error, StorageError::TooLarge { what: "user data", size: 1_048_577, limit: 1_048_576 }));
    }

    #[test]
    fn a_seed_is_roots_alone_replaced_whole_and_removed_with_its_leftovers() {
        let folder = tempfile::tempdir().unwrap();
        let seeds = Seeds::open(folder.path()).unwrap();
        let name: Name = "web-1".parse().unwrap();
        let first = seed(&name, Some(b"one"));
        let path = seeds.write(&first).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        seeds.write(&seed(&name, Some(b"two"))).unwrap();
        assert_eq!(files(&fs::read(&path).unwrap(), false)[1].1, b"two");
        fs::write(folder.path().join(format!(".{}.seed.new", first.vm)), "half").unwrap();
        assert!(seeds.exists(first.vm).unwrap());
        assert!(seeds.remove(first.vm).unwrap());
        assert!(!seeds.exists(first.vm).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_a_seeds_place_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        let seeds = Seeds::open(folder.path()).unwrap();
        let name: Name = "web-1".parse().unwrap();
        let seed = seed(&name, None);
        std::os::unix::fs::symlink(&victim, seeds.path(seed.vm)).unwrap();
        seeds.write(&seed).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
        assert!(fs::symlink_metadata(seeds.path(seed.vm)).unwrap().is_file());
    }
}
