//! Backup, restore, and a cluster made of what one survivor has; and what hosts and their VMs make of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use berth_integration::request;
use berth_integration::{Api, Cli, Domain, World, code, figure, until};
use berth_proto::v1;

use crate::{SOON, status, uid};

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
    async fn up(hosts: u8) -> Self {
        let world = World::up(hosts).await;
        world.add_tiny().await;
        let (cli, api) = (world.cli(), world.api("c1"));
        let config = world.lab().config_path("c1").unwrap().to_str().unwrap().to_owned();
        let data = world.lab().data_dir("c1").unwrap();
        Self { world, cli, api, config, data }
    }

    fn stop_all(&self) {
        self.world.controllers().iter().for_each(|member| self.world.stop(member));
    }

    /// Starts the first member, and waits until it answers alone and the host reports to it.
    async fn start_alone(&self) {
        let began = Instant::now();
        self.world.start("c1");
        until("the only member serves, and each host reports", RETURN, async || {
            for host in self.world.hosts() {
                let host = self.api.host(&host).await.map_err(|status| status.to_string())?;
                let known =
                    host.inventory.is_some_and(|held| held.topology.is_some_and(|held| !held.threads.is_empty()));
                if !known {
                    return Err("a host's inventory is not known yet".to_owned());
                }
            }
            Ok(())
        })
        .await;
        figure("a cluster of one serves and its hosts report", began.elapsed());
    }

    /// Waits until a VM runs.
    async fn running(&self, name: &str) -> Running {
        let (vm, _) = self.api.phase(name, v1::VmPhase::Running, SOON).await;
        let host = status(&vm).host_name.clone();
        let qemu = self.world.host(&host).qemu_of(&uid(&vm));
        Running { name: name.to_owned(), uid: uid(&vm), host, qemu, epoch: vm.assignment.unwrap().epoch }
    }

    /// Asks for a VM and waits until it runs.
    async fn create(&self, name: &str) -> Running {
        self.api.ask(request::vm(name)).await;
        self.running(name).await
    }

    async fn gone(&self, vm: &Running) {
        self.api.vm_until(&vm.name, "is gone", SOON, |vm| vm.is_none()).await;
        assert!(!vm.qemu.lives() && self.world.host(&vm.host).files_of(&vm.uid).is_empty(), "{vm:?}");
    }

    async fn delete(&self, vm: &Running) {
        self.api.ask(request::delete(&vm.name)).await;
        self.gone(vm).await;
    }

    /// Waits until a host lists exactly these, which run on, as orphans that can be adopted.
    async fn orphans(&self, host: &str, wanted: &[&Running]) {
        let mut uids: Vec<_> = wanted.iter().map(|vm| vm.uid.as_str()).collect();
        uids.sort_unstable();
        until("they are listed as orphans that can be adopted", RETURN, async || {
            let host = self.api.host(host).await.map_err(|status| status.to_string())?;
            let mut listed: Vec<_> = host.orphans.iter().filter(|orphan| orphan.running).map(|one| &*one.vm).collect();
            let mut held: Vec<_> = host.holdings.iter().map(|held| &*held.vm).collect();
            listed.sort_unstable();
            held.sort_unstable();
            if listed == uids && held == uids {
                Ok(())
            } else {
                Err(format!("{:?}, {:?}", host.orphans, host.holdings))
            }
        })
        .await;
        assert!(wanted.iter().all(|vm| vm.qemu.lives()), "{wanted:?}");
    }
}

/// A VM that runs.
#[derive(Debug)]
struct Running {
    name: String,
    uid: String,
    host: String,
    qemu: Domain,
    epoch: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_goes_on_where_the_backup_was_and_what_came_later_runs_on_as_orphans() {
    let disaster = Disaster::up(2).await;
    let (api, cli) = (&disaster.api, &disaster.cli);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, damaged) = (path("berth.backup"), path("damaged.backup"));

    let old = disaster.create("old").await;
    let before = disaster.world.settled(api).await;
    let said = cli.run(&["cluster", "backup", &file]).await;
    assert_eq!(said.exit, Some(0), "{said:#?}");
    assert!(said.err.contains("NOT the key"), "{said:#?}");
    assert_eq!(cli.run(&["cluster", "backup", &file]).await.exit, Some(2), "a backup replaces nothing");
    let summed = cli.json(&["cluster", "backup", "--verify", &file]).await;
    assert_eq!((summed["revision"].as_u64(), summed["vms"].as_u64()), (Some(before), Some(1)), "{summed}");

    // More VMs come after the backup, until both hosts are full: one beside the old one, two on the other host.
    let mut later = Vec::new();
    for name in ["b", "c", "d"] {
        later.push(disaster.create(name).await);
    }
    let (beside, others): (Vec<_>, Vec<_>) = later.into_iter().partition(|vm| vm.host == old.host);
    let ([kept], [removed, third]) = (&beside[..], &others[..]) else { panic!("{beside:?}, {others:?}") };
    let last = disaster.world.settled(api).await;

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
    let now = api.status().await.unwrap();
    assert_eq!((now.incarnation, now.members.len()), (1, 1), "{now:#?}");
    let beyond = last + (1 << 32);
    assert!(now.revision > beyond, "{now:#?}");
    // What runs never noticed.
    assert_eq!(disaster.running("old").await.qemu, old.qemu);
    assert_eq!(code(&api.vm(&kept.name).await.unwrap_err()), "BE-2002", "the backup knows of it");
    disaster.orphans(&kept.host, &[kept]).await;
    disaster.orphans(&removed.host, &[removed, third]).await;
    // Who followed the old state is told to begin anew, from wherever.
    for past in [1, before, last] {
        let mut watch = api.watch(Some(past)).await;
        let refused = match &mut watch {
            Ok(events) => events.message().await.unwrap_err(),
            Err(status) => status.clone(),
        };
        assert_eq!(code(&refused), "BE-5005", "from {past}: {refused}");
        cli.run(&["vm", "show", "old", "--revision", &past.to_string()]).await.refused(1, "BE-5005");
    }

    // What orphans hold is given to nobody else: a new VM waits. Each host obeys what is decided now: one removes an orphan,
    // the other a VM of the backup, and each takes a new VM in its place.
    api.ask(request::vm("new-1")).await;
    let waiting = disaster.world.settled(api).await;
    assert!(api.vm("new-1").await.unwrap().assignment.is_none(), "at revision {waiting}");
    let said = cli.run(&["host", "remove-orphan", &removed.host, &removed.uid]).await;
    assert_eq!(said.exit, Some(2), "its disk is not lost by mistake: {said:#?}");
    cli.ok(&["host", "remove-orphan", &removed.host, &removed.uid, "--yes"]).await;
    let first = disaster.running("new-1").await;
    assert!(first.host == removed.host && first.epoch > beyond, "{first:?}");
    assert!(!removed.qemu.lives() && disaster.world.host(&removed.host).files_of(&removed.uid).is_empty());
    cli.ok(&["vm", "adopt", &kept.uid]).await;
    let adopted = disaster.running(&kept.name).await;
    assert_eq!((&adopted.uid, &adopted.qemu), (&kept.uid, &kept.qemu), "it was not started anew");
    disaster.delete(&old).await;
    let second = disaster.create("new-2").await;
    assert!(second.host == old.host && second.epoch > beyond, "{second:?}");
    disaster.orphans(&third.host, &[third]).await;
    disaster.orphans(&kept.host, &[]).await;

    // Who did it is known.
    let history = cli.json(&["history", "vm", &kept.name]).await;
    let commands: Vec<_> = history["items"].as_array().unwrap().iter().map(|item| item["command"].clone()).collect();
    assert!(commands.iter().any(|command| command == "AdoptOrphan"), "{history}");
    for vm in [&adopted, &first, &second] {
        disaster.delete(vm).await;
    }
    disaster.orphans(&third.host, &[third]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_survivor_of_three_is_made_a_cluster_only_by_someone_who_says_what_it_costs() {
    let disaster = Disaster::up(1).await;
    let (api, world) = (&disaster.api, &disaster.world);
    let a = disaster.create("a").await;
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
    assert_eq!(disaster.running("a").await.qemu, a.qemu);
    // One of the others that comes back by mistake is no part of it, and changes nothing.
    world.start("c2");
    disaster.create("e").await;
    assert_eq!(api.status().await.unwrap().members.len(), 1);
    disaster.delete(&a).await;
}
