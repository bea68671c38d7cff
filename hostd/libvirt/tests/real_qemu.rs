//! What the crate promises, on real libvirt and real QEMU (under TCG, with a guest of 100 bytes).

#![expect(clippy::unwrap_used, reason = "a test may fail at any call, its helpers too")]

#[expect(dead_code, reason = "shared with the tests that need a daemon")]
mod host;

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use berth_host::backend::BackendError;
use berth_host::float::Floats;
use berth_libvirt::inspect::{BalloonFacts, Facts};
use berth_libvirt::{Console, DiskFiles, Event, Lifecycle, Watch};
use berth_model::host::ThreadSet;
use berth_model::vm::{Accelerator, CpuShape, DomainState, Performance, StopReason};
use berth_model::{Bytes, Epoch, PageSize, VmUid};
use virt::connect::Connect;
use virt::domain::Domain;
use virt_sys as sys;

use host::{Host, TestVm, pages};

/// Far more than anything here takes on a busy machine; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn state(vm: &TestVm) -> Option<DomainState> {
    vm.backend.scan().unwrap().into_iter().find(|seen| seen.mark.vm == vm.uid()).map(|seen| seen.state)
}

fn reason(error: BackendError) -> (&'static str, String) {
    match error {
        BackendError::Failed { reason, why, .. } => (reason, why),
        BackendError::Unreachable { .. } => panic!("{error}"),
    }
}

/// Events of one VM, so that tests wait for what happens and not for time to pass.
struct Events {
    vm: VmUid,
    received: mpsc::Receiver<Event>,
    _watch: Watch,
}

impl Events {
    fn of(vm: &TestVm) -> Self {
        let (sender, received) = mpsc::channel();
        let watch = Watch::start(&vm.host.uri, move |event| _ = sender.send(event));
        let events = Self { vm: vm.uid(), received, _watch: watch };
        assert_eq!(
            events.received.recv_timeout(PATIENCE),
            Ok(Event::Connected),
            "the first word is to scan everything"
        );
        events
    }

    fn wait_for(&self, wanted: Lifecycle) {
        loop {
            match self.received.recv_timeout(PATIENCE) {
                Ok(Event::Domain { vm, what }) if vm == self.vm && what == wanted => return,
                Ok(_) => {}
                Err(error) => panic!("no {wanted:?}: {error}"),
            }
        }
    }
}

/// Reads until `wanted` was read.
fn read_until(console: &Console, wanted: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    let mut buffer = [0; 1024];
    while !read.windows(wanted.len()).any(|window| window == wanted) {
        let count = console.read(&mut buffer).unwrap();
        assert!(count > 0, "the console ended after {:?}", String::from_utf8_lossy(&read));
        read.extend(&buffer[..count]);
    }
    read
}

#[test]
fn capabilities_are_what_this_libvirt_and_qemu_answer() {
    let host = Host::embedded();
    let seen = &host.capabilities;
    assert!(seen.machine.starts_with("pc-q35-"), "{}", seen.machine);
    assert!(seen.disk.queues && seen.disk.iothread && seen.disk.native_aio && seen.rng && seen.cpu_maximum);
    assert_eq!(seen.nodes.len(), 1, "of this machine: {:?}", seen.nodes);
    let versions = host.backend().versions().unwrap();
    assert!(versions[0].starts_with("libvirt ") && versions[1].starts_with("QEMU "), "{versions:?}");
}

#[test]
fn a_vm_runs_as_chosen_and_leaves_nothing() {
    let host = Host::embedded();
    let mut vm = host.vm("whole");
    assert!(!vm.backend.exists(vm.uid()).unwrap());
    vm.start();

    let seen = vm.backend.scan().unwrap();
    let seen = seen.iter().find(|seen| seen.mark.vm == vm.uid()).unwrap();
    assert_eq!((&seen.mark, seen.state, seen.accelerator), (&vm.spec.mark, DomainState::Running, Accelerator::Tcg));

    let facts = vm.backend.inspect(vm.uid()).unwrap();
    let pins: Vec<_> = facts.vcpus.iter().map(ToString::to_string).collect();
    assert_eq!(pins, ["1", "0"], "each vCPU on its own thread, in the order chosen");
    assert_eq!(facts.emulator.to_string(), "0-1");
    assert_eq!(facts.iothreads, [(1, "1".parse().unwrap())]);
    let disk = facts.disks.iter().find(|disk| disk.file == vm.files.disk.to_str().unwrap()).expect("the disk is there");
    assert_eq!(disk.queues, Some(2), "one for each vCPU");
    assert_eq!(disk.iothread.as_deref(), Some("iothread1"));
    assert!(disk.direct && !disk.read_only);
    let seed_disk =
        facts.disks.iter().find(|disk| Some(disk.file.as_str()) == vm.files.seed.as_ref().unwrap().to_str());
    assert!(seed_disk.expect("the seed is there").read_only);
    assert_eq!(facts.hugepages, Bytes(0));

    // A second start is no second run.
    vm.start();
    assert_eq!(vm.backend.inspect(vm.uid()).unwrap().qemu_pid, facts.qemu_pid);
    // Another placement must not slip in under a running VM, nor the definition go away.
    let first = vm.spec.mark.clone();
    vm.spec.mark.stamp.epoch = Epoch(8);
    let refused = vm.backend.start(&vm.spec, &vm.files, &host.capabilities).unwrap_err();
    assert!(matches!(reason(refused), ("StartFailed", why) if why.contains("started by placement 0/7")));
    assert!(matches!(reason(vm.backend.undefine(vm.uid()).unwrap_err()), ("UndefineFailed", _)));

    vm.backend.force_off(vm.uid()).unwrap();
    assert_eq!(state(&vm), Some(DomainState::Stopped(StopReason::Asked)));
    assert!(vm.backend.scan().unwrap().iter().any(|seen| seen.mark == first), "the old definition is kept");
    vm.backend.force_off(vm.uid()).expect("it is off already");
    vm.backend.shutdown(vm.uid()).expect("it is off already");
    assert!(matches!(reason(vm.backend.inspect(vm.uid()).unwrap_err()), ("NotRunning", _)));

    // Stopped, it is defined anew for the new placement.
    vm.start();
    assert!(vm.backend.scan().unwrap().iter().any(|seen| seen.mark.stamp.epoch == Epoch(8)));
    vm.backend.force_off(vm.uid()).unwrap();
    vm.backend.undefine(vm.uid()).unwrap();
    vm.backend.undefine(vm.uid()).expect("it is gone already");
    assert!(!vm.backend.exists(vm.uid()).unwrap());
    assert_eq!(state(&vm), None);
}

#[test]
fn guest_memory_lies_on_hugepages() {
    let host = Host::embedded();
    let mut vm = host.vm("huge");
    let _pages = host.add_hugepages(32);
    vm.spec.page = PageSize::Huge2M;
    vm.spec.resources.memory = pages(PageSize::Huge2M, vm.spec.memory);
    vm.start();
    assert_eq!(vm.backend.inspect(vm.uid()).unwrap().hugepages, Bytes::mib(64));
    vm.backend.force_off(vm.uid()).unwrap();
}

/// Makes a VM of the test's a floating one of this template.
fn afloat(vm: &mut host::TestVm, performance: Performance) {
    vm.spec.performance = performance;
    vm.spec.resources.vcpus.clear();
    vm.spec.resources.shared_cpu = 2000;
    vm.spec.floats = Some(Floats { vcpus: "0-1".parse().unwrap(), helpers: "0".parse().unwrap() });
}

fn pins(facts: &Facts) -> (Vec<String>, Vec<String>) {
    let text = |sets: &[ThreadSet]| sets.iter().map(ToString::to_string).collect();
    (text(&facts.vcpus), text(&facts.cpu.allowed))
}

/// `TestVm::start` looks that nothing was left out and nothing runs otherwise than asked; here what was asked is spelt out.
#[test]
fn each_template_runs_as_it_promises() {
    let host = Host::embedded();
    let _pages = host.add_hugepages(32);
    let all = |text: &str| vec![text.to_owned(); 2];

    let mut high = host.vm("high");
    high.spec.page = PageSize::Huge2M;
    high.spec.resources.memory = pages(PageSize::Huge2M, high.spec.memory);
    high.spec.resources.iothread = "0-1".parse().unwrap();
    high.spec.dedicated_iothreads = 2;
    high.spec.cpu_shape = CpuShape::Sockets;
    high.start();
    let facts = high.backend.inspect(high.uid()).unwrap();
    assert_eq!(pins(&facts), (vec!["1".to_owned(), "0".to_owned()], vec!["1".to_owned(), "0".to_owned()]));
    assert_eq!(facts.iothreads, [(1, "0".parse().unwrap()), (2, "1".parse().unwrap())]);
    let disk = &facts.disks[0];
    assert_eq!((disk.queues, disk.direct, disk.aio.as_deref()), (Some(2), true, Some("native")));
    assert_eq!(disk.mapped, ["iothread1", "iothread2"], "a queue for each");
    assert_eq!((facts.hugepages, facts.cpu.topology), (Bytes::mib(64), (2, 1, 1)));
    assert!(facts.memory.iter().all(|part| !part.merge) && facts.balloon.is_none(), "{facts:#?}");
    high.backend.force_off(high.uid()).unwrap();

    let mut standard = host.vm("standard");
    afloat(&mut standard, Performance::Standard);
    standard.start();
    let facts = standard.backend.inspect(standard.uid()).unwrap();
    assert_eq!((pins(&facts), facts.emulator.to_string()), ((all("0-1"), all("0-1")), "0".to_owned()));
    assert!(facts.memory.iter().all(|part| !part.merge), "{facts:#?}");
    assert_eq!(facts.balloon, Some(BalloonFacts { reports_free_pages: false, yields: false }));
    standard.backend.force_off(standard.uid()).unwrap();

    let mut density = host.vm("density");
    afloat(&mut density, Performance::Density);
    density.files.direct_io = false;
    density.backend.start(&density.spec, &density.files, &host.capabilities).unwrap();
    let facts = density.backend.inspect(density.uid()).unwrap();
    assert!(facts.memory.iter().all(|part| part.merge), "{facts:#?}");
    assert_eq!(facts.balloon, Some(BalloonFacts { reports_free_pages: true, yields: true }));
    assert_eq!((facts.disks[0].direct, facts.disks[0].aio.as_deref()), (false, Some("io_uring")));
    let seen = density.backend.scan().unwrap();
    let seen = seen.iter().find(|seen| seen.mark.vm == density.uid()).unwrap();
    assert!(seen.is_read_back && seen.degraded.len() == 1, "only direct I/O was not to be had: {:#?}", seen.degraded);
}

#[test]
fn a_vm_that_floats_is_moved_to_other_threads_while_it_runs() {
    let host = Host::embedded();
    let mut vm = host.vm("afloat");
    afloat(&mut vm, Performance::Density);
    vm.start();
    let floats = || vm.backend.scan().unwrap().into_iter().find(|seen| seen.mark.vm == vm.uid()).unwrap().floats;
    assert_eq!(floats(), vm.spec.floats, "as it was started");
    let moved = Floats { vcpus: "1".parse().unwrap(), helpers: "0-1".parse().unwrap() };
    vm.backend.repin(vm.uid(), &moved).unwrap();
    assert_eq!(floats(), Some(moved.clone()));
    let facts = vm.backend.inspect(vm.uid()).unwrap();
    let there = || vec!["1".to_owned(); 2];
    assert_eq!((pins(&facts), facts.emulator.to_string()), ((there(), there()), "0-1".to_owned()));
    assert_eq!(facts.iothreads, [(1, "0-1".parse().unwrap())]);
    vm.backend.read_back(vm.uid()).unwrap();
    let seen = vm.backend.scan().unwrap().into_iter().find(|seen| seen.mark.vm == vm.uid()).unwrap();
    assert_eq!(seen.degraded, Vec::<String>::new(), "its definition moved with it");
    vm.backend.force_off(vm.uid()).unwrap();
    vm.backend.repin(vm.uid(), &moved).expect("it does not run: nothing to do");
}

#[test]
fn what_runs_otherwise_than_asked_is_told_and_kept_with_the_domain() {
    let host = Host::embedded();
    let vm = host.vm("bent");
    vm.start();
    let mut connect = Connect::open(Some(&host.uri)).unwrap();
    let uuid = berth_libvirt::mark::domain_uuid(host::cluster(), vm.uid());
    let domain = Domain::lookup_by_uuid_string(&connect, &uuid).unwrap();
    domain.pin_vcpu_flags(0, &[1], sys::VIR_DOMAIN_AFFECT_LIVE).unwrap();
    vm.backend.read_back(vm.uid()).unwrap();
    // Another connection to libvirt, as after a restart of the daemon.
    let seen = host.backend().scan().unwrap().into_iter().find(|seen| seen.mark.vm == vm.uid()).unwrap();
    let told = [
        "Threads of vCPU 0 by libvirt: asked was 1, QEMU runs with 0.",
        "Threads of vCPU 0 by the kernel: asked was 1, QEMU runs with 0.",
    ];
    assert_eq!(seen.degraded, told);
    domain.pin_vcpu_flags(0, &[2], sys::VIR_DOMAIN_AFFECT_LIVE).unwrap();
    vm.backend.read_back(vm.uid()).unwrap();
    let seen = host.backend().scan().unwrap().into_iter().find(|seen| seen.mark.vm == vm.uid()).unwrap();
    assert_eq!(seen.degraded, Vec::<String>::new(), "mended, it is told no more");
    connect.close().unwrap();
}

#[test]
fn a_vm_that_cannot_start_says_why_and_is_seen_as_stopped() {
    let host = Host::embedded();
    let vm = host.vm("broken");
    let files = DiskFiles { disk: host.root.join("files/missing.qcow2"), ..vm.files.clone() };
    let error = vm.backend.start(&vm.spec, &files, &host.capabilities).unwrap_err();
    assert!(matches!(reason(error), ("StartFailed", why) if why.contains("missing.qcow2")));
    assert!(matches!(state(&vm), Some(DomainState::Stopped(_))));
    vm.start();
    assert_eq!(state(&vm), Some(DomainState::Running), "the next try is not hindered");
}

#[test]
fn domains_that_are_not_ours_are_not_shown_and_not_touched() {
    let host = Host::embedded();
    let vm = host.vm("foreign");
    let connect = Connect::open(Some(&host.uri)).unwrap();
    let define = |name: &str, uuid: &str, metadata: &str| {
        let uuid = if uuid.is_empty() { String::new() } else { format!("<uuid>{uuid}</uuid>") };
        let xml = format!(
            "<domain type='qemu'><name>{name}</name>{uuid}<metadata>{metadata}</metadata><memory unit='MiB'>16</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
        );
        let domain = Domain::define_xml(&connect, &xml).unwrap();
        domain.create().unwrap();
        domain
    };
    let uuid = berth_libvirt::mark::domain_uuid(host::cluster(), vm.uid());
    let mark = |cluster: &str, epoch: &str| {
        format!(
            "<b:vm xmlns:b='https://berth.dev/domain/1' cluster='{cluster}' uid='{}' project='default' name='x' \
             incarnation='0' epoch='{epoch}' restarts='0'/>",
            vm.uid()
        )
    };
    let pid = std::process::id();
    let foreign = [
        define(&format!("someone-{pid}"), "", ""),
        define(&format!("berth-other-{pid}"), "", &mark("other", "1")),
        // The name and the UUID of our VM, and a mark that is damaged.
        define(&format!("berth-{}", vm.uid()), &uuid, &mark("test", "soon")),
    ];

    assert_eq!(state(&vm), None);
    for outcome in [
        vm.backend.force_off(vm.uid()),
        vm.backend.shutdown(vm.uid()),
        vm.backend.undefine(vm.uid()),
        vm.backend.start(&vm.spec, &vm.files, &host.capabilities).map(drop),
        vm.backend.open_console(vm.uid(), true).map(drop),
    ] {
        assert!(matches!(reason(outcome.unwrap_err()), ("ForeignDomain", _)));
    }
    for domain in foreign {
        assert!(domain.is_active().unwrap(), "{} still runs", domain.get_name().unwrap());
        domain.destroy().unwrap();
        domain.undefine().unwrap();
    }
    let mut connect = connect;
    connect.close().unwrap();
}

#[test]
fn what_happens_to_a_vm_is_told_and_why_it_stopped_is_seen() {
    let host = Host::embedded();
    let vm = host.vm("events");
    let events = Events::of(&vm);
    vm.start();
    events.wait_for(Lifecycle::Definition);
    events.wait_for(Lifecycle::Started);
    let console = vm.backend.open_console(vm.uid(), false).unwrap();
    console.write_all(b"up?").unwrap();
    read_until(&console, b"up?");

    // The power button, which the guest heeds.
    vm.backend.shutdown(vm.uid()).unwrap();
    events.wait_for(Lifecycle::Stopped);
    assert_eq!(state(&vm), Some(DomainState::Stopped(StopReason::GuestShutdown)));

    vm.start();
    events.wait_for(Lifecycle::Started);
    let pid = i32::try_from(vm.backend.inspect(vm.uid()).unwrap().qemu_pid).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    events.wait_for(Lifecycle::Stopped);
    assert_eq!(state(&vm), Some(DomainState::Stopped(StopReason::Crashed)));

    vm.start();
    events.wait_for(Lifecycle::Started);
    vm.backend.force_off(vm.uid()).unwrap();
    events.wait_for(Lifecycle::Stopped);
    assert_eq!(state(&vm), Some(DomainState::Stopped(StopReason::Asked)));
}

#[test]
fn the_console_carries_bytes_both_ways_at_once_and_ends_with_the_vm() {
    let host = Host::embedded();
    let vm = host.vm("console");
    assert!(matches!(reason(vm.backend.open_console(vm.uid(), false).unwrap_err()), ("NotRunning", _)));
    vm.start();
    let console = vm.backend.open_console(vm.uid(), false).unwrap();
    let letters = (0..5_000_u32).map(|at| b'a' + u8::try_from(at % 23).unwrap());
    let sent: Vec<u8> = letters.chain(*b"the end").collect();
    std::thread::scope(|scope| {
        // One thread waits for output while the other writes: neither may hold up the other.
        let reader = scope.spawn(|| read_until(&console, b"the end"));
        console.write_all(&sent).unwrap();
        let read = reader.join().unwrap();
        assert!(read.ends_with(&sent), "every byte once and in order");
    });

    let (refused, _) = reason(vm.backend.open_console(vm.uid(), false).unwrap_err());
    assert_eq!(refused, "ConsoleBusy");
    let second = vm.backend.open_console(vm.uid(), true).unwrap();
    assert_eq!(console.read(&mut [0; 8]).unwrap(), 0, "the first session is over");
    second.write_all(b"again").unwrap();
    read_until(&second, b"again");

    // Ctrl-D, on which the guest turns itself off.
    second.write_all(&[4]).unwrap();
    let mut buffer = [0; 64];
    while second.read(&mut buffer).unwrap() > 0 {}
    let error = loop {
        match second.write(b"x") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    let log = std::fs::read_to_string(vm.files.console_log.as_ref().unwrap()).unwrap();
    assert!(log.contains("berth test guest"), "the log has what was said before anyone listened: {log:?}");
}

#[test]
fn closing_a_console_wakes_its_reader_and_lets_the_next_in() {
    let host = Host::embedded();
    let vm = host.vm("closing");
    vm.start();
    let console = vm.backend.open_console(vm.uid(), false).unwrap();
    console.write_all(b"ready").unwrap();
    read_until(&console, b"ready");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| console.read(&mut [0; 8]).unwrap());
        console.close();
        assert_eq!(reader.join().unwrap(), 0);
    });
    console.close();
    drop(console);
    let next = vm.backend.open_console(vm.uid(), false).unwrap();
    next.write_all(b"next").unwrap();
    read_until(&next, b"next");
}

#[test]
fn a_restart_in_the_guest_is_no_stop() {
    let host = Host::embedded();
    let vm = host.vm("again");
    vm.start();
    let pid = vm.backend.inspect(vm.uid()).unwrap().qemu_pid;
    let connect = Connect::open(Some(&host.uri)).unwrap();
    let uuid = berth_libvirt::mark::domain_uuid(host::cluster(), vm.uid());
    Domain::lookup_by_uuid_string(&connect, &uuid).unwrap().reset().unwrap();
    assert_eq!(state(&vm), Some(DomainState::Running));
    assert_eq!(vm.backend.inspect(vm.uid()).unwrap().qemu_pid, pid);
    let mut connect = connect;
    connect.close().unwrap();
}
