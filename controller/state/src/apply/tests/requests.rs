//! The same request is never carried out twice (law 8).

use berth_model::testing::{NOW, cluster_id, operator, vm_spec};
use berth_model::{Actor, ActorRole, Bytes, Millis, RequestId};

use crate::command::Body;
use crate::outcome::{Outcome, Rejection};
use crate::record;
use crate::requests::Requests;
use crate::testing::{World, create_image, create_vm, delete_vm};

fn id(random: u128) -> RequestId {
    RequestId::from_parts(NOW, random)
}

const BODY: [u8; 32] = [7; 32];

#[test]
fn the_same_request_gets_the_first_answer_and_the_revision_does_not_move() {
    let mut world = World::new();
    let create = create_vm(1, vm_spec(1, Bytes::mib(64)));
    let first = world.command(Some((id(1), BODY)), operator(), create.clone());
    assert!(first.result.is_ok());
    let Ok(Outcome::Vm(vm)) = first.result else { panic!("{first:?}") };
    world.done(delete_vm(vm));
    let before = world.cluster.clone();
    let again = world.command(Some((id(1), BODY)), operator(), create);
    assert_eq!(again, first);
    assert!(world.cluster == before, "a repetition changes nothing, not even what was deleted since");
}

#[test]
fn a_refusal_is_remembered_too() {
    let mut world = World::new();
    let create = create_image("tiny", 2);
    let first = world.command(Some((id(1), BODY)), operator(), create.clone());
    assert!(matches!(first.result, Err(Rejection::NameTaken { .. })));
    world.done(Body::DeleteImage { name: berth_model::testing::name("tiny") });
    assert_eq!(world.command(Some((id(1), BODY)), operator(), create), first);
}

#[test]
fn the_id_of_another_request_is_refused() {
    let mut world = World::new();
    world.command(Some((id(1), BODY)), operator(), create_image("a", 2)).result.unwrap();
    let before = world.cluster.clone();
    let other_body = world.command(Some((id(1), [8; 32])), operator(), create_image("b", 3));
    assert_eq!(other_body.result, Err(Rejection::RequestReused { id: id(1).to_string() }));
    let other_actor = Actor { role: ActorRole::Operator, name: "eve".into() };
    let stolen = world.command(Some((id(1), BODY)), other_actor, create_image("a", 2));
    assert_eq!(stolen.result, Err(Rejection::RequestReused { id: id(1).to_string() }));
    assert!(world.cluster == before);
}

#[test]
fn a_request_that_came_before_the_bootstrap_is_carried_out_after_it() {
    let mut world = World::empty();
    let request = Some((id(1), BODY));
    let early = world.command(request, operator(), create_image("a", 1));
    assert_eq!(early.result, Err(Rejection::NotBootstrapped));
    world.done(Body::Bootstrap { cluster: cluster_id(), version: 1 });
    assert!(world.command(request, operator(), create_image("a", 1)).result.is_ok());
}

#[test]
fn an_id_older_than_the_window_is_refused_also_after_a_snapshot() {
    let mut world = World::new();
    let request = Some((id(1), BODY));
    world.command(request, operator(), create_image("a", 2)).result.unwrap();
    world.at = NOW.plus(Requests::KEPT_FOR).plus(Millis(1));
    let late = Some((RequestId::from_parts(world.at, 2), BODY));
    world.command(late, operator(), create_image("b", 3)).result.unwrap();
    let bytes = record::encode_snapshot(&world.cluster).unwrap();
    world.cluster = record::decode_snapshot(&bytes).unwrap();
    world.done(Body::DeleteImage { name: berth_model::testing::name("a") });
    let refused = world.command(request, operator(), create_image("a", 2)).result;
    assert!(matches!(refused, Err(Rejection::RequestExpired { .. })), "{refused:?}");
    assert!(!world.cluster.images.contains_key("a"), "it was not carried out a second time");
}
