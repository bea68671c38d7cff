//! `berth vm adopt`.

use berth_proto::v1;
use berth_proto::v1::host_service_client::HostServiceClient;

use super::super::{Session, Writing, given, host};
use super::{print_changed, service};
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::view::VmView;

/// Finds the host that lists the orphan, and has a VM made of it.
pub(in crate::commands) async fn run(
    mut session: Session<'_>,
    uid: String,
    host: Option<String>,
    request_id: Option<String>,
) -> Result<ExitStatus, Failure> {
    let host = match host {
        Some(host) => host,
        None => only_host(&mut session, &uid).await?,
    };
    let writing = Writing::new(request_id.as_deref(), None, None, format!("berth history vm {uid}"));
    let question = v1::AdoptOrphanRequest { write: Some(writing.write.clone()), host, vm: uid };
    let answer = session
        .client
        .ask(&writing.effect, question, |channel, question| async move {
            HostServiceClient::new(channel).adopt_orphan(question).await
        })
        .await?;
    let question = v1::GetVmRequest { consistency: session.consistency(), project: answer.project, name: answer.name };
    let answer = session
        .client
        .ask(&Effect::Read, question, |channel, question| async move { service(channel).get_vm(question).await })
        .await?;
    let vm = VmView::from(given(answer.vm, "VM")?);
    print_changed(&mut session, &vm)?;
    Ok(ExitStatus::Ok)
}

async fn only_host(session: &mut Session<'_>, uid: &str) -> Result<String, Failure> {
    let (found, _) = host::orphans::all(session).await?;
    let mut listing: Vec<_> = found.into_iter().filter(|orphan| orphan.vm == uid).map(|orphan| orphan.host).collect();
    match (listing.pop(), listing.is_empty()) {
        (Some(host), true) => Ok(host),
        (Some(_), false) => Err(Failure::usage(format!("several hosts list the orphan {uid}"))
            .hint("say which one is meant with --host; the others must be removed, or the VM would run twice")),
        (None, _) => Err(Failure::refused(format!("no host lists an orphan {uid}"))
            .code("BE-5034")
            .hint("'berth host orphans' shows what hosts list")),
    }
}
