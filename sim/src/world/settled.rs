//! Whether all is as it should be, and what operators do about what only they may decide.

use std::collections::BTreeMap;

use berth_control::admit::{HostTarget, OrphanTarget, Target, UpdateHost};
use berth_control::status;
use berth_host::agent::Agent;
use berth_model::host::Liveness;
use berth_model::vm::{DomainState, RunStrategy, StopReason, Vm, VmPhase};

use super::client::Wish;
use super::{MEMBERS, World};

/// What must not change any more while nobody asks for anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stillness {
    revision: u64,
    commands: u64,
    steps: u64,
}

/// Whether a VM may be down for good: what its strategy says, in other words than those that decide it.
fn may_rest(vm: &Vm) -> bool {
    let Some(seen) = &vm.observed else { return false };
    match vm.run_now() {
        RunStrategy::Always => false,
        RunStrategy::Halted | RunStrategy::Once => true,
        RunStrategy::RerunOnFailure => seen.state == DomainState::Stopped(StopReason::GuestShutdown),
        RunStrategy::Manual => seen.restart_count >= vm.restart_count,
    }
}

impl World {
    /// The state of affairs, to be compared with a later one.
    pub(crate) fn stillness(&self) -> Stillness {
        Stillness { revision: self.front().revision.0, commands: self.log.commands, steps: self.steps }
    }

    /// What is not as it should be; none if all is.
    pub(crate) fn unsettled(&self) -> Option<String> {
        if self.clients.open > 0 {
            return Some(format!("{} requests are not answered", self.clients.open));
        }
        if self.log.leader.is_none() {
            return Some("nobody leads".into());
        }
        let committed = self.log.committed();
        if let Some(late) = (0..MEMBERS).find(|member| self.members[*member].applied != committed) {
            return Some(format!("controller {late} has applied {} of {committed}", self.members[late].applied));
        }
        let front = self.front();
        for (number, host) in self.hosts.iter().enumerate().filter(|(_, host)| !host.is_twin) {
            if !host.agent.as_ref().is_some_and(Agent::has_session) {
                return Some(format!("host {number} has no session"));
            }
            let Some(known) = front.hosts.get(&host.uid) else { return Some(format!("host {number} is not known")) };
            let (orphans, evictions) = (known.orphans.len(), known.evictions.len());
            if known.liveness != Liveness::Alive || orphans + evictions > 0 {
                let liveness = known.liveness;
                return Some(format!("host {number} is {liveness} with {orphans} orphans and {evictions} evictions"));
            }
            for (vm, domain) in host.machine.domains() {
                let held = front.vms.get(vm).and_then(|vm| vm.assignment.as_ref());
                if held.is_none_or(|held| held.host != host.uid || held.epoch != domain.spec.mark.stamp.epoch) {
                    let is_older = held.is_some_and(|held| held.host == host.uid);
                    // A guest that was adopted runs on as it was started.
                    if !is_older {
                        return Some(format!("the domain of {vm} on host {number} is placed by {held:?}"));
                    }
                }
            }
        }
        if let Some(misplaced) = self.misplaced() {
            return Some(misplaced);
        }
        front.vms.values().find_map(|vm| {
            let uid = vm.uid();
            let phase = status::derive(front, vm);
            let run = vm.run_now();
            let is_fine = match phase.phase {
                VmPhase::Running => run != RunStrategy::Halted && !vm.power.paused,
                VmPhase::Paused => run != RunStrategy::Halted && vm.power.paused,
                VmPhase::Pending => vm.assignment.is_none() && matches!(run, RunStrategy::Halted | RunStrategy::Manual),
                VmPhase::Stopped => may_rest(vm),
                VmPhase::Assigned
                | VmPhase::Starting
                | VmPhase::Stopping
                | VmPhase::Failing
                | VmPhase::Deleting
                | VmPhase::Unknown => false,
            };
            if !is_fine {
                let (said, why) = (phase.phase, phase.message);
                return Some(format!("{uid} is {said} with strategy {run} ({:?}): {why}", vm.power));
            }
            let held = vm.assignment.as_ref()?;
            let host = self.hosts.iter().find(|host| host.uid == held.host)?;
            let domain = host.machine.domains().get(&uid).map(|domain| domain.state);
            let is_true = match phase.phase {
                VmPhase::Running => domain == Some(DomainState::Running),
                VmPhase::Paused => domain != Some(DomainState::Running) && domain != Some(DomainState::Panicked),
                _ => !host.machine.is_active(uid),
            };
            (!is_true).then(|| format!("{uid} is told as {}, and its domain is {domain:?}", phase.phase))
        })
    }

    /// A guest whose CPUs float and which may run on a thread that another on its machine has for itself.
    fn misplaced(&self) -> Option<String> {
        self.hosts.iter().filter(|host| !host.is_twin).find_map(|host| {
            let running = host.machine.domains().iter().filter(|(vm, _)| host.machine.is_active(**vm));
            let exclusive: BTreeMap<_, _> = running
                .clone()
                .flat_map(|(vm, domain)| domain.spec.resources.exclusive().map(move |thread| (thread, *vm)))
                .collect();
            running.filter_map(|(vm, domain)| Some((vm, domain.spec.floats.as_ref()?))).find_map(|(vm, floats)| {
                let shared = floats.vcpus.iter().find_map(|thread| exclusive.get(&thread))?;
                Some(format!("{vm} may run on {}, of which {shared} has some for itself", floats.vcpus))
            })
        })
    }

    /// Operators look after what nobody else may decide about: orphans are adopted or removed, hosts take VMs again.
    pub(crate) fn tidy_up(&mut self) {
        let front = self.front().clone();
        // Adopted while it was held, by a cluster that does not know who held it.
        let is_held = |vm: &&std::sync::Arc<Vm>| {
            !vm.power.paused && vm.observed.as_ref().is_some_and(|seen| seen.state == DomainState::Paused)
        };
        for vm in front.vms.values().filter(is_held) {
            self.wish(Wish::Resume(Target { name: vm.meta.name.to_string(), ..Target::default() }));
        }
        for host in front.hosts.values() {
            if host.spec.cordoned || !host.spec.taints.is_empty() {
                let target = HostTarget { name: host.meta.name.to_string(), ..HostTarget::default() };
                let remove_taints = host.spec.taints.iter().map(|taint| (taint.key.clone(), None)).collect();
                let open = UpdateHost { cordoned: Some(false), remove_taints, ..UpdateHost::default() };
                self.wish(Wish::Host(target, Box::new(open)));
            }
            for orphan in &host.orphans {
                let known = front.vms.get(&orphan.vm);
                let berth = known.and_then(|vm| vm.assignment.as_ref()).map(|held| held.host);
                if berth == Some(host.uid()) {
                    continue;
                }
                let (name, vm) = (host.meta.name.to_string(), orphan.vm.to_string());
                let target = OrphanTarget { host: name, vm, ..OrphanTarget::default() };
                let wish = match (known, self.dice.within(0..10)) {
                    _ if berth.is_some() => Wish::RemoveOrphan(target),
                    (None, 0..5) | (Some(_), 0..8) => Wish::Adopt(target),
                    (None, _) => Wish::RemoveOrphan(target),
                    (Some(known), _) => Wish::Delete(Target { name: known.meta.name.to_string(), ..Target::default() }),
                };
                self.wish(wish);
            }
        }
    }
}
