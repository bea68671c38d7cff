//! Each command: what it does, and each reason for which it is refused.

mod hosts;
mod laws;
mod orphans;
mod power;
mod requests;
mod steer;
mod vms;

use berth_model::host::Liveness;
use berth_model::testing::{Machine, cluster_id, host_uid, name, vm_spec};
use berth_model::{Bytes, Timestamp};

use crate::apply::apply;
use crate::cluster::Cluster;
use crate::command::{Batch, Body};
use crate::outcome::Rejection;
use crate::testing::{World, create_image, create_vm};

#[test]
fn a_bootstrap_gives_identity_and_built_in_instance_types_once() {
    let mut world = World::empty();
    let bootstrap = || Body::Bootstrap { cluster: cluster_id(), version: 1 };
    world.done(bootstrap());
    let info = world.cluster.info.unwrap();
    assert_eq!((info.id, info.version, info.created_at), (cluster_id(), 1, world.at));
    let types: Vec<_> = world.cluster.instance_types.keys().map(ToString::to_string).collect();
    assert_eq!(types, ["standard-2", "standard-4", "standard-8"]);
    assert_eq!(world.refused(bootstrap()), Rejection::AlreadyBootstrapped);
}

#[test]
fn nothing_is_done_before_the_bootstrap() {
    let mut world = World::empty();
    assert_eq!(world.refused(create_image("tiny", 1)), Rejection::NotBootstrapped);
}

#[test]
fn a_command_of_newer_rules_waits_for_the_cluster_version() {
    let mut world = World::empty();
    world.done(Body::Bootstrap { cluster: cluster_id(), version: 0 });
    let refused = world.refused(create_image("tiny", 1));
    assert_eq!(refused, Rejection::NeedsClusterVersion { command: "CreateImage".into(), needs: 1, has: 0 });
}

#[test]
fn an_image_name_is_given_once() {
    let mut world = World::new();
    let refused = world.refused(create_image("tiny", 2));
    assert_eq!(refused, Rejection::NameTaken { kind: "image".into(), name: "tiny".into() });
}

#[test]
fn an_image_is_forgotten_only_when_no_vm_uses_it() {
    let mut world = World::new();
    let delete = || Body::DeleteImage { name: name("tiny") };
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    assert_eq!(world.refused(delete()), Rejection::ImageInUse { name: name("tiny"), vm: "vm-1".into() });
    world.done(crate::testing::delete_vm(vm));
    world.done(delete());
    assert_eq!(world.refused(delete()), Rejection::NotFound { kind: "image".into(), name: "tiny".into() });
}

#[test]
fn entry_time_never_goes_back() {
    let mut world = World::new();
    let early = Timestamp::from_millis(world.at.as_millis() - 5000);
    apply(&mut world.cluster, &Batch { at: early, commands: Vec::new() });
    assert_eq!(world.cluster.last_at, world.at);
    world.at = early;
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    assert!(world.vm_now(vm).meta.created_at > early);
}

#[test]
fn a_batch_answers_each_command_in_order_and_each_change_has_a_revision_of_its_own() {
    let mut world = World::new();
    let before = world.cluster.revision;
    let commands = [create_vm(1, vm_spec(1, Bytes::mib(64))), create_image("tiny", 2), create_image("other", 3)]
        .map(|body| crate::command::Command { request: None, actor: berth_model::testing::operator(), body });
    let (answers, changes) = apply(&mut world.cluster, &Batch { at: world.at, commands: commands.into() });
    let (one, two) = (before.next(), before.next().next());
    assert_eq!(answers.iter().map(|answer| answer.revision).collect::<Vec<_>>(), [one, one, two]);
    assert!(answers[0].result.is_ok() && answers[1].result.is_err() && answers[2].result.is_ok());
    assert_eq!(changes.iter().map(|change| change.revision).collect::<Vec<_>>(), [one, two]);
}

#[test]
fn a_hosts_liveness_changes_only_when_it_is_another() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(2).inventory());
    let before = world.cluster.revision;
    world.liveness(host, Liveness::Alive);
    assert_eq!(world.cluster.revision, before);
    world.at = world.at.plus(berth_model::Millis(500));
    world.liveness(host, Liveness::Suspect);
    let held = &world.cluster.hosts[&host];
    assert_eq!((held.liveness, held.liveness_since, held.meta.revision), (Liveness::Suspect, world.at, before.next()));
    let unknown = host_uid(9);
    let refused = world.refused(Body::SetLiveness { host: unknown, liveness: Liveness::Lost });
    assert_eq!(refused, Rejection::NotFound { kind: "host".into(), name: unknown.to_string() });
}

#[test]
fn a_list_of_vms_goes_on_behind_the_last_name_of_the_page_before() {
    let mut world = World::new();
    for number in [3, 1, 2] {
        world.vm(number, vm_spec(1, Bytes::mib(64)));
    }
    let names = |cluster: &Cluster, project: Option<&str>, after: Option<(&str, &str)>| -> Vec<String> {
        let project = project.map(name);
        let after = after.map(|(project, last)| (name(project), name(last)));
        cluster.vms_by_name(project.as_ref(), after.as_ref()).map(|vm| vm.meta.name.to_string()).collect()
    };
    assert_eq!(names(&world.cluster, None, None), ["vm-1", "vm-2", "vm-3"]);
    assert_eq!(names(&world.cluster, Some("default"), Some(("default", "vm-1"))), ["vm-2", "vm-3"]);
    assert!(names(&world.cluster, Some("other"), None).is_empty());
}
