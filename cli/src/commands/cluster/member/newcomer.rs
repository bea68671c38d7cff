//! A controller that is to be: its place, its certificate, its bundle.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use berth_model::Name;
use berth_pki::{Authority, Bundle, Identity, Role, San, SealingKey, Seat, Validity};
use berth_proto::v1;
use zeroize::Zeroizing;

use crate::args::cluster::Newcomer;
use crate::failure::Failure;

/// How long its certificate holds, in days, as for the first members.
const DAYS: u32 = 3 * 365;

/// What is needed to write a bundle, all looked at before anything is changed.
pub(super) struct Preparation {
    /// Its place; the id is not known yet.
    pub(super) seat: Seat,
    /// Where the bundle goes.
    pub(super) out: PathBuf,
    authority: Authority,
    sealing_key: Option<Zeroizing<String>>,
}

/// The place of a member. Name, address and domain must be such.
pub(super) fn seat(id: u64, name: &str, address: &str, domain: &str) -> Result<Seat, Failure> {
    let wrong = |what: &str, text: &str, why: String| Failure::usage(format!("{text:?} is no {what}: {why}"));
    name.parse::<Name>().map_err(|why| wrong("name of a controller", name, why.to_string()))?;
    if !domain.is_empty() {
        domain.parse::<Name>().map_err(|why| wrong("failure domain", domain, why.to_string()))?;
    }
    let is_name = address.len() <= 253 && address.split('.').all(|label| label.parse::<Name>().is_ok());
    if address.parse::<std::net::IpAddr>().is_err() && !is_name {
        return Err(wrong("address", address, "give an IP address or a DNS name, without a port".into()));
    }
    Ok(Seat::at(id, name, address, domain))
}

impl Preparation {
    /// Reads authority and sealing key, and looks whether the bundle can be written.
    pub(super) fn new(name: &str, newcomer: &Newcomer, cluster: &str) -> Result<Self, Failure> {
        let Newcomer { address, domain, authority, sealing_key, out, waiting: _ } = newcomer;
        let seat = seat(0, name, address, domain)?;
        let folder = authority;
        let authority = Authority::load(folder).map_err(|error| {
            Failure::refused(format!("cannot use the authority in {}: {error}", folder.display()))
                .hint("name the folder that 'berth-controller init' made, with --authority")
        })?;
        if authority.cluster() != cluster {
            return Err(Failure::refused(format!(
                "the authority in {} issues for cluster {}, and this is cluster {cluster}",
                folder.display(),
                authority.cluster()
            ))
            .code("BE-4002"));
        }
        let sealing_key = match sealing_key {
            Some(path) => Some(sealing(path)?),
            None => {
                let beside = folder.parent().unwrap_or_else(|| Path::new(".")).join("sealing.key");
                if beside.exists() { Some(sealing(&beside)?) } else { None }
            }
        };
        let out = out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.bundle")));
        let prepared = Self { seat, out, authority, sealing_key };
        if prepared.out.exists() {
            // A command that was interrupted is repeated; what it wrote is used again.
            let there = prepared.written()?;
            if (&there.cluster, there.seat.address(), &there.seat.name)
                != (&cluster.to_owned(), address.as_str(), &prepared.seat.name)
            {
                return Err(Failure::refused(format!(
                    "{} is there already and is the bundle of {} at {}; keys are never overwritten",
                    prepared.out.display(),
                    there.seat.name,
                    there.seat.address()
                ))
                .hint("name another file with --out, or remove it"));
            }
        }
        Ok(prepared)
    }

    fn written(&self) -> Result<Bundle, Failure> {
        Bundle::load(&self.out).map_err(|error| {
            Failure::refused(format!("{} is there already: {error}", self.out.display()))
                .hint("name another file with --out, or remove it")
        })
    }

    /// As the cluster is told.
    pub(super) fn request(&self) -> v1::AddMemberRequest {
        let Seat { id: _, name, api, raft, domain } = self.seat.clone();
        v1::AddMemberRequest { name, api_address: api, raft_address: raft, domain }
    }

    /// Writes the bundle of the member that was registered under this id; says whether it holds the sealing key.
    pub(super) fn write(&self, id: u64) -> Result<bool, Failure> {
        if self.out.exists() {
            let there = self.written()?;
            if there.seat.id == id {
                return Ok(there.sealing_key.is_some());
            }
            return Err(Failure::refused(format!(
                "{} is the bundle of member {}, which is no more; the member that was just added has id {id}",
                self.out.display(),
                there.seat.id
            ))
            .hint("remove the file and repeat the command"));
        }
        let failed = |error: &dyn std::fmt::Display| {
            Failure::refused(format!("the member is registered, and its bundle cannot be made: {error}"))
                .hint("repeat the command: it goes on where it was")
        };
        let seat = Seat { id, ..self.seat.clone() };
        let identity =
            Identity::new(self.authority.cluster(), Role::Controller, &*seat.name).map_err(|error| failed(&error))?;
        let address = seat.address();
        let at = address.parse().map_or_else(|_| San::Dns(address.to_owned()), San::Ip);
        let names = [San::Dns(seat.name.clone()), at];
        let issued = self
            .authority
            .issue(&identity, &names, Validity::days(SystemTime::now(), DAYS))
            .map_err(|error| failed(&error))?;
        let bundle = Bundle::new(seat, Vec::new(), &issued, self.sealing_key.clone());
        bundle.save(&self.out).map_err(|error| failed(&error))?;
        Ok(self.sealing_key.is_some())
    }
}

fn sealing(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let key = SealingKey::load(path);
    key.map(|key| key.to_text())
        .map_err(|error| Failure::refused(format!("{} is no sealing key: {error}", path.display())))
}
