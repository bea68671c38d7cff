//! `berth vm reset`.

use berth_proto::v1;

use super::super::{Session, Writing};
use super::{finish_change, service, writing};
use crate::args::vm::Change;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::wait::Goal;

/// Asks, and waits.
pub(in crate::commands) async fn run(mut session: Session<'_>, change: Change) -> Result<ExitStatus, Failure> {
    let project = session.global.project.clone();
    let Writing { write, effect } = writing(&change, &project);
    let question = v1::ResetVmRequest { write: Some(write), project, name: change.name };
    let answer = session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).reset_vm(question).await })
        .await?;
    finish_change(session, answer, |vm| Goal::Reset(vm.status.reset_count), change.waiting).await
}
