//! VMs from the first command to the last, on real libvirt and QEMU.

use std::time::{Duration, Instant};

use berth_integration::request::{self, MIB};
use berth_integration::{World, code, denial, figure};
use berth_pki::{Problem, Role};
use berth_proto::v1;
use serde_json::json;

use crate::{SOON, booted, condition, status, uid};

/// What `virsh` prints as `number: list` or `number list`, by number.
fn pins(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(|line| line.replace(':', " "));
    let pairs = lines.filter_map(|line| {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some((words.next()?, words.next()?))
    });
    pairs.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_boots_a_vm_that_is_pinned_on_hugepages_with_a_queue_for_each_cpu() {
    let world = World::up(2).await;
    world.add_tiny().await;
    let (cli, api) = (world.cli(), world.api("c1"));

    let asked = Instant::now();
    let size = ["--cpus", "2", "--memory", "256MiB", "--performance", "high"];
    cli.ok(&[&["vm", "create", "first", "--image", "tiny"][..], &size].concat()).await;
    figure("`berth vm create` until Running", asked.elapsed());
    // The guest's own words, under its own name, through the cluster.
    let seen = cli.ok(&["vm", "console", "first", "--until", "tiny: first is up (", "--timeout", "90s"]).await;
    figure("the guest says that it is up", asked.elapsed());
    assert!(seen.contains("tiny: first is up ("), "{seen}");
    let words = booted(&world, "first").await;
    assert!(words.contains("first login:"), "{words}");

    let vm = api.vm("first").await.unwrap();
    assert_eq!(status(&vm).phase(), v1::VmPhase::Running, "{vm:#?}");
    let (id, on) = (uid(&vm), status(&vm).host_name.clone());
    let assignment = vm.assignment.clone().unwrap();
    let host = world.host(&on);
    let domain = format!("berth-{id}");
    let qemu = host.qemu_of(&id);
    assert_eq!(host.domains(), std::slice::from_ref(&domain));

    // Each vCPU on its own thread, as libvirt says and as the kernel does.
    let wanted: Vec<_> =
        assignment.vcpus.iter().enumerate().map(|(vcpu, thread)| (vcpu.to_string(), thread.to_string())).collect();
    assert_eq!(wanted.len(), 2);
    assert_ne!(wanted[0].1, wanted[1].1);
    assert_eq!(pins(&host.virsh(&["vcpupin", &domain])), wanted);
    for cpu in host.qmp(&domain, "query-cpus-fast", &json!({})).as_array().unwrap() {
        let vcpu = usize::try_from(cpu["cpu-index"].as_u64().unwrap()).unwrap();
        let thread = i32::try_from(cpu["thread-id"].as_i64().unwrap()).unwrap();
        assert_eq!(qemu.may_run_on(thread), assignment.vcpus[vcpu].to_string(), "vCPU {vcpu}");
    }
    for thread in host.qmp(&domain, "query-iothreads", &json!({})).as_array().unwrap() {
        let thread = i32::try_from(thread["thread-id"].as_i64().unwrap()).unwrap();
        assert_eq!(qemu.may_run_on(thread), assignment.iothread, "the IOThread");
    }
    assert_eq!(qemu.may_run_on(qemu.pid), assignment.emulator, "QEMU's main thread");
    // All guest memory on hugepages, as the kernel says of this QEMU.
    assert_eq!(assignment.memory.iter().map(|pages| pages.count).sum::<u64>(), 128, "{assignment:?}");
    assert!(qemu.hugepage_kib() >= 256 * 1024, "{} KiB", qemu.hugepage_kib());
    // A queue for each vCPU, and an IOThread, as QEMU itself says of the disk that carries the VM's uid.
    let disk = |property: &str| {
        let arguments = json!({ "path": "/machine/peripheral/virtio-disk0", "property": property });
        host.qmp(&domain, "qom-get", &arguments)
    };
    assert_eq!(disk("serial"), json!(id));
    assert_eq!(disk("num-queues"), json!(2));
    assert_eq!(disk("iothread"), json!("/objects/iothread1"));

    // What runs the guest is never silent.
    let report = api.host(&on).await.unwrap();
    let kvm = condition(&report.conditions, "KvmUsable");
    let accelerated = condition(&status(&vm).conditions, "Accelerated");
    let found = report.inventory.as_ref().unwrap().accelerator.clone().unwrap();
    let shown = cli.ok(&["host", "show", &on]).await;
    println!("figure: runs under {}: {}", found.accelerator().as_str_name(), kvm.message);
    match found.accelerator() {
        v1::Accelerator::Tcg => {
            let step = found.failed_step.unwrap();
            assert_eq!(kvm.status(), v1::ConditionStatus::False);
            assert!(kvm.message.contains(&step), "{step}: {kvm:?}");
            assert_eq!(accelerated.status(), v1::ConditionStatus::False);
            assert!(accelerated.message.contains("TCG") && accelerated.message.contains(&step), "{accelerated:?}");
            assert!(shown.contains(&step) && shown.contains("TCG"), "{shown}");
        }
        v1::Accelerator::Kvm => {
            assert_eq!(kvm.status(), v1::ConditionStatus::True);
            assert_eq!(accelerated.status(), v1::ConditionStatus::True);
            assert!(shown.contains("KVM"), "{shown}");
        }
        v1::Accelerator::Unspecified => panic!("the host does not know what runs its guests"),
    }

    // Stopping keeps disk and place; the guest goes down by its own hand.
    let asked = Instant::now();
    cli.ok(&["vm", "stop", "first"]).await;
    figure("`berth vm stop`, by the guest's own hand", asked.elapsed());
    assert!(!qemu.lives(), "the VM is called stopped and its QEMU lives");
    let stopped = api.vm("first").await.unwrap();
    assert_eq!(stopped.assignment, vm.assignment);
    assert_eq!(api.host(&on).await.unwrap().r#use.unwrap().threads_booked, 2);
    cli.ok(&["vm", "start", "first"]).await;
    let second = host.qemu_of(&id);
    booted(&world, "first").await;
    let asked = Instant::now();
    cli.ok(&["vm", "restart", "first"]).await;
    figure("`berth vm restart` until Running", asked.elapsed());
    let third = host.qemu_of(&id);
    assert!(!second.lives() && third.pid != second.pid, "{second:?} {third:?}");
    let seen = cli.ok(&["vm", "console", "first", "--until", ", boots: 3)", "--timeout", "90s"]).await;
    assert!(seen.contains("first is up"), "the disk was not kept: {seen}");
    assert_eq!(pins(&host.virsh(&["vcpupin", &domain])), wanted, "a restart moved it");
    assert_eq!(api.vm("first").await.unwrap().restart_count, 1);

    // Deleting leaves nothing.
    let asked = Instant::now();
    cli.ok(&["vm", "delete", "first"]).await;
    figure("`berth vm delete` until gone", asked.elapsed());
    assert_eq!(code(&api.vm("first").await.unwrap_err()), "BE-2002");
    assert!(!third.lives());
    assert_eq!(host.domains(), Vec::<String>::new());
    assert_eq!(host.files_of(&id), Vec::<std::path::PathBuf>::new());
    let used = api.host(&on).await.unwrap().r#use.unwrap();
    assert_eq!((used.threads_booked, used.vms, used.ordinary_bytes_booked), (0, 0, 0), "{used:?}");
    assert!(used.hugepages.iter().all(|pool| pool.booked == 0), "{used:?}");
    world.identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_nowhere_waits_with_each_hosts_reason_and_is_placed_when_room_is_made() {
    let world = World::up(2).await;
    world.add_tiny().await;
    let (cli, api) = (world.cli(), world.api("c1"));

    // A host's daemon lets in controllers only.
    let (stranger, _) = world.of_another_ca();
    let operator = world.credentials(Role::Operator, "eve");
    let address = world.lab().member("h1").unwrap().api().to_string();
    assert_eq!(denial(&address, Role::Host, &operator).await, Problem::RoleRefused);
    assert_eq!(denial(&address, Role::Host, &stranger).await, Problem::CertificateOfOtherCa);

    // More than any host has, even if it were empty: refused at once, with what each has.
    world.settled(&api).await;
    let create = |words: &[&'static str]| [&["vm", "create", "--image", "tiny"], words].concat();
    for words in [
        create(&["big", "--cpus", "1", "--memory", "64GiB"]),
        create(&["big", "--cpus", "3", "--memory", "128MiB"]),
        create(&["big", "--instancetype", "standard-8"]),
    ] {
        let before = api.revision().await;
        let said = cli.run(&words).await;
        said.refused(1, "BE-3001");
        assert!(said.err.contains("h1 needs") && said.err.contains("h2 needs"), "{said:#?}");
        assert_eq!(api.revision().await, before, "something changed");
    }

    // Two VMs fill both hosts; nothing is booked twice.
    for name in ["a", "b"] {
        api.ask(request::sized(name, 2, 128)).await;
    }
    let (a, _) = api.phase("a", v1::VmPhase::Running, SOON).await;
    let (b, _) = api.phase("b", v1::VmPhase::Running, SOON).await;
    assert_ne!(status(&a).host_name, status(&b).host_name);
    let said = cli.run(&create(&["c", "--cpus", "1", "--memory", "128MiB", "--wait-timeout", "2s"])).await;
    said.refused(1, "BE-3002");
    assert!(said.err.contains("h1: needs 1 free CPU threads") && said.err.contains("h2: needs 1 free"), "{said:#?}");
    let waiting = api.vm("c").await.unwrap();
    assert_eq!(status(&waiting).phase(), v1::VmPhase::Pending);
    let unplaced = waiting.unplaced.clone().unwrap();
    let reasons: Vec<_> = unplaced.refusals.iter().map(|refusal| (refusal.host.as_str(), &refusal.why)).collect();
    assert_eq!(reasons.iter().map(|(host, _)| *host).collect::<Vec<_>>(), ["h1", "h2"], "{reasons:?}");
    assert!(reasons.iter().all(|(_, why)| why.contains("CPU threads")), "{reasons:?}");
    let placed = condition(&status(&waiting).conditions, "Placed");
    assert_eq!((placed.status(), placed.reason.as_str()), (v1::ConditionStatus::False, "NoHostFits"));
    let shown = cli.ok(&["vm", "show", "c"]).await;
    assert!(shown.contains("h1") && shown.contains("h2") && shown.contains("CPU threads"), "{shown}");
    world.settled(&api).await;
    world.identical().await;

    // Room is made.
    let asked = Instant::now();
    api.ask(request::delete("b")).await;
    let (c, _) = api.phase("c", v1::VmPhase::Running, SOON).await;
    figure("a waiting VM runs after room was made", asked.elapsed());
    assert_eq!(status(&c).host_name, status(&b).host_name);
    assert_eq!(c.unplaced, None);
    // Memory decides where threads do not: d finds a thread beside c, and no pages.
    let request = request::sized("d", 1, 1024 - 64);
    api.ask(request).await;
    let reasoned = |vm: Option<&v1::Vm>| vm.is_some_and(|vm| vm.unplaced.is_some());
    let (d, _) = api.vm_until("d", "has a reason to wait", Duration::from_secs(10), reasoned).await;
    let refusals = d.unwrap().unplaced.unwrap().refusals;
    let on_c = refusals.iter().find(|refusal| refusal.host == status(&c).host_name).unwrap();
    assert!(on_c.why.contains("hugepages"), "{refusals:?}");
    assert_eq!(c.spec.as_ref().unwrap().memory_bytes, Some(128 * MIB));
    world.identical().await;
}
