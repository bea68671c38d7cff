//! Images.

use berth_model::Bytes;
use berth_proto::v1;
use serde::Serialize;

use super::{API_VERSION, MetaView, amount};

/// An image.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageView {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) metadata: MetaView,
    pub(crate) spec: ImageSpecView,
    pub(crate) status: ImageStatusView,
}

/// What it is.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageSpecView {
    pub(crate) sha256: String,
    #[serde(serialize_with = "amount")]
    pub(crate) virtual_size: Bytes,
}

/// Where it is.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageStatusView {
    pub(crate) copies: Vec<CopyView>,
}

/// A copy on one host.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub(crate) struct CopyView {
    pub(crate) host: String,
    /// Why the host does not use it; none if it is verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
}

impl From<v1::Image> for ImageView {
    fn from(wire: v1::Image) -> Self {
        use v1::image_on_host::Found;
        let v1::Image { meta, spec, copies } = wire;
        let v1::ImageSpec { sha256, virtual_size_bytes } = spec.unwrap_or_default();
        let copies = copies.into_iter().map(|v1::ImageCopy { host, found }| CopyView {
            host,
            refused: match found.and_then(|found| found.found) {
                Some(Found::VerifiedVirtualSizeBytes(_)) => None,
                Some(Found::Refused(why)) => Some(why),
                None => Some("the server does not say what was found".into()),
            },
        });
        Self {
            api_version: API_VERSION,
            kind: "Image",
            metadata: meta.into(),
            spec: ImageSpecView { sha256, virtual_size: Bytes(virtual_size_bytes) },
            status: ImageStatusView { copies: copies.collect() },
        }
    }
}
