//! Changes as text.

use super::Style;
use super::table::{Cell, Table};
use crate::duration::age;
use crate::view::{ChangeView, HistoryView};

/// The list.
pub(crate) fn list(history: &HistoryView, style: Style) -> String {
    if history.items.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["REVISION", "AGE", "ACTOR", "COMMAND", "OBJECT", ""]);
    for change in &history.items {
        table.row([
            Cell::plain(change.revision.to_string()),
            Cell::plain(age(style.now.since(change.at))),
            Cell::plain(&change.actor),
            Cell::plain(&change.command),
            Cell::plain(object(change)),
            Cell::plain(what_became(change)),
        ]);
    }
    let mut text = table.render(style.colour);
    if history.more {
        text.push_str("older changes are not shown; --limit shows more\n");
    }
    text
}

/// One change in a line.
pub(crate) fn sentence(change: &ChangeView) -> String {
    let ChangeView { revision, actor, command, at, .. } = change;
    format!("{actor} by {command} at revision {revision}, {at}")
}

fn object(change: &ChangeView) -> String {
    let kind = change.object.to_lowercase();
    if kind == "vm" { format!("{kind} {}/{}", change.project, change.name) } else { format!("{kind} {}", change.name) }
}

fn what_became(change: &ChangeView) -> &'static str {
    match (change.previous_revision, change.exists) {
        (0, _) => "created",
        (_, false) => "removed",
        (_, true) => "",
    }
}
