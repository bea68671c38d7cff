//! `qemu-img`, kept short: limits on memory and processor time, and a deadline.
//!
//! It parses what may be hostile and runs with the daemon's rights, so it gets what OpenStack found enough: 1 GiB of
//! address space and 30 s of processor time, set by `prlimit` of util-linux, which every Linux has.

use std::ffi::OsStr;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::StorageError;

const ADDRESS_SPACE: u64 = 1 << 30;
const PROCESSOR_SECONDS: u64 = 30;
const DEADLINE: Duration = Duration::from_secs(60);

/// How often its end is looked for: creating an overlay takes some milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What of its message is kept.
const MESSAGE_LIMIT: u64 = 4096;

pub(crate) fn run<I>(action: &'static str, arguments: I) -> Result<(), StorageError>
where
    I: IntoIterator,
    I::Item: AsRef<OsStr>,
{
    let failed = |why: String| StorageError::QemuImg { action, why };
    let mut child = Command::new("prlimit")
        .arg(format!("--as={ADDRESS_SPACE}"))
        .arg(format!("--cpu={PROCESSOR_SECONDS}"))
        .args(["--core=0", "--", "qemu-img", action])
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("prlimit cannot be run: {error}; install util-linux and qemu-utils")))?;
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < DEADLINE => std::thread::sleep(LOOK_EVERY),
            Ok(None) => {
                let _ = child.kill(); // fails only when it has just ended
                let _ = child.wait();
                return Err(failed(format!("no end after {} s; it was stopped", DEADLINE.as_secs())));
            }
            Err(error) => return Err(failed(error.to_string())),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut message = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(MESSAGE_LIMIT).read_to_end(&mut message); // without a message there is still the status
    }
    let message = String::from_utf8_lossy(&message);
    let message = message.trim();
    Err(failed(if message.is_empty() { status.to_string() } else { message.to_owned() }))
}
