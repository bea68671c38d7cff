//! Stopping: the first signal asks for an orderly end, the second ends the process at once.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGTERM or SIGINT; a second ends the process at once, with 128 and the
/// signal's number as its exit code, as a shell would say it.
///
/// Must be called within a tokio runtime, once, before anything that needs an orderly end is begun.
pub fn shutdown_signal() -> io::Result<CancellationToken> {
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let (name, _) = signals.next().await;
        tracing::info!(signal = name, "stopping; a second signal ends the process at once");
        cancelled.cancel();
        let (name, number) = signals.next().await;
        tracing::warn!(signal = name, "stopping at once");
        #[expect(clippy::exit, reason = "whoever signals twice does not want to wait for an orderly end")]
        std::process::exit(128 + number);
    });
    Ok(token)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        }
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// All work was finished.
    Finished,
    /// Time was up; what remained was dropped.
    Abandoned,
}

/// Waits for `work` (what is still under way at the end) for at most `deadline`, and drops what is not finished then.
pub async fn drain(what: &str, deadline: Duration, work: impl Future<Output = ()>) -> Drained {
    if tokio::time::timeout(deadline, work).await.is_ok() {
        tracing::debug!(what, "drained");
        Drained::Finished
    } else {
        tracing::warn!(what, deadline_seconds = deadline.as_secs_f32(), "not finished in time; abandoned");
        Drained::Abandoned
    }
}
