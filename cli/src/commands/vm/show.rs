//! `berth vm show`.

use berth_proto::v1;

use super::super::{Session, given};
use super::service;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::VmView;

/// Reads one VM and prints it.
pub(in crate::commands) async fn run(mut session: Session<'_>, name: String) -> Result<ExitStatus, Failure> {
    let question =
        v1::GetVmRequest { consistency: session.consistency(), project: session.global.project.clone(), name };
    let answer = session
        .client
        .ask(&Effect::Read, question, |channel, question| async move { service(channel).get_vm(question).await })
        .await?;
    let vm = VmView::from(given(answer.vm, "VM")?);
    session.print(&vm, |style| render::vm::show(&vm, style))?;
    Ok(ExitStatus::Ok)
}
