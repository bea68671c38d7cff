use berth_model::vm::Accelerator;

use super::*;
use crate::ledger::Ledger;
use crate::testing::{absent, always, halted, host, images, inventory, running, stamp, vm};

fn whole() -> Picture {
    Picture {
        inventory: Some(inventory()),
        images: Some(images()),
        vms: Some(BTreeMap::new()),
        orphans: Some(vec![]),
        holdings: vec![],
        ..Picture::default()
    }
}

fn entry(entry: &berth_model::session::DesiredEntry) -> Entry {
    let mut ledger = Ledger::new(host());
    ledger.accept_set(std::slice::from_ref(entry));
    ledger.entries()[&entry.vm()].clone()
}

fn told(evidence: Evidence<'_>) -> Observed {
    match derive(evidence) {
        VmReport::Seen(observed) => observed,
        VmReport::Gone(_) => panic!("gone"),
    }
}

#[test]
fn the_first_report_gives_everything_and_later_ones_only_what_changed() {
    let first = whole();
    let report = first.report(1, None, false).unwrap();
    assert!(report.full && report.inventory.is_some() && report.conditions.is_some() && report.orphans.is_some());
    assert_eq!(first.report(2, Some(&first), false), None);
    let mut later = first.clone();
    later.vms.as_mut().unwrap().insert(vm(1), VmReport::Gone(stamp(1)));
    let report = later.report(2, Some(&first), false).unwrap();
    assert_eq!(report, Report { number: 2, vms: vec![(vm(1), VmReport::Gone(stamp(1)))], ..Report::default() });
}

#[test]
fn a_host_that_cannot_see_its_domains_says_so_and_tells_all_later() {
    let blind = Picture { vms: None, ..whole() };
    assert_eq!(blind.report(1, None, false), None);
    let report = blind.report(1, None, true).unwrap();
    assert!(!report.full && report.inventory.is_some(), "unknown is not absent");
    let report = whole().report(2, Some(&blind), true).unwrap();
    assert!(report.full && report.inventory.is_some() && !report.images.is_empty());
}

#[test]
fn an_image_that_went_away_is_told() {
    let before = whole();
    let after = Picture { images: Some(BTreeMap::new()), ..whole() };
    assert_eq!(after.report(2, Some(&before), false).unwrap().images, [(crate::testing::image(), None)]);
}

#[test]
fn a_running_vm_has_no_trouble_and_keeps_the_time_since_when_it_runs() {
    let (journal, progress) = (Journal::default(), Progress::default());
    let progress = Progress { trouble: Some(("StartFailed".into(), "once".into())), ..progress };
    let (domain, entry) = (running(1, 5), entry(&always(1, 5)));
    let evidence = Evidence {
        entry: &entry,
        seen: Some(&domain),
        fresh: true,
        journal: &journal,
        progress: &progress,
        hindrance: None,
        before: None,
        now: Timestamp::from_millis(7),
    };
    let first = told(evidence.clone());
    assert_eq!((first.state, first.accelerator), (DomainState::Running, Some(Accelerator::Tcg)));
    assert_eq!((first.trouble.clone(), first.since), (None, Timestamp::from_millis(7)));
    let before = VmReport::Seen(first.clone());
    let later = told(Evidence { before: Some(&before), now: Timestamp::from_millis(99), ..evidence });
    assert_eq!(later, first);
}

#[test]
fn a_domain_of_an_earlier_placement_is_told_as_degraded() {
    let (journal, progress) = (Journal::default(), Progress::default());
    let (domain, entry) = (running(1, 5), entry(&always(1, 9)));
    let observed = told(Evidence {
        entry: &entry,
        seen: Some(&domain),
        fresh: true,
        journal: &journal,
        progress: &progress,
        hindrance: None,
        before: None,
        now: Timestamp::default(),
    });
    assert_eq!(observed.epoch.0, 9);
    assert!(observed.degraded[0].contains("earlier placement 5"), "{:?}", observed.degraded);
}

#[test]
fn what_was_never_started_and_what_was_asked_down_are_told_apart() {
    let progress = Progress::default();
    let asked = Journal {
        run: Run::Stopped { reason: StopReason::GuestShutdown, since: Timestamp::default() },
        ..Journal::default()
    };
    for (journal, reason) in [(Journal::default(), StopReason::NeverStarted), (asked, StopReason::Asked)] {
        let entry = entry(&halted(1, 5));
        let evidence = Evidence {
            entry: &entry,
            seen: None,
            fresh: true,
            journal: &journal,
            progress: &progress,
            hindrance: None,
            before: None,
            now: Timestamp::default(),
        };
        assert_eq!(told(evidence).state, DomainState::Stopped(reason));
    }
}

#[test]
fn gone_is_told_with_the_stamp_of_the_instruction_that_is_held() {
    let (progress, entry) = (Progress::default(), entry(&absent(1, 5)));
    for (gone, told_gone) in [(Some(stamp(5)), true), (Some(stamp(4)), false), (None, false)] {
        let journal = Journal { gone, ..Journal::default() };
        let report = derive(Evidence {
            entry: &entry,
            seen: None,
            fresh: true,
            journal: &journal,
            progress: &progress,
            hindrance: None,
            before: None,
            now: Timestamp::default(),
        });
        assert_eq!(report == VmReport::Gone(stamp(5)), told_gone);
    }
}
