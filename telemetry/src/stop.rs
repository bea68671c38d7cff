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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    const CHILD: &str = "BERTH_TELEMETRY_TEST_CHILD";

    /// What the child process does: says when it listens and when it stops, and never ends by itself.
    fn be_the_child() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let token = shutdown_signal().unwrap();
            println!("listening");
            token.cancelled().await;
            println!("stopping");
            std::future::pending::<()>().await;
        });
    }

    #[test]
    fn the_first_signal_asks_and_the_second_ends_the_process_at_once() {
        // Exit codes can be seen only from outside, so this test runs itself as a child.
        if std::env::var_os(CHILD).is_some() {
            return be_the_child();
        }
        for (first, second, code) in [(Signal::SIGTERM, Signal::SIGINT, 130), (Signal::SIGINT, Signal::SIGTERM, 143)] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture"])
                .arg("stop::tests::the_first_signal_asks_and_the_second_ends_the_process_at_once")
                .env(CHILD, "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let id = Pid::from_raw(child.id().try_into().unwrap());
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
            assert!(lines.any(|line| line.ends_with("listening")));
            kill(id, first).unwrap();
            assert!(lines.any(|line| line.ends_with("stopping")));
            assert_eq!(child.try_wait().unwrap(), None, "still there after one signal");
            kill(id, second).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(code));
        }
    }

    #[tokio::test]
    async fn a_drain_ends_with_its_work_or_at_its_deadline() {
        let ready = std::future::ready(());
        assert_eq!(drain("calls", Duration::from_secs(600), ready).await, Drained::Finished);
        let endless = std::future::pending();
        assert_eq!(drain("calls", Duration::from_millis(10), endless).await, Drained::Abandoned);
    }
}
