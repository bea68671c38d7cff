//! `berth completion SHELL`.

use clap_complete::Shell;

use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;

/// Prints the script.
pub(super) fn run(printer: &mut Printer, shell: Shell) -> Result<ExitStatus, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::command(), "berth", &mut script);
    printer.bytes(&script)?;
    Ok(ExitStatus::Ok)
}
