//! `berth vm delete`.

use berth_proto::v1;

use super::super::{Session, Writing};
use super::{print_changed, service, settle, writing};
use crate::args::Output;
use crate::args::vm::Change;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::wait::Goal;

/// Asks, and waits until its host has reported it gone.
pub(in crate::commands) async fn run(mut session: Session<'_>, change: Change) -> Result<ExitStatus, Failure> {
    let project = session.global.project.clone();
    let Writing { write, effect } = writing(&change, &project);
    let name = change.name.clone();
    let question = v1::DeleteVmRequest { write: Some(write), project, name: change.name };
    let answer = session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).delete_vm(question).await })
        .await?;
    // A VM that no host holds is gone with the answer.
    let left = match answer.vm {
        Some(_) => settle(&mut session, answer, |_| Goal::Deleted, change.waiting).await?,
        None => None,
    };
    match left {
        Some(vm) => print_changed(&mut session, &vm)?,
        None if session.global.output == Output::Table => session.printer.data(&format!("{name} is gone\n"))?,
        None => {}
    }
    Ok(ExitStatus::Ok)
}
