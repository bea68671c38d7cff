//! Instance types as text.

use super::table::{Cell, Table};
use super::{Style, fields, moment, yes};
use crate::view::InstanceTypeView;

/// The list.
pub(crate) fn list(types: &[InstanceTypeView], style: Style) -> String {
    if types.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NAME", "CPUS", "MEMORY", "BUILT IN"]);
    for one in types {
        table.row([
            Cell::plain(&one.metadata.name),
            Cell::plain(one.spec.cpus.to_string()),
            Cell::plain(one.spec.memory.to_string()),
            Cell::plain(yes(one.built_in)),
        ]);
    }
    table.render(style.colour)
}

/// One in full.
pub(crate) fn show(one: &InstanceTypeView, style: Style) -> String {
    fields(&[
        ("Name", one.metadata.name.clone()),
        ("Uid", one.metadata.uid.clone()),
        ("CPUs", one.spec.cpus.to_string()),
        ("Memory", one.spec.memory.to_string()),
        ("Built in", yes(one.built_in).to_owned()),
        ("Created", moment(one.metadata.created_at, style)),
    ])
}
