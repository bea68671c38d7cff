//! Clusters made and joined in folders of a test's own.

use std::os::unix::fs::PermissionsExt;

use berth_pki::{Authority, Bundle, Credentials, Role, SealingKey, read_private};
use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::config::Config;

#[derive(Parser)]
enum Program {
    Init(Init),
    Join(Join),
}

fn run(words: &[&str], place: &Path) -> anyhow::Result<String> {
    let root = place.join("etc").display().to_string();
    let data = place.join("data").display().to_string();
    let all = ["berth-controller"].iter().chain(words).copied();
    match Program::try_parse_from(all.chain(["--root", &root, "--data-dir", &data]))? {
        Program::Init(init) => init.run(),
        Program::Join(join) => join.run(),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

const THREE: [&str; 9] = [
    "init",
    "--name",
    "c1",
    "--address",
    "10.0.0.1",
    "--member",
    "c2=10.0.0.2,rack-2",
    "--member",
    "c3=c3.example.net",
];

#[test]
fn three_members_are_made_on_one_machine_and_carried_to_the_others() {
    let (first, second) = (folder(), folder());
    run(&THREE, first.path()).unwrap();
    let etc = first.path().join("etc");
    let bundle = etc.join("bundles/c2.bundle");
    assert!(!etc.join("bundles/c1.bundle").exists(), "the own place is taken at once");
    let told = run(&["join", bundle.to_str().unwrap()], second.path()).unwrap();
    assert!(told.contains("controller \"c2\" (id 2)"), "{told}");

    let one = Config::load(&etc.join("controller.toml")).unwrap();
    let two = Config::load(&second.path().join("etc/controller.toml")).unwrap();
    assert_eq!((one.id(), two.id()), (1, 2));
    assert_eq!(one.members(), two.members());
    assert_eq!(one.cluster(), two.cluster());
    assert_eq!(two.metrics_listen.as_deref(), Some("10.0.0.2:7442"));
    assert_eq!(two.members()[2].raft_addr, "c3.example.net:7441");
    assert_eq!(read_private(&one.sealing_key).unwrap(), read_private(&two.sealing_key).unwrap());
    for config in [&one, &two] {
        let tls = &config.tls;
        let credentials = Credentials::load_files(&tls.ca, &tls.cert, &tls.key).unwrap();
        assert_eq!(credentials.identity().name(), config.name.as_str());
        assert_eq!(std::fs::metadata(&tls.key).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let operator = Credentials::load(&etc.join("operator")).unwrap();
    assert_eq!(operator.identity().role(), Role::Operator);
    assert_eq!(Credentials::load(&etc.join("scraper")).unwrap().identity().role(), Role::Scraper);
    let text = std::fs::read_to_string(etc.join("operator/config.yaml")).unwrap();
    assert!(text.contains("[\"10.0.0.1:7440\", \"10.0.0.2:7440\", \"c3.example.net:7440\"]"), "{text}");
    assert_eq!(Authority::load(&etc.join("authority")).unwrap().cluster(), one.cluster().to_string());
}

#[test]
fn no_key_is_ever_overwritten() {
    let (first, second) = (folder(), folder());
    run(&THREE, first.path()).unwrap();
    let key = read_private(&first.path().join("etc/authority/ca-key.pem")).unwrap();
    let refused = run(&THREE, first.path()).unwrap_err().to_string();
    assert!(refused.contains("never overwritten"), "{refused}");
    assert_eq!(read_private(&first.path().join("etc/authority/ca-key.pem")).unwrap(), key);

    let bundle = |name: &str| first.path().join(format!("etc/bundles/{name}.bundle")).display().to_string();
    run(&["join", &bundle("c2")], second.path()).unwrap();
    // The same again changes nothing: whoever was interrupted repeats it.
    run(&["join", &bundle("c2")], second.path()).unwrap();
    let refused = run(&["join", &bundle("c3")], second.path()).unwrap_err().to_string();
    assert!(refused.contains("tls/key.pem is there already"), "{refused}");
}

#[test]
fn a_machine_with_another_members_data_is_not_joined() {
    let (first, second) = (folder(), folder());
    run(&THREE, first.path()).unwrap();
    std::fs::create_dir_all(second.path().join("data/gen-1")).unwrap();
    let bundle = first.path().join("etc/bundles/c2.bundle").display().to_string();
    let refused = run(&["join", &bundle], second.path()).unwrap_err().to_string();
    assert!(refused.contains("is not empty"), "{refused}");
    assert!(!second.path().join("etc/tls/key.pem").exists(), "nothing was written");
}

#[test]
fn a_bundle_without_the_sealing_key_asks_for_it() {
    let (first, second) = (folder(), folder());
    run(&THREE, first.path()).unwrap();
    let path = first.path().join("etc/bundles/c2.bundle");
    let mut bundle = Bundle::load(&path).unwrap();
    bundle.sealing_key = None;
    bundle.save(&path).unwrap();
    let path = path.display().to_string();
    let refused = run(&["join", &path], second.path()).unwrap_err().to_string();
    assert!(refused.contains("--sealing-key"), "{refused}");
    let key = first.path().join("etc/sealing.key").display().to_string();
    run(&["join", &path, "--sealing-key", &key], second.path()).unwrap();

    let other = first.path().join("other.key");
    SealingKey::generate().unwrap().save(&other).unwrap();
    let refused = run(&["join", &path, "--sealing-key", other.to_str().unwrap()], second.path()).unwrap_err();
    assert!(refused.to_string().contains("sealing.key is there already and differs"), "{refused}");
}

#[test]
fn with_out_nothing_is_set_up_here_and_each_member_has_a_bundle() {
    let here = folder();
    let out = here.path().join("new").display().to_string();
    run(&[&THREE[..], &["--out", &out]].concat(), here.path()).unwrap();
    assert!(!here.path().join("etc").exists());
    for name in ["c1", "c2", "c3"] {
        let bundle = Bundle::load(&here.path().join(format!("new/bundles/{name}.bundle"))).unwrap();
        assert_eq!((bundle.seat.name.as_str(), bundle.first.len()), (name, 3));
    }
}

#[test]
fn what_cannot_be_a_cluster_is_refused_before_anything_is_written() {
    let here = folder();
    let refused = |words: &[&str]| {
        let refused = run(&[&["init", "--name", "c1"], words].concat(), here.path()).unwrap_err().to_string();
        assert!(!here.path().join("etc").exists());
        refused
    };
    assert!(refused(&["--address", "10.0.0.1", "--member", "c2=10.0.0.2"]).contains("odd number"));
    assert!(refused(&["--address", "10.0.0.1", "--member", "c1=10.0.0.2"]).contains("two members"));
    assert!(refused(&["--address", "10.0.0.1:7440"]).contains("without a port"));
    assert!(refused(&["--address", "10.0.0.1", "--member", "c2"]).contains("NAME=ADDRESS"));
    assert!(refused(&["--address", "10.0.0.1", "--domain", "Rack 1"]).contains("failure domain"));
}
