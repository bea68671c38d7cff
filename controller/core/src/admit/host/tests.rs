//! What operators may say about hosts, and what is refused.

use berth_model::testing::{Machine, host_uid, name};
use berth_state::testing::World;

use super::*;

fn view() -> Cluster {
    let mut world = World::new();
    world.host(1, Machine::cores(2).inventory());
    let groups = Some(BTreeSet::from([name("old"), name("prod")]));
    let patch = Box::new(HostPatch { groups, ..HostPatch::default() });
    world.done(Body::UpdateHost { host: host_uid(1), patch, expect: Expect::default() });
    world.cluster
}

fn h1() -> HostTarget {
    HostTarget { name: "h1".into(), ..HostTarget::default() }
}

fn taint(key: &str, value: &str) -> Taint {
    Taint { key: key.into(), value: value.into(), effect: TaintEffect::NoSchedule }
}

#[test]
fn a_change_of_a_host_names_what_changes_and_nothing_else() {
    let request = UpdateHost {
        set_labels: BTreeMap::from([("gpu".into(), "a100".into())]),
        remove_labels: vec!["tier".into()],
        cordoned: Some(true),
        zone: Some("a".into()),
        rack: Some(String::new()),
        add_groups: vec!["gpu".into()],
        remove_groups: vec!["old".into(), "never-there".into()],
        set_taints: vec![taint("gpu", "")],
        remove_taints: vec![("old".into(), None)],
        cpu_overcommit: Some(250),
        memory_overcommit: None,
    };
    let body = update_host(&view(), &HostTarget { revision: Some(7), ..h1() }, &request).unwrap();
    let Body::UpdateHost { host, patch, expect } = body else { panic!("{body:?}") };
    let expected = HostPatch {
        set_labels: request.set_labels,
        remove_labels: request.remove_labels,
        cordoned: Some(true),
        zone: Some(Some(name("a"))),
        rack: Some(None),
        groups: Some(BTreeSet::from([name("gpu"), name("prod")])),
        set_taints: request.set_taints,
        remove_taints: request.remove_taints,
        overcommit: Some(Overcommit { cpu_percent: Percent(250), ..Overcommit::default() }),
    };
    assert_eq!((host, *patch, expect), (host_uid(1), expected, Expect { revision: Some(Revision(7)) }));
    let cordon = UpdateHost { cordoned: Some(false), ..UpdateHost::default() };
    let body = update_host(&view(), &h1(), &cordon).unwrap();
    let Body::UpdateHost { patch, .. } = body else { panic!("{body:?}") };
    assert_eq!(*patch, HostPatch { cordoned: Some(false), ..HostPatch::default() });
}

#[test]
fn marks_that_make_no_sense_are_refused_with_what_is_wrong() {
    type Change = fn(&mut UpdateHost);
    let table: [(Change, &str, &str); 13] = [
        (|_| {}, "BE-1012", "nothing is said that shall change"),
        (
            |ask| drop(ask.set_labels.insert("a b".into(), String::new())),
            "BE-1013",
            "labels: \"a b\" is not a valid key",
        ),
        (|ask| ask.remove_labels = vec!["?".into()], "BE-1013", "labels: \"?\" is not a valid key"),
        (
            |ask| {
                ask.set_labels.insert("a".into(), "b".into());
                ask.remove_labels = vec!["a".into()];
            },
            "BE-1013",
            "labels: \"a\" is to be set and to be removed",
        ),
        (
            |ask| ask.zone = Some("Zone A".into()),
            "BE-1001",
            "zone \"Zone A\" is not a valid name: a name holds only a-z, 0-9 and '-', not 'Z'",
        ),
        (
            |ask| (ask.add_groups, ask.remove_groups) = (vec!["a".into()], vec!["a".into()]),
            "BE-1020",
            "groups: \"a\" is to be added and to be removed",
        ),
        (|ask| ask.set_taints = vec![taint("a b", "")], "BE-1020", "taints: \"a b\" is not a valid key"),
        (
            |ask| ask.set_taints = vec![taint("a", "b c")],
            "BE-1020",
            "taints: the value of \"a\" is not a valid label value",
        ),
        (|ask| ask.set_taints = vec![taint("a", ""), taint("a", "b")], "BE-1020", "taints: \"a\" is to be set twice"),
        (
            |ask| (ask.set_taints, ask.remove_taints) = (vec![taint("a", "")], vec![("a".into(), None)]),
            "BE-1020",
            "taints: \"a\" is to be set and to be removed",
        ),
        (
            |ask| ask.set_taints = (0..17).map(|number| taint(&format!("k{number}"), "")).collect(),
            "BE-1020",
            "taints: 17 are to be set, at most 16 can be",
        ),
        (|ask| ask.cpu_overcommit = Some(99), "BE-1020", "CPU over-subscription is 99 %; it is 100 % to 2000 %"),
        (
            |ask| ask.memory_overcommit = Some(u32::MAX),
            "BE-1020",
            "memory over-subscription is 4294967295 %; it is 100 % to 2000 %",
        ),
    ];
    for (change, code, message) in table {
        let mut request = UpdateHost::default();
        change(&mut request);
        let error = update_host(&view(), &h1(), &request).unwrap_err();
        assert_eq!((error.code, &error.message[..]), (code, message));
        assert!(error.hint.is_some(), "{message}");
    }
    let many = (0..10_000).map(|number| (format!("k{number}"), String::new())).collect();
    let error = update_host(&view(), &h1(), &UpdateHost { set_labels: many, ..UpdateHost::default() }).unwrap_err();
    assert_eq!(error.message, "labels: 10000 are given, at most 64 are allowed");
}

#[test]
fn a_host_is_declared_dead_only_by_its_name_given_twice() {
    let body = confirm_dead(&view(), &h1(), "h1").unwrap();
    assert_eq!(body, Body::ConfirmDead { host: host_uid(1), expect: Expect::default() });
    for again in ["", "h2", "H1", "h1 "] {
        assert_eq!(confirm_dead(&view(), &h1(), again).unwrap_err().code, "BE-1021", "{again:?}");
    }
}

#[test]
fn a_host_is_found_by_its_name_and_only_as_the_client_saw_it() {
    let nobody = HostTarget { name: "h9".into(), ..HostTarget::default() };
    assert_eq!(remove_host(&view(), &nobody, false).unwrap_err().code, "BE-3003");
    let other = HostTarget { uid: host_uid(2).to_string(), ..h1() };
    let error = confirm_dead(&view(), &other, "h1").unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Conflict, "BE-2003"));
    let body = remove_host(&view(), &h1(), true).unwrap();
    assert_eq!(body, Body::RemoveHost { host: host_uid(1), never_returns: true, expect: Expect::default() });
}
