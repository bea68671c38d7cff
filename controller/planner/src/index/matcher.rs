//! Which of many selectors select a VM, without asking each.
//!
//! Most selectors ask for a label to have one of some values. A selector is filed under the first such condition, so that a
//! VM is compared only with those filed under one of its own labels, and with the few that are filed under none.

use std::collections::{BTreeMap, HashMap};

use berth_model::Name;
use berth_model::placement::{Operator, Selector};

#[derive(Clone, Debug, Default)]
struct OfProject {
    by_label: HashMap<String, HashMap<String, Vec<usize>>>,
    others: Vec<usize>,
}

/// Numbers filed under what their selectors ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matcher {
    projects: HashMap<Name, OfProject>,
}

impl Matcher {
    pub(crate) fn file(&mut self, number: usize, project: &Name, selector: &Selector) {
        let filed = self.projects.entry(project.clone()).or_default();
        let equal = selector.0.iter().find(|asked| asked.operator == Operator::In && !asked.values.is_empty());
        let Some(asked) = equal else { return filed.others.push(number) };
        let by_value = filed.by_label.entry(asked.key.clone()).or_default();
        for value in &asked.values {
            by_value.entry(value.clone()).or_default().push(number);
        }
    }

    /// Every number whose selector might select a VM of these labels, each once, in no particular order.
    pub(crate) fn candidates<'a>(
        &'a self,
        project: &Name,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = usize> + 'a {
        let filed = self.projects.get(project);
        let of_labels = filed.into_iter().flat_map(move |filed| {
            labels.iter().filter_map(|(key, value)| filed.by_label.get(key)?.get(value)).flatten().copied()
        });
        of_labels.chain(filed.into_iter().flat_map(|filed| filed.others.iter().copied()))
    }
}
