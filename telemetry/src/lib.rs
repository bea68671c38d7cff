//! Tracing, metrics, build information, signals and drain.
//!
//! What every one of our programs does at its start and at its end, in one place, so that they do it alike: log to
//! standard error in one of two formats, say what they are, stop at the first signal in order and at the second at once.

mod build;
mod log;
mod metrics;
mod stop;

pub use build::{BUILD, Build};
pub use log::{Format, FormatError, InitError, init};
pub use metrics::{METRICS_CONTENT_TYPE, Metrics};
pub use stop::{Drained, drain, shutdown_signal};
