//! Leaders killed with -9: how long until the next write is acknowledged.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tonic::transport::Channel;

use crate::cluster::{Cluster, MEMBERS, System};
use crate::raft::Bench;
use crate::report::{Better, Series};
use crate::wire;
use crate::wire::proto::etcdserverpb::PutRequest;
use crate::wire::proto::etcdserverpb::kv_client::KvClient;

/// How often a write is tried: at the survivors in turn, without waiting for the tries before. A member that has not yet
/// noticed may send a write into the void, and one single try would measure its time-out.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// How long a try may take, and how long all of them.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// How long the cluster is whole before the next kill; a little more each time, so that kills meet all phases of the
/// heartbeat.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(17));

/// Kills the leaders of both.
pub(crate) async fn run(bench: &mut Bench) -> Result<()> {
    for system in [System::Berth, System::Etcd] {
        let gaps = kills(bench, system).await?;
        bench.report.say(format_args!("{} leaders of {} killed: {gaps:.2} s", bench.kills, system.name()));
        if system == System::Berth {
            bench.report.metric("failover_s_p50", gaps.median(), "s", Better::Lower);
            bench.report.metric("failover_s_max", gaps.max(), "s", Better::Lower);
        } else {
            bench.report.metric("etcd_failover_s_max", gaps.max(), "s", Better::Lower);
        }
    }
    Ok(())
}

async fn kills(bench: &mut Bench, system: System) -> Result<Series> {
    let keys = bench.keys.clone();
    let mut cluster = Cluster::start(system, &bench.folder.join("failover"), &keys).await?;
    let mut gaps = Vec::new();
    for (kill, extra) in (1..=bench.kills).zip(0..) {
        let (_, term) = cluster.settled().await?;
        sleep(PAUSE.0 + PAUSE.1 * extra).await;
        let (leader, term_now) = cluster.settled().await?;
        if system == System::Berth {
            bench.leader_changes += term_now.saturating_sub(term);
        }
        let mut survivors = Vec::new();
        for member in (0..MEMBERS).filter(|&member| member != leader) {
            let mut client = KvClient::new(wire::channel(&cluster.members[member].api.to_string(), &keys.client));
            // Connected, so that no handshake is measured.
            client.put(request()).await.with_context(|| format!("a follower of {} takes no write", system.name()))?;
            survivors.push(client);
        }
        let killed = cluster.kill(leader).await?;
        let gap = next_write(&survivors, killed).await;
        let gap = gap.with_context(|| format!("{} did not recover from kill {kill}", system.name()))?;
        bench.report.say(format_args!("kill {kill} of {}: the next write after {gap:.2} s", system.name()));
        gaps.push(gap);
        cluster.spawn(leader)?;
    }
    cluster.discard().await?;
    Ok(gaps.into_iter().collect())
}

fn request() -> PutRequest {
    PutRequest { key: Bytes::from_static(b"failover"), value: Bytes::from_static(&[7; 256]) }
}

/// Seconds from the kill to the acknowledgement of the first write that was sent after it.
async fn next_write(survivors: &[KvClient<Channel>], killed: Instant) -> Result<f64> {
    let mut ticks = interval(TRY_EVERY);
    let mut tries = JoinSet::new();
    let mut turns = survivors.iter().cycle();
    let acknowledged = async {
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let mut client = turns.next().expect("two members survive").clone();
                    tries.spawn(async move {
                        let answer = timeout(PATIENCE.0, client.put(request())).await;
                        matches!(answer, Ok(Ok(_))).then(|| killed.elapsed())
                    });
                }
                Some(Ok(Some(gap))) = tries.join_next() => return gap,
            }
        }
    };
    let gap = timeout(PATIENCE.1, acknowledged).await.context("no write was acknowledged within a minute")?;
    Ok(gap.as_secs_f64())
}
