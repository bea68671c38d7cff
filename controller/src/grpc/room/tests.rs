//! What is said of room, on the wire.

use berth_control::room::Refusal;

use super::*;

fn candidate(name: &str, vms_on_host: u32) -> Candidate {
    Candidate {
        taints: 0,
        skew: 0,
        unmet: 0,
        nodes: 1,
        caches: 1,
        vms_on_host,
        leftover: 4000,
        name: name.parse().unwrap(),
    }
}

#[test]
fn hosts_that_fit_come_first_and_the_best_of_them_at_the_top() {
    let found = Explanation {
        hosts: vec![
            ("h1".parse().unwrap(), Ok(candidate("h1", 4))),
            ("h2".parse().unwrap(), Err(Refusal::Cordoned)),
            ("h3".parse().unwrap(), Ok(candidate("h3", 1))),
        ],
        smallest_change: None,
    };
    let wire = explanation_to_wire(found);
    let hosts: Vec<_> = wire.hosts.iter().map(|verdict| (verdict.host.as_str(), verdict.fits)).collect();
    assert_eq!(hosts, [("h3", true), ("h1", true), ("h2", false)]);
    assert_eq!((wire.looked_at, wire.chosen.as_str()), (3, "h3"));
    assert_eq!((wire.hosts[2].rule.as_str(), wire.hosts[2].why.as_str()), ("Cordoned", "is cordoned"));
    let fields: Vec<_> = wire.hosts[0].score.iter().map(|field| (field.name.as_str(), field.value)).collect();
    let expected =
        [("taints", 0), ("skew", 0), ("unmet", 0), ("nodes", 1), ("caches", 1), ("vms_on_host", 1), ("leftover", 4000)];
    assert_eq!(fields, expected);
}
