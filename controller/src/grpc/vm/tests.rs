//! From the wire to the request.

use berth_proto::v1;
use tonic::Code;

use super::{create_request, page_start};

fn spec() -> v1::VmSpec {
    v1::VmSpec { image: "tiny".into(), cpus: Some(0), ..v1::VmSpec::default() }
}

fn request(spec: Option<v1::VmSpec>) -> v1::CreateVmRequest {
    v1::CreateVmRequest { name: "web".into(), spec, ..v1::CreateVmRequest::default() }
}

#[test]
fn what_was_not_given_is_none_and_what_was_given_stays_even_if_it_is_zero() {
    let asked = create_request(request(Some(spec()))).unwrap();
    assert_eq!((asked.cpus, asked.memory, asked.instance_type), (Some(0), None, None));
    assert_eq!((&asked.performance[..], &asked.run[..], asked.user_data), ("", "", None));
}

#[test]
fn words_of_a_newer_client_are_refused_by_admission_and_not_taken_for_the_default() {
    let asked = create_request(request(Some(v1::VmSpec { performance: 99, run_strategy: 98, ..spec() }))).unwrap();
    assert_eq!((&asked.performance[..], &asked.run[..]), ("99", "98"));
}

#[test]
fn a_spec_must_be_there_and_what_only_answers_carry_is_refused() {
    let refused = |spec| create_request(request(spec)).unwrap_err();
    let missing = refused(None);
    assert_eq!(missing.metadata().get("berth-code").unwrap(), "BE-1012");
    for spec in [
        v1::VmSpec { has_user_data: true, ..spec() },
        v1::VmSpec { image_sha256: "ab".into(), ..spec() },
        v1::VmSpec { image_virtual_size_bytes: 1, ..spec() },
    ] {
        let status = refused(Some(spec));
        assert_eq!(
            (status.code(), status.metadata().get("berth-code").unwrap().as_bytes()),
            (Code::InvalidArgument, &b"BE-1007"[..])
        );
    }
}

#[test]
fn a_page_begins_behind_the_last_object_of_the_one_before() {
    assert_eq!(page_start("").unwrap(), None);
    let (project, name) = page_start("default/web").unwrap().unwrap();
    assert_eq!((project.as_str(), name.as_str()), ("default", "web"));
    for wrong in ["web", "default/", "default/A", "a/b/c"] {
        assert!(page_start(wrong).is_err(), "{wrong}");
    }
}
