//! `berth host remove`.

use berth_proto::v1;

use super::super::{Session, Writing};
use super::{service, update};
use crate::args::Output;
use crate::args::host::Named;
use crate::exit::ExitStatus;
use crate::failure::Failure;

/// Asks.
pub(in crate::commands) async fn run(
    mut session: Session<'_>,
    host: Named,
    never_returns: bool,
) -> Result<ExitStatus, Failure> {
    let Writing { write, effect } = update::writing(&host);
    let question = v1::RemoveHostRequest { write: Some(write), name: host.name.clone(), never_returns };
    session
        .client
        .ask(&effect, question, |channel, question| async move { service(channel).remove_host(question).await })
        .await?;
    if session.global.output == Output::Table {
        session.printer.data(&format!("{} is no longer a host of this cluster\n", host.name))?;
    }
    Ok(ExitStatus::Ok)
}
