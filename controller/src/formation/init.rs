//! `berth-controller init`: a new cluster's id, authority, keys and members.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use berth_control::Environment;
use berth_model::{ClusterId, Name, Uid};
use berth_pki::{Authority, Bundle, Identity, Issued, Role, San, SealingKey, Seat, Validity, write_public};

use super::{Place, address, domain, join, private_folder};
use crate::environment::Machine;

/// How long the authority's certificate holds, in days. Everything else in the cluster hangs on it.
const AUTHORITY_DAYS: u32 = 3650;
/// How long the certificates issued here hold, in days.
const DAYS: u32 = 3 * 365;

/// A member that a new cluster begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    name: Name,
    address: String,
    domain: String,
}

impl FromStr for First {
    type Err = String;

    /// `NAME=ADDRESS` or `NAME=ADDRESS,DOMAIN`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not of the form NAME=ADDRESS or NAME=ADDRESS,DOMAIN"))?;
        let (at, of) = match rest.split_once(',') {
            Some((at, of)) => (at, domain(of)?),
            None => (rest, String::new()),
        };
        let name = name.parse().map_err(|why| format!("{name:?} cannot name a controller: {why}"))?;
        Ok(Self { name, address: address(at)?, domain: of })
    }
}

/// Make a new cluster: its authority, its keys, and the place of each of its first members.
#[derive(Debug, clap::Args)]
pub struct Init {
    /// This controller's name.
    #[arg(long)]
    pub name: Name,
    /// This controller's address, an IP address or DNS name that the others and the operators reach it by.
    #[arg(long, value_parser = address)]
    pub address: String,
    /// This controller's failure domain: its rack, room or machine.
    #[arg(long, value_parser = domain)]
    pub domain: Option<String>,
    /// A further first member; give two for a cluster of three.
    #[arg(long = "member", value_name = "NAME=ADDRESS[,DOMAIN]")]
    pub members: Vec<First>,
    /// Write everything into this folder, this controller's place too as a bundle, and set up nothing on this machine.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The operator's name, for whom a certificate and a configuration of `berth` are made.
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub operator: Name,
    /// Where this controller's files go.
    #[command(flatten)]
    pub place: Place,
}

impl Init {
    /// Does it; gives what to tell the operator.
    ///
    /// # Errors
    /// Says what is wrong with the members, or what is in the way. A key that is there is never replaced.
    pub fn run(&self) -> anyhow::Result<String> {
        let seats = self.seats()?;
        let home = self.out.as_ref().unwrap_or(&self.place.root);
        for made in ["authority", "operator", "scraper", "bundles", "sealing.key"] {
            let path = home.join(made);
            ensure!(
                !path.exists(),
                "{} is there already: a cluster was made here, and its keys are never overwritten; name another folder with \
                 --out, or move it away if that cluster is no more",
                path.display()
            );
        }
        if self.out.is_none() {
            for path in [self.place.config(), self.place.tls().join("key.pem")] {
                ensure!(!path.exists(), "{} is there already: this machine is a controller; see --out", path.display());
            }
        }
        let cluster = ClusterId(Uid::from_bits(Machine.random())).to_string();
        let now = SystemTime::now();
        let authority = Authority::generate(&cluster, Validity::days(now, AUTHORITY_DAYS))?;
        let issue = |role, name: &str, names: &[San]| -> anyhow::Result<Issued> {
            Ok(authority.issue(&Identity::new(&cluster, role, name)?, names, Validity::days(now, DAYS))?)
        };
        let sealing = SealingKey::generate()?;
        private_folder(home)?;
        private_folder(&home.join("authority"))?;
        authority.save(&home.join("authority"))?;
        if self.out.is_some() {
            sealing.save(&home.join("sealing.key"))?;
        }

        let bundles = home.join("bundles");
        private_folder(&bundles)?;
        let mut told = format!("Cluster {cluster}, to begin with {}.\n", many(seats.len()));
        let mut installed = None;
        for seat in &seats {
            let issued = issue(Role::Controller, &seat.name, &names_of(seat))?;
            let bundle = Bundle::new(seat.clone(), seats.clone(), &issued, Some(sealing.to_text()));
            if self.out.is_none() && seat.name == self.name.as_str() {
                installed = Some(join::install(&bundle, None, &self.place)?);
            } else {
                let path = bundles.join(format!("{}.bundle", seat.name));
                bundle.save(&path)?;
                let _ = writeln!(
                    told,
                    "{}: carry {} there, then 'berth-controller join {}.bundle'",
                    seat.name,
                    path.display(),
                    seat.name
                );
            }
        }
        let endpoints: Vec<&str> = seats.iter().map(|seat| seat.api.as_str()).collect();
        let operator = home.join("operator");
        client(&operator, &issue(Role::Operator, self.operator.as_str(), &[])?, Some(&endpoints))?;
        client(&home.join("scraper"), &issue(Role::Scraper, "metrics", &[])?, None)?;

        if let Some(config) = installed {
            let _ = writeln!(told, "{}: start it: berth-controller --config {}", self.name, config.display());
        }
        let _ = write!(
            told,
            "The operator's access: export BERTH_CONFIG={}\n\
             The authority, {}, issues every certificate of this cluster: keep a copy in a safe place, and keep it secret.\n",
            operator.join("config.yaml").display(),
            home.join("authority").display()
        );
        Ok(told)
    }

    /// The first members in the order of their ids.
    fn seats(&self) -> anyhow::Result<Vec<Seat>> {
        let own = First {
            name: self.name.clone(),
            address: self.address.clone(),
            domain: self.domain.clone().unwrap_or_default(),
        };
        let all: Vec<&First> = std::iter::once(&own).chain(&self.members).collect();
        for (at, member) in all.iter().enumerate() {
            let twin = all[..at].iter().any(|other| other.name == member.name || other.address == member.address);
            ensure!(!twin, "two members have the name {:?} or the address {}", member.name, member.address);
        }
        ensure!(
            all.len() % 2 == 1,
            "{} would survive no more losses than {}; begin with an odd number",
            many(all.len()),
            many(all.len() - 1)
        );
        Ok((1..).zip(all).map(|(id, one)| Seat::at(id, one.name.as_str(), &one.address, &one.domain)).collect())
    }
}

fn many(count: usize) -> String {
    if count == 1 { "1 controller".to_owned() } else { format!("{count} controllers") }
}

/// The names that a member's certificate carries beside its identity, for clients that look at addresses.
fn names_of(seat: &Seat) -> [San; 2] {
    let address = seat.address();
    let at = address.parse().map_or_else(|_| San::Dns(address.to_owned()), San::Ip);
    [San::Dns(seat.name.clone()), at]
}

/// A client's certificate, and if it speaks to the API the configuration of `berth`.
fn client(folder: &Path, issued: &Issued, endpoints: Option<&[&str]>) -> anyhow::Result<()> {
    private_folder(folder)?;
    issued.save(folder)?;
    if let Some(endpoints) = endpoints {
        let listed: Vec<String> = endpoints.iter().map(|endpoint| format!("{endpoint:?}")).collect();
        let text = format!(
            "{}\ncurrent: berth\nclusters:\n  - name: berth\n    endpoints: [{}]\n    ca: ca.pem\n    cert: cert.pem\n    key: key.pem\n",
            berth_pki::bundle::KEPT_CONFIG,
            listed.join(", ")
        );
        write_public(&folder.join("config.yaml"), text.as_bytes())
            .context("cannot write the operator's configuration")?;
    }
    Ok(())
}
