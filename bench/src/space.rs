//! What many writes leave on the disk and in memory of a member, history included.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use crate::cluster::{Cluster, System};
use crate::load::Operation;
use crate::raft::Bench;
use crate::report::Better;
use crate::rounds::{LONGEST, Load, generate};
use crate::usage;

/// How many writes the metrics speak of.
pub(crate) const WRITES: u64 = 1_000_000;

/// How many clients write.
const CLIENTS: u64 = 256;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Writes, looking on.
pub(crate) async fn run(bench: &mut Bench) -> Result<()> {
    let keys = bench.keys.clone();
    let mut cluster = Cluster::start(System::Berth, &bench.folder.join("space"), &keys).await?;
    let members: Vec<_> =
        cluster.members.iter().map(|member| Ok((member.pid()?, member.data().to_owned()))).collect::<Result<_>>()?;
    let look = || -> Result<[u64; 2]> {
        let mut most = [0, 0];
        for (pid, data) in &members {
            most = [most[0].max(usage::disk(data)?), most[1].max(usage::memory(*pid)?)];
        }
        Ok(most)
    };
    let load =
        Load { operation: Operation::Put, clients: CLIENTS, seconds: LONGEST, requests: Some(bench.writes), seed: 1 };
    bench.report.say(format_args!("{} writes by {CLIENTS} clients", bench.writes));
    let mut peak = [0, 0];
    let (outcome, _, terms) = {
        let writing = generate(&mut cluster, &keys, load);
        tokio::pin!(writing);
        loop {
            tokio::select! {
                done = &mut writing => break done?,
                () = sleep(LOOK_EVERY) => {
                    let now = look()?;
                    peak = [peak[0].max(now[0]), peak[1].max(now[1])];
                }
            }
        }
    };
    bench.leader_changes += terms;
    ensure!(outcome.failures == 0, "writes failed: {}", outcome.failure.unwrap_or_default());
    let after = look()?;
    #[expect(clippy::cast_precision_loss, reason = "bytes stay far below 2^52")]
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    bench.report.say(format_args!(
        "the largest member: {:.0} MB on the disk (at most {:.0} meanwhile), {:.0} MB of memory (at most {:.0})",
        megabytes(after[0]),
        megabytes(peak[0].max(after[0])),
        megabytes(after[1]),
        megabytes(peak[1].max(after[1]))
    ));
    // Of fewer writes the metrics would say something else under the same name.
    if bench.writes == WRITES {
        bench.report.metric("disk_mb_after_1m_writes", megabytes(after[0]), "MB", Better::Lower);
        bench.report.metric("rss_mb_after_1m_writes", megabytes(after[1]), "MB", Better::Lower);
    }
    cluster.discard().await
}
