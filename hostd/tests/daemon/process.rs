//! The program as an operator meets it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use berth_model::ConditionStatus;
use berth_pki::Role;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::leader::Leader;
use crate::trust::Trust;

const PROGRAM: &str = env!("CARGO_BIN_EXE_berth-hostd");

fn configure(folder: &Path, trust: &Trust, controller: &str, rest: &str) -> PathBuf {
    let tls = folder.join("tls");
    std::fs::create_dir_all(&tls).unwrap();
    trust.issue(Role::Host, "h1").save(&tls).unwrap();
    let path = folder.join("hostd.toml");
    let folder = folder.display();
    let text = format!(
        r#"
name = "h1"
data_dir = "{folder}/data"
listen = "127.0.0.1:0"
address = "127.0.0.1:7443"
controllers = ["{controller}"]
images_dir = "{folder}/images"
volumes_dir = "{folder}/volumes"
run_dir = "{folder}/run"
libvirt_uri = "qemu+unix:///system?socket={folder}/no-libvirt-here"
host_cores = 0
{rest}
[tls]
ca = "{folder}/tls/ca.pem"
cert = "{folder}/tls/cert.pem"
key = "{folder}/tls/key.pem"
[lab_slice]
cpus = "0"
memory = "512MiB"
"#
    );
    std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    path
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

#[test]
fn a_configuration_that_cannot_be_used_ends_with_64_and_says_where() {
    let (folder, trust) = (tempfile::tempdir().unwrap(), Trust::new());
    let path = configure(folder.path(), &trust, "127.0.0.1:1", "hugepages_4m = 1");
    let found = run(&["--check-config", "--config", path.to_str().unwrap()]);
    let said = String::from_utf8(found.stderr).unwrap();
    assert_eq!(found.status.code(), Some(64));
    assert!(said.contains(path.to_str().unwrap()) && said.contains("unknown field `hugepages_4m`"), "{said}");
    let missing = run(&["--config", "/nonexistent/hostd.toml"]);
    assert_eq!(missing.status.code(), Some(64));
}

#[test]
fn a_good_configuration_is_said_to_be_good_and_nothing_is_made() {
    let (folder, trust) = (tempfile::tempdir().unwrap(), Trust::new());
    let path = configure(folder.path(), &trust, "127.0.0.1:1", "");
    let found = run(&["--check-config", "--config", path.to_str().unwrap()]);
    assert_eq!(found.status.code(), Some(0));
    assert!(!folder.path().join("data").exists());
}

#[test]
fn the_preflight_says_what_it_found() {
    let found = run(&["preflight"]);
    let said = String::from_utf8(found.stdout).unwrap();
    assert!(said.contains("KVM can be used here") || said.contains("KVM cannot be used here"), "{said}");
}

#[tokio::test]
async fn a_host_without_libvirt_still_speaks_and_ends_in_order() {
    let (folder, trust) = (tempfile::tempdir().unwrap(), Trust::new());
    let leader = Leader::new(&trust.credentials(Role::Controller, "c1"), vec![]).await;
    let path = configure(folder.path(), &trust, &leader.address, "");
    let mut child = tokio::process::Command::new(PROGRAM)
        .args(["--config", path.to_str().unwrap(), "--log", "debug"])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let known = leader
        .until("it says that it cannot see its domains", |known| {
            known
                .reports
                .iter()
                .flat_map(|report| report.conditions.iter().flatten())
                .any(|condition| condition.kind == "DomainsSeen" && condition.status == ConditionStatus::False)
                && known.reports.iter().any(|report| report.inventory.is_some())
        })
        .await;
    assert!(known.reports.iter().all(|report| !report.full), "unknown is not absent");
    assert_eq!(known.hosts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["h1"]);
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}
