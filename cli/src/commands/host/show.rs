//! `berth host show`.

use berth_proto::v1;

use super::super::{Session, given};
use super::service;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::HostView;

/// Reads one host and prints it.
pub(in crate::commands) async fn run(mut session: Session<'_>, name: String) -> Result<ExitStatus, Failure> {
    let question = v1::GetHostRequest { consistency: session.consistency(), name };
    let answer = session
        .client
        .ask(&Effect::Read, question, |channel, question| async move { service(channel).get_host(question).await })
        .await?;
    let host = HostView::from(given(answer.host, "host")?);
    session.print(&host, |style| render::host::show(&host, style))?;
    Ok(ExitStatus::Ok)
}
