use std::process::{Command, Stdio};

use super::*;

#[test]
fn steps_are_tried_from_the_device_to_the_exception() {
    assert!(Step::ALL.is_sorted());
    assert_eq!(
        Step::ALL.map(Step::name),
        ["open", "create-vm", "real-mode", "protected-mode", "long-mode", "movaps", "exception"]
    );
    assert_eq!(Step::GUEST.map(|(_, step)| step), Step::ALL[2..]);
}

#[test]
fn kvm_is_reported_only_if_every_step_passed() {
    let all = Collected { passed: Step::ALL.to_vec() }.finished();
    assert_eq!(all.report(), AcceleratorReport { accelerator: Accelerator::Kvm, failed_step: None, detail: None });
    for count in 0..Step::ALL.len() {
        let some = Collected { passed: Step::ALL[..count].to_vec() }.finished();
        assert_eq!(some.report().accelerator, Accelerator::Tcg);
        assert_eq!(some.report().failed_step.as_deref(), Some(Step::ALL[count].name()));
        assert!(some.report().detail.is_some());
    }
}

#[test]
fn a_machine_without_the_device_fails_at_open_and_the_detail_names_it() {
    let found = run("/dev/kvm-is-not-here", guest::PROGRAM, DEADLINE);
    assert_eq!(found.passed, []);
    let (step, detail) = found.failure.unwrap();
    assert_eq!(step, Step::Open);
    assert!(detail.contains("/dev/kvm-is-not-here"), "{detail}");
}

#[test]
fn this_machine_answers_within_the_deadline_and_its_guest_code_is_tried() {
    let begin = Instant::now();
    let found = preflight(DEADLINE);
    assert!(begin.elapsed() < DEADLINE + GRACE, "took {:?}", begin.elapsed());
    assert!(found.passed.starts_with(&[Step::Open, Step::CreateVm, Step::RealMode]), "{found:?}");
    assert_eq!(found.passed, Step::ALL[..found.passed.len()]);
    assert_eq!(found.failure.is_none(), found.passed == Step::ALL);
    if let Some((step, _)) = &found.failure {
        assert_eq!(*step, Step::ALL[found.passed.len()]);
    }
}

#[test]
fn a_guest_that_never_leaves_is_broken_off_at_the_deadline() {
    // mov al, 1; out 0xe9, al; jmp $
    let begin = Instant::now();
    let found = run("/dev/kvm", &[0xb0, 0x01, 0xe6, 0xe9, 0xeb, 0xfe], Duration::from_millis(300));
    assert!(begin.elapsed() < Duration::from_secs(2), "took {:?}", begin.elapsed());
    assert_eq!(found.passed, Step::ALL[..3]);
    let (step, detail) = found.failure.unwrap();
    assert_eq!(step, Step::ProtectedMode);
    assert!(detail.contains("deadline") && detail.contains("0x1004"), "{detail}");
}

#[test]
fn a_wrong_result_and_a_report_out_of_turn_are_failures() {
    // hlt
    let halted = run("/dev/kvm", &[0xf4], DEADLINE);
    assert_eq!(halted.failure.as_ref().unwrap().0, Step::RealMode, "{halted:?}");
    // mov al, 5; out 0xe9, al; hlt
    let skipping = run("/dev/kvm", &[0xb0, 0x05, 0xe6, 0xe9, 0xf4], DEADLINE);
    assert_eq!(skipping.failure.as_ref().unwrap().0, Step::RealMode, "{skipping:?}");
}

/// The proof that the program is right wherever the processor is, which no KVM that fails could give.
#[test]
fn qemus_own_translator_passes_every_step() {
    let folder = tempfile::tempdir().unwrap();
    let memory = folder.path().join("memory");
    let firmware = folder.path().join("firmware");
    let words = folder.path().join("words");
    std::fs::write(&memory, guest::image(guest::PROGRAM)).unwrap();
    // A firmware of nothing but a jump to the program at the reset vector, 16 bytes before its end.
    let mut rom = vec![0xf4; 64 << 10];
    rom[(64 << 10) - 16..][..5].copy_from_slice(&[0xea, 0x00, 0x10, 0x00, 0x00]);
    std::fs::write(&firmware, rom).unwrap();

    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-machine", "pc", "-m", "16", "-nodefaults", "-display", "none", "-no-reboot"])
        .arg("-bios")
        .arg(&firmware)
        .arg("-device")
        .arg(format!("loader,file={},addr=0,force-raw=on", memory.display()))
        .arg("-debugcon")
        .arg(format!("file:{}", words.display()))
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu-system-x86_64 is installed");
    let until = Instant::now() + Duration::from_secs(30);
    let mut said = Vec::new();
    while said.len() < Step::GUEST.len() && Instant::now() < until && qemu.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(10));
        said = std::fs::read(&words).unwrap_or_default();
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    assert_eq!(said, Step::GUEST.map(|(number, _)| number));
}
