//! The tests: each is a sentence that must hold, and brings up a cluster of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "what a test found out is shown by the test runner")]

mod controllers;
mod refusals;
