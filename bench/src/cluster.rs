//! Three members of ours or of etcd, as processes of their own, with mutual TLS among themselves and towards clients.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use berth_pki::{Authority, Credentials, Identity, Issued, Role, San, SealingKey, Validity};
use berth_proto::v1;
use berth_proto::v1::cluster_service_client::ClusterServiceClient;
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::usage::{self, Page, Usage};
use crate::wire;
use crate::wire::proto::counters::CountersRequest;
use crate::wire::proto::counters::counters_client::CountersClient;
use crate::wire::proto::etcdserverpb::StatusRequest;
use crate::wire::proto::etcdserverpb::maintenance_client::MaintenanceClient;

/// How many members a cluster has.
pub(crate) const MEMBERS: usize = 3;

/// How long a cluster may take until all members agree on a leader.
const READY: Duration = Duration::from_secs(30);

/// How long a member may take to say how it is.
const STATUS_WITHIN: Duration = Duration::from_millis(500);

/// The cluster of the certificates.
const CLUSTER: &str = "bench";

/// The key file of the controllers.
const SEALING_KEY: &str = "sealing.key";

/// `controller.toml`.
#[derive(Serialize)]
struct Controller {
    name: String,
    data_dir: PathBuf,
    api_listen: String,
    raft_listen: String,
    metrics_listen: String,
    sealing_key: PathBuf,
    tls: Tls,
    bootstrap: Bootstrap,
}

#[derive(Serialize)]
struct Tls {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Serialize)]
struct Bootstrap {
    cluster: String,
    members: Vec<BootstrapMember>,
}

#[derive(Serialize)]
struct BootstrapMember {
    id: u64,
    name: String,
    api: String,
    raft: String,
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// A key-value machine over our log.
    Berth,
    /// Debian's etcd.
    Etcd,
    /// Berth's controllers.
    Controller,
}

impl System {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Berth => "berth",
            Self::Etcd => "etcd",
            Self::Controller => "controller",
        }
    }
}

/// Certificates for members and clients, made once for all systems.
#[derive(Clone)]
pub(crate) struct Keys {
    folder: PathBuf,
    authority: Arc<Authority>,
    validity: Validity,
    pub(crate) client: Credentials,
}

impl Keys {
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let validity = Validity::days(SystemTime::now(), 2);
        let authority = Authority::generate(CLUSTER, validity)?;
        let local = [San::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)), San::Dns("localhost".to_owned())];
        let members = (0..MEMBERS).map(|number| (Role::Controller, member_name(number), &local[..]));
        for (role, name, sans) in members.chain([(Role::Operator, "client".to_owned(), &[][..])]) {
            let issued = authority.issue(&Identity::new(CLUSTER, role, &name)?, sans, validity)?;
            let own = folder.join(&name);
            fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
            issued.save(&own)?;
        }
        SealingKey::generate()?.save(&folder.join(SEALING_KEY))?;
        let client = wire::credentials(&folder.join("client"))?;
        Ok(Self { folder: folder.to_owned(), authority: Arc::new(authority), validity, client })
    }

    /// A certificate for the host of this name.
    pub(crate) fn host(&self, name: &str) -> Result<Issued> {
        Ok(self.authority.issue(&Identity::new(CLUSTER, Role::Host, name)?, &[], self.validity)?)
    }

    /// Where the client's certificate is.
    pub(crate) fn client_folder(&self) -> PathBuf {
        self.folder.join("client")
    }
}

fn member_name(number: usize) -> String {
    format!("m{}", number + 1)
}

/// One member and its process.
#[derive(Debug)]
pub(crate) struct Member {
    name: String,
    pub(crate) api: SocketAddr,
    peer: SocketAddr,
    metrics: SocketAddr,
    data: PathBuf,
    child: Option<Child>,
}

impl Member {
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.as_ref().and_then(Child::id).with_context(|| format!("{} does not run", self.name))
    }

    /// Where its data is.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }
}

/// How a member sees the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    id: u64,
    leader: u64,
    pub(crate) term: u64,
    revision: i64,
}

/// A cluster. Its processes end with it.
pub(crate) struct Cluster<'a> {
    pub(crate) system: System,
    pub(crate) members: Vec<Member>,
    folder: PathBuf,
    keys: &'a Keys,
}

impl<'a> Cluster<'a> {
    /// Starts a cluster with no data in a folder of its own, and waits until it has a leader.
    pub(crate) async fn start(system: System, folder: &Path, keys: &'a Keys) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let ports = free_ports(3 * MEMBERS)?;
        let members = ports.chunks_exact(3).zip(0..).map(|(ports, number)| {
            let name = member_name(number);
            let data = folder.join(&name);
            Member { name, api: ports[0], peer: ports[1], metrics: ports[2], data, child: None }
        });
        let mut cluster = Self { system, members: members.collect(), folder: folder.to_owned(), keys };
        for member in 0..MEMBERS {
            cluster.spawn(member)?;
        }
        cluster.settled().await?;
        Ok(cluster)
    }

    /// Starts a member that does not run, on the data that it has.
    pub(crate) fn spawn(&mut self, number: usize) -> Result<()> {
        let mut command = match self.system {
            System::Berth => self.berth(number)?,
            System::Etcd => self.etcd(number),
            System::Controller => self.controller(number)?,
        };
        let member = &mut self.members[number];
        let log = self.folder.join(format!("{}.log", member.name));
        let log = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child =
            command.spawn().with_context(|| format!("cannot start {} of {}", member.name, self.system.name()))?;
        member.child = Some(child);
        Ok(())
    }

    fn berth(&self, number: usize) -> Result<Command> {
        let member = &self.members[number];
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("kv-server").args(["--id", &(number + 1).to_string()]);
        command.arg("--data").arg(&member.data).arg("--tls").arg(self.keys.folder.join(&member.name));
        for (Member { name, api, peer, .. }, id) in self.members.iter().zip(1..) {
            command.arg("--member").arg(format!("{id},{name},{peer},{api}"));
        }
        Ok(command)
    }

    fn etcd(&self, number: usize) -> Command {
        let Member { name, api, peer, metrics, data, .. } = &self.members[number];
        let tls = self.keys.folder.join(name);
        let https = |address: &SocketAddr| format!("https://{address}");
        let members: Vec<String> =
            self.members.iter().map(|member| format!("{}={}", member.name, https(&member.peer))).collect();
        let mut command = Command::new("etcd");
        command.arg("--name").arg(name).arg("--data-dir").arg(data);
        command.args(["--listen-client-urls", &https(api), "--advertise-client-urls", &https(api)]);
        command.args(["--listen-peer-urls", &https(peer), "--initial-advertise-peer-urls", &https(peer)]);
        command.args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"]);
        command.args(["--listen-metrics-urls", &format!("http://{metrics}")]);
        command.args(["--client-cert-auth", "--peer-client-cert-auth"]);
        for prefix in ["--", "--peer-"] {
            for (option, file) in [("trusted-ca-file", "ca.pem"), ("cert-file", "cert.pem"), ("key-file", "key.pem")] {
                command.arg(format!("{prefix}{option}")).arg(tls.join(file));
            }
        }
        command
    }

    /// A controller as its package would run it, but on ports of its own.
    fn controller(&self, number: usize) -> Result<Command> {
        let Member { name, api, peer, metrics, data, .. } = &self.members[number];
        let tls = self.keys.folder.join(name);
        let members = self.members.iter().zip(1..).map(|(member, id)| BootstrapMember {
            id,
            name: member.name.clone(),
            api: member.api.to_string(),
            raft: member.peer.to_string(),
        });
        let config = Controller {
            name: name.clone(),
            data_dir: data.clone(),
            api_listen: api.to_string(),
            raft_listen: peer.to_string(),
            metrics_listen: metrics.to_string(),
            sealing_key: self.keys.folder.join(SEALING_KEY),
            tls: Tls { ca: tls.join("ca.pem"), cert: tls.join("cert.pem"), key: tls.join("key.pem") },
            bootstrap: Bootstrap { cluster: CLUSTER.to_owned(), members: members.collect() },
        };
        let file = self.folder.join(format!("{name}.toml"));
        fs::write(&file, toml::to_string(&config)?).with_context(|| format!("cannot write {}", file.display()))?;
        let program = std::env::current_exe()?.with_file_name("berth-controller");
        let mut command = Command::new(program);
        command.arg("--config").arg(file);
        Ok(command)
    }

    /// Kills a member as a crash would, and returns at which moment.
    pub(crate) async fn kill(&mut self, number: usize) -> Result<Instant> {
        let member = &mut self.members[number];
        let mut child = member.child.take().with_context(|| format!("{} does not run", member.name))?;
        let killed = Instant::now();
        child.start_kill()?;
        child.wait().await?;
        Ok(killed)
    }

    /// How a member sees the cluster; `None` if it does not answer.
    pub(crate) async fn view(&self, number: usize) -> Option<View> {
        let api = self.members[number].api.to_string();
        if self.system == System::Controller {
            let mut client = ClusterServiceClient::new(wire::channel(&api, &self.keys.client));
            let request = v1::GetStatusRequest { consistency: v1::Consistency::Stale.into() };
            let status = timeout(STATUS_WITHIN, client.get_status(request)).await.ok()?.ok()?.into_inner();
            let id = |name: &str| status.members.iter().find(|member| member.name == name).map(|member| member.id);
            let term = status.members.iter().map(|member| member.term).max()?;
            let revision = i64::try_from(status.revision).ok()?;
            return Some(View { id: id(&status.answered_by)?, leader: id(&status.leader)?, term, revision });
        }
        let mut client = MaintenanceClient::new(wire::channel(&api, &self.keys.client));
        let status = timeout(STATUS_WITHIN, client.status(StatusRequest {})).await.ok()?.ok()?.into_inner();
        let header = status.header?;
        let (term, revision) = (header.raft_term, header.revision);
        Some(View { id: header.member_id, leader: status.leader, term, revision })
    }

    /// Waits until all members answer, name one leader and have applied the same; returns its place and the term.
    pub(crate) async fn settled(&mut self) -> Result<(usize, u64)> {
        let deadline = Instant::now() + READY;
        loop {
            for member in &mut self.members {
                if let Some(child) = &mut member.child
                    && let Some(status) = child.try_wait()?
                {
                    bail!("{} of {} ended: {status}; see {}", member.name, self.system.name(), self.folder.display());
                }
            }
            let views = futures::future::join_all((0..MEMBERS).map(|number| self.view(number))).await;
            let views: Vec<View> = views.into_iter().flatten().collect();
            if let [first, rest @ ..] = &views[..]
                && views.len() == MEMBERS
                && rest.iter().all(|view| (view.leader, view.term) == (first.leader, first.term))
                && rest.iter().all(|view| view.revision == first.revision)
                && let Some(leader) = views.iter().position(|view| view.id == first.leader)
            {
                return Ok((leader, first.term));
            }
            ensure!(
                Instant::now() < deadline,
                "{} has no leader that all members agree on: {views:?}; see {}",
                self.system.name(),
                self.folder.display()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What each member has used since it started.
    pub(crate) async fn usage(&self) -> Result<Vec<Usage>> {
        let mut all = Vec::new();
        for (number, member) in self.members.iter().enumerate() {
            let mut usage = usage::of_process(member.pid()?)?;
            match self.system {
                System::Etcd => usage.syncs = usage::etcd_metrics(member.metrics)?.value(usage::ETCD_SYNCS)?,
                System::Berth => {
                    let channel = wire::channel(&member.api.to_string(), &self.keys.client);
                    let counted = CountersClient::new(channel).read(CountersRequest {}).await?.into_inner();
                    (usage.syncs, usage.written) = (counted.syncs, counted.bytes);
                }
                System::Controller => {
                    usage.syncs = self.metrics(number).await?.value(usage::CONTROLLER_SYNCS)?;
                    usage.written = 0;
                }
            }
            all.push(usage);
        }
        Ok(all)
    }

    /// What a controller counts.
    pub(crate) async fn metrics(&self, number: usize) -> Result<Page> {
        usage::controller_metrics(self.members[number].metrics, &self.keys.client).await
    }

    /// Ends it and removes what it stored.
    pub(crate) async fn discard(mut self) -> Result<()> {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                child.kill().await?;
            }
        }
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

/// Addresses on this machine that nobody listens at.
fn free_ports(count: usize) -> Result<Vec<SocketAddr>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}
