//! Image files on hosts: verified before they are used, and never believed by their name.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_integration::{World, figure, request, tiny, until};
use berth_proto::v1;
use berth_proto::v1::image_on_host::Found;

use crate::{SOON, status};

/// Longer than a daemon's pause between two looks at its folder.
const LOOKED: Duration = Duration::from_secs(30);

/// A copy with one byte changed, far behind the header.
fn altered(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(to).unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

async fn reason(world: &World, vm: &str, host: &str, part: &str) {
    let api = world.api("c1");
    let holds = |vm: Option<&v1::Vm>| {
        let refusals = vm.and_then(|vm| vm.unplaced.as_ref()).map(|unplaced| unplaced.refusals.as_slice());
        refusals.unwrap_or_default().iter().any(|refusal| refusal.host == host && refusal.why.contains(part))
    };
    api.vm_until(vm, &format!("waits because {host} {part}"), LOOKED, holds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_or_missing_image_file_is_refused_and_never_booted_from() {
    let world = World::up(2).await;
    let (api, cli, tiny) = (world.api("c1"), world.cli(), tiny());
    let file = |host: &str| world.host(host).path("images").join(&tiny.sha256);
    for host in world.hosts() {
        world.stop(&host);
    }
    altered(&tiny.path, &file("h1"));
    std::fs::copy(&tiny.path, file("h2")).unwrap();
    for host in world.hosts() {
        world.start(&host);
    }
    let path = tiny.path.display().to_string();
    cli.ok(&["image", "create", "tiny", "--file", &path]).await;

    // The host says so itself, and so does everything that speaks of the image.
    world.image_is_good("h2", &tiny.sha256).await;
    let (why, _) =
        until("h1 refuses the altered file", LOOKED, async || match world.image_on("h1", &tiny.sha256).await? {
            Found::Refused(why) => Ok(why),
            Found::VerifiedVirtualSizeBytes(_) => panic!("h1 took an altered file for good"),
        })
        .await;
    assert!(why.contains("SHA-256"), "{why}");
    let shown = cli.ok(&["image", "show", "tiny"]).await;
    assert!(shown.contains("h1") && shown.contains("SHA-256"), "{shown}");

    // A VM goes where the image is good; one that finds no room there waits rather than take the other file.
    api.ask(request::sized("good", 2, 128)).await;
    let (good, _) = api.phase("good", v1::VmPhase::Running, SOON).await;
    assert_eq!(status(&good).host_name, "h2");
    api.ask(request::sized("waits", 2, 128)).await;
    reason(&world, "waits", "h1", "refuses the image's file").await;
    reason(&world, "waits", "h2", "CPU threads").await;
    assert_eq!(world.host("h1").domains(), Vec::<String>::new());

    std::fs::remove_file(file("h1")).unwrap();
    reason(&world, "waits", "h1", "does not hold the image's file").await;

    // The true file is found and used without anybody's help.
    let brought = Instant::now();
    std::fs::copy(&tiny.path, file("h1")).unwrap();
    let (placed, _) = api.phase("waits", v1::VmPhase::Running, LOOKED + SOON).await;
    figure("a VM runs after its image was brought to the host", brought.elapsed());
    assert_eq!(status(&placed).host_name, "h1");
    world.identical().await;
}
