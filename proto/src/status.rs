//! How an error travels: a gRPC status with a code of ours and a hint in its metadata.
//!
//! The message says what and why; `berth-code` is the number of a page in `docs/errors`; `berth-hint` says what to do
//! next and is percent-encoded, because metadata values are ASCII.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};

/// The metadata key of the code.
pub const CODE_KEY: &str = "berth-code";
/// The metadata key of the hint.
pub const HINT_KEY: &str = "berth-hint";
/// The metadata key of the request id of a change whose answer is an error.
pub const REQUEST_ID_KEY: &str = "berth-request-id";

/// An error as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The kind of error, in gRPC's words.
    pub grpc: Code,
    /// `BE-NNNN`; none where the error was not made by Berth, such as a broken connection.
    pub code: Option<String>,
    /// What, and why.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// Builds the status that carries an error.
pub fn to_status(grpc: Code, code: &str, message: impl Into<String>, hint: Option<&str>) -> Status {
    let mut status = Status::new(grpc, message);
    let metadata = status.metadata_mut();
    if let Ok(value) = MetadataValue::<Ascii>::try_from(code) {
        metadata.insert(CODE_KEY, value);
    }
    if let Some(value) = hint.and_then(|hint| MetadataValue::<Ascii>::try_from(percent_encode(hint)).ok()) {
        metadata.insert(HINT_KEY, value);
    }
    status
}

/// Reads what a status carries.
pub fn from_status(status: &Status) -> Carried {
    let text = |key| status.metadata().get(key).and_then(|value| value.to_str().ok());
    Carried {
        grpc: status.code(),
        code: text(CODE_KEY).map(str::to_owned),
        message: status.message().to_owned(),
        hint: text(HINT_KEY).map(percent_decode),
    }
}

/// Keeps printable ASCII except `%`; everything else becomes `%XX` of its UTF-8 bytes.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => write!(encoded, "%{byte:02X}").expect("a String takes every write"),
            printable => encoded.push(char::from(printable)),
        }
    }
    encoded
}

/// The inverse of [`percent_encode`]; what is no escape stays as it is.
fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = (byte == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escape {
            Some(escaped) => {
                decoded.push(escaped);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn code_message_and_hint_survive_the_carriage() {
        let status = to_status(Code::NotFound, "BE-2002", "no VM »x«", Some("list them: 100 % »berth vm list«\n"));
        assert_eq!(
            from_status(&status),
            Carried {
                grpc: Code::NotFound,
                code: Some("BE-2002".into()),
                message: "no VM »x«".into(),
                hint: Some("list them: 100 % »berth vm list«\n".into()),
            }
        );
    }

    #[test]
    fn a_status_of_another_making_carries_no_code() {
        assert_eq!(from_status(&Status::unavailable("tcp connect error")).code, None);
    }

    proptest! {
        #[test]
        fn every_hint_survives_encoding(hint in ".{0,60}") {
            let encoded = percent_encode(&hint);
            prop_assert!(encoded.is_ascii());
            prop_assert_eq!(percent_decode(&encoded), hint);
        }

        #[test]
        fn decoding_never_panics(text in "[%0-9a-fA-F é]{0,30}") {
            let _ = percent_decode(&text);
        }
    }
}
