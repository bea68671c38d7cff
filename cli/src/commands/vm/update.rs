//! `berth vm update`.

use berth_proto::v1;

use super::super::{Session, Writing, given};
use super::service;
use crate::args::vm::{Dropped, Update};
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::view::VmView;
use crate::wait;

/// What is asked, and which fields of it are meant.
fn asked(update: &Update) -> Result<(v1::VmSpec, Vec<String>), Failure> {
    let Update { instancetype, cpus, memory, image, disk_size, run_strategy, grace, placement, drop, .. } = update;
    let mut spec = v1::VmSpec {
        instance_type: instancetype.clone().unwrap_or_default(),
        cpus: *cpus,
        memory_bytes: memory.map(|memory| memory.0),
        image: image.clone().unwrap_or_default(),
        disk_size_bytes: disk_size.map(|size| size.0),
        run_strategy: run_strategy.map_or(v1::RunStrategy::Unspecified, Into::into).into(),
        grace_ms: grace.map(super::create::millis),
        ..v1::VmSpec::default()
    };
    placement.put_into(&mut spec);
    let sizes = [
        ("instance_type", instancetype.is_some()),
        ("cpus", cpus.is_some()),
        ("memory_bytes", memory.is_some()),
        ("image", image.is_some()),
        ("disk_size_bytes", disk_size.is_some()),
        ("run_strategy", run_strategy.is_some()),
        ("grace_ms", grace.is_some()),
    ];
    let mut fields: Vec<String> =
        sizes.into_iter().filter(|(_, said)| *said).map(|(field, _)| field.to_owned()).collect();
    fields.extend(placement.fields());
    for field in drop.iter().map(|dropped: &Dropped| dropped.field()) {
        let of_rules = field == "rules" && fields.iter().any(|said| said.starts_with("rules."));
        if of_rules || fields.iter().any(|said| said == field) {
            return Err(Failure::usage(format!("{field} is given and dropped")).hint("say one of the two"));
        }
        fields.push(field.to_owned());
    }
    Ok((spec, fields))
}

/// Asks. Nothing is waited for: 'berth vm explain' and 'berth vm watch' show what comes of it.
pub(in crate::commands) async fn run(mut session: Session<'_>, update: Update) -> Result<ExitStatus, Failure> {
    let (spec, fields) = asked(&update)?;
    if fields.is_empty() {
        return Err(Failure::usage("nothing is given that shall change").hint("see 'berth vm update --help'"));
    }
    let project = session.global.project.clone();
    let Update { name, expected_uid, expected_revision, request_id, .. } = update;
    let Writing { write, effect } =
        Writing::new(request_id.as_deref(), expected_uid, expected_revision, wait::show(&project, &name));
    let question = v1::UpdateVmRequest { write: Some(write), project, name, spec: Some(spec), fields: fields.clone() };
    let answer = session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).update_vm(question).await })
        .await?;
    let vm = VmView::from(given(answer.vm, "VM")?);
    session.print(&vm, |_| {
        let says_rules = fields.iter().any(|field| field.starts_with("rules"));
        let when = if says_rules && vm.status.placement.is_some() {
            "; its rules count when it is placed the next time"
        } else {
            ""
        };
        format!("{} asks for this now (spec generation {}){when}\n", vm.metadata.name, vm.metadata.generation)
    })?;
    Ok(ExitStatus::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command, vm::Verb};
    use clap::Parser as _;

    fn parsed(words: &[&str]) -> Update {
        let words = ["berth", "vm", "update", "web-1"].iter().chain(words);
        match Args::try_parse_from(words).unwrap().command {
            Command::Vm(Verb::Update(update)) => *update,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_is_spoken_of_is_meant() {
        let words = ["--cpus", "4", "--near", "zone:app=db", "--drop", "spread", "--drop", "preference"];
        let (spec, fields) = asked(&parsed(&words)).unwrap();
        assert_eq!(fields, ["cpus", "rules.affinity", "rules.spread", "preference"]);
        assert_eq!((spec.cpus, spec.rules.unwrap().affinity.len()), (Some(4), 1));
        assert!(asked(&parsed(&[])).unwrap().1.is_empty());
    }

    #[test]
    fn what_is_given_cannot_be_dropped_too() {
        for words in [["--spread", "zone:1:a", "--drop", "spread"], ["--spread", "zone:1:a", "--drop", "rules"]] {
            assert_eq!(asked(&parsed(&words)).unwrap_err().status(), ExitStatus::Usage);
        }
    }
}
