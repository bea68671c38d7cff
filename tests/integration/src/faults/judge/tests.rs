//! What counts against a run.

use berth_linearizability::Operation;

use super::*;

const SECOND: Moment = 1_000_000_000;

fn record(called: Moment, at: Moment, input: Input, output: Output, revision: u64) -> Record {
    let outcome = Outcome::Answered { at, output };
    let operation = Operation { client: 1, called, input, outcome };
    Record { key: 0, on_follower: false, operation, revision: Some(revision) }
}

fn write(called: Moment, at: Moment, value: u64, version: u64) -> Record {
    record(called, at, Input::Write(value), Output::Changed { version }, version)
}

fn read(called: Moment, at: Moment, value: u64, version: u64, revision: u64) -> Record {
    record(called, at, Input::Read, Output::Seen { value, version }, revision)
}

fn lost(value: u64) -> Record {
    let operation = Operation { client: 1, called: 0, input: Input::Write(value), outcome: Outcome::Unknown };
    Record { key: 0, on_follower: false, operation, revision: None }
}

fn window(began: Moment, ended: Moment, healed: Moment) -> Window {
    Window { kind: Kind::Freeze, what: "c1".into(), began, ended, healed, missed: None, helped: None }
}

fn plan() -> Plan {
    Plan { operations: 2, kinds: vec![Kind::Freeze], keys: 1, ..Plan::new(1, Duration::from_secs(1)) }
}

fn report(windows: &[Window], records: Vec<Record>, terms: &Terms) -> Report {
    judge(&plan(), windows, History { records, ..History::default() }, terms)
}

fn one_term() -> Terms {
    Terms::from([(1, ("c1".into(), 0))])
}

fn good() -> Vec<Record> {
    let on_follower = Record { on_follower: true, ..read(6, 7, 1, 10, 10) };
    vec![write(1, 5, 1, 10), on_follower]
}

#[test]
fn a_run_in_which_all_is_well_has_not_failed() {
    let report = report(&[window(2, 8, 9)], good(), &one_term());
    assert_eq!(report.failures(&plan()), Vec::<String>::new());
    assert_eq!(report.fired[&Kind::Freeze], Fired { times: 1, operations: 2 });
}

#[test]
fn a_fault_that_did_not_fire_or_saw_no_operation_fails_the_run() {
    let missed = Window { missed: Some("not noticed".into()), ..window(2, 8, 9) };
    for windows in [vec![], vec![missed], vec![window(20, 30, 31)]] {
        let failures = report(&windows, good(), &one_term()).failures(&plan());
        assert!(matches!(&failures[..], [only] if only.starts_with("frozen: fired")), "{failures:?}");
    }
}

#[test]
fn too_few_operations_or_reads_on_followers_fail_the_run() {
    let windows = [window(2, 8, 9)];
    let mut records = good();
    records[1].on_follower = false;
    let failures = report(&windows, records, &one_term()).failures(&plan());
    assert!(matches!(&failures[..], [only] if only.starts_with("0 of 2 operations are reads")), "{failures:?}");
    let more = Plan { operations: 3, ..plan() };
    let failures = report(&windows, good(), &one_term()).failures(&more);
    assert_eq!(failures, ["2 operations were completed, 3 are wanted"]);
}

#[test]
fn a_change_of_leader_counts_unless_a_fault_or_its_aftermath_explains_it() {
    let windows = [window(10 * SECOND, 12 * SECOND, 14 * SECOND)];
    let changed = |at| Terms::from([(1, ("c1".to_owned(), 0)), (2, ("c2".to_owned(), at))]);
    for (at, expected) in [(9, 1), (10, 0), (13, 0), (15, 0), (16, 1)] {
        assert_eq!(unprovoked(&windows, &changed(at * SECOND)).len(), expected, "at {at} s");
    }
    assert_eq!(unprovoked(&windows, &changed(9 * SECOND)), ["c2 in term 2 at 9000 ms"]);
}

#[test]
fn revisions_follow_the_order_of_time_across_all_keys() {
    let elsewhere = |record: Record| Record { key: 1, ..record };
    assert_eq!(out_of_order(&[write(1, 5, 1, 10), elsewhere(read(6, 7, 0, 2, 10))]), Vec::<String>::new());
    assert_eq!(out_of_order(&[write(1, 5, 1, 10), elsewhere(read(5, 7, 0, 2, 9))]), Vec::<String>::new(), "beside it");
    assert_eq!(out_of_order(&[write(1, 5, 1, 10), elsewhere(read(6, 7, 0, 2, 9))]).len(), 1, "a stale view");
    assert_eq!(out_of_order(&[write(1, 5, 1, 10), elsewhere(write(6, 7, 2, 10))]).len(), 2, "drawn twice");
}

#[test]
fn what_was_acknowledged_is_there_at_the_end_or_was_overwritten() {
    let ends_with = |value, version| read(90, 91, value, version, version);
    let wrong = |records: &[Record]| unaccounted(records, 1);
    assert_eq!(wrong(&[write(1, 5, 1, 10), write(6, 7, 2, 11), ends_with(2, 11)]), Vec::<String>::new());
    assert_eq!(wrong(&[write(1, 5, 1, 10), lost(3), ends_with(3, 12)]), Vec::<String>::new());
    assert_eq!(wrong(&[write(1, 5, 1, 10), write(6, 7, 2, 11), ends_with(1, 10)]).len(), 1, "the newer is lost");
    assert_eq!(wrong(&[write(1, 5, 1, 10), ends_with(7, 12)]).len(), 1, "nobody wrote it");
    assert_eq!(wrong(&[write(1, 5, 1, 10)]).len(), 1, "nobody looked");
}

#[test]
fn a_history_that_no_register_explains_fails_the_run() {
    let mut records = good();
    records.push(read(8, 9, 0, 0, 10));
    records.push(read(10, 11, 1, 10, 10));
    let report = report(&[window(2, 8, 9)], records, &one_term());
    assert_eq!(report.not_linearizable.len(), 1, "{report}");
    assert!(report.not_linearizable[0].contains("key 0 is not linearizable"), "{:?}", report.not_linearizable);
}

#[test]
fn what_a_person_had_to_mend_is_told() {
    let helped = Window { helped: Some("c1 was started again".into()), ..window(2, 8, 9) };
    let report = report(&[helped], good(), &one_term());
    assert_eq!(report.helped, ["frozen (c1): c1 was started again"]);
    assert!(report.to_string().contains("not back by itself: frozen (c1)"), "{report}");
}
