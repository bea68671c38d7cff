use std::collections::BTreeMap;

use berth_model::image::ImageOnHost;
use berth_model::session::{Absent, DesiredEntry};
use berth_model::vm::{DomainState, StopReason};

use super::*;
use crate::float::Floats;
use crate::history::{Asked, UnderWay};
use crate::ledger::Ledger;
use crate::testing::{
    FLOATING, absent, always, at, cluster, halted, host, images, inventory, restarted, running, seen, stopped, vm,
};

/// One host, described from its good state.
struct Host {
    entries: BTreeMap<VmUid, Entry>,
    orphaned: BTreeMap<VmUid, Berth>,
    permission: Permission,
    scan: Option<Scan>,
    images: Option<BTreeMap<Sha256Digest, ImageOnHost>>,
    journals: BTreeMap<VmUid, Journal>,
    progress: BTreeMap<VmUid, Progress>,
    now: u64,
}

impl Host {
    fn new(entries: &[DesiredEntry], domains: Vec<DomainSeen>) -> Self {
        let mut ledger = Ledger::new(host());
        ledger.accept_set(entries);
        Self {
            entries: ledger.entries().clone(),
            orphaned: BTreeMap::new(),
            permission: Permission { until: Some(BootTime::from_millis(100_000)), confirmed: true },
            scan: Some(Scan::new(10, Some(cluster()), domains)),
            images: Some(images()),
            journals: BTreeMap::new(),
            progress: BTreeMap::new(),
            now: 50_000,
        }
    }

    fn progress(mut self, progress: Progress) -> Self {
        self.progress.insert(vm(1), progress);
        self
    }

    fn plan(&self) -> HostPlan {
        let desired = HostDesired {
            cluster: Some(cluster()),
            entries: &self.entries,
            orphaned: &self.orphaned,
            user_data: &BTreeMap::new(),
            permission: self.permission,
        };
        let observed =
            HostObserved { scan: self.scan.as_ref(), images: self.images.as_ref(), inventory: Some(&inventory()) };
        plan(&desired, &observed, &History { journals: &self.journals, progress: &self.progress }, at(self.now))
    }

    fn steps(&self) -> Vec<&'static str> {
        self.plan().steps.iter().map(Step::name).collect()
    }

    fn note(&self) -> Option<&'static str> {
        self.plan().notes.first().map(|note| note.reason)
    }
}

fn asked(first: u64, last: u64) -> Progress {
    let (first, last) = (BootTime::from_millis(first), BootTime::from_millis(last));
    Progress { asked: Some(Asked { first, last }), ..Progress::default() }
}

#[test]
fn a_vm_that_shall_run_is_prepared_and_then_started() {
    let host = Host::new(&[always(1, 5)], vec![]);
    let plan = host.plan();
    let [Step::Prepare(domain)] = &plan.steps[..] else { panic!("{plan:?}") };
    let prepared = Progress { prepared: Some(domain.clone()), ..Progress::default() };
    assert_eq!(host.progress(prepared).plan().steps, [Step::Start(domain.clone())]);
}

#[test]
fn what_was_prepared_for_another_word_is_prepared_anew() {
    let first = Host::new(&[always(1, 5)], vec![]).plan();
    let [Step::Prepare(domain)] = &first.steps[..] else { panic!("{first:?}") };
    let prepared = Progress { prepared: Some(domain.clone()), ..Progress::default() };
    assert_eq!(Host::new(&[restarted(1, 5, 1)], vec![]).progress(prepared).steps(), ["prepare"]);
}

#[test]
fn law_4_nothing_starts_without_a_live_word_and_the_vm_says_so() {
    let permissions = [
        Permission { until: None, confirmed: true },
        Permission { until: Some(BootTime::from_millis(50_000)), confirmed: true },
        Permission { until: Some(BootTime::from_millis(100_000)), confirmed: false },
    ];
    for permission in permissions {
        let down = Host { permission, ..Host::new(&[always(1, 5)], vec![stopped(1, 5)]) };
        assert_eq!((down.steps(), down.note()), (vec![], Some("AwaitsPermission")));
        let up = Host { permission, ..Host::new(&[restarted(1, 5, 1)], vec![running(1, 5)]) };
        assert_eq!((up.steps(), up.note()), (vec![], Some("AwaitsPermission")), "a restart must not become a stop");
        let halt = Host { permission, ..Host::new(&[halted(1, 5)], vec![running(1, 5)]) };
        assert_eq!(halt.steps(), ["shutdown"], "stopping needs no live word");
    }
}

#[test]
fn law_5_a_domain_without_entry_is_an_orphan_and_nothing_else() {
    let host = Host::new(&[], vec![running(1, 5), stopped(2, 5)]);
    assert_eq!(host.plan(), HostPlan::default());
    let desired = HostDesired {
        cluster: Some(cluster()),
        entries: &host.entries,
        orphaned: &host.orphaned,
        user_data: &BTreeMap::new(),
        permission: host.permission,
    };
    assert_eq!(orphans(&desired, host.scan.as_ref().unwrap()), [vm(1), vm(2)].into());
}

#[test]
fn law_6_what_is_not_known_for_certain_is_left_alone() {
    let blind = Host { scan: None, ..Host::new(&[always(1, 5), absent(2, 5)], vec![]) };
    assert_eq!(blind.steps(), Vec::<&str>::new());
    let stale = Progress { stale_scans: 10, ..Progress::default() };
    assert_eq!(Host::new(&[absent(1, 5)], vec![running(1, 5)]).progress(stale).steps(), Vec::<&str>::new());
    let busy = Progress { under_way: Some(UnderWay::Starting), ..Progress::default() };
    assert_eq!(Host::new(&[absent(1, 5)], vec![running(1, 5)]).progress(busy).steps(), Vec::<&str>::new());
}

#[test]
fn a_domain_of_a_newer_placement_is_left_alone_and_told() {
    for entry in [always(1, 5), halted(1, 5), absent(1, 5), restarted(1, 5, 9)] {
        for domain in [running(1, 6), stopped(1, 6)] {
            let host = Host::new(std::slice::from_ref(&entry), vec![domain]);
            assert_eq!((host.steps(), host.note()), (vec![], Some("NewerDomain")), "{entry:?}");
        }
    }
}

#[test]
fn a_domain_of_an_older_placement_runs_on() {
    assert_eq!(Host::new(&[always(1, 9)], vec![running(1, 5)]).plan(), HostPlan::default());
}

#[test]
fn a_guest_is_asked_again_and_ended_when_its_grace_is_over() {
    let host = |progress| Host::new(&[halted(1, 5)], vec![running(1, 5)]).progress(progress);
    assert_eq!(host(Progress::default()).steps(), ["shutdown"]);
    let waiting = host(asked(45_000, 45_000));
    assert_eq!((waiting.steps(), waiting.plan().wake_at), (vec![], Some(BootTime::from_millis(55_000))));
    assert_eq!(host(asked(35_000, 40_000)).steps(), ["shutdown"]);
    assert_eq!(host(asked(20_000, 45_000)).steps(), ["force-off"]);
    let last = host(asked(20_001, 45_000));
    assert_eq!((last.steps(), last.plan().wake_at), (vec![], Some(BootTime::from_millis(50_001))));
}

#[test]
fn a_restart_is_done_when_the_domain_itself_says_so() {
    let mut restarted_domain = running(1, 5);
    restarted_domain.mark.restart_count = 2;
    assert_eq!(Host::new(&[restarted(1, 5, 2)], vec![restarted_domain.clone()]).steps(), Vec::<&str>::new());
    assert_eq!(Host::new(&[restarted(1, 5, 3)], vec![restarted_domain]).steps(), ["shutdown"]);
    assert_eq!(Host::new(&[restarted(1, 5, 3)], vec![stopped(1, 5)]).steps(), ["prepare"]);
}

#[test]
fn a_removal_goes_step_by_step_and_is_gone_only_when_nothing_is_left() {
    let host = |domains, progress| Host::new(&[absent(1, 5)], domains).progress(progress);
    let removed = |left| Progress { removed: Some(crate::testing::stamp(5)), left, ..Progress::default() };
    assert_eq!(host(vec![running(1, 5)], Progress::default()).steps(), ["force-off"]);
    assert_eq!(host(vec![seen(1, 5, DomainState::Paused)], Progress::default()).steps(), ["force-off"]);
    assert_eq!(host(vec![stopped(1, 5)], Progress::default()).steps(), ["remove"]);
    assert_eq!(host(vec![], Progress::default()).steps(), ["remove"], "a disk may be there without a domain");
    assert_eq!(host(vec![stopped(1, 5)], removed(Some(false))).steps(), ["remove"], "it is there again");
    let look = host(vec![], removed(None)).plan();
    assert_eq!((look.looks, look.gone), (vec![vm(1)], vec![]));
    assert_eq!(host(vec![], removed(Some(true))).steps(), ["remove"]);
    assert_eq!(host(vec![], removed(Some(false))).plan().gone, [vm(1)]);
}

#[test]
fn a_disk_that_stays_is_not_looked_for() {
    let stays = DesiredEntry::Absent(Absent { vm: vm(1), stamp: crate::testing::stamp(5), with_disk: false });
    let removed = Progress { removed: Some(crate::testing::stamp(5)), ..Progress::default() };
    let plan = Host::new(&[stays], vec![]).progress(removed).plan();
    assert_eq!((plan.looks, plan.gone), (vec![], vec![vm(1)]));
}

#[test]
fn what_was_found_gone_is_not_looked_for_again_unless_it_is_back() {
    let mut host = Host::new(&[absent(1, 5)], vec![]);
    host.journals.insert(vm(1), Journal { gone: Some(crate::testing::stamp(5)), ..Journal::default() });
    assert_eq!(host.plan(), HostPlan::default());
    host.scan = Some(Scan::new(11, Some(cluster()), vec![running(1, 5)]));
    assert_eq!(host.steps(), ["force-off"]);
}

#[test]
fn a_pause_is_waited_for() {
    let mut host = Host::new(&[always(1, 5)], vec![seen(1, 5, DomainState::Stopped(StopReason::Crashed))]);
    let next_try = Some(BootTime::from_millis(50_500));
    host.journals.insert(vm(1), Journal { next_try, ..Journal::default() });
    assert_eq!((host.steps(), host.plan().wake_at), (vec![], next_try));
    host.now = 50_500;
    assert_eq!(host.steps(), ["prepare"]);
}

#[test]
fn an_image_that_is_missing_refused_or_not_yet_known_is_told_and_nothing_is_begun() {
    let refused = [(crate::testing::image(), ImageOnHost::Refused { reason: "another digest".into() })];
    for (images, reason) in
        [(None, "ImagesUnknown"), (Some(BTreeMap::new()), "ImageMissing"), (Some(refused.into()), "ImageRefused")]
    {
        let host = Host { images, ..Host::new(&[always(1, 5)], vec![]) };
        assert_eq!((host.steps(), host.note()), (vec![], Some(reason)));
    }
}

/// The VM that floats, running, with its virtual CPUs on these threads.
fn afloat(vcpus: &str) -> DomainSeen {
    let floats = Floats { vcpus: vcpus.parse().unwrap(), helpers: "0".parse().unwrap() };
    DomainSeen { floats: Some(floats), ..running(FLOATING, 5) }
}

fn moved_to(host: &Host) -> Vec<String> {
    let repin = |step: &Step| match step {
        Step::Repin { vm: moved, floats } if *moved == vm(FLOATING) => Some(floats.vcpus.to_string()),
        _ => None,
    };
    host.plan().steps.iter().filter_map(repin).collect()
}

#[test]
fn a_vm_that_floats_leaves_the_threads_of_pinned_vms_and_comes_back_when_they_are_gone() {
    let alone = Host::new(&[always(FLOATING, 5)], vec![afloat("1-3")]);
    assert_eq!(alone.plan(), HostPlan::default());
    let beside = Host::new(&[always(FLOATING, 5), always(3, 6)], vec![afloat("1-3"), running(3, 6)]);
    assert_eq!(moved_to(&beside), ["1-2"]);
    let down = Host::new(&[always(FLOATING, 5), halted(3, 6)], vec![afloat("1-3")]);
    assert_eq!(moved_to(&down), ["1-2"], "one that is down may start at any moment");
    let left = Host::new(&[always(FLOATING, 5)], vec![afloat("1-2")]);
    assert_eq!(moved_to(&left), ["1-3"]);
    let mut orphaned = Host::new(&[always(FLOATING, 5)], vec![afloat("1-3"), running(3, 6)]);
    let Some(Entry::Present(berth)) = Host::new(&[always(3, 6)], vec![]).entries.remove(&vm(3)) else { panic!() };
    orphaned.orphaned.insert(vm(3), *berth);
    assert_eq!(moved_to(&orphaned), ["1-2"], "an orphan keeps what it was given");
}

#[test]
fn a_vm_that_floats_starts_beside_the_threads_of_pinned_vms() {
    let plan = Host::new(&[always(FLOATING, 5), always(3, 6)], vec![running(3, 6)]).plan();
    let [Step::Prepare(domain)] = &plan.steps[..] else { panic!("{plan:?}") };
    assert_eq!(domain.floats.as_ref().unwrap().vcpus.to_string(), "1-2");
    let pinned = Host::new(&[always(1, 5)], vec![]).plan();
    let [Step::Prepare(domain)] = &pinned.steps[..] else { panic!("{pinned:?}") };
    assert_eq!(domain.floats, None);
}

#[test]
fn a_vm_whose_start_was_not_seen_through_is_read_back() {
    let unread = |number, epoch| DomainSeen { is_read_back: false, ..running(number, epoch) };
    assert_eq!(Host::new(&[always(1, 5)], vec![unread(1, 5)]).steps(), ["read-back"]);
    assert_eq!(Host::new(&[halted(1, 5)], vec![unread(1, 5)]).steps(), ["shutdown"]);
    assert_eq!(Host::new(&[restarted(1, 5, 1)], vec![unread(1, 5)]).steps(), ["shutdown"]);
}

#[test]
fn what_goes_down_is_not_moved() {
    let host = Host::new(&[halted(FLOATING, 5), always(3, 6)], vec![afloat("1-3"), running(3, 6)]);
    assert_eq!(host.steps(), ["shutdown"]);
}

#[test]
fn the_domain_is_what_was_chosen() {
    let plan = Host::new(&[always(1, 5)], vec![]).plan();
    let [Step::Prepare(domain)] = &plan.steps[..] else { panic!("{plan:?}") };
    let asked = crate::testing::present(1, 5);
    assert_eq!(domain.resources, asked.assignment.resources);
    assert_eq!((domain.cpus, domain.memory, domain.page), (1, asked.spec.memory, asked.spec.page_size()));
    assert_eq!(domain.mark, crate::testing::mark(1, 5));
}
