//! YAML with errors that point: line, column, and the nearest known word.

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, Options};

/// Why a text is not what was expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    /// `file:line:column: what`.
    pub(crate) what: String,
    /// The nearest known word, or those that are known.
    pub(crate) hint: Option<String>,
}

/// Reads exactly one document.
pub(crate) fn one<T: DeserializeOwned>(source: &str, text: &str) -> Result<T, Problem> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| explain(source, &error))
}

/// Reads any number of documents; empty ones are passed over.
pub(crate) fn many<T: DeserializeOwned>(source: &str, text: &str) -> Result<Vec<T>, Problem> {
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| explain(source, &error))
}

/// Excerpts are left out: the line number is enough, and user data may hold secrets.
fn options() -> Options {
    serde_saphyr::options! { with_snippet: false }
}

fn explain(source: &str, error: &Error) -> Problem {
    let error = error.without_snippet();
    let place =
        error.location().map_or_else(|| source.to_owned(), |at| format!("{source}:{}:{}", at.line(), at.column()));
    let list = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let guess = |word: &str, known: &[&str]| {
        nearest(word, known)
            .map_or_else(|| format!("known are {}", list(known)), |near| format!("did you mean `{near}`?"))
    };
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            Problem { what: format!("{place}: unknown field `{field}`"), hint: Some(guess(field, expected)) }
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            Problem { what: format!("{place}: unknown value `{variant}`"), hint: Some(guess(variant, expected)) }
        }
        Error::SerdeMissingField { field, .. } => {
            Problem { what: format!("{place}: the field `{field}` is missing"), hint: None }
        }
        Error::InvalidScalar { ty, .. } => {
            let wanted = match *ty {
                "u8" | "u16" | "u32" | "u64" => "a whole number",
                "bool" => "true or false",
                other => other,
            };
            Problem { what: format!("{place}: this is not {wanted}"), hint: None }
        }
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
            Problem { what: format!("{place}: one word is expected here"), hint: None }
        }
        other => {
            let text = other.to_string();
            // The library puts the place behind the text in words of its own.
            let text = text.split(" at line ").next().unwrap_or(&text);
            let text = text.strip_prefix("error: ").unwrap_or(text);
            let text = text
                .rsplit_once("error: line ")
                .map_or(text, |(_, rest)| rest.split_once(": ").map_or(rest, |(_, message)| message));
            Problem { what: format!("{place}: {}", text.trim()), hint: None }
        }
    }
}

/// The known word that differs least, if it differs by at most a third of its letters.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word.to_lowercase(), &candidate.to_lowercase());
            (distance, *candidate)
        })
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
