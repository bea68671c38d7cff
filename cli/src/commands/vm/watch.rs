//! `berth vm watch`.

use berth_proto::v1;
use berth_proto::v1::watch_vms_event::Event;
use serde::Serialize;

use super::super::Session;
use super::service;
use crate::args::Output;
use crate::args::vm::{List, Watch};
use crate::client::{Effect, Trouble};
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::view::VmView;

/// The code for a revision that is no longer remembered.
const COMPACTED: &str = "BE-5005";

/// One event, as a line of JSON.
#[derive(Serialize)]
struct EventView {
    #[serde(rename = "type")]
    kind: &'static str,
    revision: u64,
    object: VmView,
}

/// Follows until interrupted. After a break it goes on behind the last event that was seen.
pub(in crate::commands) async fn run(mut session: Session<'_>, watch: Watch) -> Result<ExitStatus, Failure> {
    tokio::select! {
        outcome = follow(&mut session, &watch) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(ExitStatus::Interrupted),
    }
}

async fn follow(session: &mut Session<'_>, watch: &Watch) -> Result<ExitStatus, Failure> {
    let Watch { name, list: List { all_projects, selector }, from_revision } = watch;
    let wished = *from_revision;
    let mut from_revision = wished;
    loop {
        let question = v1::WatchVmsRequest {
            project: if *all_projects { String::new() } else { session.global.project.clone() },
            label_selector: selector.clone(),
            from_revision,
            name: name.clone().unwrap_or_default(),
            consistency: session.consistency(),
        };
        let asked = session
            .client
            .ask(&Effect::Read, question, |channel, question| async move { service(channel).watch_vms(question).await })
            .await;
        let mut stream = match asked {
            Ok(stream) => stream,
            Err(failure) if failure.code_text() == Some(COMPACTED) && from_revision != wished => {
                session.printer.note("the break was too long to go on behind it; what follows is the present state");
                from_revision = None;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let mut listed = from_revision.is_some();
        let why = loop {
            match stream.message().await {
                Ok(Some(event)) => {
                    listed |= matches!(&event.event, Some(Event::Bookmark(mark)) if mark.initial_list_done);
                    // Within the initial list no event is a point to go on from.
                    if listed {
                        from_revision = from_revision.max(Some(event.revision));
                    }
                    print(session, event)?;
                }
                Ok(None) => break Trouble::closed(),
                Err(status) => break Trouble::of_status(&status),
            }
        };
        match crate::client::judge(session.client.endpoint(), &why) {
            // Too slow a reader: what was missed is seen in the list.
            crate::client::Verdict::Final(failure) if failure.code_text() == Some(COMPACTED) => from_revision = None,
            crate::client::Verdict::Final(failure) => return Err(failure),
            crate::client::Verdict::Elsewhere { .. } => {
                session.printer.note(&format!(
                    "{}: {}; asking another controller",
                    session.client.endpoint(),
                    why.in_words()
                ));
                session.client.turn();
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
    }
}

fn print(session: &mut Session<'_>, event: v1::WatchVmsEvent) -> Result<(), Failure> {
    let v1::WatchVmsEvent { revision, event } = event;
    let (kind, vm) = match event {
        Some(Event::Added(vm)) => ("ADDED", vm),
        Some(Event::Modified(vm)) => ("MODIFIED", vm),
        Some(Event::Deleted(vm)) => ("DELETED", vm),
        Some(Event::Bookmark(_)) | None => return Ok(()),
    };
    let object = VmView::from(vm);
    // Within the initial list an event has no revision of its own.
    let revision = if revision == 0 { object.metadata.revision } else { revision };
    let text = match session.global.output {
        Output::Table => line(kind, revision, &object),
        Output::Json => serde_json::to_string(&EventView { kind, revision, object })
            .map(|text| text + "\n")
            .map_err(|error| Failure::refused(format!("cannot print this as JSON: {error}")).code("BE-9001"))?,
        Output::Yaml => serde_saphyr::to_string(&EventView { kind, revision, object })
            .map(|text| format!("---\n{text}"))
            .map_err(|error| Failure::refused(format!("cannot print this as YAML: {error}")).code("BE-9001"))?,
    };
    session.printer.data(&text)
}

fn line(kind: &str, revision: u64, vm: &VmView) -> String {
    let on = if vm.status.host.is_empty() { String::new() } else { format!(" on {}", vm.status.host) };
    let why = if vm.status.message.is_empty() { String::new() } else { format!(": {}", vm.status.message) };
    format!("{revision:>8}  {kind:<8}  {}/{} {}{on}{why}\n", vm.metadata.project, vm.metadata.name, vm.status.phase)
}
