//! `berth vm`.

pub(super) mod adopt;
pub(super) mod console;
pub(super) mod create;
pub(super) mod delete;
pub(super) mod explain;
pub(super) mod label;
pub(super) mod list;
pub(super) mod pause;
pub(super) mod reset;
pub(super) mod restart;
pub(super) mod resume;
pub(super) mod show;
pub(super) mod start;
pub(super) mod stop;
pub(super) mod update;
pub(super) mod watch;

use berth_proto::v1;
use berth_proto::v1::vm_service_client::VmServiceClient;
use tonic::transport::Channel;

use super::{Session, Writing, given};
use crate::args::Output;
use crate::args::vm::{Change, Waiting};
use crate::client::LARGEST_ANSWER;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::view::VmView;
use crate::wait::{self, Goal, Target};

fn service(channel: Channel) -> VmServiceClient<Channel> {
    VmServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}

fn writing(change: &Change, project: &str) -> Writing {
    Writing::new(
        change.request_id.as_deref(),
        change.expected_uid.clone(),
        change.expected_revision,
        wait::show(project, &change.name),
    )
}

/// Waits for the effect of a change that was accepted.
async fn settle(
    session: &mut Session<'_>,
    answer: v1::VmAnswer,
    goal: impl FnOnce(&VmView) -> Goal,
    waiting: Waiting,
) -> Result<Option<VmView>, Failure> {
    let vm = VmView::from(given(answer.vm, "VM")?);
    if waiting.no_wait {
        return Ok(Some(vm));
    }
    let target = Target {
        project: vm.metadata.project.clone(),
        name: vm.metadata.name.clone(),
        uid: vm.metadata.uid.clone(),
        revision: vm.metadata.revision,
    };
    let goal = goal(&vm);
    wait::wait(&mut session.client, session.printer, &target, goal, waiting.wait_timeout).await
}

/// Prints how a VM is after a change: one line for people.
fn print_changed(session: &mut Session<'_>, vm: &VmView) -> Result<(), Failure> {
    session.print(vm, |_| sentence(vm))
}

fn sentence(vm: &VmView) -> String {
    let on = if vm.status.host.is_empty() { String::new() } else { format!(" on {}", vm.status.host) };
    format!("{} is {}{on}\n", vm.metadata.name, vm.status.phase)
}

/// The end of start, stop and restart.
async fn finish_change(
    mut session: Session<'_>,
    answer: v1::VmAnswer,
    goal: impl FnOnce(&VmView) -> Goal,
    waiting: Waiting,
) -> Result<ExitStatus, Failure> {
    match settle(&mut session, answer, goal, waiting).await? {
        Some(vm) => print_changed(&mut session, &vm)?,
        None if session.global.output == Output::Table => session.printer.data("the VM is gone\n")?,
        None => {}
    }
    Ok(ExitStatus::Ok)
}
