//! Simulated clusters by the hundred, and bugs made on purpose that they must find.

use std::process::{Command, Output};

fn raftsim(words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raftsim")).args(words.split(' ')).output().expect("the simulator runs")
}

fn shown(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn two_hundred_simulated_clusters_keep_every_law_whatever_goes_wrong() {
    // As many as fit two minutes, and the least number whatever it takes.
    let output = raftsim("--seeds 1000 --jobs 2 --budget 120s --at-least 200 --twice 20");
    let shown = shown(&output);
    println!("{shown}");
    assert!(output.status.success(), "{shown}");
}

/// Some seeds of which at least one must find the bug, with what it must say.
fn is_found(plant: &str, seeds: &str, law: &str) {
    let output = raftsim(&format!("{seeds} --jobs 2 --plant {plant}"));
    let shown = shown(&output);
    assert!(!output.status.success(), "{plant} was not found: {shown}");
    assert!(shown.contains(law) && shown.contains("replay: cargo run -p berth-raftsim -- --seed"), "{shown}");
}

#[test]
fn reads_without_a_barrier_are_found_by_the_clients_history() {
    is_found("stale-reads", "--seeds 6", "linearizability is broken");
}

#[test]
fn a_log_that_is_acknowledged_before_it_is_durable_is_found() {
    is_found("late-barrier", "--seeds 40", "is broken");
}

#[test]
fn a_vote_that_is_forgotten_is_found() {
    is_found("forgotten-vote", "--seeds 40", "is broken");
}
