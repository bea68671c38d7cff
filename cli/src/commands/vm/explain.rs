//! `berth vm explain`.

use berth_proto::v1;

use super::super::{Session, given};
use super::service;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::VmView;
use crate::view::room::ExplanationView;

/// Asks what each host says to a VM.
pub(in crate::commands) async fn run(mut session: Session<'_>, name: String) -> Result<ExitStatus, Failure> {
    let (consistency, project) = (session.consistency(), session.global.project.clone());
    let question = v1::ExplainVmRequest { consistency, project, name };
    let answer = session
        .client
        .ask(&Effect::Read, question, |channel, question| async move { service(channel).explain_vm(question).await })
        .await?;
    let vm = VmView::from(given(answer.vm, "VM")?);
    let explanation = given(answer.explanation, "explanation")?;
    let view = ExplanationView::new(vm.metadata.name, vm.status.host, explanation, answer.revision);
    session.print(&view, |style| render::room::explanation(&view, style))?;
    Ok(ExitStatus::Ok)
}
