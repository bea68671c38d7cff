//! `berth man --dir DIR`.

use std::path::Path;

use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;

/// Writes a page for the program and one for each verb.
pub(super) fn run(printer: &mut Printer, dir: &Path) -> Result<ExitStatus, Failure> {
    clap_mangen::generate_to(crate::command(), dir).map_err(|error| {
        Failure::refused(format!("cannot write manual pages to {}: {error}", dir.display()))
            .hint("the folder must exist and be writable")
    })?;
    printer.note(&format!("manual pages are in {}; read one with: man -l {}/berth.1", dir.display(), dir.display()));
    Ok(ExitStatus::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_and_the_first_one_lists_the_exit_codes() {
        let folder = tempfile::tempdir().unwrap();
        run(&mut Printer::of_process(true, true), folder.path()).unwrap();
        for page in ["berth.1", "berth-vm-create.1", "berth-host-show.1", "berth-cluster-status.1", "berth-image.1"] {
            assert!(folder.path().join(page).exists(), "{page}");
        }
        let text = std::fs::read_to_string(folder.path().join("berth.1")).unwrap();
        assert!(text.contains("the outcome is unknown"), "{text}");
    }
}
