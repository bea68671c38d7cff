//! Label selectors, in the words of Kubernetes: `app=web,tier!=db,zone in (a,b),gpu,!old`.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Term {
    Exists(String),
    Absent(String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
}

/// A parsed selector; every term must hold. The empty selector selects everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selector(Vec<Term>);

impl Selector {
    /// Parses a selector.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(80).collect();
            Error::invalid("BE-1013", format!("label selector {shown:?}: {why}"))
                .hint("write terms such as app=web, tier!=db, zone in (a,b), gpu, !old, joined by commas")
        };
        if text.len() > 4096 {
            return Err(refuse("it is longer than 4096 bytes"));
        }
        split(text)
            .ok_or_else(|| refuse("a parenthesis is not closed"))?
            .into_iter()
            .map(|term| parse_term(term).ok_or_else(|| refuse(&format!("{term:?} is not a term"))))
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|term| match term {
            Term::Exists(key) => labels.contains_key(key),
            Term::Absent(key) => !labels.contains_key(key),
            Term::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Term::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
        })
    }
}

/// Splits at the commas outside parentheses.
fn split(text: &str) -> Option<Vec<&str>> {
    let mut terms = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' if !inside => inside = true,
            b')' if inside => inside = false,
            b'(' | b')' => return None,
            b',' if !inside => {
                terms.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return None;
    }
    let last = text[start..].trim();
    if !last.is_empty() || !terms.is_empty() {
        terms.push(last);
    }
    Some(terms)
}

fn parse_term(term: &str) -> Option<Term> {
    let word = |text: &str| {
        let text = text.trim();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        text.bytes().all(fits).then(|| text.to_owned())
    };
    let key = |text: &str| word(text).filter(|key| !key.is_empty());
    if let Some(rest) = term.strip_prefix('!') {
        return key(rest).map(Term::Absent);
    }
    if let Some((left, list)) = term.split_once('(') {
        let values: Option<BTreeSet<_>> = list.strip_suffix(')')?.split(',').map(word).collect();
        let (name, how) = left.trim().split_once(char::is_whitespace)?;
        return match how.trim() {
            "in" => Some(Term::In(key(name)?, values?)),
            "notin" => Some(Term::NotIn(key(name)?, values?)),
            _ => None,
        };
    }
    let one = |value: &str| word(value).map(|value| BTreeSet::from([value]));
    if let Some((name, value)) = term.split_once("!=") {
        return Some(Term::NotIn(key(name)?, one(value)?));
    }
    if let Some((name, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Some(Term::In(key(name)?, one(value)?));
    }
    key(term).map(Term::Exists)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn each_kind_of_term_selects_as_kubernetes_does() {
        let web = labels("app=web,zone=a");
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,zone!=b", true),
            ("app!=web", false),
            ("gone!=x", true),
            ("zone in (a, b)", true),
            ("zone notin (a,b)", false),
            ("gone notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!gone", true),
        ] {
            assert_eq!(Selector::parse(selector).unwrap().matches(&web), expected, "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for selector in ["a=b,", ",", "a in b", "a in (b", "a)(b", "a b", "=x", "!"] {
            assert_eq!(Selector::parse(selector).unwrap_err().code, "BE-1013", "{selector}");
        }
    }

    proptest! {
        #[test]
        fn parsing_a_selector_never_panics(text in ".{0,40}") {
            let _ = Selector::parse(&text);
        }
    }
}
