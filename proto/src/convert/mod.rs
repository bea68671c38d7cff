//! Conversions between the wire and the model, one a file.
//!
//! To the wire they are `From`, from the wire `TryFrom` with [`ConvertError`]. Both sides destructure exhaustively.

mod assignment;
mod condition;
mod desired;
mod device;
mod enums;
mod holding;
mod host;
mod host_use;
mod image;
mod image_on_host;
mod instancetype;
mod inventory;
mod meta;
mod observed;
mod orphan;
mod report;
mod rules;
mod spec;
mod stamp;
mod to_controller;
mod to_host;
mod tuning;
mod vm;
mod welcome;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use enums::{performance, run_strategy, taint_effect};
pub use host::host_to_wire;
pub use host_use::host_use;
pub use image::image_to_wire;
pub use vm::vm_to_wire;

/// A message that is no model value, and where it is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct ConvertError {
    /// The field, from the outermost message: `report.vms[3].seen.state`.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

impl ConvertError {
    /// The field itself is wrong.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { path: field.into(), problem: problem.to_string() }
    }

    /// The field is missing.
    pub fn missing(field: impl Into<String>) -> Self {
        Self::new(field, "is missing")
    }

    /// The same error seen from one message further out.
    #[must_use]
    pub fn within(self, field: impl fmt::Display) -> Self {
        Self { path: format!("{field}.{}", self.path), problem: self.problem }
    }
}

/// Parses a text field.
pub fn parsed<T>(text: &str, field: &str) -> Result<T, ConvertError>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    text.parse().map_err(|problem: T::Err| ConvertError::new(field, problem))
}

/// Parses each element of a repeated text field.
fn each_parsed<T>(texts: &[String], field: &str) -> Result<Vec<T>, ConvertError>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    texts.iter().enumerate().map(|(at, text)| parsed(text, &format!("{field}[{at}]"))).collect()
}

/// Converts a message field that must be there.
fn required<W, M>(wire: Option<W>, field: &str) -> Result<M, ConvertError>
where
    M: TryFrom<W, Error = ConvertError>,
{
    M::try_from(wire.ok_or_else(|| ConvertError::missing(field))?).map_err(|inner| inner.within(field))
}

/// Converts a message field that may be absent.
fn optional<W, M>(wire: Option<W>, field: &str) -> Result<Option<M>, ConvertError>
where
    M: TryFrom<W, Error = ConvertError>,
{
    wire.map(|wire| M::try_from(wire).map_err(|inner| inner.within(field))).transpose()
}

/// Converts each element of a repeated field.
fn each<W, M>(wire: Vec<W>, field: &str) -> Result<Vec<M>, ConvertError>
where
    M: TryFrom<W, Error = ConvertError>,
{
    wire.into_iter()
        .enumerate()
        .map(|(at, wire)| M::try_from(wire).map_err(|inner| inner.within(format_args!("{field}[{at}]"))))
        .collect()
}

/// Converts each element to the wire.
fn all<'a, M: 'a, W: From<&'a M>>(items: &'a [M]) -> Vec<W> {
    items.iter().map(W::from).collect()
}
