//! `berth vm create`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use berth_model::vm::VmSpec;
use berth_proto::v1;

use super::super::{Session, Writing, given};
use super::{sentence, service, settle};
use crate::args::placement::Placement;
use crate::args::vm::{Create, Spec};
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::manifest;
use crate::render;
use crate::view::room::ExplanationView;
use crate::view::{ListView, VmView};
use crate::wait::{self, Goal};

/// What to ask for, from arguments or manifest.
pub(in crate::commands) fn requests(create: &Create, project: &str) -> Result<Vec<v1::CreateVmRequest>, Failure> {
    match (&create.file, &create.name) {
        (Some(_), _) if !create.placement.fields().is_empty() => {
            Err(Failure::usage("a manifest says itself how its VMs get their resources and where they may run")
                .hint("say it there, or create the VM without a manifest"))
        }
        (Some(file), _) => manifest::read(file, project),
        (None, name) => {
            let name = name.clone().expect("the arguments require a name or a file");
            Ok(vec![request(name, project, &create.spec, &create.placement)?])
        }
    }
}

pub(super) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn request(name: String, project: &str, spec: &Spec, placement: &Placement) -> Result<v1::CreateVmRequest, Failure> {
    let Spec {
        image,
        instancetype,
        cpus,
        memory,
        disk_size,
        user_data,
        labels,
        annotations,
        halted,
        run_strategy,
        grace,
    } = spec;
    let run_strategy = match run_strategy {
        Some(run) => v1::RunStrategy::from(*run),
        None if *halted => v1::RunStrategy::Halted,
        None => v1::RunStrategy::Unspecified,
    };
    let mut asked = v1::VmSpec {
        instance_type: instancetype.clone().unwrap_or_default(),
        cpus: *cpus,
        memory_bytes: memory.map(|memory| memory.0),
        image: image.clone().unwrap_or_default(),
        disk_size_bytes: disk_size.map(|size| size.0),
        run_strategy: run_strategy.into(),
        grace_ms: grace.map(millis),
        user_data: user_data.as_deref().map(read_user_data).transpose()?,
        ..v1::VmSpec::default()
    };
    placement.put_into(&mut asked);
    Ok(v1::CreateVmRequest {
        write: None,
        project: project.to_owned(),
        name,
        labels: labels.iter().cloned().collect(),
        annotations: annotations.iter().cloned().collect(),
        spec: Some(asked),
        dry_run: false,
    })
}

fn read_user_data(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::refused(format!("cannot read the user data {}: {error}", path.display()));
    let limit = VmSpec::MAX_USER_DATA.0;
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Failure::refused(format!(
            "the user data {} is longer than {}",
            path.display(),
            VmSpec::MAX_USER_DATA
        ))
        .code("BE-1008"));
    }
    Ok(bytes)
}

/// Asks, and waits. With several VMs, all are asked for before the first is waited for.
pub(in crate::commands) async fn run(
    mut session: Session<'_>,
    create: Create,
    requests: Vec<v1::CreateVmRequest>,
) -> Result<ExitStatus, Failure> {
    if create.dry_run {
        return would(session, requests).await;
    }
    let count = requests.len();
    let mut answers = Vec::with_capacity(count);
    for (at, mut request) in requests.into_iter().enumerate() {
        let check = wait::show(&request.project, &request.name);
        let called = format!("{}/{}", request.project, request.name);
        let Writing { write, effect } = Writing::new(create.request_id.as_deref(), None, None, check);
        request.write = Some(write);
        let answer = session
            .client
            .ask(&effect, request, |channel, question| async move { service(channel).create_vm(question).await })
            .await
            .map_err(|failure| {
                if count > 1 {
                    failure.note(format!("this is about {called}; the {at} before it in the manifest were created"))
                } else {
                    failure
                }
            })?;
        answers.push(answer);
    }
    let mut vms = Vec::with_capacity(count);
    for answer in answers {
        let vm = settle(&mut session, answer, goal, create.waiting).await?;
        vms.extend(vm);
    }
    if let [vm] = vms.as_slice() {
        super::print_changed(&mut session, vm)?;
    } else {
        let revision = vms.iter().map(|vm| vm.metadata.revision).max().unwrap_or_default();
        let text = vms.iter().map(sentence).collect::<String>();
        session.print(&ListView::new("VirtualMachine", revision, vms), |_| text)?;
    }
    Ok(ExitStatus::Ok)
}

/// Asks where each would go. Nothing is created, so each is asked about as if the others were not there.
async fn would(mut session: Session<'_>, requests: Vec<v1::CreateVmRequest>) -> Result<ExitStatus, Failure> {
    let mut views = Vec::new();
    for request in requests {
        let question = v1::CreateVmRequest { dry_run: true, ..request };
        let name = question.name.clone();
        let answer = session
            .client
            .ask(&Effect::Read, question, |channel, question| async move { service(channel).create_vm(question).await })
            .await?;
        let explanation = given(answer.explanation, "explanation")?;
        views.push(ExplanationView::new(name, String::new(), explanation, answer.revision));
    }
    let all_fit = views.iter().all(|view| !view.chosen.is_empty());
    if let [view] = views.as_slice() {
        session.print(view, |style| render::room::explanation(view, style))?;
    } else {
        let revision = views.iter().map(|view| view.revision).max().unwrap_or_default();
        let list = ListView::new("Explanation", revision, views);
        let text = |style| list.items.iter().map(|view| render::room::explanation(view, style)).collect();
        session.print(&list, text)?;
    }
    Ok(if all_fit { ExitStatus::Ok } else { ExitStatus::Refused })
}

fn goal(vm: &VmView) -> Goal {
    if vm.spec.run_strategy == "Halted" { Goal::Stopped } else { Goal::Running }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command, vm::Verb};
    use clap::Parser as _;

    #[test]
    fn a_manifest_excludes_rules_and_wishes_on_the_command_line() {
        let words = ["berth", "vm", "create", "-f", "vm.yaml", "--spread", "zone:1:app=web"];
        let Command::Vm(Verb::Create(create)) = Args::try_parse_from(words).unwrap().command else { panic!() };
        assert_eq!(requests(&create, "default").unwrap_err().status(), ExitStatus::Usage);
    }
}
