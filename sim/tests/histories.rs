//! Simulated histories by the thousand, and bugs made on purpose that they must find.

#![expect(clippy::print_stdout, reason = "how often everything occurred is what the run is for")]

use berth_sim::{Plant, fleet};

const SEEDS: &str = include_str!("../seeds/kept.txt");

#[test]
fn seeds_that_once_found_something_find_nothing_any_more() {
    let seeds = SEEDS.lines().filter(|line| !line.starts_with('#'));
    for line in seeds {
        let seed = line.split(' ').next().unwrap().parse().unwrap();
        let outcome = fleet::one(seed, None, false);
        assert_eq!(outcome.failure, None, "{line}; replay: {}", fleet::replay(seed, None));
    }
}

#[test]
fn a_seed_means_the_same_history_each_time() {
    for seed in [3, 1_000_003] {
        assert_eq!(fleet::one(seed, None, false), fleet::one(seed, None, false));
    }
}

#[test]
fn five_thousand_histories_keep_every_law_and_come_to_rest_as_wanted() {
    let summary = fleet::run(fleet::Order { first: 1, histories: 5000, jobs: 2, plant: None });
    println!("{summary}");
    let problems = summary.problems(None);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// One of a thousand histories must find the bug, by this law.
fn is_found(plant: Plant, laws: &[&str]) {
    let order = fleet::Order { first: 1, histories: 1000, jobs: 2, plant: Some(plant) };
    let summary = fleet::run(order);
    let found = summary.failures.first().unwrap_or_else(|| panic!("{plant:?} was not found"));
    let failure = found.failure.as_deref().expect("a history that failed says why");
    println!("{plant:?} was found after {} histories: {failure}", summary.histories);
    assert!(laws.iter().any(|law| failure.starts_with(law)), "{plant:?} was found by another law: {failure}");
}

#[test]
fn an_apply_that_does_not_check_capacity_is_found() {
    is_found(Plant::CapacityUnchecked, &["a bound VM starts", "the audit finds nothing"]);
}

#[test]
fn ends_that_do_not_compare_epochs_are_found() {
    let laws =
        ["what a host is told never goes back", "a VM runs on at most one host", "absence is never an instruction"];
    is_found(Plant::EpochUncompared, &laws);
}

#[test]
fn a_failed_scan_that_counts_as_an_empty_one_is_found() {
    is_found(Plant::UnknownIsAbsent, &["unknown is not absent"]);
}

#[test]
fn bookings_that_go_before_the_host_says_so_are_found() {
    is_found(Plant::ReleasedEarly, &["bookings go on the host's word alone"]);
}

#[test]
fn a_start_from_the_ledger_without_a_session_is_found() {
    is_found(Plant::StartFromLedger, &["starting needs a live word"]);
}

#[test]
fn absence_that_is_taken_for_a_deletion_is_found() {
    is_found(Plant::AbsenceIsDelete, &["absence is never an instruction"]);
}

#[test]
fn a_late_report_of_an_older_session_that_counts_is_found() {
    is_found(Plant::LateReport, &["reports count in the order in which they were said"]);
}

#[test]
fn a_request_that_is_forgotten_is_found() {
    is_found(Plant::RequestForgotten, &["a request is carried out once"]);
}

#[test]
fn a_set_that_was_not_read_linearizably_is_found() {
    is_found(Plant::StaleSet, &["what a host is told never goes back"]);
}

#[test]
fn a_booking_that_goes_when_its_host_shrinks_is_found() {
    is_found(Plant::BookingDropped, &["bookings go on the host's word alone"]);
}
