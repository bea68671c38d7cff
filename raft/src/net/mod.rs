//! The transport: what members say to each other, over streams that others authenticate.

pub(crate) mod client;
pub(crate) mod convert;
mod forward;
pub(crate) mod peers;
pub(crate) mod service;
mod transfer;

/// The generated messages.
#[expect(
    unreachable_pub,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto file is where it is documented"
)]
pub(crate) mod proto {
    tonic::include_proto!("berth.raft.v1");
}

/// Longest message sent or accepted, in bytes: the largest payload, a batch of entries besides it, and room to spare.
pub(crate) const MESSAGE_BYTES: usize = 12 * 1024 * 1024;
