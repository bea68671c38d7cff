//! Backup, restore, and a cluster made of what one survivor has; and what hosts and their VMs make of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use berth_integration::request;
use berth_integration::{Api, Cli, Domain, Host, World, code, figure, until};
use berth_proto::v1;

use crate::{SOON, uid};

/// How long a host may take to find the only controller that is left.
const RETURN: Duration = Duration::from_secs(40);

/// `berth-controller` with these words: its exit code, and all it said.
fn controller(words: &[&str]) -> (Option<i32>, String) {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("berth-controller");
    let output = Command::new(program).args(words).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// A cluster of three of which, after a disaster, only the first member goes on.
struct Disaster {
    world: World,
    cli: Cli,
    api: Api,
    config: String,
    data: PathBuf,
}

impl Disaster {
    async fn up() -> Self {
        let world = World::up(1).await;
        world.add_tiny().await;
        let (cli, api) = (world.cli(), world.api("c1"));
        let config = world.lab().config_path("c1").unwrap().to_str().unwrap().to_owned();
        let data = world.lab().data_dir("c1").unwrap();
        Self { world, cli, api, config, data }
    }

    fn host(&self) -> Host<'_> {
        self.world.host("h1")
    }

    fn stop_all(&self) {
        self.world.controllers().iter().for_each(|member| self.world.stop(member));
    }

    /// Starts the first member, and waits until it answers alone and the host reports to it.
    async fn start_alone(&self) {
        let began = Instant::now();
        self.world.start("c1");
        until("the only member serves, and the host reports", RETURN, async || {
            let host = self.api.host("h1").await.map_err(|status| status.to_string())?;
            let known = host.inventory.is_some_and(|held| held.topology.is_some_and(|held| !held.threads.is_empty()));
            if known { Ok(()) } else { Err("the host's inventory is not known yet".to_owned()) }
        })
        .await;
        figure("a cluster of one serves and its host reports", began.elapsed());
    }

    async fn running(&self, name: &str) -> (String, Domain) {
        let (vm, _) = self.api.phase(name, v1::VmPhase::Running, SOON).await;
        let qemu = self.host().qemu_of(&uid(&vm));
        (uid(&vm), qemu)
    }

    async fn orphan(&self, vm: &str) {
        until("it is listed as an orphan that can be adopted", RETURN, async || {
            let host = self.api.host("h1").await.map_err(|status| status.to_string())?;
            let listed = host.orphans.iter().any(|orphan| orphan.vm == vm && orphan.running);
            let held = host.holdings.iter().any(|held| held.vm == vm);
            if listed && held { Ok(()) } else { Err(format!("{:?}, {:?}", host.orphans, host.holdings)) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_goes_on_where_the_backup_was_and_what_came_later_runs_on_as_orphans() {
    let disaster = Disaster::up().await;
    let (api, cli) = (&disaster.api, &disaster.cli);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, damaged) = (path("berth.backup"), path("damaged.backup"));

    api.ask(request::vm("a")).await;
    let (_, qemu_a) = disaster.running("a").await;
    let before = disaster.world.settled(api).await;
    let said = cli.run(&["cluster", "backup", &file]).await;
    assert_eq!(said.exit, Some(0), "{said:#?}");
    assert!(said.err.contains("NOT the key"), "{said:#?}");
    assert_eq!(cli.run(&["cluster", "backup", &file]).await.exit, Some(2), "a backup replaces nothing");
    let summed = cli.json(&["cluster", "backup", "--verify", &file]).await;
    assert_eq!((summed["revision"].as_u64(), summed["vms"].as_u64()), (Some(before), Some(1)), "{summed}");

    // Two VMs come after the backup.
    for name in ["b", "d"] {
        api.ask(request::vm(name)).await;
    }
    let ((b, qemu_b), (d, qemu_d)) = (disaster.running("b").await, disaster.running("d").await);
    let later = disaster.world.settled(api).await;

    disaster.stop_all();
    let restore = |from: &str| controller(&["restore", "--from", from, "--config", &disaster.config]);
    let (exit, said) = restore(&file);
    assert!(exit == Some(1) && said.contains("BE-5033"), "a data directory in use is left alone: {said}");
    std::fs::rename(&disaster.data, disaster.data.with_extension("lost")).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let (exit, said) = restore(&damaged);
    assert!(exit == Some(1) && said.contains("BE-5032"), "{said}");
    assert!(!disaster.data.exists(), "nothing is made of a damaged backup");
    cli.run(&["cluster", "backup", "--verify", &damaged]).await.refused(1, "BE-5032");
    let (exit, said) = restore(&file);
    assert_eq!(exit, Some(0), "{said}");
    let (exit, again) = restore(&file);
    assert_eq!(exit, Some(1), "{again}");

    disaster.start_alone().await;
    let status = api.status().await.unwrap();
    assert_eq!((status.incarnation, status.members.len()), (1, 1), "{status:#?}");
    assert!(status.revision > later + (1 << 32), "{status:#?}");
    // What runs never noticed.
    let (_, qemu) = disaster.running("a").await;
    assert_eq!(qemu, qemu_a);
    for (name, vm, qemu) in [("b", &b, &qemu_b), ("d", &d, &qemu_d)] {
        assert_eq!(code(&api.vm(name).await.unwrap_err()), "BE-2002", "the backup knows of {name}");
        disaster.orphan(vm).await;
        assert!(qemu.lives());
    }
    // Who followed the old state is told to begin anew.
    let mut watch = api.watch(Some(before)).await;
    let refused = match &mut watch {
        Ok(events) => events.message().await.unwrap_err(),
        Err(status) => status.clone(),
    };
    assert_eq!(code(&refused), "BE-5005", "{refused}");
    let past = before.to_string();
    cli.run(&["vm", "show", "a", "--revision", &past]).await.refused(1, "BE-5005");

    // A placement made now is obeyed, and takes nothing from an orphan.
    api.ask(request::vm("c")).await;
    let (c, _) = disaster.running("c").await;
    let placed = api.vm("c").await.unwrap().assignment.unwrap();
    let held = api.host("h1").await.unwrap().holdings;
    assert!(held.iter().all(|held| held.vcpus.iter().all(|thread| !placed.vcpus.contains(thread))), "{held:?}");
    assert!(placed.epoch > later + (1 << 32));

    // One orphan is adopted and is a VM as any other; the other is removed, and only when that is meant.
    cli.ok(&["vm", "adopt", &b]).await;
    let (_, qemu) = disaster.running("b").await;
    assert_eq!(qemu, qemu_b, "it was not started anew");
    assert_eq!(cli.run(&["host", "remove-orphan", "h1", &d]).await.exit, Some(2));
    cli.ok(&["host", "remove-orphan", "h1", &d, "--yes"]).await;
    api.vm_until("d", "is gone", SOON, |vm| vm.is_none()).await;
    assert!(!qemu_d.lives() && disaster.host().files_of(&d).is_empty());
    until("no orphan is listed", RETURN, async || {
        let host = api.host("h1").await.map_err(|status| status.to_string())?;
        if host.orphans.is_empty() { Ok(()) } else { Err(format!("{:?}", host.orphans)) }
    })
    .await;

    // Who did it is known.
    let history = cli.json(&["history", "vm", "b"]).await;
    let commands: Vec<_> = history["items"].as_array().unwrap().iter().map(|item| item["command"].clone()).collect();
    assert!(commands.iter().any(|command| command == "AdoptOrphan"), "{history}");
    for name in ["b", "c"] {
        api.ask(request::delete(name)).await;
        api.vm_until(name, "is gone", SOON, |vm| vm.is_none()).await;
    }
    assert!(!qemu_b.lives() && disaster.host().files_of(&c).is_empty());
    assert!(qemu_a.lives());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_survivor_of_three_is_made_a_cluster_only_by_someone_who_says_what_it_costs() {
    let disaster = Disaster::up().await;
    let (api, world) = (&disaster.api, &disaster.world);
    api.ask(request::vm("a")).await;
    let (_, qemu_a) = disaster.running("a").await;
    let before = world.settled(api).await;
    disaster.stop_all();

    let force = ["force-new-cluster", "--config", &disaster.config, "--i-know-that-acknowledged-changes-may-be-lost"];
    let (exit, said) = controller(&[&force[..], &["another"]].concat());
    assert!(exit == Some(1) && said.contains("BE-5033") && said.contains("may be lost"), "{said}");
    let (exit, said) = controller(&[&force[..], &[world.lab().cluster()]].concat());
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.contains("ARE LOST") && said.contains("c2, c3"), "{said}");

    disaster.start_alone().await;
    let status = api.status().await.unwrap();
    assert_eq!((status.incarnation, status.members.len(), &*status.leader), (1, 1, "c1"), "{status:#?}");
    assert!(status.revision > before + (1 << 32), "{status:#?}");
    let (_, qemu) = disaster.running("a").await;
    assert_eq!(qemu, qemu_a);
    // One of the others that comes back by mistake is no part of it, and changes nothing.
    world.start("c2");
    api.ask(request::vm("e")).await;
    disaster.running("e").await;
    assert_eq!(api.status().await.unwrap().members.len(), 1);
    api.ask(request::delete("a")).await;
    api.vm_until("a", "is gone", SOON, |vm| vm.is_none()).await;
}
