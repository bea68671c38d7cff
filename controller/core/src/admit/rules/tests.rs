//! Rules that are let through, and those that are refused by their field.

use berth_model::placement::{HostWish, Spread, Toleration};
use berth_model::testing::{Machine, name};
use berth_state::testing::World;
use proptest::prelude::*;

use super::*;

fn hosts(selector: &str) -> Rules {
    Rules { hosts: vec![selector.parse().unwrap()], ..Rules::default() }
}

fn near(anti: bool, domain: Domain, vms: &str) -> VmAffinity {
    VmAffinity { anti, strength: Strength::Required, domain, vms: vms.parse().unwrap() }
}

fn even(domain: Domain, max_skew: u32, when_unsatisfiable: WhenUnsatisfiable) -> Spread {
    Spread { domain, max_skew, when_unsatisfiable, vms: "app=web".parse().unwrap() }
}

fn refusal(rules: &Rules) -> (&'static str, String) {
    let error = check(rules).unwrap_err();
    assert!(error.hint.is_some(), "{error}");
    (error.code, error.message)
}

#[test]
fn rules_within_their_limits_are_let_through() {
    let rules = Rules {
        hosts: vec!["gpu,zone in (a,b)".parse().unwrap(), "!old,ssd>3,ssd<5".parse().unwrap()],
        host_wishes: vec![HostWish { weight: 100, hosts: "ssd".parse().unwrap() }],
        host_group: Some(name("prod")),
        tolerations: vec![Toleration::default(), Toleration { key: Some("gpu".into()), ..Toleration::default() }],
        affinity: vec![near(false, Domain::Zone, "app=db"), near(true, Domain::Host, "app=db")],
        spread: vec![even(Domain::Label("example.org/row".into()), 1, WhenUnsatisfiable::DoNotSchedule)],
        priority: i32::MIN,
    };
    check(&rules).unwrap();
    check(&Rules::default()).unwrap();
}

#[test]
fn each_limit_is_kept_by_field() {
    let many = |count: usize| Rules { hosts: vec!["gpu".parse().unwrap(); count], ..Rules::default() };
    check(&many(16)).unwrap();
    let wide = |count: usize| {
        let terms: Vec<_> = (0..count).map(|number| format!("k{number}")).collect();
        hosts(&terms.join(","))
    };
    check(&wide(16)).unwrap();
    let values = |count: usize| {
        let values: Vec<_> = (0..count).map(|number| number.to_string()).collect();
        hosts(&format!("zone in ({})", values.join(",")))
    };
    check(&values(64)).unwrap();
    let cases = [
        (many(17), "rules.hosts: 17 are given, at most 16 are allowed"),
        (wide(17), "rules.hosts[0]: 17 conditions are given, at most 16 are allowed"),
        (values(65), "rules.hosts[0][0].values: 65 are given, at most 64 are allowed"),
        (hosts(""), "rules.hosts[0]: has no conditions; leave it out if every host is meant"),
        (hosts("a/b/c"), "rules.hosts[0][0].key: \"a/b/c\" is not a valid key"),
        (hosts("ssd>many"), "rules.hosts[0][0].values: Gt takes one whole number"),
        (
            Rules { host_wishes: vec![HostWish { weight: 101, hosts: "a".parse().unwrap() }], ..Rules::default() },
            "rules.host_wishes[0].weight: is 101; it is 1 to 100",
        ),
        (
            Rules {
                tolerations: vec![Toleration { value: Some("x".into()), ..Toleration::default() }],
                ..Rules::default()
            },
            "rules.tolerations[0].value: is given without a key",
        ),
        (
            Rules { affinity: vec![near(true, Domain::Label("a b".into()), "")], ..Rules::default() },
            "rules.affinity[0].domain: \"a b\" is neither host, rack, zone nor a valid label key",
        ),
        (
            Rules {
                affinity: vec![VmAffinity { strength: Strength::Preferred(0), ..near(true, Domain::Zone, "") }],
                ..Rules::default()
            },
            "rules.affinity[0].preferred_weight: is 0; it is 1 to 100",
        ),
        (
            Rules { spread: vec![even(Domain::Zone, 0, WhenUnsatisfiable::ScheduleAnyway)], ..Rules::default() },
            "rules.spread[0].max_skew: is 0; it is at least 1",
        ),
    ];
    for (rules, message) in cases {
        assert_eq!(refusal(&rules), ("BE-1018", message.to_owned()));
    }
}

#[test]
fn an_expression_of_a_megabyte_is_refused_and_not_thrown_back() {
    let requirement = |values: BTreeSet<String>| {
        let one = Requirement { key: "zone".into(), operator: Operator::In, values };
        Rules { hosts: vec![Selector(vec![one])], ..Rules::default() }
    };
    let long = requirement(BTreeSet::from(["x".repeat(1 << 20)]));
    let many = requirement((0..100_000).map(|number| format!("value-{number}")).collect());
    let allowed = (0..64).map(|number| format!("{number:060}")).collect();
    let one = requirement(allowed).hosts.remove(0);
    let wide = Rules { hosts: vec![one; 16], ..Rules::default() };
    for rules in [long, many, wide] {
        let (code, message) = refusal(&rules);
        assert_eq!(code, "BE-1018");
        assert!(message.len() < 200, "{message}");
    }
}

#[test]
fn what_nothing_can_meet_is_refused_by_its_field() {
    for selector in [
        "zone=a,zone=b",
        "zone in (a,b),zone notin (a,b)",
        "gpu,!gpu",
        "zone=a,!zone",
        "ssd>4,ssd<5",
        "ssd<0",
        "ssd=3,ssd>3",
        "ssd>9223372036854775807",
        "zone=a,ssd>1,ssd<1",
    ] {
        let (code, message) = refusal(&hosts(selector));
        assert_eq!(code, "BE-1019", "{selector}");
        assert!(message.starts_with("rules.hosts[0]: nothing can meet "), "{message}");
    }
    for selector in ["zone!=a,zone!=b", "zone in (a,b),zone!=a", "!gpu,gpu!=x", "ssd>4,ssd<6,ssd!=5", "gpu,gpu!=x"] {
        check(&hosts(selector)).unwrap();
    }
    assert_eq!(refusal(&hosts("gpu,!gpu")).1, "rules.hosts[0]: nothing can meet gpu exists and no gpu");
}

#[test]
fn near_to_and_away_from_the_same_vms_is_refused() {
    let rules = |affinity| Rules { affinity, ..Rules::default() };
    let both = vec![near(true, Domain::Zone, "app=web,tier=1"), near(false, Domain::Zone, "tier=1,app=web")];
    let (code, message) = refusal(&rules(both));
    assert_eq!(code, "BE-1019");
    let expected =
        "rules.affinity[1]: it must be near to and, by rules.affinity[0], away from the same VMs within one zone";
    assert_eq!(message, expected);
    check(&rules(vec![near(true, Domain::Host, "app=web"), near(false, Domain::Zone, "app=web")])).unwrap();
    let soft = VmAffinity { strength: Strength::Preferred(1), ..near(true, Domain::Zone, "app=web") };
    check(&rules(vec![soft, near(false, Domain::Zone, "app=web")])).unwrap();
}

#[test]
fn a_part_of_the_cluster_that_no_host_has_cannot_be_required() {
    let empty = World::new().cluster;
    let mut world = World::new();
    world.host(1, Machine::cores(2).inventory());
    let spread = |when| Rules { spread: vec![even(Domain::Zone, 1, when)], ..Rules::default() };
    let hard = spread(WhenUnsatisfiable::DoNotSchedule);
    check_against(&empty, &hard).unwrap();
    let error = check_against(&world.cluster, &hard).unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Precondition, "BE-3004"));
    assert_eq!(error.message, "rules.spread[0].domain: no host has a zone, so no host could ever meet this");
    check_against(&world.cluster, &spread(WhenUnsatisfiable::ScheduleAnyway)).unwrap();
    let label = Rules { affinity: vec![near(false, Domain::Label("row".into()), "")], ..Rules::default() };
    let error = check_against(&world.cluster, &label).unwrap_err();
    assert_eq!(error.hint.unwrap(), "give hosts theirs with 'berth host update HOST --label row=VALUE' first");
    let away = Rules { affinity: vec![near(true, Domain::Zone, "")], ..Rules::default() };
    check_against(&world.cluster, &away).unwrap();
    let group = Rules { host_group: Some(name("prod")), ..Rules::default() };
    assert_eq!(check_against(&world.cluster, &group).unwrap_err().code, "BE-3004");
}

proptest! {
    /// What some label value meets is never called a contradiction.
    #[test]
    fn what_can_be_met_is_not_refused(
        terms in proptest::collection::vec((0..6_usize, proptest::collection::btree_set("[0-4]", 1..3)), 1..5),
        value in proptest::option::of("[0-9]"),
    ) {
        let operators =
            [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist, Operator::Gt, Operator::Lt];
        let requirements = terms.into_iter().map(|(which, values)| {
            let operator = operators[which];
            let count = match operator {
                Operator::Exists | Operator::DoesNotExist => 0,
                Operator::Gt | Operator::Lt => 1,
                Operator::In | Operator::NotIn => values.len(),
            };
            Requirement { key: "k".into(), operator, values: values.into_iter().take(count).collect() }
        });
        let selector = Selector(requirements.collect());
        let labels: BTreeMap<_, _> = value.map(|value| ("k".to_owned(), value)).into_iter().collect();
        let refused = check_selector("hosts", &selector).is_err();
        prop_assert!(!(refused && selector.matches(&labels)), "{selector} is met by {labels:?}");
    }
}
