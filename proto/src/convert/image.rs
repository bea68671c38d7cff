//! Images, as operators read them.

use berth_model::host::Host;
use berth_model::image::{Image, ImageSpec};

use crate::v1;

/// An image with the copies that `hosts` have found, in the order of the hosts' names.
pub fn image_to_wire<'a>(image: &Image, hosts: impl IntoIterator<Item = &'a Host>) -> v1::Image {
    let Image { meta, spec: ImageSpec { sha256, virtual_size } } = image;
    let found = hosts.into_iter().filter_map(|host| {
        let found = host.images.get(sha256)?;
        Some(v1::ImageCopy { host: host.meta.name.to_string(), found: Some(found.into()) })
    });
    let mut copies: Vec<_> = found.collect();
    copies.sort_by(|a, b| a.host.cmp(&b.host));
    v1::Image {
        meta: Some(meta.into()),
        spec: Some(v1::ImageSpec { sha256: sha256.to_string(), virtual_size_bytes: virtual_size.0 }),
        copies,
    }
}
