//! Errors as clients see them.

use berth_control::{Error, Kind};
use berth_proto::status::{CODE_KEY, HINT_KEY};
use tonic::Code;

use super::{name_the_limit, status};

#[test]
fn each_kind_has_its_status_and_carries_code_and_hint_but_not_what_is_for_the_log() {
    let table = [
        (Kind::Invalid, Code::InvalidArgument),
        (Kind::AlreadyExists, Code::AlreadyExists),
        (Kind::NotFound, Code::NotFound),
        (Kind::Conflict, Code::Aborted),
        (Kind::Precondition, Code::FailedPrecondition),
        (Kind::Denied, Code::PermissionDenied),
        (Kind::Unavailable, Code::Unavailable),
        (Kind::Unknown, Code::Unknown),
        (Kind::OutOfRange, Code::OutOfRange),
        (Kind::Exhausted, Code::ResourceExhausted),
        (Kind::Internal, Code::Internal),
    ];
    for (kind, code) in table {
        let mut error = Error::new(kind, "BE-1001", "what and why").hint("do this");
        error.context = Some("inner".into());
        let shown = status(error);
        assert_eq!((shown.code(), shown.message()), (code, "what and why"));
        assert_eq!(shown.metadata().get(CODE_KEY).unwrap(), "BE-1001");
        assert_eq!(shown.metadata().get(HINT_KEY).unwrap(), "do this");
        assert!(!format!("{shown:?}").contains("inner"));
    }
}

#[test]
fn a_message_that_the_library_found_too_large_gets_our_code_and_our_own_answers_keep_theirs() {
    let answer = |grpc_status: &str, code: Option<&str>| {
        let mut response = http::Response::builder().header("grpc-status", grpc_status);
        if let Some(code) = code {
            response = response.header(CODE_KEY, code);
        }
        let response = name_the_limit(response.body(()).unwrap());
        response.headers().get(CODE_KEY).map(|code| code.to_str().unwrap().to_owned())
    };
    assert_eq!(answer("11", None).as_deref(), Some("BE-1009"));
    assert_eq!(answer("11", Some("BE-5005")).as_deref(), Some("BE-5005"));
    assert_eq!(answer("3", None), None);
}
