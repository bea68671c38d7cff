//! `berth vm console`.

use super::super::Session;
use crate::args::vm::Console;
use crate::console::{self, Request};
use crate::exit::ExitStatus;
use crate::failure::Failure;

/// Joins the console.
pub(in crate::commands) async fn run(mut session: Session<'_>, console: Console) -> Result<ExitStatus, Failure> {
    let Console { name, until } = console;
    let request = Request { project: session.global.project.clone(), name, until, timeout: session.global.timeout };
    Box::pin(console::run(&mut session.client, session.printer, request)).await
}
