//! The load: requests in flight on several connections of one thread, and the clocks beside them.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_proto::v1;
use berth_proto::v1::vm_service_client::VmServiceClient;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::cluster::Keys;
use crate::fleet;
use crate::report::Series;
use crate::scale::vms;
use crate::wire;

type Client = VmServiceClient<Channel>;

/// Connections of the load generator.
const CONNECTIONS: usize = 8;
/// Requests in flight on all of them.
const IN_FLIGHT: usize = 128;
/// VMs in one page of a list.
const PAGE: u32 = 500;
/// How long VMs may take until all of them run.
const RUNNING: Duration = Duration::from_secs(1800);
/// How long one request may be tried again, where the cluster says that it is not ready.
const TRIES: u32 = 50;
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// Clients of one member.
pub(crate) struct Drive {
    clients: Vec<Client>,
}

/// What came of creating VMs.
#[derive(Debug, Default)]
pub(crate) struct Created {
    /// Requests that were sent again.
    pub(crate) retries: u64,
}

/// What VMs there are, and where.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    pub(crate) vms: u64,
    pub(crate) density: u64,
    pub(crate) standard: u64,
    pub(crate) high: u64,
    pub(crate) with_rules: u64,
    /// Memory that they have booked, in bytes.
    pub(crate) booked: u64,
    on_host: HashMap<String, u64>,
}

impl Placed {
    fn count(&mut self, vm: &v1::Vm) {
        self.vms += 1;
        let spec = vm.spec.clone().unwrap_or_default();
        *match spec.performance() {
            v1::Performance::Density => &mut self.density,
            v1::Performance::Standard => &mut self.standard,
            v1::Performance::High | v1::Performance::Unspecified => &mut self.high,
        } += 1;
        self.with_rules += u64::from(spec.rules.is_some_and(|rules| rules != v1::Rules::default()));
        if let Some(held) = &vm.assignment {
            let bytes = |part: &v1::NodePages| {
                part.count
                    * match part.page() {
                        v1::PageSize::PageSize2m => 2 << 20,
                        v1::PageSize::PageSize1g => 1 << 30,
                        v1::PageSize::PageSize4k | v1::PageSize::Unspecified => 4 << 10,
                    }
            };
            self.booked += held.memory.iter().map(bytes).sum::<u64>() + held.overhead_bytes;
            *self.on_host.entry(held.host.clone()).or_default() += 1;
        }
    }

    /// VMs on the host that has most of them.
    pub(crate) fn fullest(&self) -> u64 {
        self.on_host.values().copied().max().unwrap_or_default()
    }
}

impl Drive {
    /// Clients of the member at this address.
    pub(crate) fn new(api: &str, keys: &Keys) -> Self {
        Self { clients: (0..CONNECTIONS).map(|_| VmServiceClient::new(wire::channel(api, &keys.client))).collect() }
    }

    fn client(&self, number: u64) -> Client {
        self.clients[usize::try_from(number).unwrap_or(0) % self.clients.len()].clone()
    }

    /// Creates the VMs of these numbers as fast as they are accepted.
    pub(crate) async fn create(&mut self, numbers: Range<u64>) -> Result<Created> {
        self.create_all(numbers, vms::vm).await
    }

    /// Creates VMs of this kind as fast as they are accepted.
    pub(crate) async fn create_all(
        &mut self,
        numbers: Range<u64>,
        vm: impl Fn(u64) -> v1::CreateVmRequest,
    ) -> Result<Created> {
        let mut created = Created::default();
        let mut answers =
            stream::iter(numbers).map(|number| create(self.client(number), vm(number))).buffer_unordered(IN_FLIGHT);
        while let Some((_, retries)) = answers.try_next().await? {
            created.retries += u64::from(retries);
        }
        Ok(created)
    }

    /// Waits until so many VMs are there and all of them run. Each page is read until all on it run, and then never again.
    pub(crate) async fn until_running(&mut self, vms: u64) -> Result<Placed> {
        let deadline = Instant::now() + RUNNING;
        let (mut placed, mut token) = (Placed::default(), String::new());
        loop {
            let page = self.page(v1::Consistency::Stale, token.clone()).await?;
            let phase = |vm: &v1::Vm| vm.status.as_ref().map_or(v1::VmPhase::Unspecified, v1::VmStatus::phase);
            if let Some(waits) = page.vms.iter().find(|vm| phase(vm) != v1::VmPhase::Running) {
                if Instant::now() > deadline {
                    let name = waits.meta.as_ref().map(|meta| meta.name.clone()).unwrap_or_default();
                    let status = waits.status.clone().unwrap_or_default();
                    bail!("{name} is {}: {}", status.phase().as_str_name(), status.message);
                }
                sleep(Duration::from_millis(200)).await;
                continue;
            }
            page.vms.iter().for_each(|vm| placed.count(vm));
            token = page.next_page_token;
            if token.is_empty() {
                anyhow::ensure!(placed.vms == vms, "{} VMs are there, {vms} were created", placed.vms);
                return Ok(placed);
            }
        }
    }

    async fn page(&mut self, consistency: v1::Consistency, page_token: String) -> Result<v1::ListVmsResponse> {
        let consistency = consistency.into();
        let request = v1::ListVmsRequest { consistency, page_size: PAGE, page_token, ..v1::ListVmsRequest::default() };
        Ok(self.clients[0].list_vms(request).await?.into_inner())
    }

    /// How long so many pages take, one after the other, in milliseconds.
    pub(crate) async fn list(&mut self, pages: u64) -> Result<Series> {
        let (mut took, mut token) = (Vec::new(), String::new());
        while (took.len() as u64) < pages {
            let began = Instant::now();
            let page = self.page(v1::Consistency::Linearizable, token).await?;
            // The last page of a list is shorter.
            if page.vms.len() == PAGE as usize {
                took.push(began.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::ensure!(!took.is_empty(), "there are not {PAGE} VMs for one page");
            token = page.next_page_token;
        }
        Ok(took.into_iter().collect())
    }

    /// How long so many reads of single VMs take, one after the other, in milliseconds.
    pub(crate) async fn get(&mut self, reads: u64, vms: u64) -> Result<Series> {
        let mut took = Vec::new();
        for read in 0..reads {
            // All over the VMs, in no order that a cache could like.
            let name = vms::name(read.wrapping_mul(0x9e37_79b9_7f4a_7c15) % vms);
            let request = v1::GetVmRequest { name, ..v1::GetVmRequest::default() };
            let began = Instant::now();
            self.clients[0].get_vm(request).await?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(took.into_iter().collect())
    }

    /// Creates the VMs of these numbers at a pace, whether those before are accepted or not. When each was accepted, by
    /// [`fleet::now`].
    pub(crate) async fn paced(&mut self, numbers: Range<u64>, a_second: u64) -> Result<HashMap<String, Duration>> {
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from(a_second)?);
        let mut asked = JoinSet::new();
        for number in numbers {
            ticks.tick().await;
            let made = create(self.client(number), vms::vm(number));
            asked.spawn(async move {
                let (vm, _) = made.await?;
                anyhow::Ok((vm, fleet::now()?))
            });
        }
        let mut accepted = HashMap::new();
        while let Some(answer) = asked.join_next().await {
            let (vm, at) = answer??;
            accepted.insert(vm, at);
        }
        Ok(accepted)
    }
}

/// Creates a VM, and says its uid and how often it was asked for again.
async fn create(mut client: Client, request: v1::CreateVmRequest) -> Result<(String, u32)> {
    let mut retries = 0;
    loop {
        match client.create_vm(request.clone()).await {
            Ok(answer) => {
                let vm = answer.into_inner().vm.and_then(|vm| vm.meta).context("an answer without a VM")?;
                return Ok((vm.uid, retries));
            }
            // The same request id: it is carried out once, however often it is sent.
            Err(status) if is_passing(&status) && retries < TRIES => {
                retries += 1;
                sleep(TRY_AGAIN).await;
            }
            Err(status) => bail!("{} was not created: {}: {}", request.name, status.code(), status.message()),
        }
    }
}

fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Unknown)
}

/// How often a VM is asked for after a leader was killed, and how often it is looked whether one has its berth.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long one try may take, and all of them.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Seconds from the kill until a VM that was asked for after it has its berth. VMs are named from this number on.
pub(crate) async fn next_placement(survivors: &[Client], killed: Instant, first: u64) -> Result<f64> {
    let placed = async {
        let mut ticks = interval(ASK_EVERY);
        let mut asked = JoinSet::new();
        let mut turns = survivors.iter().cycle();
        let accepted = 'accepted: {
            for number in first.. {
                let mut client = turns.next().expect("two members survive").clone();
                asked.spawn(async move {
                    let answer = timeout(PATIENCE.0, client.create_vm(vms::vm(number))).await;
                    matches!(answer, Ok(Ok(_))).then_some(number)
                });
                tokio::select! {
                    _ = ticks.tick() => {}
                    Some(Ok(Some(number))) = asked.join_next() => break 'accepted number,
                }
            }
            unreachable!("there are more numbers than VMs")
        };
        loop {
            for client in survivors {
                let consistency = v1::Consistency::Stale.into();
                let name = vms::name(accepted);
                let request = v1::GetVmRequest { consistency, name, ..v1::GetVmRequest::default() };
                let answer = timeout(PATIENCE.0, client.clone().get_vm(request)).await;
                if let Ok(Ok(answer)) = answer
                    && answer.into_inner().vm.is_some_and(|vm| vm.assignment.is_some())
                {
                    return killed.elapsed().as_secs_f64();
                }
            }
            sleep(ASK_EVERY).await;
        }
    };
    timeout(PATIENCE.1, placed).await.context("no VM had its berth within a minute of the kill")
}
