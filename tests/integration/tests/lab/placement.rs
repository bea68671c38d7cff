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
    cli.ok(&["vm", "delete", "d"]).await;
    floating_vms_keep_off_pinned_threads(&world).await;
    world.settled(&api).await;
    world.identical().await;
}

/// On `h1`, where `b` has one of two threads for itself: what floats runs on the other one, and on both once `b` is gone.
async fn floating_vms_keep_off_pinned_threads(world: &World) {
    let (cli, api) = (world.cli(), world.api("c1"));
    let pinned = api.vm("b").await.unwrap().assignment.unwrap().vcpus[0];
    let size = ["--image", "tiny", "--cpus", "1", "--memory", "128MiB", "--performance", "density"];
    cli.ok(&[&["vm", "create", "f", "--on-hosts", "gpu"][..], &size].concat()).await;
    let vm = api.vm("f").await.unwrap();
    assert_eq!(status(&vm).host_name, "h1");
    let (host, domain) = (world.host("h1"), format!("berth-{}", uid(&vm)));
    let qemu = host.qemu_of(&uid(&vm));
    let vcpu = || {
        let cpus = host.qmp(&domain, "query-cpus-fast", &serde_json::json!({}));
        qemu.may_run_on(i32::try_from(cpus[0]["thread-id"].as_i64().unwrap()).unwrap())
    };
    assert_eq!(vcpu(), (1 - pinned).to_string(), "the thread that is left");
    // The template's memory, as QEMU says.
    let memory = host.qmp(&domain, "query-memdev", &serde_json::json!({}));
    assert_eq!(memory[0]["merge"], true, "{memory}");
    let balloon = serde_json::json!({ "path": "/machine/peripheral/balloon0", "property": "free-page-reporting" });
    assert_eq!(host.qmp(&domain, "qom-get", &balloon), true);
    let marked = host.virsh(&["metadata", &domain, "--uri", "https://berth.dev/domain/1"]);
    assert!(marked.contains("read-back=\"yes\"") && !marked.contains("differs"), "{marked}");

    let moved_to = async |wanted: &str| {
        until("the VM that floats was moved", Duration::from_secs(20), async || {
            let seen = vcpu();
            if seen == wanted { Ok(()) } else { Err(format!("it may run on {seen}, not on {wanted}")) }
        })
        .await;
    };
    cli.ok(&["vm", "delete", "b"]).await;
    moved_to("0-1").await;
    let asked = Instant::now();
    cli.ok(&["vm", "create", "g", "--on-hosts", "gpu", "--image", "tiny", "--cpus", "1", "--memory", "128MiB"]).await;
    let pinned = api.vm("g").await.unwrap().assignment.unwrap().vcpus[0];
    moved_to(&(1 - pinned).to_string()).await;
    figure("a pinned VM is created, and what floats has left its thread", asked.elapsed());
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
