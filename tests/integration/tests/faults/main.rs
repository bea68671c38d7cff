//! What clients of a cluster see while it is broken in every way that we know.
//!
//! `BERTH_FAULTS_SECONDS` and `BERTH_FAULTS_SEED` make it longer, shorter, and the same again.

#![expect(clippy::print_stdout, reason = "what a run found out is shown by the test runner")]

use std::sync::Arc;
use std::time::Duration;

use berth_integration::faults::{self, Cluster, Kind, Plan};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, and no number")))
}

fn plan(seconds: u64) -> Plan {
    let seed = number("BERTH_FAULTS_SEED").unwrap_or_else(faults::fresh_seed);
    println!("again: BERTH_FAULTS_SEED={seed} ./x test -- --test faults");
    Plan::new(seed, Duration::from_secs(number("BERTH_FAULTS_SECONDS").unwrap_or(seconds)))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_see_is_linearizable_whatever_is_broken() {
    let plan = plan(180);
    let cluster = Arc::new(Cluster::up().await);
    let report = faults::run(&cluster, &plan).await;
    println!("{report}");
    report.assert_clean(&plan);
}

/// The test above is worth something only if it finds what is wrong: here members answer reads from what they have, without
/// asking the leader.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_answer_stale_reads_are_found_out() {
    let kinds = vec![Kind::Partition, Kind::OneWayPartition];
    let plan = Plan { kinds, operations: 1000, ..Plan::new(3_317_895, Duration::from_secs(20)) };
    let cluster = Arc::new(Cluster::up_with_stale_reads().await);
    let report = faults::run(&cluster, &plan).await;
    println!("{report}\n  found: {}", report.not_linearizable.first().map_or("nothing", |first| first));
    let stale = report.not_linearizable.iter().filter(|found| found.contains("nothing explains Read"));
    assert!(stale.count() > 0, "stale reads were not found: {report}");
}
