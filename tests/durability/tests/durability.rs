//! What was acknowledged is there after the power went and after the process was killed, and the harness would notice if not.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "tests that print what they measured")]

use std::path::{Path, PathBuf};

use berth_durability::{Report, Subject, kills, power_cuts};

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_durability"))
}

fn told(what: &str, report: &Report) {
    println!("{what}: {report}");
}

fn survives_power_cuts(subject: Subject) {
    let report = power_cuts(subject, 10, 1, program(), None).unwrap();
    told("power cuts", &report);
    assert_eq!((report.rounds, &*report.losses), (10, &[][..]), "{report}");
    assert!(report.words > 1000, "so few words prove nothing: {report}");
}

fn survives_kills(subject: Subject) {
    let report = kills(subject, 20, 1, program()).unwrap();
    told("kill -9", &report);
    assert_eq!((report.rounds, &*report.losses), (20, &[][..]), "{report}");
    assert!(report.words > 500, "so few words prove nothing: {report}");
}

/// A library in whose presence nothing is ever brought to the disk: as if every barrier had been forgotten.
fn no_barriers() -> PathBuf {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
    let found = folders.iter().map(|folder| Path::new(folder).join("libeatmydata.so")).find(|path| path.exists());
    found.expect("the package libeatmydata1 is installed by ./x")
}

fn is_caught_without_barriers(subject: Subject) {
    let report = power_cuts(subject, 10, 1, program(), Some(no_barriers())).unwrap();
    told("power cuts without barriers", &report);
    assert_eq!(
        report.losses.len(),
        1,
        "a power cut without any barrier lost nothing, so this harness sees nothing: {report}"
    );
}

#[test]
fn the_log_loses_nothing_at_a_power_cut() {
    survives_power_cuts(Subject::Log);
}

#[test]
fn the_ledger_loses_nothing_at_a_power_cut() {
    survives_power_cuts(Subject::Ledger);
}

#[test]
fn the_log_loses_nothing_when_its_process_is_killed() {
    survives_kills(Subject::Log);
}

#[test]
fn the_ledger_loses_nothing_when_its_process_is_killed() {
    survives_kills(Subject::Ledger);
}

#[test]
fn a_log_without_barriers_is_caught() {
    is_caught_without_barriers(Subject::Log);
}

#[test]
fn a_ledger_without_barriers_is_caught() {
    is_caught_without_barriers(Subject::Ledger);
}
