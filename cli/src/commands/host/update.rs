//! `berth host update`, `berth host cordon` and `berth host uncordon`.

use berth_model::placement::TaintEffect;
use berth_proto::v1;

use super::super::{Session, Writing, given};
use super::service;
use crate::args::host::{Named, TaintChange, Update};
use crate::args::vm::LabelChange;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::HostView;

/// Changes labels, place, groups, taints or promises.
pub(in crate::commands) async fn run(session: Session<'_>, update: Update) -> Result<ExitStatus, Failure> {
    let Update { host, labels, zone, rack, groups, taints, cpu_overcommit, memory_overcommit } = update;
    let mut question = v1::UpdateHostRequest {
        zone,
        rack,
        cpu_overcommit_percent: cpu_overcommit,
        memory_overcommit_percent: memory_overcommit,
        ..v1::UpdateHostRequest::default()
    };
    for change in labels {
        let (LabelChange::Set(key, _) | LabelChange::Remove(key)) = &change;
        if question.set_labels.contains_key(key) || question.remove_labels.contains(key) {
            return Err(Failure::usage(format!("the label {key:?} is given twice")).hint("say once what it shall be"));
        }
        match change {
            LabelChange::Set(key, value) => drop(question.set_labels.insert(key, value)),
            LabelChange::Remove(key) => question.remove_labels.push(key),
        }
    }
    for group in groups {
        // A name never ends with a hyphen.
        match group.strip_suffix('-') {
            Some(gone) => question.remove_groups.push(gone.to_owned()),
            None => question.add_groups.push(group),
        }
    }
    for change in taints {
        let effect = |effect| v1::TaintEffect::from(TaintEffect::from(effect)).into();
        match change {
            TaintChange::Set(key, value, kind) => {
                question.set_taints.push(v1::Taint { key, value, effect: effect(kind) });
            }
            TaintChange::Remove(key, kind) => {
                question.remove_taints.push(v1::TaintKey { key, effect: kind.map_or(0, effect) });
            }
        }
    }
    ask(session, host, question).await
}

/// Whether it takes new VMs.
pub(in crate::commands) async fn cordon(
    session: Session<'_>,
    host: Named,
    cordoned: bool,
) -> Result<ExitStatus, Failure> {
    ask(session, host, v1::UpdateHostRequest { cordoned: Some(cordoned), ..v1::UpdateHostRequest::default() }).await
}

/// How a change of a host is written.
pub(super) fn writing(host: &Named) -> Writing {
    let Named { name, expected_uid, expected_revision, request_id } = host;
    let check = format!("berth host show {name}");
    Writing::new(request_id.as_deref(), expected_uid.clone(), *expected_revision, check)
}

async fn ask(mut session: Session<'_>, host: Named, question: v1::UpdateHostRequest) -> Result<ExitStatus, Failure> {
    let Writing { write, effect } = writing(&host);
    let question = v1::UpdateHostRequest { write: Some(write), name: host.name, ..question };
    let answer = session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).update_host(question).await })
        .await?;
    let host = HostView::from(given(answer.host, "host")?);
    session.print(&host, |_| render::host::changed(&host))?;
    Ok(ExitStatus::Ok)
}
