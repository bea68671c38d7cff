//! Which requests count as the same.

use berth_model::ActorRole;
use berth_pki::{Identity, Role};
use berth_proto::v1;
use tonic::{Code, Request};

use super::{actor, change, target};
use crate::grpc::Peer;

const ID: &str = "0192f0c1-2c5e-7d4a-8f00-0123456789ab";

fn request<T>(role: Role, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Peer(Identity::new("lab", role, "ada").unwrap()));
    request
}

fn start(name: &str, write: Option<v1::Write>) -> v1::StartVmRequest {
    v1::StartVmRequest { write, name: name.into(), ..v1::StartVmRequest::default() }
}

fn write(id: &str) -> v1::Write {
    v1::Write { request_id: id.into(), ..v1::Write::default() }
}

fn hash(method: &str, message: v1::StartVmRequest) -> [u8; 32] {
    change(method, request(Role::Operator, message)).unwrap().0.request.unwrap().1
}

#[test]
fn the_hash_is_of_what_is_asked_and_not_of_the_name_it_is_asked_by() {
    let first = hash("StartVm", start("web", Some(write(ID))));
    assert_eq!(first, hash("StartVm", start("web", Some(write("0192f0c1-2c5e-7d4a-8f00-0123456789ac")))));
    assert_eq!(first, hash("StartVm", start("web", None)));
    assert_ne!(first, hash("StartVm", start("db", Some(write(ID)))));
    assert_ne!(first, hash("StopVm", start("web", Some(write(ID)))), "another method is another request");
    let expecting = v1::Write { expected_revision: Some(7), ..write(ID) };
    assert_ne!(first, hash("StartVm", start("web", Some(expecting))), "what is expected is part of what is asked");
}

#[test]
fn an_id_is_taken_or_minted_and_told_and_a_wrong_one_refused() {
    let (caller, id, _) = change("StartVm", request(Role::Operator, start("web", Some(write(ID))))).unwrap();
    assert_eq!((&id[..], caller.request.unwrap().0.to_string()), (ID, ID.to_owned()));
    let minted = || change("StartVm", request(Role::Operator, start("web", None))).unwrap().1;
    let (one, other) = (minted(), minted());
    assert!(one.parse::<berth_model::RequestId>().is_ok() && one != other);
    let refused = change("StartVm", request(Role::Operator, start("web", Some(write("42"))))).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.metadata().get("berth-code").unwrap(), "BE-1010");
}

#[test]
fn who_asks_is_who_the_certificate_names() {
    let known = actor(&request(Role::Operator, ())).unwrap();
    assert_eq!((known.role, &known.name[..]), (ActorRole::Operator, "ada"));
    assert_eq!(actor(&Request::new(())).unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(actor(&request(Role::Scraper, ())).unwrap_err().code(), Code::PermissionDenied);
}

#[test]
fn what_the_client_saw_goes_along() {
    let seen = v1::Write { expected_uid: Some("u1".into()), expected_revision: Some(7), ..v1::Write::default() };
    let target = target(Some(&seen), "p", "web");
    assert_eq!((&target.uid[..], target.revision, &target.project[..]), ("u1", Some(7), "p"));
}
