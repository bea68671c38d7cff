//! What operators say about a VM's run: start, stop, restart, reset, pause, resume, and its strategy.
//!
//! Asked twice is asked once: what is asked already changes nothing. What makes no sense for the VM as its host last
//! reported it is refused with the reason; the host decides by its own eyes again when the word reaches it.

use berth_model::VmUid;
use berth_model::host::Liveness;
use berth_model::vm::{DomainState, Observed, Past, Power, Rest, RunStrategy, Vm, shall_start};

use super::vm::living;
use crate::cluster::Cluster;
use crate::command::Expect;
use crate::outcome::{Change, Outcome, Rejection};

/// What was said about a VM's run, under another strategy: who shall always run is not stopped.
pub(super) fn under(run: RunStrategy, held: Power) -> Power {
    match run {
        RunStrategy::Always | RunStrategy::Halted => Power { off: false, forced: false, ..held },
        RunStrategy::RerunOnFailure | RunStrategy::Manual | RunStrategy::Once => held,
    }
}

pub(super) fn set_run(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: VmUid,
    run: RunStrategy,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let mut vm = Vm::clone(&*living(cluster, uid, expect)?);
    if vm.spec.run != run {
        vm.power = under(run, vm.power);
        vm.spec.run = run;
        vm.meta.generation = vm.meta.generation.next();
        cluster.put_vm(changes, |_| vm);
    }
    Ok(Outcome::Vm(uid))
}

pub(super) fn start(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: VmUid,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let held = living(cluster, uid, expect)?;
    let mut vm = Vm::clone(&held);
    if vm.power.paused {
        return Err(not_now(&vm, "started", "it is paused; 'berth vm resume' lets it go on"));
    }
    match vm.spec.run {
        RunStrategy::Always => {}
        RunStrategy::Halted => {
            vm.spec.run = RunStrategy::Always;
            vm.meta.generation = vm.meta.generation.next();
            vm.power = under(RunStrategy::Always, vm.power);
        }
        RunStrategy::Once => {
            let is_over = match seen(&vm) {
                Some(seen) => !is_active(seen) && shall_start(RunStrategy::Once, 0, Past::of(seen)).is_err(),
                None => false,
            };
            if vm.power.off || is_over {
                return Err(not_now(&vm, "started", "its run strategy is Once, and its run is over or was given up"));
            }
        }
        RunStrategy::Manual | RunStrategy::RerunOnFailure => {
            if vm.power.off || rests(&vm) {
                ask_one_more(&mut vm);
            }
        }
    }
    if vm != *held {
        cluster.put_vm(changes, |_| vm);
    }
    Ok(Outcome::Vm(uid))
}

pub(super) fn stop(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: VmUid,
    force: bool,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let held = living(cluster, uid, expect)?;
    let mut vm = Vm::clone(&held);
    match vm.spec.run {
        RunStrategy::Halted => {}
        RunStrategy::Always => {
            vm.spec.run = RunStrategy::Halted;
            vm.meta.generation = vm.meta.generation.next();
        }
        RunStrategy::RerunOnFailure | RunStrategy::Manual | RunStrategy::Once => vm.power.off = true,
    }
    vm.power.forced = force;
    let_go(&mut vm);
    if vm != *held {
        cluster.put_vm(changes, |_| vm);
    }
    Ok(Outcome::Vm(uid))
}

pub(super) fn restart(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: VmUid,
    force: bool,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let mut vm = Vm::clone(&*living(cluster, uid, expect)?);
    match vm.spec.run {
        RunStrategy::Always => {}
        RunStrategy::Halted => return Err(Rejection::Halted { name: vm.meta.name.to_string() }),
        RunStrategy::Once => return Err(not_now(&vm, "restarted", "its run strategy is Once")),
        RunStrategy::Manual | RunStrategy::RerunOnFailure => {
            if vm.power.off || rests(&vm) {
                return Err(not_now(&vm, "restarted", "it is stopped; 'berth vm start' starts it"));
            }
        }
    }
    vm.power.forced = force;
    let_go(&mut vm);
    ask_one_more(&mut vm);
    cluster.put_vm(changes, |_| vm);
    Ok(Outcome::Vm(uid))
}

pub(super) fn reset(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: VmUid,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let mut vm = Vm::clone(&*living(cluster, uid, expect)?);
    must_run(cluster, &vm, "reset")?;
    if vm.power.paused {
        return Err(not_now(&vm, "reset", "it is paused; 'berth vm resume' lets it go on"));
    }
    vm.power.reset_count = vm.power.reset_count.saturating_add(1);
    cluster.put_vm(changes, |_| vm);
    Ok(Outcome::Vm(uid))
}

pub(super) fn pause(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: VmUid,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let mut vm = Vm::clone(&*living(cluster, uid, expect)?);
    if vm.power.paused {
        return Ok(Outcome::Vm(uid));
    }
    must_run(cluster, &vm, "paused")?;
    vm.power.paused = true;
    cluster.put_vm(changes, |_| vm);
    Ok(Outcome::Vm(uid))
}

pub(super) fn resume(
    cluster: &mut Cluster,
    changes: &mut Vec<Change>,
    uid: VmUid,
    expect: Expect,
) -> Result<Outcome, Rejection> {
    let mut vm = Vm::clone(&*living(cluster, uid, expect)?);
    let is_held = seen(&vm).is_some_and(|seen| seen.state == DomainState::Paused);
    if !vm.power.paused && !is_held {
        return Err(not_now(&vm, "resumed", "it is not paused"));
    }
    vm.power.paused = false;
    vm.power.resume_count = vm.power.resume_count.saturating_add(1);
    cluster.put_vm(changes, |_| vm);
    Ok(Outcome::Vm(uid))
}

/// A guest that is held cannot shut itself down: it goes on for that.
fn let_go(vm: &mut Vm) {
    if vm.power.paused {
        vm.power.paused = false;
        vm.power.resume_count = vm.power.resume_count.saturating_add(1);
    }
}

/// One more run than was asked for, and than its host has ever begun.
fn ask_one_more(vm: &mut Vm) {
    vm.power.off = false;
    let begun = vm.observed.as_ref().map_or(0, |seen| seen.restart_count);
    vm.restart_count = vm.restart_count.max(begun).saturating_add(1);
}

/// What the host of its present placement last reported.
fn seen(vm: &Vm) -> Option<&Observed> {
    let epoch = vm.assignment.as_ref()?.epoch;
    vm.observed.as_ref().filter(|seen| seen.epoch == epoch)
}

fn is_active(seen: &Observed) -> bool {
    !matches!(seen.state, DomainState::Stopped(_) | DomainState::Panicked)
}

/// Whether it is down and, by its strategy, stays so, as far as is known.
fn rests(vm: &Vm) -> bool {
    let past = match seen(vm) {
        Some(seen) if is_active(seen) => return false,
        Some(seen) => Past::of(seen),
        None => Past { done: 0, begun: false, ended: None },
    };
    match shall_start(vm.run_now(), vm.restart_count, past) {
        Ok(()) => false,
        Err(Rest::Halted | Rest::NotAsked | Rest::Over(_)) => true,
    }
}

fn must_run(cluster: &Cluster, vm: &Vm, what: &str) -> Result<(), Rejection> {
    let host = vm.assignment.as_ref().and_then(|held| cluster.hosts.get(&held.host));
    if let Some(host) = host.filter(|host| host.liveness != Liveness::Alive) {
        let why = format!("its host {} is {}, so nobody could do it now", host.meta.name, host.liveness);
        return Err(not_now(vm, what, &why));
    }
    let runs =
        seen(vm).is_some_and(|seen| seen.state == DomainState::Running && seen.restart_count >= vm.restart_count);
    if runs && vm.run_now() != RunStrategy::Halted {
        return Ok(());
    }
    Err(not_now(vm, what, "it does not run, or is going down"))
}

fn not_now(vm: &Vm, what: &str, why: &str) -> Rejection {
    Rejection::NotNow { name: vm.meta.name.to_string(), what: what.into(), why: why.into() }
}
