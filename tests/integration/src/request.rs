//! Requests as tests make them, and sending them as a client should.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use berth_proto::v1;
use tonic::Status;

use crate::{Api, Call};

/// A mebibyte.
pub const MIB: u64 = 1 << 20;

/// How a change is named: a new id.
pub fn write() -> Option<v1::Write> {
    Some(v1::Write { request_id: id(), ..v1::Write::default() })
}

/// A new request id.
pub fn id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Asks for an image by digest. It needs no file anywhere.
pub fn image(name: &str, sha256: &str, virtual_size: u64) -> v1::CreateImageRequest {
    v1::CreateImageRequest {
        write: write(),
        name: name.to_owned(),
        spec: Some(v1::ImageSpec { sha256: sha256.to_owned(), virtual_size_bytes: virtual_size }),
        ..v1::CreateImageRequest::default()
    }
}

/// Asks for a VM of one vCPU and 128 MiB from the image `tiny`.
pub fn vm(name: &str) -> v1::CreateVmRequest {
    sized(name, 1, 128)
}

/// Asks for a VM of this many vCPUs and mebibytes from the image `tiny`.
pub fn sized(name: &str, cpus: u32, mebibytes: u64) -> v1::CreateVmRequest {
    v1::CreateVmRequest {
        write: write(),
        name: name.to_owned(),
        spec: Some(v1::VmSpec {
            cpus: Some(cpus),
            memory_bytes: Some(mebibytes * MIB),
            image: "tiny".to_owned(),
            ..v1::VmSpec::default()
        }),
        ..v1::CreateVmRequest::default()
    }
}

/// Asks that a VM goes.
pub fn delete(name: &str) -> v1::DeleteVmRequest {
    v1::DeleteVmRequest { write: write(), name: name.to_owned(), ..v1::DeleteVmRequest::default() }
}

/// Asks for other labels of a VM.
pub fn labels(name: &str, set: BTreeMap<String, String>, remove: Vec<String>) -> v1::UpdateLabelsRequest {
    v1::UpdateLabelsRequest { write: write(), name: name.to_owned(), set, remove, ..v1::UpdateLabelsRequest::default() }
}

/// Asks that a VM runs.
pub fn start(name: &str) -> v1::StartVmRequest {
    v1::StartVmRequest { write: write(), name: name.to_owned(), ..v1::StartVmRequest::default() }
}

/// Asks that a VM shuts down.
pub fn stop(name: &str) -> v1::StopVmRequest {
    v1::StopVmRequest { write: write(), name: name.to_owned(), ..v1::StopVmRequest::default() }
}

/// Sends the same request to these members in turn until it is answered by anything but "not now", as a client should
/// whose change carries an id.
///
/// # Panics
/// When no member answers in time.
pub async fn insist<C: Call>(apis: &[Api], within: Duration, request: C) -> Result<C::Answer, Status> {
    let began = Instant::now();
    let mut turns = apis.iter().cycle();
    loop {
        let api = turns.next().expect("at least one member is asked");
        let answer = api.send(request.clone()).await;
        match &answer {
            Err(status) if is_not_now(status) => {
                assert!(began.elapsed() < within, "nobody took the change within {} s: {status}", within.as_secs_f32());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            _ => return answer,
        }
    }
}

/// Whether the same request may be answered otherwise later or elsewhere.
fn is_not_now(status: &Status) -> bool {
    let carried = berth_proto::status::from_status(status);
    match carried.code.as_deref() {
        Some(code) => matches!(code, "BE-5001" | "BE-5002" | "BE-5003" | "BE-5004"),
        // Made by the connection, not by Berth.
        None => true,
    }
}
