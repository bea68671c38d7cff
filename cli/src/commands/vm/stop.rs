//! `berth vm stop`.

use berth_proto::v1;

use super::super::{Session, Writing};
use super::{finish_change, service, writing};
use crate::args::vm::Down;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::wait::Goal;

/// Asks, and waits.
pub(in crate::commands) async fn run(mut session: Session<'_>, down: Down) -> Result<ExitStatus, Failure> {
    let Down { change, force } = down;
    let project = session.global.project.clone();
    let Writing { write, effect } = writing(&change, &project);
    let question = v1::StopVmRequest { write: Some(write), project, name: change.name, force };
    let answer = session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).stop_vm(question).await })
        .await?;
    finish_change(session, answer, |_| Goal::Stopped, change.waiting).await
}
