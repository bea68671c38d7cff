//! Labs on this machine: real namespaces, libvirtd and hugepages; small stand-ins for Berth's own daemons.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_lab::{Binaries, Error, Lab, Options};
use tempfile::TempDir;

/// A folder for one test; a lab cannot be below folders that its hosts see their own of, but /tmp is none of these.
fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn stand_ins(folder: &Path) -> Binaries {
    for name in ["berth-controller", "berth-hostd"] {
        let path = folder.join(name);
        fs::write(&path, include_str!("stand-in.pl")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    Binaries::in_folder(folder)
}

/// Each test has lab numbers of its own: only so can it say that nothing is left of one while others come and go.
fn options(folder: &TempDir, number: u8, controllers: u8, hosts: u8) -> Options {
    let mut options = Options::new(folder.path().join("state"), stand_ins(folder.path()));
    options.number = Some(number);
    options.controllers = controllers;
    options.hosts = hosts;
    // Little, so that tests can run beside each other.
    options.slice.memory_mib = 64;
    options.slice.hugepages_2m = 8;
    options
}

fn nothing_of(number: u8) {
    assert_eq!(Lab::leftovers(number).unwrap(), Vec::<String>::new());
    assert!(!Path::new(&format!("/run/berth-lab/{number}.json")).exists());
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&format!("/bl{number}-")), "{mounts}");
}

/// What connecting to a member from outside the lab answers.
fn greeting(lab: &Lab, member: &str) -> String {
    let mut stream = TcpStream::connect(lab.member(member).unwrap().api()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.trim().to_owned()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_lab_comes_up_whole_and_goes_down_without_a_trace() {
    let folder = folder();
    let lab = Lab::up(&options(&folder, 150, 2, 2)).unwrap();
    let number = lab.number();
    let status = lab.status().unwrap();
    assert!(status.is_ready(), "{status}");
    let names: Vec<_> = status.processes.iter().map(|process| process.name.as_str()).collect();
    assert_eq!(names, ["h1-libvirtd", "h2-libvirtd", "c1", "c2", "h1", "h2"]);

    // Everything is reached from the machine's own namespace.
    for member in ["c1", "c2", "h1", "h2"] {
        assert_eq!(greeting(&lab, member), member);
    }
    // Members reach each other.
    lab.exec_in("h1", &["perl", "-MIO::Socket::INET", "-e", &connect(&lab, "c2")]).unwrap();

    // Each host has its own name, its own libvirtd, its own /run, and hugepages.
    let uuids: BTreeSet<_> = ["h1", "h2"]
        .map(|host| {
            assert_eq!(lab.exec_in(host, &["hostname"]).unwrap().trim(), host);
            let capabilities = lab.exec_in(host, &["virsh", "-c", "qemu:///system", "capabilities"]).unwrap();
            let uuid = capabilities.split("<uuid>").nth(1).unwrap().split('<').next().unwrap().to_owned();
            assert_eq!(
                lab.exec_in(host, &["virsh", "-c", "qemu:///system", "list", "--all", "--name"]).unwrap().trim(),
                ""
            );
            lab.exec_in(host, &["touch", &format!("/run/of-{host}")]).unwrap();
            assert!(lab.folder(host).unwrap().join(format!("run/of-{host}")).exists());
            assert!(lab.exec_in(host, &["grep", "hugetlbfs /run/hugepages", "/proc/mounts"]).is_ok());
            assert!(lab.exec_in(host, &["ls", "/sys/class/net/eth0"]).is_ok());
            uuid
        })
        .into();
    assert_eq!(uuids.len(), 2);
    assert!(Lab::leftovers(number).unwrap().contains(&"16 hugepages".to_owned()));

    // What it says is what a client needs.
    let config = fs::read_to_string(lab.admin_config_path()).unwrap();
    assert!(config.contains(&lab.member("c1").unwrap().api().to_string()), "{config}");

    lab.down().unwrap();
    nothing_of(number);
    let left: Vec<_> =
        fs::read_dir(folder.path().join("state")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["logs"]);
    let log = fs::read_to_string(folder.path().join("state/logs/c1.log")).unwrap();
    assert!(log.contains("c1 starts at"), "{log}");
}

fn connect(lab: &Lab, member: &str) -> String {
    format!("IO::Socket::INET->new(PeerAddr => '{}', Timeout => 5) or die", lab.member(member).unwrap().api())
}

/// A VM with hugepages on a host, started through that host's libvirtd.
fn start_vm(lab: &Lab, host: &str) {
    let xml = "<domain type='qemu'><name>vm</name><memory unit='MiB'>8</memory>\
        <memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages></memoryBacking>\
        <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>";
    let path = lab.folder(host).unwrap().join("vm.xml");
    fs::write(&path, xml).unwrap();
    let virsh = ["virsh", "-c", "qemu:///system", "create", path.to_str().unwrap()];
    lab.exec_in(host, &virsh).unwrap();
}

fn qemu(lab: &Lab, host: &str) -> i32 {
    let pid = fs::read_to_string(lab.folder(host).unwrap().join("run/libvirt/qemu/vm.pid")).unwrap();
    pid.trim().parse().unwrap()
}

fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_vm_outlives_its_libvirtd_and_nothing_outlives_the_lab() {
    let folder = folder();
    let lab = Lab::up(&options(&folder, 151, 0, 1)).unwrap();
    let number = lab.number();
    start_vm(&lab, "h1");
    let vm = qemu(&lab, "h1");
    let smaps = fs::read_to_string(format!("/proc/{vm}/smaps")).unwrap();
    assert!(smaps.contains("/run/hugepages/libvirt/qemu"), "the VM's memory is not on the host's hugepages");

    lab.kill9("h1-libvirtd").unwrap();
    assert_eq!(lab.pid("h1-libvirtd").unwrap(), None);
    assert!(runs(vm));
    lab.start("h1-libvirtd").unwrap();
    lab.wait_ready("h1-libvirtd").unwrap();
    let listed = lab.exec_in("h1", &["virsh", "-c", "qemu:///system", "list", "--name"]).unwrap();
    assert_eq!(listed.trim(), "vm");
    assert_eq!(qemu(&lab, "h1"), vm);

    lab.down().unwrap();
    assert!(!runs(vm));
    nothing_of(number);
}

#[test]
fn processes_are_killed_stopped_frozen_and_started_one_by_one() {
    let folder = folder();
    let lab = Lab::up(&options(&folder, 152, 2, 0)).unwrap();
    let (first, second) = (lab.pid("c1").unwrap().unwrap(), lab.pid("c2").unwrap().unwrap());
    assert!(matches!(lab.start("c1"), Err(Error::Running { pid, .. }) if pid == first));

    lab.kill9("c1").unwrap();
    assert_eq!(lab.pid("c1").unwrap(), None);
    assert!(!lab.status().unwrap().is_ready());
    assert!(matches!(lab.kill9("c1"), Err(Error::NotRunning { .. })));
    lab.start_with("c1", &[("SPECIAL", "yes")]).unwrap();
    lab.wait_ready("c1").unwrap();
    let again = lab.pid("c1").unwrap().unwrap();
    assert_ne!(again, first);
    let environment = fs::read_to_string(format!("/proc/{again}/environ")).unwrap();
    assert!(environment.contains("SPECIAL=yes"));

    lab.pause("c2").unwrap();
    wait_for("c2 is frozen", || fs::read_to_string(format!("/proc/{second}/stat")).unwrap().contains(") T "));
    lab.resume("c2").unwrap();
    assert_eq!(greeting(&lab, "c2"), "c2");
    lab.pause("c2").unwrap();
    lab.stop("c2").unwrap();
    assert!(!runs(second));

    lab.disconnect("c1").unwrap();
    let address = lab.member("c1").unwrap().api();
    assert!(TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_err());
    lab.reconnect("c1").unwrap();
    wait_for("c1 answers again", || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok());

    assert!(matches!(lab.pid("c3"), Err(Error::NoSuchName(_))));
    lab.down().unwrap();
}

#[test]
fn labs_run_beside_each_other_and_share_the_hugepages_of_the_machine() {
    let (one, two) = (folder(), folder());
    let first = Lab::up(&options(&one, 153, 1, 1)).unwrap();
    let second = Lab::up(&options(&two, 154, 1, 1)).unwrap();
    assert_ne!(first.number(), second.number());
    assert_eq!(greeting(&first, "c1"), "c1");
    let gone = second.number();
    second.down().unwrap();
    nothing_of(gone);
    assert!(first.status().unwrap().is_ready());
    assert!(Lab::leftovers(first.number()).unwrap().contains(&"8 hugepages".to_owned()));
    let number = first.number();
    // An owned lab ends with its owner's handle.
    drop(first);
    nothing_of(number);
}

#[test]
fn more_hugepages_than_the_kernel_has_are_a_clear_error_and_nothing_is_left() {
    let folder = folder();
    let mut options = options(&folder, 155, 0, 1);
    options.slice.hugepages_2m = 1 << 24;
    match Lab::up(&options) {
        Err(Error::Hugepages { wanted, given }) => assert!(given < wanted),
        other => panic!("{other:?}"),
    }
    assert!(!folder.path().join("state/berth-lab.json").exists());
    options.slice.memory_mib = 1 << 30;
    assert!(matches!(Lab::up(&options), Err(Error::Memory { hosts: 1, .. })));
}

#[test]
fn a_daemon_that_does_not_come_up_takes_the_lab_down_and_its_words_are_in_the_error() {
    let folder = folder();
    let options = options(&folder, 156, 2, 0);
    fs::write(&options.binaries.controller, "#!/bin/sh\necho cannot bind the moon\nexit 3\n").unwrap();
    match Lab::up(&options) {
        Err(Error::NotRunning { log, .. }) => assert!(log.contains("cannot bind the moon"), "{log}"),
        other => panic!("{other:?}"),
    }
    assert!(!folder.path().join("state/berth-lab.json").exists());
    assert!(folder.path().join("state/logs/c1.log").exists());
}

#[test]
fn a_state_directory_with_other_files_or_out_of_the_hosts_sight_is_refused() {
    let folder = folder();
    let mut options = options(&folder, 157, 1, 0);
    fs::create_dir(&options.state_dir).unwrap();
    fs::write(options.state_dir.join("thesis.txt"), "dear").unwrap();
    assert!(matches!(Lab::up(&options), Err(Error::StateDir { .. })));
    assert!(options.state_dir.join("thesis.txt").exists());
    options.state_dir = PathBuf::from("/run/berth-lab-state");
    assert!(matches!(Lab::up(&options), Err(Error::StateDir { .. })));
    fs::remove_dir("/run/berth-lab-state").unwrap();
    assert!(matches!(Lab::attach(Path::new("/nowhere/at/all")), Err(Error::NoLab(_))));
}

#[test]
fn odd_certificates_can_be_made_and_trust_the_labs_controllers() {
    let folder = folder();
    let lab = Lab::up(&options(&folder, 158, 1, 0)).unwrap();
    let valid = berth_pki::Validity::days(std::time::SystemTime::now(), 1);
    let stranger = berth_pki::Authority::generate(lab.cluster(), valid).unwrap();
    let client = lab.client("stranger", &stranger, berth_pki::Role::Operator, "mallory").unwrap();
    let ca = fs::read_to_string(client.folder.join("ca.pem")).unwrap();
    assert_eq!(ca, lab.authority().unwrap().cert_pem());
    assert!(client.config.exists());
    let scraper = lab.client("scraper", &lab.authority().unwrap(), berth_pki::Role::Scraper, "s").unwrap();
    assert_ne!(scraper.folder, client.folder);
    lab.down().unwrap();
}

#[test]
fn an_image_is_put_on_every_host_under_its_digest() {
    let folder = folder();
    let lab = Lab::up(&options(&folder, 159, 0, 1)).unwrap();
    let file = folder.path().join("image");
    fs::write(&file, "abc").unwrap();
    let digest = lab.add_image(&file).unwrap();
    assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(fs::read_to_string(lab.folder("h1").unwrap().join("images").join(digest)).unwrap(), "abc");
    lab.down().unwrap();
}

fn tool(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth-lab"));
    command.arg("--state-dir").arg(state);
    command
}

fn tool_up(folder: &TempDir, number: u8) -> Command {
    let number = number.to_string();
    stand_ins(folder.path());
    let mut command = tool(&folder.path().join("state"));
    command.args(["up", "--controllers", "1", "--hosts", "1", "--hugepages", "8", "--number", &number]);
    command.arg("--binaries").arg(folder.path());
    command
}

#[test]
fn a_kept_lab_outlives_who_brought_it_up_and_is_there_once() {
    let folder = folder();
    let state = folder.path().join("state");
    assert!(tool_up(&folder, 180).status().unwrap().success());
    let lab = Lab::attach(&state).unwrap();
    assert!(lab.status().unwrap().is_ready());
    assert_eq!(greeting(&lab, "h1"), "h1");

    let again = tool_up(&folder, 180).output().unwrap();
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("is up; take it down first"));
    assert!(lab.status().unwrap().is_ready());

    // One of its processes is gone: that lab has crashed, and `up` makes a new one.
    let before = lab.cluster().to_owned();
    lab.kill9("c1").unwrap();
    assert!(tool_up(&folder, 180).status().unwrap().success());
    let lab = Lab::attach(&state).unwrap();
    assert_ne!(lab.cluster(), before);
    let said = tool(&state).args(["exec", "h1", "hostname"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "h1");

    let number = lab.number();
    assert!(tool(&state).arg("down").status().unwrap().success());
    nothing_of(number);
    assert!(tool(&state).arg("down").status().unwrap().success(), "down twice is fine");
}

/// Starts `up` and kills it with -9 as soon as `stage` is seen.
fn kill_half_way(folder: &TempDir, number: u8, stage: &dyn Fn() -> bool) {
    let mut child = tool_up(folder, number).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the stage to be killed at", || stage() || child.try_wait().unwrap().is_some());
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "it was ready before it could be killed");
}

#[test]
fn a_lab_whose_upper_was_killed_half_way_is_cleaned_by_the_next_up() {
    let folder = folder();
    let state = folder.path().join("state");
    let there = |path: String| Path::new(&path).exists();
    let stages: [(u8, &dyn Fn() -> bool); 5] = [
        (181, &|| there("/run/berth-lab/181.json".to_owned())),
        (182, &|| there("/run/netns/bl182-sw".to_owned())),
        (183, &|| there("/run/netns/bl183-h1".to_owned())),
        (184, &|| state.join("pids/h1-keeper.json").exists()),
        (185, &|| state.join("logs/c1.log").exists()),
    ];
    for (number, stage) in stages {
        kill_half_way(&folder, number, stage);
        // Another lab's `up` elsewhere cleans it.
        let elsewhere = self::folder();
        let lab = Lab::up(&options(&elsewhere, 186, 1, 0)).unwrap();
        nothing_of(number);
        assert!(!state.join("berth-lab.json").exists());
        lab.down().unwrap();
    }
    // And one at the same place begins anew.
    kill_half_way(&folder, 187, &|| state.join("pids/h1-keeper.json").exists());
    assert!(tool_up(&folder, 187).status().unwrap().success());
    let lab = Lab::attach(&state).unwrap();
    assert!(lab.status().unwrap().is_ready());
    lab.down().unwrap();
    nothing_of(187);
}

#[test]
fn a_lab_whose_owner_was_killed_is_cleaned_by_the_next_up() {
    let folder = folder();
    let binaries = stand_ins(folder.path());
    let mut owner = tool(&folder.path().join("state"))
        .args(["run", "--controllers", "1", "--hosts", "0", "--number", "188", "--binaries"])
        .arg(binaries.controller.parent().unwrap())
        .args(["--", "sh", "-c", "echo $$; exec sleep 60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let lab = Lab::attach(&folder.path().join("state")).unwrap();
    assert!(lab.status().unwrap().is_ready());
    assert!(matches!(lab.down(), Err(Error::Busy(188))), "an owned lab is its owner's");

    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(Command::new("kill").arg(line.trim()).status().unwrap().success());
    let elsewhere = self::folder();
    let lab = Lab::up(&options(&elsewhere, 189, 1, 0)).unwrap();
    nothing_of(188);
    lab.down().unwrap();
}

/// A program that waits for one datagram and prints it.
const HEAR: &str = "$s = IO::Socket::INET->new(LocalPort => 9999, Proto => 'udp') or die; \
                    $| = 1; print qq(ready\\n); $s->recv($said, 99); print qq($said\\n);";

fn tell(lab: &Lab, from: &str, to: &str, what: &str) {
    let address = lab.member(to).unwrap().address;
    let send = format!("IO::Socket::INET->new(PeerAddr => '{address}:9999', Proto => 'udp')->send('{what}') or die");
    lab.exec_in(from, &["perl", "-MIO::Socket::INET", "-e", &send]).unwrap();
}

#[test]
fn a_partition_stops_what_goes_in_one_direction_until_it_is_healed() {
    let folder = folder();
    let lab = Lab::up(&options(&folder, 161, 2, 0)).unwrap();
    let hear = |member: &str| {
        let mut command = lab.command_in(member, "perl").unwrap();
        let mut child = command.args(["-MIO::Socket::INET", "-e", HEAR]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        (child, lines)
    };
    lab.partition("c1", "c2").unwrap();
    let ((mut first, mut at_c1), (mut second, mut at_c2)) = (hear("c1"), hear("c2"));
    tell(&lab, "c2", "c1", "through");
    assert_eq!(at_c1.next().unwrap().unwrap(), "through");
    tell(&lab, "c1", "c2", "lost");
    lab.heal().unwrap();
    tell(&lab, "c1", "c2", "healed");
    assert_eq!(at_c2.next().unwrap().unwrap(), "healed", "what was sent before did not arrive");
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    // Healing what is whole is fine.
    lab.heal().unwrap();
    lab.down().unwrap();
    nothing_of(161);
}
