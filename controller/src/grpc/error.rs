//! Errors become gRPC statuses here and nowhere else.

use berth_control::{Error, Kind};
use berth_pki::{Identity, Role};
use berth_proto::ConvertError;
use berth_proto::status::{CODE_KEY, HINT_KEY, to_status};
use http::{HeaderValue, Response};
use tonic::{Code, Status};

/// The status that carries an error of control. What is for the log goes to the log.
pub(super) fn status(error: Error) -> Status {
    if let Some(context) = &error.context {
        tracing::error!(code = error.code, "{}: {context}", error.message);
    }
    let code = match error.kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::NotFound => Code::NotFound,
        Kind::Conflict => Code::Aborted,
        Kind::Precondition => Code::FailedPrecondition,
        Kind::Denied => Code::PermissionDenied,
        Kind::Unavailable => Code::Unavailable,
        Kind::Unknown => Code::Unknown,
        Kind::OutOfRange => Code::OutOfRange,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Internal => Code::Internal,
    };
    to_status(code, error.code, error.message, error.hint.as_deref())
}

/// The status for a message that is no model value.
pub(super) fn malformed(error: &ConvertError) -> Status {
    to_status(Code::InvalidArgument, "BE-1007", error.to_string(), None)
}

/// The status for a field that must be there.
pub(super) fn missing(field: &str) -> Status {
    to_status(Code::InvalidArgument, "BE-1012", format!("{field} is missing"), None)
}

pub(super) fn no_certificate() -> Status {
    to_status(Code::Unauthenticated, "BE-4001", "the connection carries no certificate", None)
}

pub(super) fn role_not_allowed(peer: &Identity, roles: &[Role]) -> Status {
    let wanted: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
    let message = format!(
        "the certificate of {} {:?} may not do this; it takes the role {}",
        peer.role().as_str(),
        peer.name(),
        wanted.join(" or ")
    );
    to_status(Code::PermissionDenied, "BE-4003", message, Some("use a certificate of that role"))
}

/// The library refuses a message over the limit by itself, without a code of ours: this adds it.
pub(super) fn name_the_limit<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    let out_of_range = headers.get("grpc-status").is_some_and(|status| status == "11");
    if out_of_range && !headers.contains_key(CODE_KEY) {
        headers.insert(CODE_KEY, HeaderValue::from_static("BE-1009"));
        headers.insert(HINT_KEY, HeaderValue::from_static("send less in one request; user data may have 1 MiB"));
    }
    response
}

#[cfg(test)]
mod tests;
