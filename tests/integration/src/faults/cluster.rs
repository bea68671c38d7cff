//! Three members that can be broken in every way, and brought back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use berth_proto::v1;
use nix::sys::statvfs::statvfs;
use tonic::Request;

use crate::{Api, World, machine, until};

/// The disk of each member. Much more than it needs, and little enough to be filled at once.
const DISK_MIB: u64 = 512;
/// How soon a member that is well answers a question.
const WELL_WITHIN: Duration = Duration::from_secs(2);
/// How long the cluster may take to be well again when nothing is broken any more. A bound and no measure: after half an hour
/// a member of a debug build reads its hundred thousand revisions of history for forty seconds when it starts.
pub(super) const HEALED_WITHIN: Duration = Duration::from_secs(120);

/// Set for controllers of which reads shall be answered without asking the leader.
const STALE_READS: &str = "BERTH_TEST_STALE_READS";
/// Names the file that says by how many milliseconds each durability barrier is slowed down.
const SLOW_DISK: &str = "BERTH_TEST_SLOW_DISK";

/// A cluster of three controllers whose disks and clocks are in our hands.
#[derive(Debug)]
pub struct Cluster {
    world: World,
    members: Vec<String>,
    apis: Vec<Api>,
    stale_reads: bool,
    can_be_slowed: bool,
}

impl Cluster {
    /// Brings it up.
    ///
    /// # Panics
    /// When the machine lacks something or the cluster does not come up.
    pub async fn up() -> Self {
        Self::make(false).await
    }

    /// One that answers reads without asking the leader, which is wrong: to see that it is found out.
    ///
    /// # Panics
    /// When the machine lacks something or the cluster does not come up.
    pub async fn up_with_stale_reads() -> Self {
        Self::make(true).await
    }

    async fn make(stale_reads: bool) -> Self {
        let world = World::up(0).await;
        let members = world.controllers();
        let apis = members.iter().map(|member| world.api_within(member, WELL_WITHIN)).collect();
        let can_be_slowed = holds(&machine::program("berth-controller"), SLOW_DISK);
        let cluster = Self { world, members, apis, stale_reads, can_be_slowed };
        // The same cluster once more, with nothing in it, on disks of its own.
        for member in &cluster.members {
            cluster.world.kill9(member);
            cluster.give_disk(member);
            cluster.set_clock(member, 0);
            cluster.set_delay(member, Duration::ZERO);
        }
        for member in &cluster.members {
            cluster.start(member);
        }
        cluster.healed().await;
        cluster
    }

    /// The names of the members.
    pub(super) fn members(&self) -> &[String] {
        &self.members
    }

    /// A new connection to each member.
    pub(super) fn connections(&self, deadline: Duration) -> Vec<Api> {
        self.members.iter().map(|member| self.world.api_within(member, deadline)).collect()
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    fn folder(&self, member: &str) -> PathBuf {
        self.world.lab().folder(member).expect("the member is in the lab")
    }

    // --- processes

    /// Starts a member and waits until it listens.
    pub(super) fn start(&self, member: &str) {
        let folder = self.folder(member);
        let text = |file: PathBuf| file.to_string_lossy().into_owned();
        let library = text(faketime());
        let (clock, delay) = (text(folder.join("clock")), text(folder.join("slow-disk")));
        let mut environment = vec![
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", clock.as_str()),
            // Only the time of day is set: nobody sets the clock by which silence is measured.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DISABLE_SHM", "1"),
            (SLOW_DISK, delay.as_str()),
        ];
        if self.stale_reads {
            environment.push((STALE_READS, "1"));
        }
        let lab = self.world.lab();
        lab.start_with(member, &environment).unwrap_or_else(|error| panic!("{member} cannot be started: {error}"));
        lab.wait_ready(member).unwrap_or_else(|error| panic!("{member} does not answer: {error}"));
    }

    pub(super) fn kill(&self, member: &str) {
        self.world.kill9(member);
    }

    pub(super) fn stop(&self, member: &str) {
        self.world.stop(member);
    }

    pub(super) fn runs(&self, member: &str) -> bool {
        self.world.lab().pid(member).is_ok_and(|pid| pid.is_some())
    }

    pub(super) fn freeze(&self, member: &str) {
        self.world.lab().pause(member).unwrap_or_else(|error| panic!("{member} cannot be frozen: {error}"));
    }

    pub(super) fn thaw(&self, member: &str) {
        self.world.lab().resume(member).unwrap_or_else(|error| panic!("{member} cannot be thawed: {error}"));
    }

    // --- network

    pub(super) fn cut(&self, from: &str, to: &str) {
        let cut = self.world.lab().partition(from, to);
        cut.unwrap_or_else(|error| panic!("{from} cannot be cut off from {to}: {error}"));
    }

    pub(super) fn heal(&self) {
        self.world.lab().heal().unwrap_or_else(|error| panic!("the network cannot be healed: {error}"));
    }

    // --- clock

    /// Sets a member's clock this many seconds ahead of ours.
    pub(super) fn set_clock(&self, member: &str, ahead: i64) {
        write(&self.folder(member).join("clock"), &format!("{ahead:+}\n"));
    }

    /// Whether a member's clock is in our hands.
    pub(super) fn has_our_clock(&self, member: &str) -> bool {
        let pid = self.world.lab().pid(member).ok().flatten();
        let maps = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/maps")).ok());
        maps.is_some_and(|maps| maps.contains("libfaketime"))
    }

    // --- disk

    /// Makes each durability barrier of a member take this much longer.
    pub(super) fn set_delay(&self, member: &str, delay: Duration) {
        write(&self.folder(member).join("slow-disk"), &format!("{}\n", delay.as_millis()));
    }

    /// Whether the controllers were built with the switch for it: those that are to be shipped have none.
    pub(super) fn can_be_slowed(&self) -> bool {
        self.can_be_slowed
    }

    /// A file system of the member's own, below the place where it keeps its data.
    fn give_disk(&self, member: &str) {
        let folder = self.folder(member);
        let (image, disk, data) = (folder.join("disk.img"), folder.join("disk"), folder.join("data"));
        let file = fs::File::create(&image).expect("the lab's folder can be written");
        file.set_len(DISK_MIB << 20).expect("an image takes no room until it is written");
        fs::create_dir_all(&disk).expect("the lab's folder can be written");
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&disk));
        fs::remove_dir_all(&data).expect("the member that had this data is gone");
        fs::create_dir(disk.join("data")).expect("a new file system can be written");
        std::os::unix::fs::symlink(disk.join("data"), &data).expect("the lab's folder can be written");
    }

    fn ballast(&self, member: &str) -> PathBuf {
        self.folder(member).join("disk/ballast")
    }

    /// Leaves no block of a member's disk free.
    pub(super) fn fill_disk(&self, member: &str) {
        let path = self.ballast(member);
        let file = fs::File::options().create(true).append(true).open(&path).expect("a ballast can be made");
        let mut length = file.metadata().expect("an open file has a length").len();
        let folder = path.parent().expect("the ballast lies on a disk");
        // A few times, because the file's own tree of blocks takes room too.
        for _ in 0..20 {
            let free = statvfs(folder).expect("a mounted file system tells its size");
            let free = free.blocks_available() * free.fragment_size();
            if free == 0 {
                return;
            }
            let (from, more) = (i64::try_from(length), i64::try_from(free));
            let (from, more) = (from.expect("disks are small here"), more.expect("disks are small here"));
            match nix::fcntl::posix_fallocate(&file, from, more) {
                Ok(()) => length += free,
                // Somebody was quicker, or the tree took the rest.
                Err(nix::errno::Errno::ENOSPC) => {
                    length = file.metadata().expect("an open file has a length").len();
                }
                Err(error) => panic!("{} cannot be filled: {error}", folder.display()),
            }
        }
    }

    /// Gives the room back.
    pub(super) fn empty_disk(&self, member: &str) {
        fs::remove_file(self.ballast(member)).expect("the ballast is there");
    }

    /// Megabytes that are in use on a member's disk.
    pub(super) fn used_mb(&self, member: &str) -> u64 {
        let disk = self.folder(member).join("disk");
        statvfs(&disk).map_or(0, |space| (space.blocks() - space.blocks_free()) * space.fragment_size() / 1_000_000)
    }

    // --- how it is

    /// Who leads, as far as any member can tell; the newest term counts.
    pub(super) async fn leader(&self) -> Option<String> {
        let mut newest = None;
        for api in &self.apis {
            if let Some((term, leader)) = self.lead_by(api).await {
                newest = newest.max(Some((term, leader)));
            }
        }
        newest.map(|(_, leader)| leader)
    }

    /// The term and leader that one member knows, without asking the others.
    pub(super) async fn lead_by(&self, api: &Api) -> Option<(u64, String)> {
        let status = own_status(api).await.ok()?;
        let own = status.members.iter().find(|member| member.name == api.member)?;
        (!status.leader.is_empty()).then(|| (own.term, status.leader.clone()))
    }

    /// What a member says hinders it; empty for nothing, an error if it does not answer.
    pub(super) async fn trouble(&self, member: &str) -> Result<String, String> {
        let api = self.apis.iter().find(|api| api.member == member).expect("the member is in the cluster");
        let status = own_status(api).await?;
        let own = status.members.into_iter().find(|own| own.name == member);
        Ok(own.map(|own| own.trouble).unwrap_or_default())
    }

    /// Whether each member answers with what is true now.
    pub(super) async fn well(&self) -> Result<(), String> {
        for api in &self.apis {
            self.answers(api).await?;
        }
        Ok(())
    }

    async fn answers(&self, api: &Api) -> Result<(), String> {
        let freshly = v1::ListInstanceTypesRequest::default();
        let asked = tokio::time::timeout(WELL_WITHIN, api.send(freshly)).await;
        let status = asked.map_err(|_| format!("{} does not answer", api.member))?;
        status.map(drop).map_err(|status| format!("{}: {status}", api.member))
    }

    /// Waits until one member answers with what is true now.
    pub(super) async fn is_well_within(&self, member: &str, within: Duration) -> bool {
        let api = self.apis.iter().find(|api| api.member == member).expect("the member is in the cluster");
        let until = Instant::now() + within;
        loop {
            if self.answers(api).await.is_ok() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until all members answer, one leads, and it goes on leading for a second.
    pub(super) async fn healed(&self) {
        until("the cluster is well again", HEALED_WITHIN, async || {
            self.well().await?;
            let before = self.leader().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.well().await?;
            let after = self.leader().await;
            if before.is_some() && before == after { Ok(()) } else { Err(format!("{before:?} led, then {after:?}")) }
        })
        .await;
    }

    /// Waits until all members have the same state, to the last byte of every list.
    pub(super) async fn agree(&self) {
        self.world.identical().await;
    }
}

/// What a member says of itself without asking the leader.
async fn own_status(api: &Api) -> Result<v1::ClusterStatus, String> {
    let mut request = Request::new(v1::GetStatusRequest { consistency: v1::Consistency::Stale.into() });
    request.metadata_mut().insert("berth-passed-on", tonic::metadata::MetadataValue::from_static("1"));
    let mut client = v1::cluster_service_client::ClusterServiceClient::new(api.channel());
    let asked = tokio::time::timeout(WELL_WITHIN, client.get_status(request)).await;
    let answer = asked.map_err(|_| format!("{} does not answer", api.member))?;
    answer.map(tonic::Response::into_inner).map_err(|status| format!("{}: {status}", api.member))
}

/// The library that sets one process's clock.
fn faketime() -> PathBuf {
    let below = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = below.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).filter(|path| path.is_file());
    found.next().expect("libfaketime is there: `./x` installs Debian's faketime")
}

/// Whether a file holds a text somewhere.
fn holds(file: &Path, text: &str) -> bool {
    let found = Command::new("grep").args(["--quiet", "--text", "--fixed-strings", "--", text]).arg(file).status();
    found.is_ok_and(|status| status.success())
}

fn write(path: &Path, text: &str) {
    // Replaced as a whole: it is read at any moment.
    let aside = path.with_extension("new");
    let written = fs::write(&aside, text).and_then(|()| fs::rename(&aside, path));
    written.unwrap_or_else(|error| panic!("{} cannot be written: {error}", path.display()));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
