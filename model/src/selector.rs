//! Selectors as people write them, in the words of Kubernetes: `app=web,tier!=db,zone in (a,b),gpu,!old,ssd>2`.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::placement::{Domain, Operator, Requirement, Selector};

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It has more bytes than are looked at.
    #[error("it is longer than {} bytes", Selector::LONGEST_TEXT)]
    TooLong,
    /// A parenthesis is not closed, or closes nothing.
    #[error("a parenthesis is not closed")]
    Parenthesis,
    /// One term is none.
    #[error("{0:?} is not a term")]
    Term(String),
}

impl Selector {
    /// The most bytes of a selector as text.
    pub const LONGEST_TEXT: usize = 4096;

    /// As it is written, so that it can be read again. The selector of everything is the empty text.
    pub fn to_text(&self) -> String {
        let terms: Vec<String> = self.0.iter().map(term_to_text).collect();
        terms.join(",")
    }
}

fn term_to_text(requirement: &Requirement) -> String {
    let Requirement { key, operator, values } = requirement;
    let listed = values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    match operator {
        Operator::Exists => key.clone(),
        Operator::In if values.is_empty() => key.clone(),
        Operator::DoesNotExist => format!("!{key}"),
        Operator::In if values.len() == 1 => format!("{key}={listed}"),
        Operator::In => format!("{key} in ({listed})"),
        Operator::NotIn if values.len() == 1 => format!("{key}!={listed}"),
        Operator::NotIn => format!("{key} notin ({listed})"),
        Operator::Gt => format!("{key}>{listed}"),
        Operator::Lt => format!("{key}<{listed}"),
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > Self::LONGEST_TEXT {
            return Err(SelectorError::TooLong);
        }
        let refuse = |term: &str| SelectorError::Term(term.chars().take(80).collect());
        split(text)
            .ok_or(SelectorError::Parenthesis)?
            .into_iter()
            .map(|term| parse_term(term).ok_or_else(|| refuse(term)))
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
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

fn parse_term(term: &str) -> Option<Requirement> {
    let word = |text: &str| {
        let text = text.trim();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        text.bytes().all(fits).then(|| text.to_owned())
    };
    let made = |key: &str, operator: Operator, values: BTreeSet<String>| {
        let key = word(key).filter(|key| !key.is_empty())?;
        Some(Requirement { key, operator, values })
    };
    if let Some(rest) = term.strip_prefix('!') {
        return made(rest, Operator::DoesNotExist, BTreeSet::new());
    }
    if let Some((left, list)) = term.split_once('(') {
        let values: BTreeSet<_> = list.strip_suffix(')')?.split(',').map(word).collect::<Option<_>>()?;
        let (name, how) = left.trim().split_once(char::is_whitespace)?;
        return match how.trim() {
            "in" => made(name, Operator::In, values),
            "notin" => made(name, Operator::NotIn, values),
            _ => None,
        };
    }
    let pairs =
        [("!=", Operator::NotIn), ("==", Operator::In), ("=", Operator::In), (">", Operator::Gt), ("<", Operator::Lt)];
    for (sign, operator) in pairs {
        if let Some((name, value)) = term.split_once(sign) {
            return made(name, operator, BTreeSet::from([word(value)?]));
        }
    }
    made(term, Operator::Exists, BTreeSet::new())
}

impl FromStr for Domain {
    type Err = std::convert::Infallible;

    /// `host`, `rack` and `zone` are those; every other word is a label's key.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "host" => Self::Host,
            "rack" => Self::Rack,
            "zone" => Self::Zone,
            key => Self::Label(key.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    #[test]
    fn each_kind_of_term_selects_as_kubernetes_does() {
        let web = labels("app=web,zone=a,ssd=4");
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
            ("ssd>3", true),
            ("ssd > 4", false),
            ("ssd<5", true),
        ] {
            assert_eq!(selector.parse::<Selector>().unwrap().matches(&web), expected, "{selector}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for selector in ["a=b,", ",", "a in b", "a in (b", "a)(b", "a b", "=x", "!", "a=b=c", ">3"] {
            assert!(selector.parse::<Selector>().is_err(), "{selector}");
        }
        assert_eq!("a,".repeat(3000).parse::<Selector>(), Err(SelectorError::TooLong));
    }

    #[test]
    fn a_word_that_is_no_part_of_the_cluster_is_a_labels_key() {
        assert_eq!("zone".parse(), Ok(Domain::Zone));
        assert_eq!("example.org/row".parse(), Ok(Domain::Label("example.org/row".into())));
    }

    proptest! {
        #[test]
        fn parsing_a_selector_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Selector>();
        }

        #[test]
        fn a_selector_is_read_as_it_is_written(
            terms in vec(("[a-z][a-z0-9./_-]{0,6}[a-z]", 0..6_usize, btree_set("[a-z0-9]{0,3}", 1..4)), 0..5)
        ) {
            let operators = [
                Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist, Operator::Gt, Operator::Lt,
            ];
            let terms = terms.into_iter().map(|(key, which, values)| {
                let operator = operators[which];
                let values = match operator {
                    Operator::Exists | Operator::DoesNotExist => BTreeSet::new(),
                    Operator::Gt | Operator::Lt => values.into_iter().take(1).collect(),
                    Operator::In | Operator::NotIn => values,
                };
                Requirement { key, operator, values }
            });
            let selector = Selector(terms.collect());
            prop_assert_eq!(selector.to_text().parse::<Selector>(), Ok(selector));
        }
    }
}
