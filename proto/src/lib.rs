//! The wire: `berth.v1` messages, generated code and conversions to the model.
//!
//! Everything that leaves a process as protobuf is defined in `proto/berth/v1`, and this is the only crate that knows
//! the generated types' shape: the others hold model types and convert at one edge. Conversions from the wire are
//! total: what a peer sends becomes a model value or a [`ConvertError`] that names the field, never a panic. They
//! destructure exhaustively, so that a new field which nobody carries over breaks the build.

pub mod convert;
pub mod status;

#[allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::or_fun_call,
    reason = "generated code, of which we write only the comments"
)]
pub mod v1 {
    //! Generated from `proto/berth/v1`.
    tonic::include_proto!("berth.v1");
}

pub use convert::ConvertError;

/// The compiled descriptors of every file in `proto/berth/v1`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
