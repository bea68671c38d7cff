//! `berth image delete`.

use berth_proto::v1;

use super::super::{Session, Writing};
use super::service;
use crate::args::Output;
use crate::exit::ExitStatus;
use crate::failure::Failure;

/// Asks.
pub(in crate::commands) async fn run(
    mut session: Session<'_>,
    name: String,
    request_id: Option<String>,
) -> Result<ExitStatus, Failure> {
    let Writing { write, effect } = Writing::new(request_id.as_deref(), None, None, format!("berth image show {name}"));
    let question = v1::DeleteImageRequest { write: Some(write), name: name.clone() };
    session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).delete_image(question).await })
        .await?;
    if session.global.output == Output::Table {
        session.printer.data(&format!("{name} is no longer an image; its files on the hosts stay\n"))?;
    }
    Ok(ExitStatus::Ok)
}
