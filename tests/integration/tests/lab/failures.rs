//! What fails under running VMs, and what must not happen then.

use std::path::Path;
use std::process::Command;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use berth_integration::request::{self, insist};
use berth_integration::{Api, Domain, World, code, figure, until};
use berth_proto::v1;

use crate::{SOON, booted, uid};

/// A VM that was deleted while its host's daemon was away is gone so soon after the daemon's return.
const GONE: Duration = Duration::from_secs(10);
/// How long nothing may happen where nothing must: several times a daemon's pause before it starts a crashed VM again.
const QUIET: Duration = Duration::from_secs(8);

/// As another cluster's Berth would mark its domain.
const MARK_OF_ANOTHER_CLUSTER: &str = "<berth:vm xmlns:berth='https://berth.dev/domain/1' cluster='anothercluster' \
    uid='zzzzzzzzzzzzzzzzzzzz' project='default' name='theirs' incarnation='0' epoch='1' restarts='0'/>";

/// Domains that this cluster did not make: one of them is named as if it had, one is another cluster's.
struct Foreign {
    domains: Vec<(Domain, String)>,
}

impl Foreign {
    fn make(world: &World, host: &str) -> Self {
        let host = world.host(host);
        let kinds =
            [("someone-elses", ""), ("berth-foreign", ""), ("berth-zzzzzzzzzzzzzzzzzzzz", MARK_OF_ANOTHER_CLUSTER)];
        let domains = kinds.map(|(name, metadata)| {
            let domain = host.foreign(name, metadata);
            let xml = host.virsh(&["dumpxml", name]);
            (domain, xml)
        });
        Self { domains: domains.into() }
    }

    /// They run as they ran, and nobody speaks of them.
    async fn untouched(&self, world: &World, host: &str, when: &str) {
        for (domain, xml) in &self.domains {
            assert!(domain.lives(), "{}: Berth did not make {} and it is gone", when, domain.name);
            assert_eq!(&world.host(host).virsh(&["dumpxml", &domain.name]), xml, "{when}");
        }
        let reported = world.api("c1").host(host).await.unwrap();
        assert_eq!(reported.orphans, [], "{when}");
        assert_eq!(
            world.host(host).domains().len(),
            self.domains.len() + reported.r#use.unwrap().vms as usize,
            "{when}"
        );
    }
}

fn kill_controllers(world: &World) {
    for member in world.controllers() {
        world.kill9(&member);
    }
}

async fn start_controllers(world: &World) {
    for member in world.controllers() {
        world.start(&member);
    }
    world.leader().await;
}

/// Shows that the host's daemon has a session and obeys: `old` goes, and `new` runs in its place. Neither needs a
/// guest that listens. Gives the new VM's uid and how long both took.
async fn obeys(world: &World, api: &Api, old: &str, new: &str) -> (String, Duration) {
    let asked = Instant::now();
    let within = Duration::from_secs(30);
    insist(from_ref(api), within, request::delete(old)).await.unwrap();
    api.vm_until(old, "is gone", SOON, |vm| vm.is_none()).await;
    insist(from_ref(api), within, request::vm(new)).await.unwrap();
    let (vm, _) = api.phase(new, v1::VmPhase::Running, SOON).await;
    let vm = uid(&vm);
    assert!(world.host("h1").qemu_of(&vm).lives());
    (vm, asked.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_outlive_every_daemon_and_nothing_starts_or_stops_without_a_live_word() {
    let world = World::up(1).await;
    let foreign = Foreign::make(&world, "h1");
    world.add_tiny().await;
    let (api, host) = (world.api("c1"), world.host("h1"));
    for name in ["a", "b1"] {
        api.ask(request::vm(name)).await;
    }
    let (a, _) = api.phase("a", v1::VmPhase::Running, SOON).await;
    let (b, _) = api.phase("b1", v1::VmPhase::Running, SOON).await;
    let (a, b) = (uid(&a), uid(&b));
    let (qemu_a, qemu_b) = (host.qemu_of(&a), host.qemu_of(&b));
    let steady = |when: &str| assert_eq!(host.qemu(&qemu_a.name), Some(qemu_a.clone()), "{when}");
    foreign.untouched(&world, "h1", "at first").await;

    // The host's daemon is killed and comes back: the VMs are adopted, not restarted, and obey again.
    world.kill9("h1");
    assert!(qemu_a.lives() && qemu_b.lives(), "a VM died with the daemon");
    world.start("h1");
    let started = Instant::now();
    let (b, _) = obeys(&world, &api, "b1", "b2").await;
    figure("one VM gone and the next one up after the daemon was killed and started", started.elapsed());
    assert!(!qemu_b.lives());
    let qemu_b = host.qemu_of(&b);
    steady("the daemon came back");
    api.phase("a", v1::VmPhase::Running, SOON).await;
    foreign.untouched(&world, "h1", "the daemon came back").await;

    // The leader is killed: another takes the session over.
    let leader = world.leader().await;
    let heir = world.api(&world.follower().await);
    let killed = Instant::now();
    world.kill9(&leader);
    let (b, _) = obeys(&world, &heir, "b2", "b3").await;
    figure("one VM gone and the next one up after the leader was killed", killed.elapsed());
    assert!(!qemu_b.lives());
    let qemu_b = host.qemu_of(&b);
    steady("the leader was killed");
    world.start(&leader);
    foreign.untouched(&world, "h1", "the leader was killed").await;

    // All controllers are killed and come back: same state, VMs untouched.
    let before = (api.vm("a").await.unwrap(), api.vm("b3").await.unwrap());
    kill_controllers(&world);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(qemu_a.lives() && qemu_b.lives(), "a VM died with the controllers");
    start_controllers(&world).await;
    let after = (api.vm("a").await.unwrap(), api.vm("b3").await.unwrap());
    assert_eq!(
        (&after.0.meta, &after.0.spec, &after.0.assignment),
        (&before.0.meta, &before.0.spec, &before.0.assignment)
    );
    assert_eq!(
        (&after.1.meta, &after.1.spec, &after.1.assignment),
        (&before.1.meta, &before.1.spec, &before.1.assignment)
    );
    for name in ["a", "b3"] {
        api.phase(name, v1::VmPhase::Running, SOON).await;
    }
    steady("all controllers came back");
    assert_eq!(host.qemu(&qemu_b.name), Some(qemu_b.clone()));
    foreign.untouched(&world, "h1", "all controllers came back").await;
    world.settled(&api).await;
    world.identical().await;

    // The daemon starts while all controllers are away: what runs stays, what crashed meanwhile is not started.
    kill_controllers(&world);
    world.kill9("h1");
    qemu_b.kill9();
    until("b's QEMU is gone", Duration::from_secs(10), async || {
        if qemu_b.lives() { Err("it lives".to_owned()) } else { Ok(()) }
    })
    .await;
    world.start("h1");
    let quiet = Instant::now();
    while quiet.elapsed() < QUIET {
        assert_eq!(host.qemu(&qemu_b.name), None, "a VM was started without a live word");
        steady("all controllers are away");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let returned = Instant::now();
    start_controllers(&world).await;
    let runs_anew = |vm: Option<&v1::Vm>| {
        vm.is_some_and(|vm| vm.status.as_ref().unwrap().phase() == v1::VmPhase::Running)
            && host.qemu(&qemu_b.name).is_some()
    };
    api.vm_until("b3", "is started again", SOON, runs_anew).await;
    figure("a crashed VM runs again after the controllers' return", returned.elapsed());
    assert_ne!(host.qemu_of(&b).pid, qemu_b.pid);
    steady("the controllers came back to a daemon that had none");
    foreign.untouched(&world, "h1", "the controllers came back to a daemon that had none").await;

    // Deleted while the daemon is away: nothing is touched meanwhile, and it is gone soon after its return.
    let qemu_b = host.qemu_of(&b);
    world.kill9("h1");
    api.ask(request::delete("b3")).await;
    let deleting = api.vm("b3").await.unwrap();
    assert_eq!(deleting.status.unwrap().phase(), v1::VmPhase::Deleting);
    assert!(qemu_b.lives());
    let started = Instant::now();
    world.lab().start("h1").unwrap();
    api.vm_until("b3", "is gone", Duration::from_secs(60), |vm| vm.is_none()).await;
    let took = started.elapsed();
    figure("a VM deleted while its daemon was away is gone after the daemon's return", took);
    assert!(!qemu_b.lives());
    assert_eq!(code(&api.vm("b3").await.unwrap_err()), "BE-2002");
    assert_eq!(host.files_of(&b), Vec::<std::path::PathBuf>::new());
    assert_eq!(api.host("h1").await.unwrap().r#use.unwrap().threads_booked, 1);
    steady("another VM was deleted");
    foreign.untouched(&world, "h1", "a VM was deleted").await;
    assert!(took < GONE, "it took {took:?}");
    // The guest that went through all of this is well.
    booted(&world, "a").await;
    steady("at last");
    world.settled(&api).await;
    world.identical().await;
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["--archive", "--no-target-directory"]).args([from, to]).status().unwrap();
    assert!(copied.success(), "{} cannot be copied", from.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_older_controllers_do_not_know_runs_on_and_is_listed_as_an_orphan() {
    let world = World::up(1).await;
    world.add_tiny().await;
    let (api, cli, host) = (world.api("c1"), world.cli(), world.host("h1"));
    api.ask(request::vm("a")).await;
    let (a, _) = api.phase("a", v1::VmPhase::Running, SOON).await;
    let qemu_a = host.qemu_of(&uid(&a));
    world.settled(&api).await;

    // An older copy of all three data directories.
    let data = |member: &str| world.lab().data_dir(member).unwrap();
    let kept = |member: &str| data(member).with_extension("older");
    let stop = || world.controllers().iter().for_each(|member| world.stop(member));
    stop();
    for member in world.controllers() {
        copy(&data(&member), &kept(&member));
    }
    start_controllers(&world).await;
    // One more election than the copy will see: the host has then obeyed a later term than the controllers that return.
    let leader = world.leader().await;
    world.kill9(&leader);
    world.leader().await;
    world.start(&leader);
    api.ask(request::vm("b")).await;
    let (b, _) = api.phase("b", v1::VmPhase::Running, SOON).await;
    let b = uid(&b);
    let qemu_b = host.qemu_of(&b);
    stop();
    for member in world.controllers() {
        std::fs::remove_dir_all(data(&member)).unwrap();
        std::fs::rename(kept(&member), data(&member)).unwrap();
    }
    let returned = Instant::now();
    start_controllers(&world).await;

    assert_eq!(code(&api.vm("b").await.unwrap_err()), "BE-2002", "the older state knows of b");
    let (orphans, _) = until("b is listed as an orphan", Duration::from_secs(60), async || {
        let host = api.host("h1").await.map_err(|status| status.to_string())?;
        if host.orphans.is_empty() {
            Err(format!("none is listed; the host is {}", host.liveness))
        } else {
            Ok(host.orphans)
        }
    })
    .await;
    figure("an orphan is listed after the controllers' return", returned.elapsed());
    assert_eq!(orphans, [v1::Orphan { vm: b.clone(), called: "default/b".to_owned(), running: true }]);
    let shown = cli.ok(&["host", "show", "h1"]).await;
    assert!(shown.to_lowercase().contains("orphan") && shown.contains("default/b"), "{shown}");
    // Nothing happens to it, whatever else happens.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(host.qemu(&qemu_b.name), Some(qemu_b.clone()));
    assert!(!host.files_of(&b).is_empty());
    api.phase("a", v1::VmPhase::Running, SOON).await;
    assert_eq!(host.qemu(&qemu_a.name), Some(qemu_a));
    // The next daemon leaves it alone too.
    world.kill9("h1");
    world.start("h1");
    api.ask(request::delete("a")).await;
    api.vm_until("a", "is gone", SOON, |vm| vm.is_none()).await;
    assert!(qemu_b.lives());
    assert_eq!(api.host("h1").await.unwrap().orphans.len(), 1);
    world.settled(&api).await;
    world.identical().await;
}
