//! `berth vm list`.

use berth_proto::v1;

use super::super::Session;
use super::service;
use crate::args::Output;
use crate::args::vm::List;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::{ListView, VmView};

/// VMs in one answer: a few hundred kilobytes.
const PAGE: u32 = 500;

/// Reads all pages and prints them.
pub(in crate::commands) async fn run(mut session: Session<'_>, list: List) -> Result<ExitStatus, Failure> {
    let List { all_projects, selector } = list;
    let project = if all_projects { String::new() } else { session.global.project.clone() };
    let mut vms: Vec<VmView> = Vec::new();
    let mut page_token = String::new();
    let revision = loop {
        let question = v1::ListVmsRequest {
            consistency: session.consistency(),
            project: project.clone(),
            label_selector: selector.clone(),
            page_size: PAGE,
            page_token,
        };
        let answer = session
            .client
            .ask(&Effect::Read, question, |channel, question| async move { service(channel).list_vms(question).await })
            .await?;
        vms.extend(answer.vms.into_iter().map(VmView::from));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break answer.revision;
        }
    };
    if vms.is_empty() && session.global.output == Output::Table {
        let place = if all_projects { "any project".into() } else { format!("project {project}") };
        session.printer.note(&format!("no VMs in {place}"));
    }
    let list = ListView::new("VirtualMachine", revision, vms);
    session.print(&list, |style| render::vm::list(&list.items, all_projects, style))?;
    Ok(ExitStatus::Ok)
}
