//! Each refusal and failure has its code.

use berth_model::Revision;
use berth_model::testing::{NOW, host_uid, name, vm_uid};
use berth_state::Rejection;

use super::{Error, Kind};
use crate::ports::ConsensusError;

#[test]
fn each_rejection_has_its_kind_and_code_and_what_a_client_can_cure_has_advice() {
    let text = || String::from("x");
    let table = [
        (Rejection::NotBootstrapped, Kind::Unavailable, "BE-5001", true),
        (Rejection::NameTaken { kind: text(), name: text() }, Kind::AlreadyExists, "BE-2001", true),
        (Rejection::NotFound { kind: text(), name: text() }, Kind::NotFound, "BE-2002", false),
        (
            Rejection::Changed { kind: text(), name: text(), expected: Revision(1), actual: Revision(2) },
            Kind::Conflict,
            "BE-2003",
            true,
        ),
        (Rejection::Deleting { name: text() }, Kind::Precondition, "BE-2004", true),
        (Rejection::RequestReused { id: text() }, Kind::Conflict, "BE-2005", true),
        (Rejection::RequestExpired { id: text(), horizon: NOW }, Kind::Conflict, "BE-2006", true),
        (Rejection::RequestFromFuture { id: text(), ahead_seconds: 1 }, Kind::Invalid, "BE-2007", true),
        (Rejection::Halted { name: text() }, Kind::Precondition, "BE-2008", true),
        (Rejection::ImageInUse { name: name("a"), vm: text() }, Kind::Precondition, "BE-2009", true),
        (Rejection::TooManyLabels { kind: text(), name: text(), count: 65, most: 64 }, Kind::Invalid, "BE-1013", true),
        (Rejection::NoOrphan { host: text(), vm: vm_uid(1) }, Kind::NotFound, "BE-5034", true),
        (Rejection::NothingHeld { host: text(), vm: vm_uid(1) }, Kind::Precondition, "BE-5035", true),
        (Rejection::OrphanIsVm { vm: vm_uid(1), name: text() }, Kind::Precondition, "BE-5036", true),
        (Rejection::HostNameTaken { name: name("h1"), held_by: host_uid(1) }, Kind::AlreadyExists, "BE-2001", true),
    ];
    for (rejection, kind, code, has_advice) in table {
        let message = rejection.to_string();
        let error = Error::from(rejection);
        assert_eq!((error.kind, error.code, &error.message), (kind, code, &message));
        assert_eq!(error.hint.is_some(), has_advice, "{message}");
    }
}

#[test]
fn a_failure_of_consensus_says_whether_anything_was_changed() {
    let table = [
        (ConsensusError::NoLeader, Kind::Unavailable, "BE-5001", "nothing was changed"),
        (ConsensusError::Unknown("x".into()), Kind::Unknown, "BE-5002", "is not known"),
        (ConsensusError::Differs("x".into()), Kind::Unavailable, "BE-5031", "does not serve"),
        (ConsensusError::Stopped("x".into()), Kind::Unavailable, "BE-5003", "cannot serve"),
        (ConsensusError::Full("x".into()), Kind::Exhausted, "BE-5018", "nothing was changed"),
        (ConsensusError::TooLarge { bytes: 9, limit: 8 }, Kind::Invalid, "BE-1009", "takes 9 bytes"),
    ];
    for (failure, kind, code, says) in table {
        let error = Error::from(failure);
        assert_eq!((error.kind, error.code), (kind, code));
        assert!(error.message.contains(says), "{}", error.message);
    }
}
