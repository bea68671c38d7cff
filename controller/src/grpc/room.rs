//! Room, for operators: why a VM is where it is, how many more fit, what the loss of a host would mean.

use std::sync::Arc;

use berth_control::room::{self, Candidate, Explanation, HostRoom, NodeRoom, Room, ThreadPart, ThreadUse};
use berth_control::{Error, Kind, admit};
use berth_model::host::Host;
use berth_model::vm::Vm;
use berth_model::{Bytes, Name};
use berth_proto::v1;
use berth_proto::v1::placement_service_server::PlacementService;
use berth_state::Cluster;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::{Shared, caller, error, host, vm};

/// The service. Its questions take the time of a core: one is answered after the other.
#[derive(Clone)]
pub(super) struct Service {
    shared: Shared,
    turn: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Asks about a view, away from the threads that serve others.
    async fn ask<T: Send + 'static>(
        &self,
        consistency: i32,
        question: impl FnOnce(&Arc<Cluster>) -> Result<T, Error> + Send + 'static,
    ) -> Result<(T, u64), Status> {
        let view = self.shared.control.view(caller::consistency(consistency)).await.map_err(error::status)?;
        let revision = view.revision.0;
        let turn = self.turn.acquire().await;
        let answer = away(move || question(&view)).await?;
        drop(turn);
        Ok((answer.map_err(error::status)?, revision))
    }
}

async fn away<T: Send + 'static>(question: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(question).await.map_err(|failed| {
        let mut problem = Error::new(Kind::Internal, "BE-9001", "the question about room could not be answered");
        problem.context = Some(failed.to_string());
        error::status(problem)
    })
}

/// What each host says to a VM.
pub(super) async fn explanation(view: Arc<Cluster>, vm: Vm) -> Result<v1::Explanation, Status> {
    let found = away(move || room::explain(&view, &vm)).await?;
    Ok(explanation_to_wire(found))
}

/// Verdicts in one answer.
const MOST_HOSTS: usize = 1000;
/// Refusals where only a few are listed.
const FEW: usize = 16;

fn explanation_to_wire(found: Explanation) -> v1::Explanation {
    let looked_at = number(found.hosts.len());
    let chosen = found.best().map(|best| best.name.to_string()).unwrap_or_default();
    let smallest_change = found
        .smallest_change
        .iter()
        .flatten()
        .map(|change| v1::FieldChange { field: room::field(change).to_owned(), advice: change.to_string() });
    let smallest_change = smallest_change.collect();
    let (mut fit, mut not) = (Vec::new(), Vec::new());
    for (name, word) in found.hosts {
        match word {
            Ok(candidate) => fit.push(candidate),
            Err(refusal) => not.push(v1::HostVerdict {
                host: name.to_string(),
                rule: room::rule(&refusal),
                why: refusal.to_string(),
                ..v1::HostVerdict::default()
            }),
        }
    }
    fit.sort();
    let fit = fit.into_iter().map(|candidate| v1::HostVerdict {
        host: candidate.name.to_string(),
        fits: true,
        score: score(&candidate),
        ..v1::HostVerdict::default()
    });
    v1::Explanation { looked_at, hosts: fit.chain(not).take(MOST_HOSTS).collect(), chosen, smallest_change }
}

/// In the order in which the fields decide.
fn score(candidate: &Candidate) -> Vec<v1::ScoreField> {
    let Candidate { taints, skew, unmet, nodes, caches, vms_on_host, leftover, name: _ } = candidate;
    let small = [
        ("taints", taints),
        ("skew", skew),
        ("unmet", unmet),
        ("nodes", nodes),
        ("caches", caches),
        ("vms_on_host", vms_on_host),
    ];
    let small = small.map(|(name, value)| v1::ScoreField { name: name.into(), value: i64::from(*value) });
    let leftover = v1::ScoreField { name: "leftover".into(), value: i64::try_from(*leftover).unwrap_or(i64::MAX) };
    small.into_iter().chain([leftover]).collect()
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl PlacementService for Service {
    async fn get_capacity(
        &self,
        request: Request<v1::GetCapacityRequest>,
    ) -> Result<Response<v1::GetCapacityResponse>, Status> {
        let v1::GetCapacityRequest { consistency, spec, project, labels } = request.into_inner();
        let asked = vm::spec_request(spec.ok_or_else(|| error::missing("spec"))?)?;
        let asked = admit::CreateVm { project, labels, ..asked };
        let ((found, why), revision) = self.ask(consistency, move |view| room::capacity(view, &asked)).await?;
        let refusals = why
            .into_iter()
            .flat_map(|why| why.hosts)
            .filter_map(|(host, word)| Some(v1::HostRefusal { host: host.to_string(), why: word.err()?.to_string() }));
        let hosts = found.hosts.into_iter().filter(|(_, count)| *count > 0);
        Ok(Response::new(v1::GetCapacityResponse {
            count: found.total,
            hosts: hosts.map(|(host, count)| v1::HostRoom { host: host.to_string(), count }).collect(),
            refusals: refusals.take(FEW).collect(),
            at_least: found.is_more,
            revision,
        }))
    }

    async fn get_host_capacity(
        &self,
        request: Request<v1::GetHostCapacityRequest>,
    ) -> Result<Response<v1::GetHostCapacityResponse>, Status> {
        let v1::GetHostCapacityRequest { consistency, name } = request.into_inner();
        let detail = !name.is_empty();
        let question = move |view: &Arc<Cluster>| {
            let mut hosts: Vec<&Arc<Host>> = if name.is_empty() {
                view.hosts.values().collect()
            } else {
                vec![admit::find_host(view, &host::target(None, name))?]
            };
            hosts.sort_by(|a, b| a.meta.name.cmp(&b.meta.name));
            Ok(room::hosts(view, hosts))
        };
        let (rooms, revision) = self.ask(consistency, question).await?;
        let hosts = rooms.into_iter().map(|room| room_to_wire(room, detail)).collect();
        Ok(Response::new(v1::GetHostCapacityResponse { hosts, revision }))
    }

    async fn get_survival(
        &self,
        request: Request<v1::GetSurvivalRequest>,
    ) -> Result<Response<v1::GetSurvivalResponse>, Status> {
        let v1::GetSurvivalRequest { consistency, host } = request.into_inner();
        let question = move |view: &Arc<Cluster>| {
            if !host.is_empty() {
                admit::find_host(view, &host::target(None, host.clone()))?;
            }
            let mut hosts: Vec<v1::HostLoss> = room::losses(view)
                .into_iter()
                .filter(|loss| host.is_empty() || loss.name.as_str() == host)
                .map(|loss| {
                    let first = loss.homeless.iter().take(FEW).filter_map(|vm| view.vms.get(vm)).map(|vm| {
                        v1::Stranded { project: vm.meta.project.to_string(), name: vm.meta.name.to_string() }
                    });
                    v1::HostLoss {
                        host: loss.name.to_string(),
                        vms: number(loss.vms),
                        stranded: number(loss.homeless.len()),
                        first: first.collect(),
                    }
                })
                .collect();
            hosts.sort_by_key(|loss| (loss.stranded == 0, loss.host.clone()));
            Ok(hosts)
        };
        let (hosts, revision) = self.ask(consistency, question).await?;
        let survives = hosts.iter().all(|loss| loss.stranded == 0);
        Ok(Response::new(v1::GetSurvivalResponse { survives, hosts, revision }))
    }

    async fn list_proposals(
        &self,
        request: Request<v1::ListProposalsRequest>,
    ) -> Result<Response<v1::ListProposalsResponse>, Status> {
        let request = request.into_inner();
        let view = self.shared.control.view(caller::consistency(request.consistency)).await.map_err(error::status)?;
        let named = |host| view.hosts.get(&host).map(|host| host.meta.name.to_string()).unwrap_or_default();
        let proposals = view.proposals.iter().filter_map(|held| {
            let vm = view.vms.get(&held.vm)?;
            Some(v1::Proposal {
                vm: held.vm.to_string(),
                project: vm.meta.project.to_string(),
                name: vm.meta.name.to_string(),
                from: named(held.from),
                to: named(held.to),
                why: held.why.clone(),
                since_ms: held.since.as_millis(),
            })
        });
        let proposals = proposals.collect();
        Ok(Response::new(v1::ListProposalsResponse { proposals, revision: view.revision.0 }))
    }
}

fn room_to_wire(room: Room, detail: bool) -> v1::HostRoomInDetail {
    let Room { room, closed, threads: parts } = room;
    let HostRoom {
        host,
        vms,
        nodes,
        threads: _,
        shared_cpu: (shared_booked, shared_free),
        ordinary: (Bytes(ordinary), Bytes(ordinary_free)),
        devices: (devices, devices_free),
        scattered_percent,
        overbooked: _,
    } = room;
    let thread = |thread: &berth_model::host::Thread, used: ThreadUse| {
        let (role, called) = match (used, parts.get(&thread.id)) {
            (ThreadUse::Reserved, _) => (v1::ThreadRole::Reserved, String::new()),
            (ThreadUse::Free, _) => (v1::ThreadRole::Unspecified, String::new()),
            (ThreadUse::Exclusive(_), Some((part, called))) => (role(*part), called.clone()),
            (ThreadUse::Exclusive(vm), None) => (v1::ThreadRole::Held, vm.to_string()),
        };
        v1::ThreadRoom {
            thread: thread.id.0,
            core: thread.core.0,
            cache: thread.cache,
            node: thread.node.0,
            socket: thread.socket,
            role: role.into(),
            called,
        }
    };
    let mut threads: Vec<_> = if detail {
        nodes.iter().flat_map(|node| &node.threads).map(|(one, used)| thread(one, *used)).collect()
    } else {
        Vec::new()
    };
    threads.sort_by_key(|thread| thread.thread);
    v1::HostRoomInDetail {
        host: Name::to_string(&host),
        takes: closed.is_none(),
        why_not: closed.unwrap_or_default(),
        vms: number(vms),
        nodes: nodes.iter().map(node_to_wire).collect(),
        threads,
        shared_cpu_booked: shared_booked,
        shared_cpu_total: shared_booked.saturating_add(shared_free),
        ordinary_bytes_total: ordinary,
        ordinary_bytes_booked: ordinary.saturating_sub(ordinary_free),
        devices_total: number(devices),
        devices_booked: number(devices.saturating_sub(devices_free)),
        scattered_percent,
    }
}

const fn role(part: ThreadPart) -> v1::ThreadRole {
    match part {
        ThreadPart::Vcpu => v1::ThreadRole::Vcpu,
        ThreadPart::Dedicated => v1::ThreadRole::Dedicated,
        ThreadPart::Idle => v1::ThreadRole::Idle,
        ThreadPart::Held => v1::ThreadRole::Held,
    }
}

fn node_to_wire(node: &NodeRoom) -> v1::NodeRoom {
    let NodeRoom { node, threads, free_threads: _, free_on_whole_cores, pages } = node;
    let count = |wanted: fn(&ThreadUse) -> bool| number(threads.iter().filter(|(_, used)| wanted(used)).count());
    v1::NodeRoom {
        node: node.0,
        threads_total: number(threads.len()),
        threads_reserved: count(|used| matches!(used, ThreadUse::Reserved)),
        threads_booked: count(|used| matches!(used, ThreadUse::Exclusive(_))),
        threads_on_free_cores: *free_on_whole_cores,
        pages: pages
            .iter()
            .map(|(page, total, free)| v1::PageRoom {
                page: v1::PageSize::from(*page).into(),
                total: *total,
                booked: total.saturating_sub(*free),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
