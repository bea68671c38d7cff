//! Instance types as text.

use super::Style;
use super::table::{Cell, Table};
use crate::view::InstanceTypeView;

/// The list.
pub(crate) fn list(types: &[InstanceTypeView], style: Style) -> String {
    if types.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["NAME", "CPUS", "MEMORY"]);
    for one in types {
        table.row([
            Cell::plain(&one.metadata.name),
            Cell::plain(one.spec.cpus.to_string()),
            Cell::plain(one.spec.memory.to_string()),
        ]);
    }
    table.render(style.colour)
}
