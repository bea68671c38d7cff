//! The numbers of a program, as a monitoring system reads them.
//!
//! One registry for each program: whoever has something to count registers it at start, and the text is made anew for each
//! reader. Names begin with `berth_`; a name is a contract with dashboards and alerts, as an error code is with scripts.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::BUILD;

/// What [`Metrics::text`] is, for HTTP's `Content-Type`.
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The registry of one program. Cheap to clone; all clones mean the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// A registry that holds what the program is: `berth_build_info`.
    pub fn new(program: &'static str) -> Self {
        let mut registry = Registry::default();
        let what = vec![
            ("program", program),
            ("version", BUILD.version),
            ("commit", BUILD.commit.unwrap_or_default()),
            ("rustc", BUILD.rustc),
        ];
        registry.register("berth_build", "What this program is", Info::new(what));
        Self(Arc::new(Mutex::new(registry)))
    }

    /// Lets a part of the program add what it counts.
    pub fn register<T>(&self, add: impl FnOnce(&mut Registry) -> T) -> T {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything, in the text format of `OpenMetrics` 1.0.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut text, &registry).expect("a String takes every write");
        text
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn the_text_says_what_the_program_is_and_what_it_counted() {
        let metrics = Metrics::new("berth-test");
        let counted = Counter::<u64>::default();
        metrics.register(|registry| registry.register("berth_things", "Things seen", counted.clone()));
        counted.inc_by(3);
        let text = metrics.text();
        assert!(text.contains("berth_build_info{program=\"berth-test\",version=\""), "{text}");
        assert!(text.contains("berth_things_total 3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
