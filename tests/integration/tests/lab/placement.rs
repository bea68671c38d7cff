//! Rules, marks of hosts, and hosts that are said to be dead, with real guests.

use std::time::{Duration, Instant};

use berth_integration::{World, code, figure, until};
use berth_proto::v1;

use crate::{SOON, status, uid};

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_goes_where_its_rules_say_and_one_that_waits_is_told_what_would_help() {
    let world = World::up(2).await;
    world.add_tiny().await;
    let (cli, api) = (world.cli(), world.api("c1"));
    let create = |words: &[&'static str]| {
        let size = ["vm", "create", "--image", "tiny", "--cpus", "1", "--memory", "128MiB"];
        [&size[..], words].concat()
    };

    // Hosts are marked, and a VM follows the marks.
    cli.ok(&["host", "update", "h2", "--label", "ssd=2", "--zone", "b", "--group", "prod"]).await;
    cli.ok(&create(&["a", "--on-hosts", "ssd>1", "--host-group", "prod"])).await;
    assert_eq!(status(&api.vm("a").await.unwrap()).host_name, "h2");
    // One that keeps away from it goes to the other, one that must be near to it does not.
    cli.ok(&["vm", "label", "a", "app=db"]).await;
    cli.ok(&create(&["b", "--apart", "host:app=db"])).await;
    assert_eq!(status(&api.vm("b").await.unwrap()).host_name, "h1");
    cli.ok(&create(&["c", "--near", "zone:app=db"])).await;
    assert_eq!(status(&api.vm("c").await.unwrap()).host_name, "h2");

    // Nothing is written by a question, and the answer says why not.
    let before = world.settled(&api).await;
    let asked = cli.run(&create(&["d", "--on-hosts", "gpu", "--dry-run"])).await;
    assert_eq!(asked.exit, Some(1), "{asked:#?}");
    assert!(asked.out.contains("none of 2 hosts can take d") && asked.out.contains("NotAskedFor"), "{asked:#?}");
    cli.ok(&["host", "capacity", "h2"]).await;
    let room = cli.json(&["capacity", "--cpus", "1", "--memory", "128MiB"]).await;
    assert_eq!(room["count"], 1, "{room}");
    let survival = cli.run(&["capacity", "--survives"]).await;
    assert_eq!(survival.exit, Some(1), "two VMs of h2 find one free thread on h1: {survival:#?}");
    assert_eq!(api.revision().await, before, "something changed");

    // What waits is placed as soon as a host has what it asks for.
    cli.ok(&create(&["d", "--on-hosts", "gpu", "--no-wait"])).await;
    let reasoned = |vm: Option<&v1::Vm>| vm.is_some_and(|vm| vm.unplaced.is_some());
    api.vm_until("d", "has a reason to wait", Duration::from_secs(10), reasoned).await;
    let explained = cli.ok(&["vm", "explain", "d"]).await;
    assert!(explained.contains("ask for hosts with any labels"), "{explained}");
    let asked = Instant::now();
    cli.ok(&["host", "update", "h1", "--label", "gpu=x"]).await;
    let (d, _) = api.phase("d", v1::VmPhase::Running, SOON).await;
    figure("a waiting VM runs after a host was labelled", asked.elapsed());
    assert_eq!(status(&d).host_name, "h1");
    world.settled(&api).await;
    world.identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_said_to_be_dead_loses_its_vms_and_ends_them_before_anything_else_when_it_returns() {
    let world = World::up(2).await;
    world.add_tiny().await;
    let (cli, api) = (world.cli(), world.api("c1"));
    cli.ok(&["vm", "create", "a", "--image", "tiny", "--cpus", "1", "--memory", "128MiB"]).await;
    let first = api.vm("a").await.unwrap();
    let dead = status(&first).host_name.clone();
    let host = world.host(&dead);
    let old = host.qemu_of(&uid(&first));
    let epoch = |vm: &v1::Vm| vm.assignment.as_ref().unwrap().epoch;

    // Of a host that is heard of nobody's word is taken, nor one that was not repeated.
    cli.run(&["host", "confirm-dead", &dead, "--yes-i-am-sure", &dead]).await.refused(1, "BE-2011");
    cli.run(&["host", "remove", &dead]).await.refused(1, "BE-2011");
    world.kill9(&dead);
    until("the host is not heard of", Duration::from_secs(60), async || {
        let host = api.host(&dead).await.map_err(|status| status.to_string())?;
        if host.liveness() == v1::Liveness::Alive { Err("it is Alive".to_owned()) } else { Ok(()) }
    })
    .await;
    assert_eq!(cli.run(&["host", "confirm-dead", &dead]).await.exit, Some(2), "nobody is there to type");
    assert_eq!(cli.run(&["host", "confirm-dead", &dead, "--yes-i-am-sure", "h"]).await.exit, Some(2));
    cli.run(&["host", "remove", &dead]).await.refused(1, "BE-2012");
    assert_eq!(status(&api.vm("a").await.unwrap()).host_name, dead);

    // Its VM is placed anew with a higher epoch, although the old guest still runs.
    let asked = Instant::now();
    cli.ok(&["host", "confirm-dead", &dead, "--yes-i-am-sure", &dead]).await;
    let (second, _) = api.phase("a", v1::VmPhase::Running, SOON).await;
    figure("a VM of a dead host runs elsewhere after the word", asked.elapsed());
    assert_ne!(status(&second).host_name, dead);
    assert!(epoch(&second) > epoch(&first));
    assert!(old.lives(), "nobody could end it");
    let shown = cli.ok(&["host", "show", &dead]).await;
    assert!(shown.contains("Ended without its word") && shown.contains("default/a"), "{shown}");
    cli.run(&["host", "remove", &dead]).await.refused(1, "BE-2012");
    let history = cli.ok(&["history", "host", &dead]).await;
    assert!(history.contains("ConfirmDead"), "{history}");

    // It comes back and ends what it should not have.
    world.start(&dead);
    until("the old guest is gone and nothing is held for it", Duration::from_secs(60), async || {
        let held = api.host(&dead).await.map_err(|status| status.to_string())?.evictions;
        match (old.lives(), held.is_empty()) {
            (false, true) => Ok(()),
            (lives, _) => Err(format!("it lives: {lives}; held: {held:?}")),
        }
    })
    .await;
    let now = api.vm("a").await.unwrap();
    assert_eq!((status(&now).host_name.clone(), epoch(&now)), (status(&second).host_name.clone(), epoch(&second)));
    assert_eq!(code(&api.vm("b").await.unwrap_err()), "BE-2002");
    world.settled(&api).await;
    world.identical().await;
}
