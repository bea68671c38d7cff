//! `berth-controller join`: a bundle becomes this machine's configuration and keys.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use berth_pki::bundle::{METRICS_PORT, with_port};
use berth_pki::{Bundle, Credentials, Role, SealingKey, Seat, read_private, write_private, write_public};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Place, private_folder, would_keep};
use crate::config::Config;

/// Take a place in a cluster: unpack a bundle into configuration and keys, and check them.
#[derive(Debug, clap::Args)]
pub struct Join {
    /// The bundle, as `berth-controller init` or `berth cluster member add` wrote it.
    pub bundle: PathBuf,
    /// The cluster's sealing key, if the bundle does not hold it.
    #[arg(long, value_name = "FILE")]
    pub sealing_key: Option<PathBuf>,
    /// Where this controller's files go.
    #[command(flatten)]
    pub place: Place,
}

impl Join {
    /// Does it; gives what to tell the operator.
    ///
    /// # Errors
    /// Says what is wrong with the bundle, or what is in the way. A key that is there is never replaced.
    pub fn run(&self) -> anyhow::Result<String> {
        let bundle = Bundle::load(&self.bundle)?;
        let given = match &self.sealing_key {
            Some(path) => Some(sealing_text(path)?),
            None => None,
        };
        let config = install(&bundle, given, &self.place)?;
        let waits =
            if bundle.first.is_empty() { "\nIt waits there until the cluster's leader reaches it." } else { "" };
        Ok(format!(
            "{} is ready as controller {:?} (id {}) of cluster {}.\n\
             Start it: berth-controller --config {}{waits}\n\
             Then remove {}: it holds the member's key.\n",
            self.place.root.display(),
            bundle.seat.name,
            bundle.seat.id,
            bundle.cluster,
            config.display(),
            self.bundle.display()
        ))
    }
}

/// A sealing key's text, which must be one.
fn sealing_text(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    Ok(SealingKey::load(path).with_context(|| format!("{} is no sealing key", path.display()))?.to_text())
}

/// Writes what a member needs, the configuration last; gives the configuration's path.
pub(super) fn install(bundle: &Bundle, given: Option<Zeroizing<String>>, place: &Place) -> anyhow::Result<PathBuf> {
    let place = &place.absolute()?;
    let sealing = match (&bundle.sealing_key, given) {
        (Some(held), Some(given)) => {
            ensure!(**held == *given, "the bundle holds another sealing key than the one that was given");
            given
        }
        (Some(held), None) => held.clone(),
        (None, Some(given)) => given,
        (None, None) => match read_private(&place.sealing_key()) {
            Ok(there) => Zeroizing::new(String::from_utf8_lossy(&there).into_owned()),
            Err(_) => bail!(
                "the bundle holds no sealing key; copy the file from another controller and give it with --sealing-key"
            ),
        },
    };
    check_keys(bundle, &sealing)?;
    let text = render(bundle, place);
    let (config, tls) = (place.config(), place.tls());
    let (ca, cert, key) = (tls.join("ca.pem"), tls.join("cert.pem"), tls.join("key.pem"));
    would_keep(&key, bundle.key_pem.as_bytes(), "a key")?;
    would_keep(&cert, bundle.cert_pem.as_bytes(), "a certificate")?;
    would_keep(&ca, bundle.ca_pem.as_bytes(), "a certificate")?;
    would_keep(&place.sealing_key(), sealing.as_bytes(), "a sealing key")?;
    would_keep(&config, text.as_bytes(), "a configuration")?;
    if !config.exists() && fs::read_dir(&place.data_dir).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!(
            "{} is not empty: this machine was a member before; a member that comes back under a new place begins with an \
             empty folder. Move it away, or name another with --data-dir",
            place.data_dir.display()
        );
    }
    fs::create_dir_all(&place.root).with_context(|| format!("cannot make {}", place.root.display()))?;
    private_folder(&tls)?;
    private_folder(&place.data_dir)?;
    write_private(&key, bundle.key_pem.as_bytes())?;
    write_public(&cert, bundle.cert_pem.as_bytes())?;
    write_public(&ca, bundle.ca_pem.as_bytes())?;
    write_private(&place.sealing_key(), sealing.as_bytes())?;
    write_public(&config, text.as_bytes())?;
    Config::load(&config)?;
    Credentials::load_files(&ca, &cert, &key).context("what was written cannot be used")?;
    Ok(config)
}

/// Whether the keys are this member's and keys at all, before anything is written.
fn check_keys(bundle: &Bundle, sealing: &str) -> anyhow::Result<()> {
    let credentials =
        Credentials::from_pem(bundle.ca_pem.as_bytes(), bundle.cert_pem.as_bytes(), bundle.key_pem.as_bytes())
            .context("the bundle's certificate is of no use")?;
    let identity = credentials.identity();
    ensure!(
        identity.role() == Role::Controller
            && identity.name() == bundle.seat.name
            && identity.cluster() == bundle.cluster,
        "the bundle's certificate is that of {identity}, its place that of controller {:?} of {}",
        bundle.seat.name,
        bundle.cluster
    );
    SealingKey::parse(sealing.as_bytes()).context("the sealing key is of no use")?;
    Ok(())
}

#[derive(Serialize)]
struct File<'a> {
    name: &'a str,
    id: u64,
    cluster: &'a str,
    data_dir: &'a Path,
    api_listen: &'a str,
    raft_listen: &'a str,
    metrics_listen: String,
    sealing_key: PathBuf,
    tls: Tls,
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap: Option<Bootstrap<'a>>,
}

#[derive(Serialize)]
struct Tls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Serialize)]
struct Bootstrap<'a> {
    cluster: &'a str,
    members: &'a [Seat],
}

/// `controller.toml` of the member that a bundle speaks of.
fn render(bundle: &Bundle, place: &Place) -> String {
    let Bundle { cluster, seat, first, .. } = bundle;
    let tls = place.tls();
    let file = File {
        name: &seat.name,
        id: seat.id,
        cluster,
        data_dir: &place.data_dir,
        api_listen: &seat.api,
        raft_listen: &seat.raft,
        metrics_listen: with_port(seat.address(), METRICS_PORT),
        sealing_key: place.sealing_key(),
        tls: Tls { ca: tls.join("ca.pem"), cert: tls.join("cert.pem"), key: tls.join("key.pem") },
        bootstrap: (!first.is_empty()).then_some(Bootstrap { cluster, members: first }),
    };
    let text = toml::to_string(&file).expect("texts, numbers and tables of these can be written");
    format!(
        "# Written by berth-controller. The replicated membership decides who belongs to the cluster, and where.\n{text}"
    )
}
