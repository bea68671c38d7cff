//! What hosts find when they look at image files.

use berth_model::Bytes;
use berth_model::image::ImageOnHost;

use super::ConvertError;
use crate::v1;
use crate::v1::image_on_host::Found;

impl From<&ImageOnHost> for v1::ImageOnHost {
    fn from(image: &ImageOnHost) -> Self {
        let found = match image {
            ImageOnHost::Verified { virtual_size } => Found::VerifiedVirtualSizeBytes(virtual_size.0),
            ImageOnHost::Refused { reason } => Found::Refused(reason.clone()),
        };
        Self { found: Some(found) }
    }
}

impl TryFrom<v1::ImageOnHost> for ImageOnHost {
    type Error = ConvertError;

    fn try_from(wire: v1::ImageOnHost) -> Result<Self, ConvertError> {
        let v1::ImageOnHost { found } = wire;
        Ok(match found.ok_or_else(|| ConvertError::missing("found"))? {
            Found::VerifiedVirtualSizeBytes(size) => Self::Verified { virtual_size: Bytes(size) },
            Found::Refused(reason) => Self::Refused { reason },
        })
    }
}
