//! The daemon's configuration: one TOML file, read and checked whole before anything else happens.
//!
//! What is not known is refused with its place in the file: a misspelt setting that is silently ignored is found out
//! at the worst moment. The doc comments here are the reference.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use berth_model::host::ThreadSet;
use berth_model::{Bytes, Name};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::passthrough::Chosen;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration {} is not valid: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What, and where.
        problem: String,
    },
}

/// The configuration of `berth-hostd`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The host's name; must equal the name in its certificate.
    #[serde(deserialize_with = "text")]
    pub name: Name,
    /// Where the ledger is kept, with the host's identity in it. Default `/var/lib/berth/hostd`.
    #[serde(default = "Config::default_data_dir")]
    pub data_dir: PathBuf,
    /// `address:port` that is bound for controllers; port 0 binds a free one.
    pub listen: SocketAddr,
    /// `address:port` that controllers are told. Default: what is bound.
    #[serde(default)]
    pub address: Option<String>,
    /// `address:port` of each controller's API. One that lives is enough for the first session: leaders tell hosts where
    /// the controllers are, and a host remembers it in its data folder.
    pub controllers: Vec<String>,
    /// Image files, filled by the operator, each named by its SHA-256 in hexadecimal digits. Default
    /// `/var/lib/berth/images`.
    #[serde(default = "Config::default_images_dir")]
    pub images_dir: PathBuf,
    /// The VMs' disks. Default `/var/lib/berth/volumes`.
    #[serde(default = "Config::default_volumes_dir")]
    pub volumes_dir: PathBuf,
    /// Seeds, which hold user data, and sockets; best a folder in memory. Default `/run/berth`.
    #[serde(default = "Config::default_run_dir")]
    pub run_dir: PathBuf,
    /// Where libvirt is. Default `qemu:///system`.
    #[serde(default = "Config::default_libvirt_uri")]
    pub libvirt_uri: String,
    /// The machine's own description is read below this folder. Default `/`.
    #[serde(default = "Config::default_sysfs_root")]
    pub sysfs_root: PathBuf,
    /// Whole cores that are kept for the host; at most half of them are. Default 2.
    #[serde(default = "Config::default_host_cores")]
    pub host_cores: u32,
    /// Pages of 2 MiB that the kernel is asked for at start, over the whole host. Default: whatever is there stays.
    #[serde(default)]
    pub hugepages_2m: Option<u64>,
    /// Pages of 1 GiB that the kernel is asked for at start, over the whole host. Default: whatever is there stays. A kernel
    /// that runs for long finds few: `hugepagesz=1G hugepages=N` on its command line gives them for certain.
    #[serde(default)]
    pub hugepages_1g: Option<u64>,
    /// Whether the kernel merges pages that are alike, of VMs of the template density alone. It saves memory, costs a part of
    /// a CPU, and lets a guest find out what its neighbours hold in memory. Default: whatever is set stays.
    #[serde(default)]
    pub merge_pages: Option<bool>,
    /// Whether guest memory may be swapped. Default: no; a host with swap then says so by a condition.
    #[serde(default)]
    pub swap: bool,
    /// PCI devices that VMs may be given, each by its address (`0000:3b:00.0`) or all of one kind (`10de:2204`). Default:
    /// none. The devices must be in IOMMU groups in which everything else is named too.
    #[serde(default, deserialize_with = "texts")]
    pub pci_devices: Vec<Chosen>,
    /// Ordinary memory that is kept for the host itself. Default `1GiB`.
    #[serde(default = "Config::default_host_memory", deserialize_with = "text")]
    pub host_memory: Bytes,
    /// The certificates.
    pub tls: Tls,
    /// Only in a lab: the part of a shared machine that this host takes itself to be.
    #[serde(default)]
    pub lab_slice: Option<LabSlice>,
}

/// The certificates of this host.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The cluster's CA.
    pub ca: PathBuf,
    /// This host's certificate.
    pub cert: PathBuf,
    /// Its key, readable by its owner alone.
    pub key: PathBuf,
}

/// A part of a machine that several hosts of a lab share.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabSlice {
    /// The CPU threads, such as `0-1`.
    #[serde(deserialize_with = "text")]
    pub cpus: ThreadSet,
    /// The memory, hugepages included.
    #[serde(deserialize_with = "text")]
    pub memory: Bytes,
    /// How many of the machine's pages of 2 MiB are this slice's. The kernel is not asked for them.
    #[serde(default)]
    pub hugepages_2m: u64,
}

impl Config {
    fn default_data_dir() -> PathBuf {
        "/var/lib/berth/hostd".into()
    }
    fn default_images_dir() -> PathBuf {
        "/var/lib/berth/images".into()
    }
    fn default_volumes_dir() -> PathBuf {
        "/var/lib/berth/volumes".into()
    }
    fn default_run_dir() -> PathBuf {
        "/run/berth".into()
    }
    fn default_libvirt_uri() -> String {
        "qemu:///system".into()
    }
    fn default_sysfs_root() -> PathBuf {
        "/".into()
    }
    const fn default_host_cores() -> u32 {
        2
    }
    const fn default_host_memory() -> Bytes {
        Bytes::gib(1)
    }

    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.into(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(&text).map_err(|problem| ConfigError::Invalid { path: path.into(), problem })
    }

    /// Checks the text of a configuration file; the error says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.controllers.is_empty() {
            return Err("controllers: name at least one controller, such as [\"10.88.0.11:7440\"]".into());
        }
        for controller in &self.controllers {
            has_port("controllers", controller)?;
        }
        if let Some(address) = &self.address {
            has_port("address", address)?;
        }
        let folders = [
            ("data_dir", &self.data_dir),
            ("images_dir", &self.images_dir),
            ("volumes_dir", &self.volumes_dir),
            ("run_dir", &self.run_dir),
            ("sysfs_root", &self.sysfs_root),
            ("tls.ca", &self.tls.ca),
            ("tls.cert", &self.tls.cert),
            ("tls.key", &self.tls.key),
        ];
        for (field, path) in folders {
            if !path.is_absolute() {
                return Err(format!("{field}: {} must begin with /", path.display()));
            }
        }
        if let Some(slice) = &self.lab_slice {
            if slice.cpus.is_empty() {
                return Err("lab_slice.cpus: name at least one thread, such as \"0-1\"".into());
            }
            let huge = slice.hugepages_2m.saturating_mul(2 << 20);
            if huge > slice.memory.0 {
                return Err(format!(
                    "lab_slice.hugepages_2m: {} pages of 2MiB are more than lab_slice.memory, {}",
                    slice.hugepages_2m, slice.memory
                ));
            }
        }
        Ok(())
    }

    /// `address:port` that controllers are told, where `bound` is what listens.
    pub fn told_address(&self, bound: SocketAddr) -> String {
        self.address.clone().unwrap_or_else(|| bound.to_string())
    }
}

fn has_port(field: &str, address: &str) -> Result<(), String> {
    let good = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    if good { Ok(()) } else { Err(format!("{field}: {address:?} is not of the form address:port")) }
}

/// Reads a value from its text, as people write it.
fn text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// The same of a list of texts.
fn texts<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    let parse = |text: String| text.parse().map_err(D::Error::custom);
    Vec::<String>::deserialize(deserializer)?.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        name = "h1"
        data_dir = "/var/lib/berth/hostd"
        listen = "10.88.0.21:7443"
        address = "10.88.0.21:7443"
        controllers = ["10.88.0.11:7440", "10.88.0.12:7440"]
        images_dir = "/var/lib/berth/images"
        volumes_dir = "/var/lib/berth/volumes"
        run_dir = "/run/berth"
        libvirt_uri = "qemu:///system"
        sysfs_root = "/"
        host_cores = 0
        hugepages_2m = 512
        pci_devices = ["0000:3b:00.0", "10de:2204"]
        host_memory = "1GiB"
        [tls]
        ca = "/etc/berth/tls/ca.pem"
        cert = "/etc/berth/tls/cert.pem"
        key = "/etc/berth/tls/key.pem"
        [lab_slice]
        cpus = "0-1"
        memory = "2GiB"
        hugepages_2m = 512
    "#;

    const LEAST: &str = r#"
        name = "h1"
        listen = "10.88.0.21:7443"
        controllers = ["c1.example:7440"]
        [tls]
        ca = "/ca.pem"
        cert = "/cert.pem"
        key = "/key.pem"
    "#;

    #[test]
    fn a_whole_configuration_is_read() {
        let config = Config::parse(WHOLE).unwrap();
        assert_eq!(config.host_memory, Bytes::gib(1));
        assert_eq!(config.lab_slice.unwrap().cpus.to_string(), "0-1");
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config = Config::parse(LEAST).unwrap();
        assert_eq!((config.host_cores, config.hugepages_2m, config.host_memory), (2, None, Bytes::gib(1)));
        assert_eq!(config.told_address(config.listen), "10.88.0.21:7443");
        assert_eq!(config.libvirt_uri, "qemu:///system");
    }

    #[test]
    fn an_unknown_setting_is_refused_with_its_place() {
        let problem = Config::parse(&LEAST.replace("listen", "hugepages_2mb = 1\n listen")).unwrap_err();
        assert!(problem.contains("line 3") && problem.contains("unknown field `hugepages_2mb`"), "{problem}");
        let problem = Config::parse(&WHOLE.replace("memory = \"2GiB\"", "ram = \"2GiB\"")).unwrap_err();
        assert!(problem.contains("unknown field `ram`") && problem.contains("line"), "{problem}");
    }

    #[test]
    fn bad_values_are_refused_and_named() {
        let bad = [
            (("\"h1\"", "\"H_1\""), "a name holds only"),
            (("\"10.88.0.21:7443\"", "\"somewhere\""), "invalid socket address"),
            (("[\"c1.example:7440\"]", "[]"), "at least one controller"),
            (("[\"c1.example:7440\"]", "[\"c1\"]"), "not of the form address:port"),
            (("\"/key.pem\"", "\"key.pem\""), "tls.key: key.pem must begin with /"),
        ];
        for ((from, to), expected) in bad {
            let problem = Config::parse(&LEAST.replace(from, to)).unwrap_err();
            assert!(problem.contains(expected), "{to}: {problem}");
        }
        let problem = Config::parse(&WHOLE.replace("memory = \"2GiB\"", "memory = \"512MiB\"")).unwrap_err();
        assert!(problem.contains("more than lab_slice.memory"), "{problem}");
        let problem = Config::parse(&WHOLE.replace("\"1GiB\"", "\"1 Gigabyte\"")).unwrap_err();
        assert!(problem.contains("not an amount of memory"), "{problem}");
    }
}
