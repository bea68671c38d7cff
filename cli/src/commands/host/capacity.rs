//! `berth host capacity`.

use berth_proto::v1;

use super::super::room::service;
use super::super::{Session, given};
use crate::args::Output;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::ListView;
use crate::view::room::HostRoomView;

/// Reads what of one host, or of every host, is free.
pub(in crate::commands) async fn run(mut session: Session<'_>, name: Option<String>) -> Result<ExitStatus, Failure> {
    let one = name.is_some();
    let question = v1::GetHostCapacityRequest { consistency: session.consistency(), name: name.unwrap_or_default() };
    let answer =
        session
            .client
            .ask(&Effect::Read, question, |channel, question| async move {
                service(channel).get_host_capacity(question).await
            })
            .await?;
    let mut rooms: Vec<_> = answer.hosts.into_iter().map(HostRoomView::from).collect();
    if one {
        let room = given(rooms.pop(), "host")?;
        session.print(&room, |_| render::room::host(&room))?;
        return Ok(ExitStatus::Ok);
    }
    if rooms.is_empty() && session.global.output == Output::Table {
        session.printer.note("no hosts have joined the cluster yet");
    }
    let list = ListView::new("HostRoom", answer.revision, rooms);
    session.print(&list, |style| render::room::hosts(&list.items, style))?;
    Ok(ExitStatus::Ok)
}
