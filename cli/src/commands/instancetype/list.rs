//! `berth instancetype list`.

use berth_proto::v1;

use super::super::Session;
use super::service;
use crate::client::Effect;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::render;
use crate::view::{InstanceTypeView, ListView};

/// Reads all and prints them.
pub(in crate::commands) async fn run(mut session: Session<'_>) -> Result<ExitStatus, Failure> {
    let question = v1::ListInstanceTypesRequest { consistency: session.consistency() };
    let answer = session
        .client
        .ask(&Effect::Read, question, |channel, question| async move {
            service(channel).list_instance_types(question).await
        })
        .await?;
    let types = answer.instance_types.into_iter().map(InstanceTypeView::from).collect();
    let list = ListView::new("InstanceType", answer.revision, types);
    session.print(&list, |style| render::instancetype::list(&list.items, style))?;
    Ok(ExitStatus::Ok)
}
