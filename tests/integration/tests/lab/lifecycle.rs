//! The life of a VM on its host, on real libvirt and QEMU: what follows the end of a run, by strategy; pause, reset, and a
//! stop that the guest does not heed.

use std::time::{Duration, Instant};

use berth_integration::request;
use berth_integration::{World, code, figure};
use berth_proto::v1;

use crate::{BOOT, SOON, booted, condition, status, uid};

/// A VM of this strategy whose guest does this once it is up.
fn vm(name: &str, run: v1::RunStrategy, does: &str) -> v1::CreateVmRequest {
    let mut asked = request::vm(name);
    let spec = asked.spec.as_mut().unwrap();
    spec.run_strategy = run.into();
    if !does.is_empty() {
        spec.user_data = Some(format!("#cloud-config\nruncmd:\n  - {does}\n").into_bytes());
    }
    asked
}

fn last_end(vm: &v1::Vm) -> Option<v1::StopReason> {
    vm.observed.as_ref()?.last_end.map(|ended| ended.reason())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_the_end_of_a_run_is_for_the_strategy_to_say_and_what_was_asked_outlives_the_daemon() {
    let world = World::up(2).await;
    world.add_tiny().await;
    let (cli, api) = (world.cli(), world.api("c1"));
    api.ask(vm("always", v1::RunStrategy::Always, "")).await;
    api.ask(vm("rerun", v1::RunStrategy::RerunOnFailure, "poweroff")).await;
    api.ask(vm("manual", v1::RunStrategy::Manual, "")).await;

    // A manual VM waits for its start, and one start is one run.
    let (waits, _) = api.phase("manual", v1::VmPhase::Stopped, SOON).await;
    assert!(status(&waits).message.contains("Manual"), "{waits:#?}");
    cli.ok(&["vm", "start", "manual"]).await;
    let manual = api.vm("manual").await.unwrap();
    world.host(&status(&manual).host_name).qemu_of(&uid(&manual)).kill9();
    let (over, _) = api.phase("manual", v1::VmPhase::Stopped, SOON).await;
    assert!(status(&over).message.contains("ended or was killed"), "{over:#?}");
    assert_eq!(last_end(&over), Some(v1::StopReason::Crashed));
    cli.run(&["vm", "restart", "manual"]).await.refused(1, "BE-2014");
    cli.run(&["vm", "pause", "manual"]).await.refused(1, "BE-2014");

    // A QEMU that is killed is started again by the strategy, and the VM says why.
    let (first, _) = api.phase("always", v1::VmPhase::Running, SOON).await;
    let (id, on) = (uid(&first), status(&first).host_name.clone());
    let host = world.host(&on);
    let qemu = host.qemu_of(&id);
    let killed = Instant::now();
    qemu.kill9();
    let again = |vm: Option<&v1::Vm>| {
        vm.is_some_and(|vm| status(vm).phase() == v1::VmPhase::Running && last_end(vm) == Some(v1::StopReason::Crashed))
    };
    let (again, _) = api.vm_until("always", "runs again after its QEMU was killed", SOON, again).await;
    figure("a VM whose QEMU was killed runs again", killed.elapsed());
    let again = again.unwrap();
    assert_ne!(host.qemu_of(&id).pid, qemu.pid);
    let said = condition(&status(&again).conditions, "LastRunEndedWell");
    assert_eq!((said.status(), said.reason.as_str()), (v1::ConditionStatus::False, "Crashed"), "{said:?}");
    assert_eq!(again.observed.as_ref().unwrap().failures, 1);

    // A pause outlives the daemon; a reset is done to the same QEMU.
    booted(&world, "always").await;
    let qemu = host.qemu_of(&id);
    cli.ok(&["vm", "pause", "always"]).await;
    world.kill9(&on);
    world.start(&on);
    let (held, _) = api.phase("always", v1::VmPhase::Paused, SOON).await;
    let domain = format!("berth-{id}");
    assert_eq!(host.virsh(&["domstate", &domain]).trim(), "paused");
    assert!(held.power.unwrap().paused);
    assert_eq!(code(&api.send(request::start("always")).await.unwrap_err()), "BE-2014");
    cli.ok(&["vm", "resume", "always"]).await;
    assert_eq!(host.virsh(&["domstate", &domain]).trim(), "running");
    cli.ok(&["vm", "reset", "always"]).await;
    api.console("always", "always is up", BOOT).await;
    assert_eq!(host.qemu_of(&id), qemu, "it was reset, and not started anew");

    // A guest that powers itself off rests, and runs once more when it is started.
    let (rests, _) = api.phase("rerun", v1::VmPhase::Stopped, BOOT).await;
    assert!(status(&rests).message.contains("shut itself down"), "{rests:#?}");
    cli.ok(&["vm", "start", "rerun"]).await;
    assert_eq!(api.vm("rerun").await.unwrap().spec.unwrap().run_strategy(), v1::RunStrategy::RerunOnFailure);
    api.console("rerun", ", boots: 2)", BOOT).await;

    // A guest that does not heed its power button is ended when its grace is over, and at once when nobody waits.
    let mut deaf = vm("deaf", v1::RunStrategy::Always, "echo exit > /etc/acpi/PWRF/00000080");
    deaf.spec.as_mut().unwrap().grace_ms = Some(4000);
    api.ask(deaf).await;
    api.console("deaf", "user-data finished (exit 0)", BOOT).await;
    let asked = Instant::now();
    cli.ok(&["vm", "stop", "deaf"]).await;
    let took = asked.elapsed();
    figure("a stop with a grace of 4 s that the guest does not heed", took);
    assert!(took >= Duration::from_secs(4), "{took:?}");
    cli.ok(&["vm", "start", "deaf"]).await;
    cli.ok(&["vm", "stop", "deaf", "--force"]).await;
    assert_eq!(api.vm("deaf").await.unwrap().spec.unwrap().run_strategy(), v1::RunStrategy::Halted);
    world.identical().await;
}
