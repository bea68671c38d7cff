//! Who calls, and the name and hash of the request (law 8).

use berth_control::Caller;
use berth_control::admit::Target;
use berth_model::{Actor, ActorRole, RequestId};
use berth_pki::Role;
use berth_proto::status::to_status;
use berth_proto::v1;
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Code, Request, Status};

use super::{Peer, error};

/// A request that changes something: it can be hashed without its id.
pub(super) trait Change: Message + Clone {
    /// Where its id and expectations are.
    fn write_mut(&mut self) -> &mut Option<v1::Write>;
}

macro_rules! changes {
    ($($request:ty),* $(,)?) => {$(
        impl Change for $request {
            fn write_mut(&mut self) -> &mut Option<v1::Write> {
                &mut self.write
            }
        }
    )*};
}

changes! {
    v1::CreateVmRequest, v1::StartVmRequest, v1::StopVmRequest, v1::RestartVmRequest, v1::ResetVmRequest, v1::PauseVmRequest,
    v1::ResumeVmRequest, v1::DeleteVmRequest,
    v1::UpdateLabelsRequest, v1::CreateImageRequest, v1::DeleteImageRequest, v1::AdoptOrphanRequest,
    v1::RemoveOrphanRequest, v1::UpdateVmRequest, v1::UpdateHostRequest, v1::ConfirmDeadRequest, v1::RemoveHostRequest,
    v1::CreateInstanceTypeRequest, v1::DeleteInstanceTypeRequest, v1::CreatePreferenceRequest,
    v1::DeletePreferenceRequest,
}

/// The caller of a change, the request's id as text, and the request itself.
///
/// `method` goes into the hash, so that the same id cannot stand for a start and a stop of the same VM.
pub(super) fn change<R: Change>(method: &str, request: Request<R>) -> Result<(Caller, String, R), Status> {
    let actor = actor(&request)?;
    let request = request.into_inner();
    let mut hashed = request.clone();
    let write = hashed.write_mut();
    let id = write.as_mut().map(|write| std::mem::take(&mut write.request_id)).unwrap_or_default();
    if *write == Some(v1::Write::default()) {
        *write = None;
    }
    let id: RequestId = if id.is_empty() {
        let random = berth_control::Environment::random(&crate::environment::Machine);
        RequestId::from_parts(crate::environment::now(), random)
    } else {
        id.parse().map_err(|why| {
            to_status(
                Code::InvalidArgument,
                "BE-1010",
                format!("request_id: {why}"),
                Some("leave it empty to have one minted"),
            )
        })?
    };
    let mut hash = Sha256::new();
    hash.update(method.as_bytes());
    hash.update([0]);
    hash.update(hashed.encode_to_vec());
    Ok((Caller { actor, request: Some((id, hash.finalize().into())) }, id.to_string(), request))
}

/// Who calls.
pub(super) fn actor<T>(request: &Request<T>) -> Result<Actor, Status> {
    let peer = request.extensions().get::<Peer>().ok_or_else(error::no_certificate)?;
    let role = match peer.0.role() {
        Role::Controller => ActorRole::Controller,
        Role::Host => ActorRole::Host,
        Role::Operator => ActorRole::Operator,
        Role::Facade | Role::Scraper => return Err(error::role_not_allowed(&peer.0, super::ADMIN)),
    };
    Ok(Actor { role, name: peer.0.name().to_owned() })
}

/// The object of a change, with what the client saw of it.
pub(super) fn target(write: Option<&v1::Write>, project: &str, name: &str) -> Target {
    Target {
        project: project.to_owned(),
        name: name.to_owned(),
        uid: write.and_then(|write| write.expected_uid.clone()).unwrap_or_default(),
        revision: write.and_then(|write| write.expected_revision),
    }
}

/// How fresh the client wants its answer; an unknown word means the stricter.
pub(super) fn consistency(word: i32) -> berth_control::Consistency {
    match v1::Consistency::try_from(word) {
        Ok(v1::Consistency::Stale) => berth_control::Consistency::Stale,
        Ok(v1::Consistency::Lease) => berth_control::Consistency::Lease,
        Ok(v1::Consistency::Linearizable) | Err(_) => berth_control::Consistency::Linearizable,
    }
}

#[cfg(test)]
mod tests;
