//! A host whose controllers move away from where its configuration says they are.

use std::time::Instant;

use berth_integration::request::{self, insist};
use berth_integration::{Api, World, figure, until};
use berth_proto::v1;

use crate::machines::Machines;
use crate::{SOON, uid};

/// Shows that the host obeys: one VM goes, and another one runs in its place.
async fn obeys(world: &World, apis: &[Api], old: &str, new: &str) {
    let began = Instant::now();
    insist(apis, SOON, request::delete(old)).await.unwrap();
    apis[0].vm_until(old, "is gone", SOON, |vm| vm.is_none()).await;
    insist(apis, SOON, request::vm(new)).await.unwrap();
    let (vm, _) = apis[0].phase(new, v1::VmPhase::Running, SOON).await;
    assert!(world.host("h1").qemu_of(&uid(&vm)).lives());
    figure("one VM gone and the next one up", began.elapsed());
}

/// Waits until the host has written down that the controllers are these.
async fn knows(machines: &Machines, wanted: &[&str]) {
    let wanted: Vec<_> = wanted.iter().map(|name| format!("{}:7440", machines.address(name))).collect();
    let file = machines.world.host("h1").path("data/controllers.json");
    until("the host has written down where the controllers are", SOON, async || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let held: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if held["controllers"] == serde_json::json!(wanted) { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_obeys_controllers_that_replaced_all_those_of_its_configuration() {
    let machines = Machines::of_formed(World::growing(1, 2, 1).await);
    let (world, cli) = (&machines.world, machines.world.cli());
    let config = world.lab().config_path("h1").unwrap();
    let configured = std::fs::read_to_string(&config).unwrap();
    assert!(configured.contains(&format!("controllers = [\"{}:7440\"]", machines.address("c1"))), "{configured}");
    world.add_tiny().await;
    let first = world.api("c1");
    first.ask(request::vm("a")).await;
    first.phase("a", v1::VmPhase::Running, SOON).await;

    for name in ["c2", "c3"] {
        machines.add(&cli, name, &[]).await;
    }
    knows(&machines, &["c1", "c2", "c3"]).await;
    // The one that leads and holds the session is gone without a word of where the others are.
    assert_eq!(world.leader().await, "c1");
    world.kill9("c1");
    let others = ["c2", "c3"].map(|name| world.api(name));
    obeys(world, &others, "a", "b").await;
    let through = format!("{}:7440", machines.address("c2"));
    cli.ok(&["cluster", "member", "remove", "c1", "--yes", "--endpoint", &through]).await;
    knows(&machines, &["c2", "c3"]).await;
    // Every later daemon finds them too.
    world.stop("h1");
    world.start("h1");
    obeys(world, &others, "b", "c").await;
    world.kill9("h1");
    world.start("h1");
    obeys(world, &others, "c", "d").await;
    assert_eq!(std::fs::read_to_string(&config).unwrap(), configured, "nobody has edited it");
}
