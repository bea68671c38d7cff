//! What people read: one pure function of the replicated state, so that gRPC, facade, CLI and web never disagree, on
//! any member, at one revision (architecture v16).

use berth_model::host::{Host, Liveness};
use berth_model::vm::{
    Accelerator, Assignment, DomainState, Ended, Observed, Past, Rest, RunStrategy, StopReason, Vm, VmPhase, VmStatus,
    shall_start,
};
use berth_model::{Condition, ConditionStatus, Timestamp};
use berth_state::Cluster;

/// The status of one VM.
pub fn derive(view: &Cluster, vm: &Vm) -> VmStatus {
    let host = vm.assignment.as_ref().and_then(|held| view.hosts.get(&held.host));
    let (phase, message) = phase(vm, host.map(AsRef::as_ref));
    let mut conditions = vec![placed(vm), ready(vm, phase, &message)];
    conditions.extend(accelerated(vm, host.map(AsRef::as_ref)));
    conditions.extend(degraded(vm));
    conditions.extend(last_run(vm));
    conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
    VmStatus { phase, message, host: host.map(|host| (host.uid(), host.meta.name.clone())), conditions }
}

fn phase(vm: &Vm, host: Option<&Host>) -> (VmPhase, String) {
    let observed = vm.observed.as_ref();
    let silent = host.filter(|host| host.liveness != Liveness::Alive);
    if vm.meta.is_deleting() {
        let message = silent.map_or_else(String::new, |host| {
            format!("host {} is {}; the VM is removed when it is heard of again", host.meta.name, host.liveness)
        });
        return (VmPhase::Deleting, message);
    }
    let Some(assignment) = &vm.assignment else {
        return (VmPhase::Pending, waiting(vm));
    };
    if let Some(host) = silent {
        let message = format!(
            "host {} is {} since {}; the VM may well run, and is not started elsewhere; what is asked of it is done when the \
             host is heard of again",
            host.meta.name, host.liveness, host.liveness_since
        );
        return (VmPhase::Unknown, message);
    }
    let Some(observed) = observed.filter(|seen| seen.epoch == assignment.epoch) else {
        return (VmPhase::Assigned, String::new());
    };
    let trouble = observed.trouble.as_ref().map_or_else(String::new, |(reason, sentence)| coded(reason, sentence));
    let is_halted = vm.run_now() == RunStrategy::Halted;
    match observed.state {
        DomainState::Running if is_halted => (VmPhase::Stopping, trouble),
        DomainState::Running if observed.restart_count < vm.restart_count => {
            (VmPhase::Stopping, "a restart was asked for".into())
        }
        DomainState::Running => (VmPhase::Running, trouble),
        DomainState::Stopping => (VmPhase::Stopping, trouble),
        DomainState::Starting => (VmPhase::Starting, trouble),
        DomainState::Paused if !vm.power.paused && trouble.is_empty() => {
            let why = "its guest code is held; where nobody asked for that, QEMU does it after an error of a disk; \
                       'berth vm resume' lets it go on";
            (VmPhase::Paused, why.into())
        }
        DomainState::Paused => (VmPhase::Paused, trouble),
        DomainState::Stopped(reason) => down(vm, observed, reason, trouble),
        DomainState::Panicked => down(vm, observed, StopReason::Panicked, trouble),
    }
}

/// How a VM is that does not run.
fn down(vm: &Vm, observed: &Observed, reason: StopReason, trouble: String) -> (VmPhase, String) {
    match shall_start(vm.run_now(), vm.restart_count, Past::of(observed)) {
        Err(Rest::Halted) => (VmPhase::Stopped, trouble),
        Err(Rest::NotAsked) => (VmPhase::Stopped, "nobody started it yet: its run strategy is Manual".into()),
        Err(Rest::Over(reason)) => (VmPhase::Stopped, over(vm.spec.run, reason)),
        Ok(()) if vm.power.paused => (VmPhase::Paused, trouble),
        Ok(())
            if observed.failures == 0
                && (matches!(reason, StopReason::NeverStarted | StopReason::Asked)
                    || vm.restart_count > observed.restart_count) =>
        {
            let phase = if trouble.is_empty() { VmPhase::Starting } else { VmPhase::Failing };
            (phase, trouble)
        }
        Ok(()) => (VmPhase::Failing, failing(reason, observed.failures, &trouble)),
    }
}

/// Why a VM's last run was its last.
fn over(run: RunStrategy, reason: StopReason) -> String {
    format!("{}; by its run strategy {run} it is not started again", in_words(reason))
}

/// How a run ended.
const fn in_words(reason: StopReason) -> &'static str {
    match reason {
        StopReason::NeverStarted => "it has not started yet",
        StopReason::GuestShutdown => "its guest shut itself down",
        StopReason::Asked => "it was stopped",
        StopReason::Crashed => "its QEMU ended or was killed",
        StopReason::StartFailed => "it could not be started",
        StopReason::Unknown => "it ended for a reason that its host does not know, such as a power cut",
        StopReason::Panicked => "its guest's kernel gave up",
    }
}

/// A host's word on what hinders a VM, with the code whose page tells what to do.
fn coded(reason: &str, sentence: &str) -> String {
    let code = match reason {
        "ImageMissing" => "BE-6001",
        "ImageRefused" => "BE-6002",
        "StartFailed" => "BE-6003",
        "Unreachable" => "BE-6004",
        "NoSpace" => "BE-6006",
        _ => return sentence.to_owned(),
    };
    format!("{sentence} [{code}]")
}

fn failing(reason: StopReason, failures: u32, trouble: &str) -> String {
    let next = match reason {
        StopReason::NeverStarted => "",
        StopReason::GuestShutdown | StopReason::Asked | StopReason::Unknown => "; it is started again",
        StopReason::Crashed | StopReason::Panicked => "; it is started again after a pause",
        StopReason::StartFailed => "; it is tried again after a pause",
    };
    let why = in_words(reason);
    let times = if failures > 1 { format!(" ({failures} failures in a row)") } else { String::new() };
    if trouble.is_empty() { format!("{why}{next}{times}") } else { format!("{why}{next}{times}: {trouble}") }
}

/// How the run before the present one ended, if it did not end well: a VM that was started again says why.
fn last_run(vm: &Vm) -> Option<Condition> {
    let observed = vm.observed.as_ref()?;
    let Ended { reason, at } = observed.last_end?;
    let status = match reason {
        StopReason::GuestShutdown | StopReason::Asked => return None,
        StopReason::NeverStarted
        | StopReason::Crashed
        | StopReason::StartFailed
        | StopReason::Unknown
        | StopReason::Panicked => ConditionStatus::False,
    };
    let word = match reason {
        StopReason::Crashed => "Crashed",
        StopReason::Panicked => "GuestPanicked",
        _ => "Unknown",
    };
    let failures = match observed.failures {
        0 => String::new(),
        count => format!("; {count} starts in a row failed or ended in a crash"),
    };
    Some(condition("LastRunEndedWell", status, word, format!("{}{failures}", in_words(reason)), at))
}

fn waiting(vm: &Vm) -> String {
    match &vm.unplaced {
        None => "waits for its turn to be placed".into(),
        Some(unplaced) if unplaced.hosts == 0 => "there is no host yet".into(),
        Some(unplaced) => {
            let mut reasons: Vec<_> =
                unplaced.refusals.iter().take(3).map(|(name, why)| format!("{name} {why}")).collect();
            let more = unplaced.hosts as usize - reasons.len().min(unplaced.hosts as usize);
            if more > 0 {
                reasons.push(format!("and {more} more"));
            }
            format!("none of {} hosts can take it: {}", unplaced.hosts, reasons.join("; "))
        }
    }
}

fn condition(
    kind: &str,
    status: ConditionStatus,
    reason: &str,
    message: impl Into<String>,
    since: Timestamp,
) -> Condition {
    Condition { kind: kind.into(), status, reason: reason.into(), message: message.into(), since }
}

/// By which rule the berth was chosen, in the planner's order.
fn why(held: &Assignment) -> String {
    let nodes = match held.resources.memory.len() {
        1 => "its memory lies on one NUMA node".to_owned(),
        nodes => format!("its memory lies on {nodes} NUMA nodes"),
    };
    format!(
        "{nodes}; of the hosts that could take it this one was best, compared by soft taints, broken soft spreads, \
         preferences not met, NUMA nodes, caches, VMs on the host and threads left over, in this order"
    )
}

fn placed(vm: &Vm) -> Condition {
    match (&vm.assignment, &vm.unplaced) {
        (Some(held), _) => condition("Placed", ConditionStatus::True, "Assigned", why(held), held.at),
        (None, None) => condition("Placed", ConditionStatus::False, "Waiting", waiting(vm), vm.meta.created_at),
        (None, Some(found)) => condition("Placed", ConditionStatus::False, "NoHostFits", waiting(vm), found.since),
    }
}

/// Ready only when the host has verified it (law 10).
fn ready(vm: &Vm, phase: VmPhase, message: &str) -> Condition {
    let since = vm.observed.as_ref().map_or(vm.meta.created_at, |seen| seen.since);
    let status = match phase {
        VmPhase::Running => ConditionStatus::True,
        VmPhase::Unknown => ConditionStatus::Unknown,
        VmPhase::Pending
        | VmPhase::Assigned
        | VmPhase::Starting
        | VmPhase::Paused
        | VmPhase::Stopping
        | VmPhase::Stopped
        | VmPhase::Failing
        | VmPhase::Deleting => ConditionStatus::False,
    };
    condition("Ready", status, &phase.to_string(), message, since)
}

/// Software emulation is never silent (requirement B9).
fn accelerated(vm: &Vm, host: Option<&Host>) -> Option<Condition> {
    let observed = vm.observed.as_ref()?;
    Some(match observed.accelerator? {
        Accelerator::Kvm => condition("Accelerated", ConditionStatus::True, "Kvm", "", observed.since),
        Accelerator::Tcg => {
            let why = host
                .and_then(|host| host.inventory.accelerator.failed_step.clone())
                .map_or_else(String::new, |step| format!(": the host's KVM failed its test at step {step}"));
            let message = format!("runs under software emulation (TCG), many times slower than KVM{why}");
            condition("Accelerated", ConditionStatus::False, "Tcg", message, observed.since)
        }
    })
}

fn degraded(vm: &Vm) -> Option<Condition> {
    let observed = vm.observed.as_ref()?;
    (!observed.degraded.is_empty()).then(|| {
        condition("Degraded", ConditionStatus::True, "HostLacks", observed.degraded.join("; "), observed.since)
    })
}

/// The conditions of one host: what it reported of itself, and what the ledger says of it.
pub fn host_conditions(view: &Cluster, host: &Host) -> Vec<Condition> {
    let mut conditions = host.conditions.clone();
    let since = host.liveness_since;
    let alive = match host.liveness {
        Liveness::Alive => ConditionStatus::True,
        Liveness::Suspect | Liveness::Lost => ConditionStatus::Unknown,
    };
    conditions.push(condition("Ready", alive, &host.liveness.to_string(), "", since));
    if let Some(why) = view.bookings(host.uid()).and_then(|held| held.overbooked(&host.inventory)) {
        let mut concerned: Vec<_> = view.vms_on(host.uid()).map(|vm| vm.meta.name.to_string()).collect();
        concerned.truncate(20);
        let message = format!("{why}; it takes no new VM; concerned are {}", concerned.join(", "));
        conditions.push(condition("Overbooked", ConditionStatus::True, "ReportedLess", message, since));
    }
    conditions.sort_by(|a, b| a.kind.cmp(&b.kind));
    conditions
}

#[cfg(test)]
mod tests;
