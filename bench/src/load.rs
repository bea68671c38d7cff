//! The load: clients in a closed loop, each with one request in flight on a connection of its own, against one member.
//!
//! A process of its own on one thread, outside of both systems: what it costs, it costs each of them alike.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};
use tonic::transport::Channel;

use crate::wire;
use crate::wire::proto::etcdserverpb::kv_client::KvClient;
use crate::wire::proto::etcdserverpb::{PutRequest, RangeRequest};

/// Bytes of a value.
const VALUE_BYTES: usize = 256;

/// Latencies above a minute are taken for a minute, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// How many keys are written and read.
pub(crate) const KEYS: u64 = 10_000;

/// What to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    /// Write a key.
    Put,
    /// Read a key, linearizably.
    Get,
    /// Read a key from what the member knows.
    StaleGet,
}

/// The load.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whom to ask, address:port.
    #[arg(long)]
    target: String,
    /// The folder of the client's certificate.
    #[arg(long)]
    tls: PathBuf,
    /// What to ask for.
    #[arg(long, value_enum, default_value = "put")]
    operation: Operation,
    /// How many clients, each with a connection and one request in flight.
    #[arg(long)]
    clients: u64,
    /// How long it lasts, in seconds, after the warm-up.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// How long clients run before it counts, in seconds.
    #[arg(long, default_value_t = 1.0)]
    warmup: f64,
    /// End after so many requests, warm-up included, whatever the time.
    #[arg(long)]
    requests: Option<u64>,
    /// Makes this run's keys and values other than another run's.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What came of it; one line of JSON on standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Requests that were answered well in the time that counts.
    pub(crate) requests: u64,
    /// Requests that failed.
    pub(crate) failures: u64,
    /// What one of the failures said.
    pub(crate) failure: Option<String>,
    /// The time that counts, in seconds.
    pub(crate) seconds: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: u64,
    /// The latency that one in a hundred exceeds, in microseconds.
    pub(crate) p99_us: u64,
    /// The longest latency in microseconds.
    pub(crate) max_us: u64,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of requests stays far below 2^52")]
        let requests = self.requests as f64;
        requests / self.seconds
    }
}

/// What all clients add to.
struct Tally {
    latencies: Histogram<u64>,
    started: u64,
    failures: u64,
    failure: Option<String>,
}

/// Runs the load and prints what came of it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = LocalSet::new().block_on(&runtime, load(args))?;
    print(&serde_json::to_string(&outcome)?);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the program's result")]
fn print(line: &str) {
    println!("{line}");
}

async fn load(args: &Args) -> Result<Outcome> {
    let credentials = wire::credentials(&args.tls)?;
    let mut clients = Vec::new();
    for number in 0..args.clients {
        let mut client = KvClient::new(wire::channel(&args.target, &credentials));
        // The first request makes the connection.
        let request = RangeRequest { key: Bytes::from_static(b"connect"), serializable: true, ..Default::default() };
        client.range(request).await.with_context(|| format!("client {number} cannot reach {}", args.target))?;
        clients.push(client);
    }
    let tally =
        Rc::new(RefCell::new(Tally { latencies: Histogram::new_with_bounds(1, LONGEST_US, 3)?, started: 0, failures: 0, failure: None }));
    let counts_from = Instant::now() + Duration::from_secs_f64(args.warmup);
    let ends = counts_from + Duration::from_secs_f64(args.seconds);
    let mut running = JoinSet::new();
    for (client, number) in clients.into_iter().zip(0..) {
        let source = Source::new(args.seed.wrapping_mul(0x1_0000).wrapping_add(number));
        let one = One { client, source, operation: args.operation, requests: args.requests.unwrap_or(u64::MAX) };
        running.spawn_local(one.run(Rc::clone(&tally), counts_from, ends));
    }
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    let tally = tally.borrow();
    let requests = tally.latencies.len();
    ensure!(
        requests > 0,
        "no request was answered: {}",
        tally.failure.as_deref().unwrap_or("none was sent in the time that counts")
    );
    Ok(Outcome {
        requests,
        failures: tally.failures,
        failure: tally.failure.clone(),
        seconds: Instant::now().min(ends).duration_since(counts_from).as_secs_f64(),
        p50_us: tally.latencies.value_at_quantile(0.5),
        p99_us: tally.latencies.value_at_quantile(0.99),
        max_us: tally.latencies.max(),
    })
}

/// One client.
struct One {
    client: KvClient<Channel>,
    source: Source,
    operation: Operation,
    requests: u64,
}

impl One {
    async fn run(mut self, tally: Rc<RefCell<Tally>>, counts_from: Instant, ends: Instant) {
        loop {
            {
                let mut tally = tally.borrow_mut();
                if tally.started >= self.requests {
                    return;
                }
                tally.started += 1;
            }
            let key = self.source.key();
            let started = Instant::now();
            let answer = match self.operation {
                Operation::Put => {
                    let request = PutRequest { key, value: self.source.value() };
                    self.client.put(request).await.map(drop)
                }
                Operation::Get | Operation::StaleGet => {
                    let serializable = self.operation == Operation::StaleGet;
                    self.client.range(RangeRequest { key, serializable, ..Default::default() }).await.map(drop)
                }
            };
            let ended = Instant::now();
            if ended > ends {
                return;
            }
            let failed = {
                let mut tally = tally.borrow_mut();
                match answer {
                    Ok(()) if started >= counts_from => {
                        let micros = u64::try_from((ended - started).as_micros()).unwrap_or(u64::MAX);
                        tally.latencies.saturating_record(micros.max(1));
                        false
                    }
                    Ok(()) => false,
                    Err(status) => {
                        tally.failures += 1;
                        tally.failure.get_or_insert_with(|| format!("{}: {}", status.code(), status.message()));
                        true
                    }
                }
            };
            if failed {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Keys and values: splitmix64, so that no two values are alike and nothing can compress them.
struct Source(u64);

impl Source {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn key(&mut self) -> Bytes {
        format!("bench/{:08}", self.next() % KEYS).into()
    }

    fn value(&mut self) -> Bytes {
        let mut value = Vec::with_capacity(VALUE_BYTES);
        while value.len() < VALUE_BYTES {
            value.extend_from_slice(&self.next().to_le_bytes());
        }
        value.into()
    }
}
