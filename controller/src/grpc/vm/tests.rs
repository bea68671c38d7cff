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

#[test]
fn a_rule_that_cannot_be_understood_is_refused_by_its_field() {
    let refused = |spec: v1::VmSpec| {
        let status = create_request(request(Some(spec))).unwrap_err();
        assert_eq!(status.metadata().get("berth-code").unwrap(), "BE-1007");
        status.message().to_owned()
    };
    let spread = v1::Spread { domain: Some(v1::Domain { kind: 9, label: String::new() }), ..v1::Spread::default() };
    let rules = Some(v1::Rules { spread: vec![spread], ..v1::Rules::default() });
    let expected = "spec.rules.spread[0].domain.kind: has the unknown value 9";
    assert_eq!(refused(v1::VmSpec { rules, ..spec() }), expected);
    let tuning = Some(v1::Tuning { smt: 7, ..v1::Tuning::default() });
    assert_eq!(refused(v1::VmSpec { tuning, ..spec() }), "spec.tuning.smt: has the unknown value 7");
    let devices = vec![v1::DeviceDemand { kind: "gpu".into(), count: 1 }];
    assert!(refused(v1::VmSpec { devices, ..spec() }).starts_with("spec.devices[0].kind: \"gpu\" is not"));
}
