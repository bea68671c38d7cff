//! `berth version`.

use berth_telemetry::BUILD;
use serde::Serialize;

use crate::args::Output;
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::render;

#[derive(Serialize)]
struct About {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'static str>,
    compiler: &'static str,
}

/// Prints what this program is.
pub(super) fn run(printer: &mut Printer, output: Output) -> Result<ExitStatus, Failure> {
    let version = About { version: BUILD.version, commit: BUILD.commit, compiler: BUILD.rustc };
    printer.data(&render::output(output, &version, || format!("berth {BUILD}\n"))?)?;
    Ok(ExitStatus::Ok)
}
