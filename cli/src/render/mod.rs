//! Views as text for people. Every function here is pure; colour is an argument and never carries meaning alone.

pub(crate) mod cluster;
pub(crate) mod history;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod instancetype;
pub(crate) mod preference;
pub(crate) mod room;
pub(crate) mod table;
pub(crate) mod vm;

#[cfg(test)]
mod tests;

use berth_model::{Bytes, Timestamp};
use serde::Serialize;

use crate::args::Output;
use crate::duration::age;
use crate::failure::Failure;
use crate::view::ConditionView;
use table::{Cell, Table};

/// How to render.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// Whether colours may be used.
    pub(crate) colour: bool,
    /// For ages.
    pub(crate) now: Timestamp,
}

/// A value as JSON or YAML, or by `human` as text.
pub(crate) fn output<T: Serialize>(
    output: Output,
    value: &T,
    human: impl FnOnce() -> String,
) -> Result<String, Failure> {
    match output {
        Output::Table => Ok(human()),
        Output::Json => serde_json::to_string_pretty(value)
            .map(|text| text + "\n")
            .map_err(|error| Failure::refused(format!("cannot print this as JSON: {error}")).code("BE-9001")),
        Output::Yaml => serde_saphyr::to_string(value)
            .map(|text| if text.ends_with('\n') { text } else { text + "\n" })
            .map_err(|error| Failure::refused(format!("cannot print this as YAML: {error}")).code("BE-9001")),
    }
}

/// `2026-11-21T09:17:42.001Z (3m ago)`.
fn moment(time: Timestamp, style: Style) -> String {
    format!("{time} ({} ago)", age(style.now.since(time)))
}

/// Lines of `label  value`, the values one below the other.
pub(crate) fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or_default() + 1;
    let lines: Vec<_> =
        rows.iter().map(|(label, value)| format!("{:<width$}  {value}\n", format!("{label}:"))).collect();
    lines.concat()
}

/// The same, under a heading and indented.
fn section(heading: &str, rows: &[(&str, String)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{heading}\n{}", indented(&fields(rows)))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect()
}

fn pairs<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    map.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

fn conditions(conditions: &[ConditionView], style: Style) -> String {
    if conditions.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"]);
    for ConditionView { kind, status, reason, message, since } in conditions {
        table.row([
            Cell::plain(kind),
            Cell::plain(status),
            Cell::plain(reason),
            Cell::plain(age(style.now.since(*since))),
            Cell::plain(message),
        ]);
    }
    format!("\nConditions\n{}", indented(&table.render(style.colour)))
}

/// The first letters of a digest, enough to tell images apart.
fn short_digest(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}

/// An amount of memory to three digits or so, for tables: `12.3GiB`.
fn roughly(Bytes(bytes): Bytes) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20)];
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes}B"),
    }
}

fn yes(holds: bool) -> &'static str {
    if holds { "yes" } else { "no" }
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
