//! A cluster made of what one survivor has, and what hosts and their VMs make of it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use berth_integration::request;
use berth_integration::{Api, Domain, Host, World, figure, until};
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
    api: Api,
    config: String,
}

impl Disaster {
    async fn up() -> Self {
        let world = World::up(1).await;
        world.add_tiny().await;
        let api = world.api("c1");
        let config = world.lab().config_path("c1").unwrap().to_str().unwrap().to_owned();
        Self { world, api, config }
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
