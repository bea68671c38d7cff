//! Waiting for what happens elsewhere.

use std::time::{Duration, Instant};

/// How often something is looked at that cannot be watched.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until it is so, and gives what was seen and how long it took; an `Err` says what is there instead.
///
/// # Panics
/// When it is not so in time, with the last reason.
pub async fn until<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<T, String>) -> (T, Duration) {
    let began = Instant::now();
    loop {
        let instead = match look().await {
            Ok(seen) => return (seen, began.elapsed()),
            Err(instead) => instead,
        };
        assert!(began.elapsed() < within, "not within {} s: {what}; instead: {instead}", within.as_secs_f32());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Shows a measured figure; the test runner shows what a test that passed has printed.
#[expect(clippy::print_stdout, reason = "it is what the figure is measured for")]
pub fn figure(what: &str, took: Duration) {
    println!("figure: {what}: {:.2} s", took.as_secs_f64());
}
