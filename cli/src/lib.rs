//! The operator's command line.
//!
//! Arguments become settings, settings a client, and each verb is one file in `commands/<noun>/`. Standard output is
//! data and nothing else; progress, notes and errors go to standard error. What is shown is made in two pure steps:
//! an answer of the wire becomes a view (`view/`), which is also what `--output json|yaml` prints, and a view becomes
//! text (`render/`).

mod args;
mod client;
mod commands;
mod console;
mod duration;
mod exit;
mod failure;
mod manifest;
mod placement;
mod printer;
mod progress;
mod qcow2;
mod render;
mod settings;
mod view;
mod wait;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;

/// The command as clap knows it: for shell completion and man pages.
pub fn command() -> clap::Command {
    use clap::CommandFactory;
    Args::command()
}

/// Runs the program of this process's arguments.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let status = if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Ok };
            // A closed pipe is nobody's concern here: `berth --help | head -1`.
            let _ = error.print();
            return status.into();
        }
    };
    let mut printer = Printer::of_process(args.global.quiet, args.global.no_color);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&mut printer, &Failure::from(error)).into(),
    };
    let status = match runtime.block_on(commands::run(args, &mut printer)) {
        Ok(status) => status,
        Err(failure) => report(&mut printer, &failure),
    };
    // A thread may still wait for standard input; it must not hold up the end.
    runtime.shutdown_background();
    status.into()
}

fn report(printer: &mut Printer, failure: &Failure) -> ExitStatus {
    if !failure.is_closed_pipe() {
        printer.failure(failure);
    }
    failure.status()
}
