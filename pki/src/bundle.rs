//! What one controller needs to take its place in a cluster, in one file that only its owner may read.
//!
//! Whoever holds the authority writes it, an operator carries it to the machine, and `berth-controller join` unpacks it
//! there: certificate, key, sealing key, and the member's place. It holds facts and no configuration, so that the program
//! that reads it decides where its files lie. Later ways to join, such as tokens that are good once, can end in the same
//! bundle.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ca::Issued;
use crate::files::{FileError, read_private, write_private};

/// The version of the form below.
const FORMAT: u32 = 1;

/// What a reader sees first.
const HEAD: &str = "# Berth: the place and the keys of one controller. Keep it secret; remove it once it was used.\n";

/// The first line of a configuration of `berth` that was made with a cluster. As long as it stands there, `berth` keeps the
/// file's endpoints as the membership changes; without it the file is its owner's alone.
pub const KEPT_CONFIG: &str =
    "# Made with the cluster; berth keeps the endpoints. Remove this line to keep them yourself.";

/// The port of a controller's API.
pub const API_PORT: u16 = 7440;
/// The port where controllers answer controllers.
pub const RAFT_PORT: u16 = 7441;
/// The port of a controller's metrics.
pub const METRICS_PORT: u16 = 7442;

/// Why a bundle is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file cannot be read or written, or others may read it.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not a bundle.
    #[error("{path} is no bundle of a controller: {reason}; make a new one with 'berth cluster member add'")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is of a later version.
    #[error("{path} is a bundle of format {found}, this program knows format {FORMAT}; use the version that wrote it")]
    Format {
        /// The file.
        path: String,
        /// Its format.
        found: u32,
    },
}

/// One member's place in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seat {
    /// Its number in the cluster, never used again for another member.
    pub id: u64,
    /// Its name, as in its certificate.
    pub name: String,
    /// Where it answers operators and hosts, `address:port`.
    pub api: String,
    /// Where it answers other controllers, `address:port`.
    pub raft: String,
    /// What it shares the fate of: a rack, a room, a machine. Empty if nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
}

impl Seat {
    /// The place of a member that answers at `address`, an IP address or a DNS name, with the ports as shipped.
    pub fn at(id: u64, name: &str, address: &str, domain: &str) -> Self {
        Self {
            id,
            name: name.to_owned(),
            api: with_port(address, API_PORT),
            raft: with_port(address, RAFT_PORT),
            domain: domain.to_owned(),
        }
    }

    /// The address without its port.
    pub fn address(&self) -> &str {
        let host = self.api.rsplit_once(':').map_or(self.api.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// `address:port`, with brackets where an IPv6 address needs them.
pub fn with_port(address: &str, port: u16) -> String {
    if address.parse::<Ipv6Addr>().is_ok() { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// The place and the keys of one controller.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The cluster's id.
    pub cluster: String,
    /// Whose it is.
    pub seat: Seat,
    /// The members that a new cluster begins with, this one among them; empty for one that joins a cluster that runs.
    pub first: Vec<Seat>,
    /// The authority's certificate.
    pub ca_pem: String,
    /// The member's certificate.
    pub cert_pem: String,
    /// Its private key: a secret.
    pub key_pem: Zeroizing<String>,
    /// The key that opens the cluster's secrets: a secret. None if it is carried by other means.
    pub sealing_key: Option<Zeroizing<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    cluster: String,
    ca: String,
    certificate: String,
    key: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealing_key: Option<Zeroizing<String>>,
    member: Seat,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    first: Vec<Seat>,
}

/// The one field that every format has.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

impl Bundle {
    /// The bundle of a member for whom a certificate was just issued.
    pub fn new(seat: Seat, first: Vec<Seat>, issued: &Issued, sealing_key: Option<Zeroizing<String>>) -> Self {
        Self {
            cluster: issued.identity.cluster().to_owned(),
            seat,
            first,
            ca_pem: issued.ca_pem.clone(),
            cert_pem: issued.cert_pem.clone(),
            key_pem: issued.key_pem.clone(),
            sealing_key,
        }
    }

    /// Writes it, mode 0600. Whether something may be replaced is the caller's to know.
    pub fn save(&self, path: &Path) -> Result<(), BundleError> {
        let Self { cluster, seat, first, ca_pem, cert_pem, key_pem, sealing_key } = self.clone();
        let written = Written {
            format: FORMAT,
            cluster,
            ca: ca_pem,
            certificate: cert_pem,
            key: key_pem,
            sealing_key,
            member: seat,
            first,
        };
        let text = toml::to_string(&written).expect("texts, numbers and tables of these can be written");
        let text = Zeroizing::new(format!("{HEAD}{text}"));
        Ok(write_private(path, text.as_bytes())?)
    }

    /// Reads one; refuses a file that others may read.
    pub fn load(path: &Path) -> Result<Self, BundleError> {
        let bytes = Zeroizing::new(read_private(path)?);
        let shown = || path.display().to_string();
        // The parser's own words would show the line, which may be a key.
        let malformed = |reason: &str| BundleError::Malformed { path: shown(), reason: reason.to_owned() };
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed("it is not text"))?;
        let AnyFormat { format } = toml::from_str(text).map_err(|_| malformed("it says no format"))?;
        if format != FORMAT {
            return Err(BundleError::Format { path: shown(), found: format });
        }
        let Written { format: _, cluster, ca, certificate, key, sealing_key, member, first } =
            toml::from_str(text).map_err(|error| malformed(error.message()))?;
        Ok(Self { cluster, seat: member, first, ca_pem: ca, cert_pem: certificate, key_pem: key, sealing_key })
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, seat, first, .. } = self;
        f.debug_struct("Bundle")
            .field("cluster", cluster)
            .field("seat", seat)
            .field("first", first)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use super::*;
    use crate::{Authority, Identity, Role, SealingKey, Validity};

    fn bundle() -> Bundle {
        let validity = Validity::days(SystemTime::now(), 1);
        let authority = Authority::generate("lab", validity).unwrap();
        let issued = authority.issue(&Identity::new("lab", Role::Controller, "c2").unwrap(), &[], validity).unwrap();
        let first = vec![Seat::at(1, "c1", "10.0.0.1", ""), Seat::at(2, "c2", "fd00::2", "rack-2")];
        Bundle::new(first[1].clone(), first, &issued, Some(SealingKey::generate().unwrap().to_text()))
    }

    #[test]
    fn a_bundle_is_read_as_it_was_written_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c2.bundle");
        let bundle = bundle();
        bundle.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Bundle::load(&path).unwrap(), bundle);
        assert_eq!(bundle.seat.api, "[fd00::2]:7440");
        assert_eq!(bundle.seat.address(), "fd00::2");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Bundle::load(&path), Err(BundleError::File(FileError::OpenToOthers { .. }))));
    }

    #[test]
    fn what_is_no_bundle_is_refused_without_showing_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c2.bundle");
        bundle().save(&path).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let refused = |text: &str| {
            fs::write(&path, text).unwrap();
            let refused = Bundle::load(&path).unwrap_err().to_string();
            assert!(!refused.contains("BEGIN"), "{refused}");
            refused
        };
        assert!(refused("").contains("no format"));
        assert!(refused(&good.replace("format = 1", "format = 2")).contains("format 2"));
        assert!(refused(&good.replace("cluster = ", "clustre = ")).contains("clustre"));
        assert!(refused(&good[..good.len() / 2]).contains("no bundle"));
    }

    #[test]
    fn debug_output_shows_no_key() {
        let bundle = bundle();
        let shown = format!("{bundle:?}");
        assert!(shown.contains("rack-2") && !shown.contains("PRIVATE") && !shown.contains("key"), "{shown}");
    }
}
