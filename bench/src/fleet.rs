//! A fleet of simulated hosts with real sessions, as a process of its own.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_proto::v1;
use berth_proto::v1::host_service_client::HostServiceClient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use crate::cluster::{Cluster, Keys};
use crate::scale::vms;

/// How long a start takes on a simulated host, in milliseconds.
const BOOT_MS: u64 = 50;
/// How long the whole fleet may take to have sessions.
const READY: Duration = Duration::from_secs(120);
/// How long it may take to end in order.
const ENDED: Duration = Duration::from_secs(60);

/// The configuration that all hosts share; `{name}` stands for each one's name.
#[derive(Serialize)]
struct Template {
    name: &'static str,
    data_dir: PathBuf,
    listen: &'static str,
    controllers: Vec<String>,
    tls: Tls,
}

#[derive(Serialize)]
struct Tls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// A running fleet. It ends with this.
pub(crate) struct Fleet {
    child: Child,
    told: PathBuf,
}

impl Fleet {
    /// Starts so many hosts, and waits until all have said what they are.
    pub(crate) fn start(cluster: &Cluster<'_>, keys: &Keys, folder: &Path, hosts: u64) -> Result<Self> {
        let tls = folder.join("tls");
        for number in 1..=hosts {
            let name = host_name(number);
            let own = tls.join(&name);
            fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
            let issued = keys.host(&name)?;
            write(&own.join("ca.pem"), &issued.ca_pem)?;
            write(&own.join("cert.pem"), &issued.cert_pem)?;
            write(&own.join("key.pem"), &issued.key_pem)?;
        }
        let own = tls.join("{name}");
        let template = Template {
            name: "{name}",
            data_dir: folder.join("data").join("{name}"),
            listen: "127.0.0.1:0",
            controllers: cluster.members.iter().map(|member| member.api.to_string()).collect(),
            tls: Tls { ca: own.join("ca.pem"), cert: own.join("cert.pem"), key: own.join("key.pem") },
        };
        let config = folder.join("fleet.toml");
        fs::write(&config, toml::to_string(&template)?)
            .with_context(|| format!("cannot write {}", config.display()))?;
        let told = folder.join("told");
        let log = File::create(folder.join("fleet.log"))?;
        // A thousand hosts are a thousand other computers: here they yield to the controllers that are measured.
        let child = Command::new("nice")
            .args(["-n", "10"])
            .arg(std::env::current_exe()?.with_file_name("berth-hostd"))
            .args(["--backend", "sim", "--fleet", &hosts.to_string(), "--boot-ms", &BOOT_MS.to_string()])
            .args(["--image", &format!("{}:{}", vms::SHA256, vms::IMAGE_BYTES), "--log", "warn"])
            .arg("--config")
            .arg(config)
            .arg("--told")
            .arg(&told)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start berth-hostd; was it built with its feature sim?")?;
        Ok(Self { child, told })
    }

    /// Waits until all hosts have told what they are.
    pub(crate) async fn ready(&mut self, channel: Channel, hosts: u64) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the fleet ended: {status}; see fleet.log");
            }
            let known = known(channel.clone()).await?;
            if known == hosts {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{known} of {hosts} hosts are known after {} s", READY.as_secs());
            sleep(Duration::from_millis(500)).await;
        }
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the fleet does not run")
    }

    /// When each VM's entry was first synced by its host, by [`now`].
    pub(crate) fn told(&self) -> Result<HashMap<String, Duration>> {
        let text = match fs::read_to_string(&self.told) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("cannot read {}", self.told.display()))?,
        };
        let mut first = HashMap::new();
        // The last line may still be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let (at, vm) = line.split_once(' ').with_context(|| format!("{line:?} says nothing of a VM"))?;
            first.entry(vm.to_owned()).or_insert(Duration::from_nanos(at.parse()?));
        }
        Ok(first)
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid()?.try_into()?), Signal::SIGTERM)?;
        let ended = timeout(ENDED, self.child.wait()).await.context("the fleet does not end in order")??;
        ensure!(ended.success(), "the fleet ended: {ended}");
        Ok(())
    }
}

/// The name of the host of this number, from 1.
pub(crate) fn host_name(number: u64) -> String {
    format!("sim-{number:04}")
}

/// The clock of [`Fleet::told`]: time since the boot of this computer.
pub(crate) fn now() -> Result<Duration> {
    let since = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?;
    Ok(Duration::from(since))
}

/// Certificates of a bench need not outlive a power cut, and thousands of syncs would take long.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// How many hosts are there, are alive and have told of their memory.
async fn known(channel: Channel) -> Result<u64> {
    let mut client = HostServiceClient::new(channel);
    let (mut count, mut page_token) = (0, String::new());
    loop {
        let consistency = v1::Consistency::Stale.into();
        let request = v1::ListHostsRequest { consistency, page_token, ..v1::ListHostsRequest::default() };
        let page = client.list_hosts(request).await?.into_inner();
        let tells = |host: &&v1::Host| {
            let has_memory = host.inventory.as_ref().is_some_and(|inventory| !inventory.memory.is_empty());
            host.liveness() == v1::Liveness::Alive && has_memory && !host.images.is_empty()
        };
        count += page.hosts.iter().filter(tells).count() as u64;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(count);
        }
    }
}
