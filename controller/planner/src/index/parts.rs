//! The parts of the cluster that rules count in: hosts, racks, zones, and hosts of one label's value.

use std::collections::HashMap;

use berth_model::host::Host;
use berth_model::placement::Domain;

/// What is outside every part.
pub(crate) const NOWHERE: usize = 0;

/// The parts of one kind, as numbers from 1.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) domain: Domain,
    /// By row: the host's part, or [`NOWHERE`].
    pub(crate) of_row: Vec<usize>,
    /// By part: its name; the first is no part.
    pub(crate) names: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Parts {
    pub(super) fn new(domain: Domain) -> Self {
        Self { domain, of_row: Vec::new(), names: vec![String::new()], numbers: HashMap::new() }
    }

    /// The part of a host; a new one gets the next number.
    pub(super) fn of(&mut self, host: &Host) -> usize {
        let Some(name) = host.domain(&self.domain) else { return NOWHERE };
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len();
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }
}
