//! Preferences as text.

use super::table::{Cell, Table};
use super::{Style, dash, fields, yes};
use crate::placement::{Tuning, tuning_in_words};
use crate::view::PreferenceView;

/// The list.
pub(crate) fn list(preferences: &[PreferenceView], style: Style) -> String {
    if preferences.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NAME", "BUILT IN", "WISHES"]);
    for one in preferences {
        table.row([Cell::plain(&one.metadata.name), Cell::plain(yes(one.built_in)), Cell::plain(wishes(&one.spec))]);
    }
    table.render(style.colour)
}

/// One in full.
pub(crate) fn show(one: &PreferenceView, style: Style) -> String {
    fields(&[
        ("Name", one.metadata.name.clone()),
        ("Uid", one.metadata.uid.clone()),
        ("Built in", yes(one.built_in).to_owned()),
        ("Created", super::moment(one.metadata.created_at, style)),
        ("Wishes", wishes(&one.spec)),
    ])
}

fn wishes(tuning: &Tuning) -> String {
    dash(&tuning_in_words(tuning).join(", ")).to_owned()
}
