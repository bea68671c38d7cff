//! A cluster of one test's own: up in a second or two, down when the test ends however it ends.

use std::time::{Duration, Instant};

use berth_lab::{Kind, Lab, Options};
use berth_pki::{Authority, Credentials, Role};
use berth_proto::v1;
use tempfile::TempDir;

use crate::{Api, Cli, Host, Lists, figure, machine, request, until};

/// Lines of each log that are shown when a test fails.
const SHOWN: usize = 40;

/// A lab and the ways to it.
#[derive(Debug)]
pub struct World {
    /// Goes down first, then its folder.
    lab: Lab,
    operator: Credentials,
    folder: Option<TempDir>,
}

impl World {
    /// Three controllers and this many hosts, each ready to be used.
    ///
    /// # Panics
    /// When the machine lacks something or the cluster does not come up.
    pub async fn up(hosts: u8) -> Self {
        Self::growing(3, 0, hosts).await
    }

    /// So many controllers that form a cluster, machines with nothing on them that can become further ones, and hosts,
    /// each ready to be used.
    ///
    /// # Panics
    /// When the machine lacks something or the cluster does not come up.
    pub async fn growing(controllers: u8, empty: u8, hosts: u8) -> Self {
        let folder = tempfile::Builder::new().prefix("berth-it-").tempdir_in("/var/tmp");
        let folder = folder.expect("/var/tmp can be written");
        let mut options = Options::new(folder.path().join("lab"), machine::binaries(hosts));
        (options.controllers, options.empty_controllers, options.hosts) = (controllers, empty, hosts);
        let began = Instant::now();
        let lab = Lab::up(&options).unwrap_or_else(|error| panic!("the lab did not come up: {error}"));
        let operator = Credentials::load(&lab.state_dir().join("clients/admin")).expect("the operator's certificate");
        let world = Self { lab, operator, folder: Some(folder) };
        world.wait_for_leader().await;
        figure("the cluster is up", began.elapsed());
        world
    }

    /// Machines with nothing on them, `c1` and on, for a cluster that the test itself forms.
    ///
    /// # Panics
    /// When the machine lacks something.
    pub fn machines(count: u8) -> Self {
        let folder = tempfile::Builder::new().prefix("berth-it-").tempdir_in("/var/tmp");
        let folder = folder.expect("/var/tmp can be written");
        let mut options = Options::new(folder.path().join("lab"), machine::binaries(0));
        (options.controllers, options.empty_controllers, options.hosts) = (0, count, 0);
        let lab = Lab::up(&options).unwrap_or_else(|error| panic!("the lab did not come up: {error}"));
        let operator = Credentials::load(&lab.state_dir().join("clients/admin")).expect("a certificate of the lab");
        Self { lab, operator, folder: Some(folder) }
    }

    /// The processes and files of the cluster.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The names of the controllers.
    pub fn controllers(&self) -> Vec<String> {
        let members = self.lab.members().iter().filter(|member| member.kind == Kind::Controller);
        members.map(|member| member.name.clone()).collect()
    }

    /// The API of a member, as the operator.
    pub fn api(&self, member: &str) -> Api {
        self.api_as(member, &self.operator)
    }

    /// The APIs of all members, as the operator.
    pub fn apis(&self) -> Vec<Api> {
        self.controllers().iter().map(|member| self.api(member)).collect()
    }

    /// The API of a member, as someone else.
    ///
    /// # Panics
    /// When there is no such member.
    pub fn api_as(&self, member: &str, credentials: &Credentials) -> Api {
        let address = self.lab.member(member).expect("the member is in the lab").api();
        Api::new(member, address, credentials)
    }

    /// The API of a member, as the operator, over a connection of its own and with this deadline for each answer.
    ///
    /// # Panics
    /// When there is no such member.
    pub fn api_within(&self, member: &str, deadline: Duration) -> Api {
        let address = self.lab.member(member).expect("the member is in the lab").api();
        Api::within(member, address, &self.operator, deadline)
    }

    /// A certificate of the lab's own authority.
    ///
    /// # Panics
    /// When it cannot be issued.
    pub fn credentials(&self, role: Role, name: &str) -> Credentials {
        let authority = self.lab.authority().expect("the lab's authority");
        let client = self.lab.client(&format!("{}-{name}", role.as_str()), &authority, role, name);
        Credentials::load(&client.expect("the authority issues certificates").folder).expect("what was just issued")
    }

    /// The certificate of an operator that another authority issued, and its CLI configuration. The client itself
    /// trusts both authorities, so that it is the server who refuses.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn of_another_ca(&self) -> (Credentials, Cli) {
        let own = self.lab.authority().expect("the lab's authority");
        let day = berth_pki::Validity::days(std::time::SystemTime::now(), 1);
        let other = Authority::generate(own.cluster(), day).expect("an authority");
        let client = self.lab.client("another-ca", &other, Role::Operator, "mallory").expect("a client");
        let both = format!("{}{}", own.cert_pem(), other.cert_pem());
        std::fs::write(client.folder.join("ca.pem"), both).expect("the client's folder can be written");
        (Credentials::load(&client.folder).expect("the client trusts its own authority"), Cli::new(client.config))
    }

    /// The command line, as the operator.
    pub fn cli(&self) -> Cli {
        Cli::new(self.lab.admin_config_path())
    }

    /// A host from the inside.
    pub fn host<'a>(&'a self, name: &'a str) -> Host<'a> {
        Host::new(&self.lab, name)
    }

    /// Makes the image `tiny` known without any file: enough where no VM shall run.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn name_an_image(&self) {
        let digest = "0123456789abcdef".repeat(4);
        self.api("c1").ask(request::image("tiny", &digest, 64 * request::MIB)).await;
    }

    /// Puts the image `tiny` on every host, names it, and waits until every host has verified it.
    ///
    /// # Panics
    /// When a host does not.
    pub async fn add_tiny(&self) {
        let tiny = machine::tiny();
        let began = Instant::now();
        // A daemon looks at its images when it starts, and each ten seconds later.
        for host in self.hosts() {
            self.stop(&host);
        }
        let digest = self.lab.add_image(&tiny.path).expect("the image can be put on the hosts");
        assert_eq!(digest, tiny.sha256, "the image is not what `./x image` said");
        for host in self.hosts() {
            self.start(&host);
        }
        self.api("c1").ask(request::image("tiny", &digest, tiny.virtual_size)).await;
        for host in self.hosts() {
            self.image_is_good(&host, &digest).await;
        }
        figure("each host has the image and verified it", began.elapsed());
    }

    /// Waits until a host has verified an image.
    ///
    /// # Panics
    /// When it does not.
    pub async fn image_is_good(&self, host: &str, digest: &str) {
        let what = format!("host {host} has verified the image");
        until(&what, Duration::from_secs(30), async || match self.image_on(host, digest).await? {
            v1::image_on_host::Found::VerifiedVirtualSizeBytes(_) => Ok(()),
            v1::image_on_host::Found::Refused(why) => Err(why),
        })
        .await;
    }

    /// What a host found when it looked at an image file.
    pub async fn image_on(&self, host: &str, digest: &str) -> Result<v1::image_on_host::Found, String> {
        let host = self.api("c1").host(host).await.map_err(|status| status.to_string())?;
        let found = host.images.get(digest).and_then(|image| image.found.clone());
        found.ok_or_else(|| format!("its images are {:?}", host.images))
    }

    /// The names of the hosts.
    pub fn hosts(&self) -> Vec<String> {
        let members = self.lab.members().iter().filter(|member| member.kind == Kind::Host);
        members.map(|member| member.name.clone()).collect()
    }

    /// Who leads, as a majority agrees.
    pub async fn leader(&self) -> String {
        self.wait_for_leader().await
    }

    async fn wait_for_leader(&self) -> String {
        let apis = self.apis();
        let (leader, _) = until("the cluster has a leader", Duration::from_secs(20), async || {
            let mut reasons = Vec::new();
            for api in &apis {
                match api.status().await {
                    // A leader that has just died may still be believed in.
                    Ok(status) if self.runs(&status.leader) && !status.cluster.is_empty() => return Ok(status.leader),
                    Ok(status) => reasons.push(format!("{} says {:?} leads", api.member, status.leader)),
                    Err(status) => reasons.push(format!("{}: {status}", api.member)),
                }
            }
            Err(reasons.join("; "))
        })
        .await;
        leader
    }

    fn runs(&self, process: &str) -> bool {
        self.lab.pid(process).is_ok_and(|pid| pid.is_some())
    }

    /// A controller that does not lead.
    pub async fn follower(&self) -> String {
        let leader = self.leader().await;
        let mut others = self.controllers().into_iter().filter(|member| *member != leader && self.runs(member));
        others.next().expect("three controllers have two followers")
    }

    /// Kills a process with -9.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&self, process: &str) {
        self.lab.kill9(process).unwrap_or_else(|error| panic!("{process} cannot be killed: {error}"));
    }

    /// Asks a process to end, and waits until it did.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop(&self, process: &str) {
        self.lab.stop(process).unwrap_or_else(|error| panic!("{process} does not end: {error}"));
    }

    /// Starts a process and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(&self, process: &str) {
        self.lab.start(process).unwrap_or_else(|error| panic!("{process} cannot be started: {error}"));
        self.lab.wait_ready(process).unwrap_or_else(|error| panic!("{process} does not answer: {error}"));
    }

    /// Waits until nothing changes any more by itself, and gives the revision: the planner notes why a VM waits a
    /// moment after it was created.
    ///
    /// # Panics
    /// When it goes on changing.
    pub async fn settled(&self, api: &Api) -> u64 {
        let quiet = Duration::from_millis(400);
        let (revision, _) = until("the state stays as it is", Duration::from_secs(20), async || {
            let before = api.revision().await;
            tokio::time::sleep(quiet).await;
            let after = api.revision().await;
            if before == after { Ok(after) } else { Err(format!("it went from {before} to {after}")) }
        })
        .await;
        revision
    }

    /// Checks that all three members answer every list with the same bytes at one revision; gives that revision.
    ///
    /// # Panics
    /// When they differ, or never are at one revision.
    pub async fn identical(&self) -> u64 {
        let apis = self.apis();
        until("all members are at one revision", Duration::from_secs(20), async || {
            let mut all = Vec::new();
            for api in &apis {
                let lists = Lists::of(api).await.map_err(|status| format!("{}: {status}", api.member))?;
                all.push(lists.ok_or_else(|| format!("{} is moving", api.member))?);
            }
            let revisions: Vec<_> = all.iter().map(|lists| lists.revision).collect();
            if revisions.iter().any(|revision| *revision != revisions[0]) {
                return Err(format!("they are at {revisions:?}"));
            }
            for (api, lists) in apis.iter().zip(&all).skip(1) {
                assert_eq!(lists, &all[0], "{} and {} differ at revision {}", api.member, apis[0].member, revisions[0]);
            }
            Ok(())
        })
        .await;
        apis[0].revision().await
    }
}

impl Drop for World {
    #[expect(clippy::print_stderr, reason = "the report of a test that failed")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (process, tail) in self.lab.log_tails(SHOWN) {
            if !tail.trim().is_empty() {
                eprintln!("---- {process}, its last lines\n{tail}");
            }
        }
        // Taking the lab down, which comes next, leaves the logs.
        if let Some(folder) = self.folder.take() {
            eprintln!("---- whole logs are kept in {}", folder.keep().join("lab/logs").display());
        }
    }
}
