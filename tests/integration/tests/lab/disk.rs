//! A disk without room under one of three members.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use berth_integration::request::{self, insist};
use berth_integration::{Api, World, code, figure, until};
use berth_proto::v1;
use nix::sys::statvfs::statvfs;
use serde_json::Value;

/// Much more than a member needs here, and little enough to be filled at once.
const DISK_MIB: u64 = 512;
/// How long a member may take to notice that its disk is full, while changes are made.
const NOTICED: Duration = Duration::from_secs(60);
/// How long it may take to take part again once there is room.
const REJOINED: Duration = Duration::from_secs(30);

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file system of one member's own, with its data on it. It goes with the lab.
struct Disk(PathBuf);

impl Disk {
    fn under(world: &World, member: &str) -> Self {
        let folder = world.lab().folder(member).unwrap();
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let (image, disk, data) = (path("disk.img"), path("disk"), path("data"));
        fs::File::create(&image).unwrap().set_len(DISK_MIB << 20).unwrap();
        fs::create_dir(&disk).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image]);
        run("mount", &["-o", "loop", &image, &disk]);
        world.stop(member);
        run("cp", &["--archive", &data, &disk]);
        fs::remove_dir_all(&data).unwrap();
        std::os::unix::fs::symlink(Path::new(&disk).join("data"), &data).unwrap();
        world.start(member);
        Self(disk.into())
    }

    fn free(&self) -> u64 {
        let space = statvfs(&self.0).unwrap();
        space.blocks_available() * space.fragment_size()
    }

    /// Leaves no block free.
    fn fill(&self) {
        let file = fs::File::options().create(true).append(true).open(self.0.join("ballast")).unwrap();
        for _ in 0..20 {
            let (free, length) = (self.free(), file.metadata().unwrap().len());
            if free == 0 {
                return;
            }
            // The file's own tree of blocks takes room too, so this may not fit at first.
            let _ = nix::fcntl::posix_fallocate(&file, length.cast_signed(), free.cast_signed());
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

/// A halted VM with much user data: a member takes room ahead of what it needs, so little would not show for long.
fn large(name: &str) -> v1::CreateVmRequest {
    let mut asked = request::vm(name);
    let spec = asked.spec.as_mut().unwrap();
    spec.run_strategy = v1::RunStrategy::Halted.into();
    spec.user_data = Some(vec![b'#'; 200 << 10]);
    asked
}

/// What the cluster says of one member, asked of another.
async fn said_of(world: &World, member: &str, through: &Api) -> (Value, Vec<String>) {
    let endpoint = world.lab().member(&through.member).unwrap().api().to_string();
    let status = world.cli().json(&["cluster", "status", "--endpoint", &endpoint]).await;
    let own = status["members"].as_array().unwrap().iter().find(|one| one["name"] == member).unwrap().clone();
    let warnings = status["warnings"].as_array().unwrap().iter().filter(|one| one["member"] == member);
    (own, warnings.map(|one| one["kind"].as_str().unwrap().to_owned()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_disk_is_full_says_so_and_comes_back_by_itself_while_the_cluster_goes_on() {
    let world = World::up(0).await;
    world.name_an_image().await;
    for role in ["follower", "leader"] {
        let victim = if role == "leader" { world.leader().await } else { world.follower().await };
        let disk = Disk::under(&world, &victim);
        if role == "leader" {
            // The move to the disk handed the lead over.
            world.cli().ok(&["cluster", "transfer-leader", &victim]).await;
        }
        let others: Vec<_> = world.apis().into_iter().filter(|api| api.member != victim).collect();
        disk.fill();
        let mut number = 0;
        let ((), noticed) = until("the member says that it takes no part", NOTICED, async || {
            number += 1;
            // The leader itself refuses while it has no room, until it has handed over.
            let made = others[0].send(large(&format!("{role}-{number}"))).await;
            let (own, warnings) = said_of(&world, &victim, &others[0]).await;
            if own["role"] == "Failed" && warnings.iter().any(|kind| kind == "MemberFailed") {
                Ok(())
            } else {
                Err(format!("{own:#}, {warnings:?}, {:?}", made.err()))
            }
        })
        .await;
        figure(&format!("a {role} whose disk is full says so"), noticed);
        let (own, _) = said_of(&world, &victim, &others[0]).await;
        let why = own["trouble"].as_str().unwrap();
        assert!(why.contains("No space left") || why.contains("make room"), "{why}");
        // Whoever asks it is told the same; and nobody is kept from anything.
        let refused = world.api(&victim).vm("none").await.unwrap_err();
        assert_eq!((refused.code(), &*code(&refused)), (tonic::Code::Unavailable, "BE-5003"), "{refused}");
        assert!(refused.message().contains("No space left") || refused.message().contains("make room"), "{refused}");
        let endpoint = world.lab().member(&victim).unwrap().api().to_string();
        world.cli().run(&["vm", "list", "--timeout", "5s", "--endpoint", &endpoint]).await.refused(3, "BE-5003");
        insist(&others, NOTICED, large(&format!("{role}-meanwhile"))).await.unwrap();
        assert_ne!(world.leader().await, victim);

        disk.empty();
        let ((), took) = until("the member takes part again", REJOINED, async || {
            world.api(&victim).status().await.map_err(|status| status.to_string())?;
            let (own, warnings) = said_of(&world, &victim, &others[0]).await;
            if own["role"] != "Failed" && warnings.is_empty() { Ok(()) } else { Err(format!("{own:#}, {warnings:?}")) }
        })
        .await;
        figure(&format!("a {role} takes part again once there is room"), took);
        world.identical().await;
    }
}
