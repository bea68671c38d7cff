//! A writer as its harness sees it: a process that can be stopped, heard out and killed.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Subject;
use crate::said::{Said, Word};

/// Longer than a writer needs to open its store on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The programs that a harness uses.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The `durability` binary.
    pub(crate) path: PathBuf,
    /// A library to be loaded before all others, if the writer is to be fooled.
    pub(crate) preload: Option<PathBuf>,
}

/// A writer that runs.
pub(crate) struct Writer {
    child: Child,
    output: ChildStdout,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl Writer {
    pub(crate) fn start(program: &Program, subject: Subject, folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(&program.path);
        command.args(["write", subject.name()]).arg(folder).stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(library) = &program.preload {
            command.env("LD_PRELOAD", library);
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.path.display()))?;
        let output = child.stdout.take().expect("its standard output was asked for");
        Ok(Self { child, output, partial: Vec::new() })
    }

    /// Listens until the writer has said `words` more, or for `time` after it was ready.
    pub(crate) fn listen(&mut self, said: &mut Said, words: u64, time: Duration) -> anyhow::Result<()> {
        let until = said.count + words;
        let mut deadline = Instant::now() + PATIENCE;
        let mut was_ready = false;
        while said.count < until {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                ensure!(was_ready, "the writer did not open its store within {PATIENCE:?}");
                return Ok(());
            }
            if self.hear(said, left)? && said.is_ready && !was_ready {
                was_ready = true;
                deadline = Instant::now() + time;
            }
        }
        Ok(())
    }

    /// Listens for so long, wherever the writer is by then.
    pub(crate) fn listen_briefly(&mut self, said: &mut Said, time: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.hear(said, left)?;
        }
    }

    /// Takes the processor away from it: what it said until now is all that it will have said.
    pub(crate) fn stop(&mut self, said: &mut Said) -> anyhow::Result<()> {
        let pid = self.pid();
        kill(pid, Signal::SIGSTOP).context("cannot stop the writer")?;
        match waitpid(pid, Some(WaitPidFlag::WUNTRACED)).context("cannot wait for the writer")? {
            WaitStatus::Stopped(..) => {}
            other => bail!("the writer ended by itself: {other:?}"),
        }
        while self.hear(said, Duration::ZERO)? {}
        Ok(())
    }

    /// Ends it without a word, and hears what it said before.
    pub(crate) fn kill(mut self, said: &mut Said) -> anyhow::Result<()> {
        self.child.kill().context("cannot kill the writer")?;
        self.child.wait().context("cannot wait for the writer")?;
        while self.hear(said, Duration::ZERO)? {}
        Ok(())
    }

    /// Hears what there is, waiting at most `time` for it; tells whether there was anything.
    fn hear(&mut self, said: &mut Said, time: Duration) -> anyhow::Result<bool> {
        let millis = u16::try_from(time.as_millis()).unwrap_or(u16::MAX);
        let mut ready = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(millis)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error).context("cannot wait for the writer's words"),
        }
        let mut bytes = vec![0; 64 * 1024];
        let length = match self.output.read(&mut bytes) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(error) => return Err(error).context("cannot hear the writer"),
        };
        if length == 0 {
            if let Some(status) = self.child.try_wait().context("cannot look after the writer")? {
                // Its death by our own hand is no news.
                ensure!(status.code().is_none(), "the writer gave up: {status}");
            }
            return Ok(false);
        }
        self.partial.extend_from_slice(&bytes[..length]);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            let word = Word::parse(&line).with_context(|| format!("the writer said {line:?}"))?;
            said.hear(word);
        }
        Ok(true)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id fits"))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may be dead already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
