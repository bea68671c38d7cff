//! What of a host's words is taken: enough for any host there is, and no more than every member can keep.
//!
//! What a host reports enters the log and the state of all members, so a host that has gone wrong, or whose certificate
//! was stolen, must not be able to fill them. Texts and lists of remarks are cut, because a long error message is no fault
//! of the host's, and control characters become spaces; what counts things is refused when there are more of them than a
//! host can have.

use berth_model::host::ThreadSet;
use berth_model::image::ImageOnHost;
use berth_model::session::{Hello, Report, VmReport};

/// The longest text that is kept, in bytes.
const TEXT: usize = 4096;
/// The longest address or boot id.
const SHORT_TEXT: usize = 256;
/// The most remarks of one kind: conditions of a host, versions, things that a VM lacks.
const REMARKS: usize = 64;
/// The most VMs, orphans, or images.
const THINGS: usize = 10_000;
/// The most nodes of memory and pools of pages.
const NODES: usize = 1024;

/// Whether a first word can be kept; a sentence if not.
pub(crate) fn check_hello(hello: &Hello) -> Result<(), String> {
    let texts = [("address", &hello.address), ("boot", &hello.boot.0), ("version", &hello.version)];
    match texts.iter().find(|(_, text)| text.len() > SHORT_TEXT || text.contains(char::is_control)) {
        Some((field, text)) => Err(format!(
            "its {field} has {} bytes or control characters; at most {SHORT_TEXT} printable ones are allowed",
            text.len()
        )),
        None => Ok(()),
    }
}

/// Cuts what is too long of a report; a sentence if it counts more things than a host has.
pub(crate) fn take(report: &mut Report) -> Result<(), String> {
    let threads = ThreadSet::HIGHEST as usize + 1;
    let inventory = report.inventory.as_ref();
    let counts = [
        ("VMs", report.vms.len(), THINGS),
        ("images", report.images.len(), THINGS),
        ("orphans", report.orphans.as_ref().map_or(0, Vec::len), THINGS),
        ("holdings", report.holdings.len(), THINGS),
        (
            "CPU threads of a holding",
            report.holdings.iter().map(|held| held.resources.vcpus.len()).max().unwrap_or(0),
            threads,
        ),
        (
            "memory parts of a holding",
            report.holdings.iter().map(|held| held.resources.memory.len()).max().unwrap_or(0),
            NODES,
        ),
        ("CPU threads", inventory.map_or(0, |held| held.topology.threads.len()), threads),
        ("memory nodes", inventory.map_or(0, |held| held.memory.len()), NODES),
        ("hugepage pools", inventory.map_or(0, |held| held.hugepages.len()), NODES),
    ];
    if let Some((what, count, most)) = counts.iter().find(|(_, count, most)| count > most) {
        return Err(format!("it reports {count} {what}, at most {most} are understood"));
    }
    if let Some(inventory) = &mut report.inventory {
        remarks(&mut inventory.versions);
        let accelerator = &mut inventory.accelerator;
        accelerator.failed_step.iter_mut().chain(&mut accelerator.detail).for_each(clean);
    }
    if let Some(conditions) = &mut report.conditions {
        conditions.truncate(REMARKS);
        for condition in conditions {
            [&mut condition.kind, &mut condition.reason, &mut condition.message].into_iter().for_each(clean);
        }
    }
    for (_, found) in &mut report.images {
        if let Some(ImageOnHost::Refused { reason }) = found {
            clean(reason);
        }
    }
    for (_, said) in &mut report.vms {
        if let VmReport::Seen(observed) = said {
            remarks(&mut observed.degraded);
            if let Some((reason, sentence)) = &mut observed.trouble {
                clean(reason);
                clean(sentence);
            }
        }
    }
    report.orphans.iter_mut().flatten().for_each(|orphan| clean(&mut orphan.called));
    Ok(())
}

fn remarks(texts: &mut Vec<String>) {
    texts.truncate(REMARKS);
    texts.iter_mut().for_each(clean);
}

/// Makes one line of at most [`TEXT`] bytes of it: what hosts say is shown on operators' terminals.
fn clean(text: &mut String) {
    if text.contains(char::is_control) {
        *text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    if text.len() > TEXT {
        let end = (0..=TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use berth_model::host::Orphan;
    use berth_model::testing::{Machine, full_report, observed, vm_uid};
    use berth_model::vm::DomainState;
    use berth_model::{BootId, Epoch};

    use super::*;

    #[test]
    fn a_usual_report_is_taken_as_it_is() {
        let usual = full_report(Machine::cores(64).inventory());
        let mut taken = usual.clone();
        take(&mut taken).unwrap();
        assert_eq!(taken, usual);
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_many_remarks_to_a_few() {
        let mut seen = observed(Epoch(1), DomainState::Running);
        seen.trouble = Some(("StartFailed".into(), "ß€".repeat(TEXT)));
        seen.degraded = vec!["a\u{1b}[2Jb\nc".into(); 1000];
        let mut report = Report { vms: vec![(vm_uid(1), VmReport::Seen(seen))], ..Report::default() };
        take(&mut report).unwrap();
        let VmReport::Seen(seen) = &report.vms[0].1 else { panic!("still seen") };
        let sentence = &seen.trouble.as_ref().unwrap().1;
        assert!(sentence.len() <= TEXT && sentence.len() > TEXT - 5 && sentence.starts_with("ß€ß"));
        assert_eq!((seen.degraded.len(), &seen.degraded[0][..]), (REMARKS, "a [2Jb c"));
    }

    #[test]
    fn more_things_than_a_host_has_are_refused() {
        let orphan = Orphan { vm: vm_uid(1), called: "default/a".into(), running: true };
        let mut report = Report { orphans: Some(vec![orphan; THINGS + 1]), ..Report::default() };
        assert_eq!(take(&mut report).unwrap_err(), "it reports 10001 orphans, at most 10000 are understood");
        let mut hello = crate::testing::hello(1);
        check_hello(&hello).unwrap();
        hello.boot = BootId("b".repeat(257));
        assert_eq!(
            check_hello(&hello).unwrap_err(),
            "its boot has 257 bytes or control characters; at most 256 printable ones are allowed"
        );
    }
}
