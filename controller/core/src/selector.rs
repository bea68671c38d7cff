//! Label selectors of requests, in the words of Kubernetes: `app=web,tier!=db,zone in (a,b),gpu,!old`.

use std::collections::BTreeMap;

use berth_model::placement;

use crate::error::Error;

/// A parsed selector; every term must hold. The empty selector selects everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selector(placement::Selector);

impl Selector {
    /// Parses a selector.
    pub fn parse(text: &str) -> Result<Self, Error> {
        text.parse().map(Self).map_err(|why| {
            let shown: String = text.chars().take(80).collect();
            Error::invalid("BE-1013", format!("label selector {shown:?}: {why}"))
                .hint("write terms such as app=web, tier!=db, zone in (a,b), gpu, !old, joined by commas")
        })
    }

    /// Whether these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_selector_is_refused_with_what_is_wrong() {
        let error = Selector::parse("a=b,").unwrap_err();
        assert_eq!((error.code, &error.message[..]), ("BE-1013", "label selector \"a=b,\": \"\" is not a term"));
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        assert!(Selector::parse("app=web").unwrap().matches(&labels));
    }
}
