//! What each bug made on purpose does, to words on their way and to a replica's state.

use std::collections::BTreeMap;

use berth_host::agent::Agent;
use berth_host::clock::{BootTime, Now};
use berth_host::history::History;
use berth_host::ledger::{Entry, Ledger};
use berth_host::plan::{HostDesired, HostObserved, Permission, Scan, plan};
use berth_host::step::Step;
use berth_model::image::ImageOnHost;
use berth_model::session::{Absent, DesiredEntry, Report, ToController, ToHost, VmReport};
use berth_model::testing::{IMAGE_SIZE, digest};
use berth_model::vm::{Assignment, Vm};
use berth_model::{Epoch, Incarnation, Stamp, Term};
use berth_simhost::Machine;
use berth_state::requests::Requests;
use berth_state::{Applied, Batch, Body, Change, Cluster, Command, Outcome, Rejection, apply, testing};

use crate::plant::Plant;

/// Applies an entry as a program with the bug would.
pub(super) fn apply(plant: Plant, index: u64, cluster: &mut Cluster, batch: &Batch) -> (Vec<Applied>, Vec<Change>) {
    if plant == Plant::RequestForgotten && index.is_multiple_of(7) {
        cluster.requests = Requests::default();
    }
    let (mut answers, mut changes) = apply::apply(cluster, batch);
    for (command, answer) in batch.commands.iter().zip(&mut answers) {
        match (plant, &command.body) {
            (Plant::CapacityUnchecked, Body::Assign { vm, host, resources, .. }) => {
                let refused = matches!(answer.result, Err(Rejection::DoesNotFit(_)));
                let held = cluster.vms.get(vm).filter(|vm| refused && vm.assignment.is_none()).cloned();
                if let Some(held) = held {
                    let (host, resources, at) = (*host, resources.clone(), cluster.last_at);
                    changes.extend(testing::put_vm(cluster, command, |revision| Vm {
                        assignment: Some(Assignment { host, epoch: Epoch(revision.0), resources, at }),
                        unplaced: None,
                        ..Vm::clone(&held)
                    }));
                    *answer = Applied { revision: cluster.revision, result: Ok(Outcome::Vm(*vm)) };
                }
            }
            (Plant::ReleasedEarly, Body::DeleteVm { vm, .. }) => {
                let held = cluster.vms.get(vm).filter(|vm| vm.meta.is_deleting()).cloned();
                if let Some(gone) = held.as_deref().and_then(|held| gone(cluster, held)) {
                    let again = Batch { at: batch.at, commands: vec![Command { body: gone, ..command.clone() }] };
                    changes.extend(apply::apply(cluster, &Batch { commands: unnamed(again.commands), ..again }).1);
                }
            }
            (Plant::BookingDropped, Body::ReportHost { facts, report }) if report.inventory.is_some() => {
                let Some(host) = cluster.hosts.get(&facts.uid).cloned() else { continue };
                while cluster.bookings(facts.uid).is_some_and(|held| held.overbooked(&host.inventory).is_some()) {
                    let Some(held) = cluster.vms_on(facts.uid).next().cloned() else { break };
                    let freed = |_| Vm { assignment: None, observed: None, ..Vm::clone(&held) };
                    changes.extend(testing::put_vm(cluster, command, freed));
                }
            }
            _ => {}
        }
    }
    (answers, changes)
}

fn unnamed(commands: Vec<Command>) -> Vec<Command> {
    commands.into_iter().map(|command| Command { request: None, ..command }).collect()
}

/// The report by which a VM's host says that it is gone.
fn gone(cluster: &Cluster, vm: &Vm) -> Option<Body> {
    let held = vm.assignment.as_ref()?;
    let host = cluster.hosts.get(&held.host)?;
    let incarnation = cluster.info.map(|info| info.incarnation).unwrap_or_default();
    let stamp = Stamp { incarnation, epoch: held.epoch };
    let facts = berth_state::HostFacts {
        uid: host.uid(),
        name: host.meta.name.clone(),
        address: host.address.clone(),
        boot: host.boot.clone(),
    };
    let report = Report { vms: vec![(vm.uid(), VmReport::Gone(stamp))], ..Report::default() };
    Some(Body::ReportHost { facts, report: Box::new(report) })
}

/// A host's first word as a controller takes it that compares nothing.
pub(super) fn uncompared_hello(word: &mut ToController) {
    if let ToController::Hello(hello) = word {
        (hello.incarnation, hello.term) = (Incarnation(0), Term(0));
    }
}

/// A word as a host with the bug takes it.
pub(super) fn on_arrival(plant: Plant, mut word: ToHost, agent: Option<&Agent>) -> ToHost {
    let Some(ledger) = agent.map(Agent::ledger) else { return word };
    match (plant, &mut word) {
        (Plant::AbsenceIsDelete, ToHost::DesiredSet { entries, .. }) => {
            let unmentioned: Vec<_> = ledger
                .entries()
                .values()
                .filter(|held| !entries.iter().any(|entry| entry.vm() == held.vm()))
                .map(|held| DesiredEntry::Absent(Absent { vm: held.vm(), stamp: held.stamp(), with_disk: true }))
                .collect();
            entries.extend(unmentioned);
        }
        (Plant::EpochUncompared, ToHost::Welcome(welcome)) => {
            if let Some((_, incarnation, term)) = ledger.cluster() {
                welcome.incarnation = welcome.incarnation.max(incarnation);
                welcome.term = welcome.term.max(term);
            }
        }
        (Plant::EpochUncompared, ToHost::DesiredSet { entries, .. } | ToHost::DesiredDelta { entries, .. }) => {
            for entry in entries {
                let held = ledger.entries().get(&entry.vm()).map(Entry::stamp).unwrap_or_default();
                match entry {
                    DesiredEntry::Present(_, stamp) => *stamp = (*stamp).max(held),
                    DesiredEntry::Absent(absent) => absent.stamp = absent.stamp.max(held),
                }
            }
        }
        _ => {}
    }
    word
}

/// What a daemon begins with its ledger if it takes the permission for granted.
pub(super) fn starts(ledger: &Ledger, machine: &Machine, now: Now) -> Vec<Step> {
    let cluster = ledger.cluster().map(|(cluster, ..)| cluster);
    let scan = Scan::new(1, cluster, machine.scan().unwrap_or_default());
    let images = [(digest(1), ImageOnHost::Verified { virtual_size: IMAGE_SIZE })].into();
    let desired = HostDesired {
        cluster,
        entries: ledger.entries(),
        orphaned: ledger.orphaned(),
        user_data: &BTreeMap::new(),
        permission: Permission { until: Some(BootTime::from_millis(u64::MAX)), confirmed: true },
    };
    let observed = HostObserved { scan: Some(&scan), images: Some(&images), inventory: Some(machine.inventory()) };
    let history = History { journals: ledger.journals(), progress: &BTreeMap::new() };
    let steps = plan(&desired, &observed, &history, now).steps;
    steps.into_iter().filter(|step| matches!(step, Step::Prepare(_))).collect()
}
