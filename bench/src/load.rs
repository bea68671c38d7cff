//! The load: clients in a closed loop, each with one request in flight on a connection of its own, against one member.
//!
//! A process of its own on one thread, outside of both systems: what it costs, it costs each of them alike.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_pki::Credentials;
use berth_proto::v1;
use berth_proto::v1::vm_service_client::VmServiceClient;
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::{JoinSet, LocalSet};
use tonic::Status;
use tonic::transport::Channel;

use crate::wire;
use crate::wire::proto::etcdserverpb::kv_client::KvClient;
use crate::wire::proto::etcdserverpb::{PutRequest, RangeRequest};

/// Bytes of a value.
const VALUE_BYTES: usize = 256;

/// Latencies above a minute are taken for a minute, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// How many keys, or VMs, are written and read.
pub(crate) const KEYS: u64 = 10_000;

/// The image of the VMs.
pub(crate) const IMAGE: &str = "none";

/// How long a client waits after a failure, so that a member that refuses everything is not measured by its refusals.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

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
    /// Set a label of a VM, through `berth.v1`.
    Label,
    /// Create the next VM, through `berth.v1`: makes what `Label` needs.
    CreateVm,
}

impl Operation {
    /// Its word on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::StaleGet => "stale-get",
            Self::Label => "label",
            Self::CreateVm => "create-vm",
        }
    }
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
        let client = Client::connect(args, &credentials).await;
        clients.push(client.with_context(|| format!("client {number} cannot reach {}", args.target))?);
    }
    let tally = Rc::new(RefCell::new(Tally {
        latencies: Histogram::new_with_bounds(1, LONGEST_US, 3)?,
        started: 0,
        failures: 0,
        failure: None,
    }));
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

/// The connection of one client.
enum Client {
    Kv(KvClient<Channel>),
    Vm(VmServiceClient<Channel>),
}

impl Client {
    /// A client that is connected: it has asked for something cheap.
    async fn connect(args: &Args, credentials: &Credentials) -> Result<Self, Status> {
        let channel = wire::channel(&args.target, credentials);
        match args.operation {
            Operation::Put | Operation::Get | Operation::StaleGet => {
                let mut client = KvClient::new(channel);
                let key = Bytes::from_static(b"connect");
                client.range(RangeRequest { key, serializable: true, ..RangeRequest::default() }).await?;
                Ok(Self::Kv(client))
            }
            Operation::Label | Operation::CreateVm => {
                let mut client = VmServiceClient::new(channel);
                let consistency = v1::Consistency::Stale.into();
                client
                    .list_vms(v1::ListVmsRequest { consistency, page_size: 1, ..v1::ListVmsRequest::default() })
                    .await?;
                Ok(Self::Vm(client))
            }
        }
    }

    /// Sends the request that is the `number`th of all clients.
    async fn send(&mut self, operation: Operation, source: &mut Source, number: u64) -> Result<(), Status> {
        match self {
            Self::Kv(client) if operation == Operation::Put => {
                client.put(PutRequest { key: source.key(), value: source.value() }).await.map(drop)
            }
            Self::Kv(client) => {
                let serializable = operation == Operation::StaleGet;
                client
                    .range(RangeRequest { key: source.key(), serializable, ..RangeRequest::default() })
                    .await
                    .map(drop)
            }
            Self::Vm(client) if operation == Operation::Label => client.update_labels(label(source)).await.map(drop),
            Self::Vm(client) => client.create_vm(vm(number)).await.map(drop),
        }
    }
}

/// How a change is named: a new id, as every client of `berth.v1` should give.
pub(crate) fn write() -> v1::Write {
    v1::Write { request_id: uuid::Uuid::now_v7().to_string(), ..v1::Write::default() }
}

fn vm_name(number: u64) -> String {
    format!("vm-{number:05}")
}

/// Another value of a label of some VM.
fn label(source: &mut Source) -> v1::UpdateLabelsRequest {
    let value = format!("{:016x}{:016x}", source.next(), source.next());
    v1::UpdateLabelsRequest {
        write: Some(write()),
        name: vm_name(source.next() % KEYS),
        set: [("bench".to_owned(), value)].into(),
        ..v1::UpdateLabelsRequest::default()
    }
}

/// A VM that is off, so that nothing has to be placed.
fn vm(number: u64) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        write: Some(write()),
        name: vm_name(number),
        spec: Some(v1::VmSpec {
            cpus: Some(1),
            memory_bytes: Some(128 << 20),
            image: IMAGE.to_owned(),
            run_strategy: v1::RunStrategy::Halted.into(),
            ..v1::VmSpec::default()
        }),
        ..v1::CreateVmRequest::default()
    }
}

/// One client.
struct One {
    client: Client,
    source: Source,
    operation: Operation,
    requests: u64,
}

impl One {
    async fn run(mut self, tally: Rc<RefCell<Tally>>, counts_from: Instant, ends: Instant) {
        loop {
            let number = {
                let mut tally = tally.borrow_mut();
                if tally.started >= self.requests {
                    return;
                }
                tally.started += 1;
                tally.started - 1
            };
            let started = Instant::now();
            let answer = self.client.send(self.operation, &mut self.source, number).await;
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
                tokio::time::sleep(AFTER_FAILURE).await;
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
