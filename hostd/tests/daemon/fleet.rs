//! Hosts on simulated machines: one process, and as many daemons as were asked for.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use berth_model::vm::RunStrategy;
use berth_pki::Role;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::driver::{entry_on, image, runs, vm};
use crate::leader::Leader;
use crate::trust::Trust;

fn start(folder: &Path, trust: &Trust, controller: &str, hosts: usize) -> Child {
    for number in 1..=hosts {
        let name = format!("sim-{number:04}");
        let tls = folder.join("tls").join(&name);
        std::fs::create_dir_all(&tls).unwrap();
        trust.issue(Role::Host, &name).save(&tls).unwrap();
    }
    let config = folder.join("fleet.toml");
    let shown = folder.display();
    let text = format!(
        r#"
name = "{{name}}"
data_dir = "{shown}/data/{{name}}"
listen = "127.0.0.1:0"
controllers = ["{controller}"]
[tls]
ca = "{shown}/tls/{{name}}/ca.pem"
cert = "{shown}/tls/{{name}}/cert.pem"
key = "{shown}/tls/{{name}}/key.pem"
"#
    );
    std::fs::write(&config, text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_berth-hostd"))
        .arg("--config")
        .arg(config)
        .args(["--backend", "sim", "--fleet", &hosts.to_string(), "--boot-ms", "1"])
        .args(["--image", &format!("{}:64MiB", image())])
        .arg("--told")
        .arg(folder.join("told"))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

async fn end(mut child: Child) {
    kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(30), child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn each_host_of_a_fleet_has_a_session_and_an_identity_of_its_own_and_all_end_in_order() {
    let (folder, trust) = (tempfile::tempdir().unwrap(), Trust::new());
    let leader = Leader::new(&trust.credentials(Role::Controller, "c1"), vec![]).await;
    let child = start(folder.path(), &trust, &leader.address, 3);
    let known = leader
        .until("three hosts said what they are", |known| {
            known.hosts.len() == 3 && known.reports.iter().filter(|report| report.inventory.is_some()).count() >= 3
        })
        .await;
    let names: BTreeSet<_> = known.hosts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["sim-0001", "sim-0002", "sim-0003"]));
    assert_eq!(known.hosts.iter().map(|(_, host)| host).collect::<BTreeSet<_>>().len(), 3);
    end(child).await;
    assert!(folder.path().join("data/sim-0003/ledger").exists());
    // Who was there before is who comes again.
    let child = start(folder.path(), &trust, &leader.address, 3);
    let again = |known: &crate::leader::Known| {
        known.reports.iter().filter(|report| report.full).count() >= 6 && known.hosts.len() == 3
    };
    leader.until("the same three again", again).await;
    end(child).await;
}

#[tokio::test]
async fn a_simulated_host_runs_what_it_is_told_and_writes_down_when_its_ledger_was_synced() {
    let (folder, trust) = (tempfile::tempdir().unwrap(), Trust::new());
    let leader = Leader::new(&trust.credentials(Role::Controller, "c1"), vec![]).await;
    let before = berth_hostsys::boottime().as_nanos();
    let child = start(folder.path(), &trust, &leader.address, 1);
    let known = leader.until("its first full report", |known| known.reports.iter().any(|report| report.full)).await;
    leader.want(entry_on(known.hello.unwrap().host, 1, RunStrategy::Always)).await;
    leader.until("VM 1 runs", |known| runs(known, vm(1))).await;
    end(child).await;
    let told = std::fs::read_to_string(folder.path().join("told")).unwrap();
    let (at, who) = told.trim_end().split_once(' ').unwrap();
    assert_eq!(who, vm(1).to_string());
    assert!((before..berth_hostsys::boottime().as_nanos()).contains(&at.parse().unwrap()), "{told}");
}
