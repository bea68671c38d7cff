//! `berth host list`.

use berth_proto::v1;

use super::super::Session;
use super::service;
use crate::args::Output;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::{HostView, ListView};

/// Hosts in one answer: each may name hundreds of threads.
const PAGE: u32 = 100;

/// Reads all pages and prints them.
pub(in crate::commands) async fn run(mut session: Session<'_>) -> Result<ExitStatus, Failure> {
    let mut hosts: Vec<HostView> = Vec::new();
    let mut page_token = String::new();
    let revision = loop {
        let question = v1::ListHostsRequest { consistency: session.consistency(), page_size: PAGE, page_token };
        let answer = session
            .client
            .ask(
                &Effect::Read,
                question,
                |channel, question| async move { service(channel).list_hosts(question).await },
            )
            .await?;
        hosts.extend(answer.hosts.into_iter().map(HostView::from));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break answer.revision;
        }
    };
    if hosts.is_empty() && session.global.output == Output::Table {
        session.printer.note("no hosts have joined the cluster yet");
    }
    let list = ListView::new("Host", revision, hosts);
    session.print(&list, |style| render::host::list(&list.items, style))?;
    Ok(ExitStatus::Ok)
}
