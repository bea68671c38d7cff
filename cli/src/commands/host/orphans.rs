//! `berth host orphans` and `berth host remove-orphan`.

use berth_proto::v1;
use serde::Serialize;

use super::super::{Session, Writing};
use super::service;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::ListView;
use crate::view::host::OrphanOnHost;

/// Every orphan of every host, and the revision of the answer.
pub(in crate::commands) async fn all(session: &mut Session<'_>) -> Result<(Vec<OrphanOnHost>, u64), Failure> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let question = v1::ListHostsRequest { consistency: session.consistency(), page_size: 0, page_token };
        let answer = session
            .client
            .ask(
                &Effect::Read,
                question,
                |channel, question| async move { service(channel).list_hosts(question).await },
            )
            .await?;
        for host in answer.hosts {
            let name = host.meta.map(|meta| meta.name).unwrap_or_default();
            for orphan in host.orphans {
                let held = host.holdings.iter().find(|held| held.vm == orphan.vm);
                found.push(OrphanOnHost {
                    host: name.clone(),
                    vm: orphan.vm,
                    called: orphan.called,
                    running: orphan.running,
                    adoptable: held.is_some(),
                    cpus: held.map(|held| held.cpus).unwrap_or_default(),
                    memory_bytes: held.map(|held| held.memory_bytes).unwrap_or_default(),
                });
            }
        }
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok((found, answer.revision));
        }
    }
}

/// Lists them.
pub(in crate::commands) async fn run(mut session: Session<'_>) -> Result<ExitStatus, Failure> {
    let (found, revision) = all(&mut session).await?;
    if found.is_empty() {
        session.printer.note("no host lists an orphan");
    }
    let list = ListView::new("Orphan", revision, found);
    session.print(&list, |style| render::host::orphans(&list.items, style))?;
    Ok(ExitStatus::Ok)
}

/// Has one removed.
pub(in crate::commands) async fn remove(
    mut session: Session<'_>,
    host: String,
    uid: String,
    yes: bool,
    request_id: Option<String>,
) -> Result<ExitStatus, Failure> {
    if !yes {
        return Err(Failure::usage(format!("the orphan {uid} on {host} would end, and its disk be lost"))
            .hint("repeat with --yes if that is meant; 'berth vm adopt' keeps it instead"));
    }
    let writing = Writing::new(request_id.as_deref(), None, None, "berth host orphans".into());
    let question = v1::RemoveOrphanRequest { write: Some(writing.write.clone()), host, vm: uid };
    let answer =
        session
            .client
            .ask(&writing.effect, question, |channel, question| async move {
                service(channel).remove_orphan(question).await
            })
            .await?;
    session.print(
        &RemovedView { vm: answer.vm.clone(), name: answer.name.clone(), revision: answer.revision },
        |_| {
            format!(
                "{} is being removed; it is shown as VM {} until its host reports it gone\n",
                answer.vm, answer.name
            )
        },
    )?;
    Ok(ExitStatus::Ok)
}

#[derive(Serialize)]
struct RemovedView {
    vm: String,
    name: String,
    revision: u64,
}
