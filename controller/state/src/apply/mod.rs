//! `apply`: the one function that changes the replicated state.

mod catalog;
mod host;
mod orphan;
mod power;
mod steer;
mod vm;

use berth_model::{Revision, Timestamp};

use crate::cluster::{Cluster, ClusterInfo};
use crate::command::{Batch, Body, Command};
use crate::digest;
use crate::history;
use crate::outcome::{Applied, Change, Outcome, Rejection};
use crate::requests::Verdict;

/// Carries out one log entry: an answer for each command, in order, and every object change.
pub fn apply(cluster: &mut Cluster, batch: &Batch) -> (Vec<Applied>, Vec<Change>) {
    let before = cluster.revision;
    cluster.last_at = cluster.last_at.max(batch.at);
    let mut changes = Vec::new();
    let answers = batch.commands.iter().map(|command| one(cluster, command, batch.at, &mut changes)).collect();
    digest::note_checkpoint(cluster, before);
    (answers, changes)
}

fn one(cluster: &mut Cluster, command: &Command, proposed: Timestamp, changes: &mut Vec<Change>) -> Applied {
    let at = cluster.last_at;
    let Some((id, body)) = command.request else {
        let result = carry_out(cluster, command, at, changes);
        return Applied { revision: cluster.revision, result };
    };
    match cluster.requests.look_up(id, &body, &command.actor, proposed, at) {
        Verdict::Seen(answer) => answer,
        Verdict::Refused(rejection) => Applied { revision: cluster.revision, result: Err(rejection) },
        Verdict::New => {
            let result = carry_out(cluster, command, at, changes);
            let answer = Applied { revision: cluster.revision, result };
            // A refusal that is about the cluster and not about the request ends by itself: the same request may then
            // be carried out.
            if let Err(Rejection::NotBootstrapped | Rejection::NeedsClusterVersion { .. }) = &answer.result {
                return answer;
            }
            cluster.requests.remember(id, command.actor.clone(), body, answer.clone(), at);
            answer
        }
    }
}

/// Carries out one command and notes what it changed.
fn carry_out(
    cluster: &mut Cluster,
    command: &Command,
    at: Timestamp,
    changes: &mut Vec<Change>,
) -> Result<Outcome, Rejection> {
    let first = changes.len();
    let result = dispatch(cluster, command, at, changes);
    history::note(cluster, command, at, &changes[first..]);
    result
}

fn dispatch(
    cluster: &mut Cluster,
    command: &Command,
    at: Timestamp,
    changes: &mut Vec<Change>,
) -> Result<Outcome, Rejection> {
    let body = &command.body;
    let has = cluster.info.map_or(0, |info| info.version);
    if body.needs_version() > has {
        return Err(match cluster.info {
            None => Rejection::NotBootstrapped,
            Some(_) => Rejection::NeedsClusterVersion { command: body.name().into(), needs: body.needs_version(), has },
        });
    }
    match body {
        Body::Bootstrap { cluster: id, version } => {
            if cluster.info.is_some() {
                return Err(Rejection::AlreadyBootstrapped);
            }
            cluster.info = Some(ClusterInfo {
                id: *id,
                incarnation: berth_model::Incarnation::default(),
                version: *version,
                created_at: at,
            });
            catalog::seed(cluster, at, changes);
            Ok(Outcome::Done)
        }
        Body::CreateVm { uid, project, name, labels, annotations, spec } => {
            vm::create(cluster, changes, at, &vm::NewVm { uid: *uid, project, name, labels, annotations, spec })
        }
        Body::SetRun { vm, run, expect } => power::set_run(cluster, changes, *vm, *run, *expect),
        Body::RestartVm { vm, force, expect } => power::restart(cluster, changes, *vm, *force, *expect),
        Body::StartVm { vm, expect } => power::start(cluster, changes, *vm, *expect),
        Body::StopVm { vm, force, expect } => power::stop(cluster, changes, *vm, *force, *expect),
        Body::ResetVm { vm, expect } => power::reset(cluster, changes, *vm, *expect),
        Body::PauseVm { vm, expect } => power::pause(cluster, changes, *vm, *expect),
        Body::ResumeVm { vm, expect } => power::resume(cluster, changes, *vm, *expect),
        Body::DeleteVm { vm, expect } => vm::delete(cluster, changes, at, *vm, *expect),
        Body::CreateImage { uid, name, labels, spec } => {
            catalog::create_image(cluster, changes, at, *uid, name, labels, *spec)
        }
        Body::DeleteImage { name } => catalog::delete_image(cluster, changes, name),
        Body::ReportHost { facts, report } => host::report(cluster, changes, at, facts, report),
        Body::SetLiveness { host, liveness } => host::set_liveness(cluster, changes, at, *host, *liveness),
        Body::Assign { vm, generation, host, resources } => {
            vm::assign(cluster, changes, at, *vm, *generation, *host, resources)
        }
        Body::NoteUnplaced { vm, hosts, refusals } => vm::note_unplaced(cluster, changes, at, *vm, *hosts, refusals),
        Body::NoteHoldings { host, holdings } => orphan::note_holdings(cluster, *host, holdings),
        Body::AdoptOrphan { host, vm, expect } => orphan::adopt(cluster, changes, at, *host, *vm, *expect),
        Body::RemoveOrphan { host, vm, expect } => orphan::remove(cluster, changes, at, *host, *vm, *expect),
        Body::SetSpec { vm, spec, expect } => vm::set_spec(cluster, changes, *vm, spec, *expect),
        Body::UpdateHost { host, patch, expect } => steer::update(cluster, changes, *host, patch, *expect),
        Body::ConfirmDead { host, expect } => steer::confirm_dead(cluster, changes, at, *host, *expect),
        Body::RemoveHost { host, never_returns, expect } => {
            steer::remove(cluster, changes, *host, *never_returns, *expect)
        }
        Body::NoteProposals { moves } => {
            steer::note_proposals(cluster, at, moves);
            Ok(Outcome::Done)
        }
        Body::CreateInstanceType { uid, name, spec } => {
            catalog::create_instance_type(cluster, changes, at, *uid, name, *spec)
        }
        Body::DeleteInstanceType { name } => catalog::delete_instance_type(cluster, changes, name),
        Body::CreatePreference { uid, name, spec } => {
            catalog::create_preference(cluster, changes, at, *uid, name, *spec)
        }
        Body::DeletePreference { name } => catalog::delete_preference(cluster, changes, name),
        Body::SetLabels { vm, set, remove, expect } => vm::set_labels(cluster, changes, *vm, set, remove, *expect),
    }
}

/// Refuses when the client saw another revision than the object has.
fn expected(
    kind: &str,
    name: &impl std::fmt::Display,
    actual: Revision,
    expect: crate::command::Expect,
) -> Result<(), Rejection> {
    match expect.revision {
        Some(expected) if expected != actual => {
            Err(Rejection::Changed { kind: kind.into(), name: name.to_string(), expected, actual })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
