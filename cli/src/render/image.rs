//! Images as text.

use super::table::{Cell, Table, Tone};
use super::{Style, dash, fields, indented, moment};
use crate::duration::age;
use crate::view::ImageView;
use std::fmt::Write as _;

/// The list.
pub(crate) fn list(images: &[ImageView], style: Style) -> String {
    if images.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NAME", "SIZE", "SHA256", "HOSTS", "AGE"]);
    for image in images {
        let hosts: Vec<_> = image
            .status
            .copies
            .iter()
            .map(|copy| match &copy.refused {
                None => copy.host.clone(),
                Some(_) => format!("{} (refused)", copy.host),
            })
            .collect();
        table.row([
            Cell::plain(&image.metadata.name),
            Cell::plain(image.spec.virtual_size.to_string()),
            Cell::plain(super::short_digest(&image.spec.sha256)),
            Cell::plain(dash(&hosts.join(", "))),
            Cell::plain(age(style.now.since(image.metadata.created_at))),
        ]);
    }
    table.render(style.colour)
}

/// One image in full.
pub(crate) fn show(image: &ImageView, style: Style) -> String {
    let ImageView { metadata, spec, status, .. } = image;
    let mut text = fields(&[
        ("Name", metadata.name.clone()),
        ("Uid", metadata.uid.clone()),
        ("Sha256", spec.sha256.clone()),
        ("Size", spec.virtual_size.to_string()),
        ("Created", moment(metadata.created_at, style)),
        ("Revision", metadata.revision.to_string()),
    ]);
    if status.copies.is_empty() {
        text.push_str("\nNo host has this file yet; bring it to a host's images folder under its digest as name\n");
        return text;
    }
    let mut table = Table::new(["HOST", "STATE"]);
    for copy in &status.copies {
        let state = match &copy.refused {
            None => Cell::toned("verified", Tone::Good),
            Some(why) => Cell::toned(format!("refused: {why}"), Tone::Bad),
        };
        table.row([Cell::plain(&copy.host), state]);
    }
    let _ = write!(text, "\nCopies\n{}", indented(&table.render(style.colour)));
    text
}
