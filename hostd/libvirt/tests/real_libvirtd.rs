//! What the crate promises when libvirt is a daemon, as it is on every real host: it may die, and VMs do not.

#![expect(clippy::unwrap_used, reason = "a test may fail at any call, its helpers too")]

#[expect(dead_code, reason = "shared with the tests that need no daemon")]
mod host;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use berth_host::backend::BackendError;
use berth_libvirt::{Event, Lifecycle, Watch};
use berth_model::vm::{DomainState, StopReason};

use host::Host;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn when_libvirtd_is_killed_vms_run_on_and_are_found_again_when_it_is_back() {
    let (host, mut libvirtd) = Host::with_libvirtd();
    let vm = host.vm("daemon");
    let (sender, events) = mpsc::channel();
    let _watch = Watch::start(&host.uri, move |event| _ = sender.send(event));
    let wait_for = |wanted: Event| {
        while events.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no {wanted:?}: {error}")) != wanted {}
    };
    let echoed = |text: &str| {
        let console = vm.backend.open_console(vm.uid(), false).unwrap();
        console.write_all(text.as_bytes()).unwrap();
        let (mut read, mut buffer) = (Vec::new(), [0; 256]);
        while !String::from_utf8_lossy(&read).contains(text) {
            let count = console.read(&mut buffer).unwrap();
            assert!(count > 0, "the console ended");
            read.extend(&buffer[..count]);
        }
        console
    };
    wait_for(Event::Connected);
    vm.start();
    wait_for(Event::Domain { vm: vm.uid(), what: Lifecycle::Started });
    let before = vm.backend.inspect(vm.uid()).unwrap();
    let console = echoed("before");

    libvirtd.kill();
    wait_for(Event::Disconnected);
    assert_eq!(console.read(&mut [0; 8]).unwrap(), 0, "a console does not outlive the daemon that carries it");
    assert!(matches!(vm.backend.scan(), Err(BackendError::Unreachable { .. })));
    assert!(matches!(vm.backend.force_off(vm.uid()), Err(BackendError::Unreachable { .. })));
    assert!(matches!(vm.backend.exists(vm.uid()), Err(BackendError::Unreachable { .. })), "unknown is not absent");

    libvirtd.restart();
    wait_for(Event::Connected);
    let seen = vm.backend.scan().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].mark, seen[0].state), (&vm.spec.mark, DomainState::Running));
    let after = vm.backend.inspect(vm.uid()).unwrap();
    assert_eq!(after.qemu_pid, before.qemu_pid, "the same QEMU");
    vm.start();
    assert_eq!(vm.backend.inspect(vm.uid()).unwrap().qemu_pid, before.qemu_pid, "still the same");
    drop(echoed("after"));

    // QEMU dies while nobody looks.
    libvirtd.kill();
    wait_for(Event::Disconnected);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(after.qemu_pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    libvirtd.restart();
    wait_for(Event::Connected);
    // It answers before it has looked for the QEMUs that it knows of; nothing but asking tells when it has.
    let deadline = Instant::now() + PATIENCE;
    let is_found_dead = || {
        let seen = vm.backend.scan().unwrap();
        matches!(seen[0].state, DomainState::Stopped(StopReason::Crashed | StopReason::Unknown))
    };
    while !is_found_dead() {
        assert!(Instant::now() < deadline, "still {:?}", vm.backend.scan());
    }
}
