//! Who is heard of, by one leader's count.

use berth_model::host::{Host, Liveness};
use berth_model::testing::{Machine, host, host_uid};
use berth_model::{HostUid, Millis};
use berth_state::{Body, Cluster};

use super::{LOOKED_AWAY_AFTER, LOST_AFTER, SUSPECT_AFTER, Table};

fn view(hosts: &[(u32, Liveness)]) -> Cluster {
    let mut view = Cluster::default();
    for (number, liveness) in hosts {
        let host = Host { liveness: *liveness, ..host(*number, Machine::cores(1).inventory()) };
        view.hosts.insert(host.uid(), host.into());
    }
    view
}

fn told(bodies: Vec<Body>) -> Vec<(HostUid, Liveness)> {
    let told = |body| match body {
        Body::SetLiveness { host, liveness } => (host, liveness),
        other => panic!("{other:?}"),
    };
    bodies.into_iter().map(told).collect()
}

/// Looks each second up to `until`; the last second's transitions.
fn look_until(table: &mut Table, view: &Cluster, from: u64, until: u64) -> Vec<(HostUid, Liveness)> {
    let mut last = Vec::new();
    for second in from..=until {
        last = told(table.transitions(view, Millis::seconds(second)));
    }
    last
}

const H1: u32 = 1;

#[test]
fn a_new_leader_gives_every_host_the_time_of_one_that_was_just_heard_of() {
    let view = view(&[(H1, Liveness::Alive)]);
    let mut table = Table::new(Millis::seconds(100));
    let suspect = 100 + SUSPECT_AFTER.0 / 1000;
    assert_eq!(look_until(&mut table, &view, 100, suspect - 1), []);
    assert_eq!(look_until(&mut table, &view, suspect, suspect), [(host_uid(1), Liveness::Suspect)]);
}

#[test]
fn a_new_leader_keeps_the_last_leaders_word_until_it_hears_for_itself() {
    for liveness in [Liveness::Suspect, Liveness::Lost] {
        let view = view(&[(H1, liveness)]);
        let mut table = Table::new(Millis::seconds(100));
        assert_eq!(look_until(&mut table, &view, 100, 120), [], "{liveness}");
        table.heard(host_uid(1), Millis::seconds(120));
        assert_eq!(look_until(&mut table, &view, 121, 121), [(host_uid(1), Liveness::Alive)]);
    }
}

#[test]
fn silence_makes_a_host_suspect_then_lost_and_one_word_makes_it_alive() {
    let mut table = Table::new(Millis(0));
    table.heard(host_uid(1), Millis::seconds(10));
    let suspect = 10 + SUSPECT_AFTER.0 / 1000;
    assert_eq!(look_until(&mut table, &view(&[(H1, Liveness::Alive)]), 10, suspect - 1), []);
    let now = look_until(&mut table, &view(&[(H1, Liveness::Alive)]), suspect, suspect);
    assert_eq!(now, [(host_uid(1), Liveness::Suspect)]);
    let lost = 10 + LOST_AFTER.0 / 1000;
    assert_eq!(look_until(&mut table, &view(&[(H1, Liveness::Suspect)]), suspect + 1, lost - 1), []);
    let now = look_until(&mut table, &view(&[(H1, Liveness::Suspect)]), lost, lost);
    assert_eq!(now, [(host_uid(1), Liveness::Lost)]);
    assert_eq!(look_until(&mut table, &view(&[(H1, Liveness::Lost)]), lost + 1, lost + 9), []);
    table.heard(host_uid(1), Millis::seconds(lost + 10));
    let now = look_until(&mut table, &view(&[(H1, Liveness::Lost)]), lost + 10, lost + 10);
    assert_eq!(now, [(host_uid(1), Liveness::Alive)]);
}

#[test]
fn each_host_is_counted_for_itself() {
    let view = view(&[(1, Liveness::Alive), (2, Liveness::Alive)]);
    let mut table = Table::new(Millis(0));
    let suspect = SUSPECT_AFTER.0 / 1000;
    for second in 0..=suspect + 1 {
        table.heard(host_uid(2), Millis::seconds(second));
        let expected: &[_] = if second >= suspect { &[(host_uid(1), Liveness::Suspect)] } else { &[] };
        assert_eq!(told(table.transitions(&view, Millis::seconds(second))), expected, "second {second}");
    }
}

#[test]
fn a_leader_that_was_held_up_takes_its_own_absence_for_nobodys_silence() {
    let view = view(&[(H1, Liveness::Alive)]);
    let mut table = Table::new(Millis(0));
    table.heard(host_uid(1), Millis::seconds(1));
    assert_eq!(look_until(&mut table, &view, 1, 2), []);
    assert_eq!(look_until(&mut table, &view, 300, 300), [], "it was stopped for five minutes");
    let counted = 1 + LOOKED_AWAY_AFTER.0 / 1000;
    let left = SUSPECT_AFTER.0 / 1000 - counted;
    assert_eq!(look_until(&mut table, &view, 301, 300 + left - 1), []);
    assert_eq!(look_until(&mut table, &view, 300 + left, 300 + left), [(host_uid(1), Liveness::Suspect)]);
}
