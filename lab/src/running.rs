//! The processes of a lab that is up: starting, stopping, killing, and whether they answer.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::PoisonError;

use nix::sys::signal::Signal;

use crate::error::{At as _, Error, Result};
use crate::plan::{Kind, Member, Process, Program};
use crate::process::{Identity, MARK, poll};
use crate::{KILLED, Lab, ProcessStatus, READY, STOPPED, libvirt, machine, tool};

impl Lab {
    /// Starts a process that does not run. It outlives this one and writes its output to its log.
    pub fn start(&self, process: &str) -> Result<()> {
        self.start_with(process, &[])
    }

    /// Starts a process with further variables in its environment, such as a library to preload.
    pub fn start_with(&self, process: &str, environment: &[(&str, &str)]) -> Result<()> {
        let process = self.plan.process(process)?;
        if let Some(running) = self.identity(&process.name)? {
            return Err(Error::Running { name: process.name, pid: running.pid });
        }
        let log_path = self.plan.log(&process.name);
        let log = OpenOptions::new().create(true).append(true).open(&log_path).at("open", &log_path)?;
        let mut command = self.command_of(&process)?;
        command
            .current_dir("/")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(log.try_clone().at("open", &log_path)?);
        if process.program == Program::Keeper {
            command.stdout(Stdio::piped());
        } else {
            command.stdout(log);
        }
        let mut child = command.spawn().at("run", command.get_program())?;
        let identity = Identity::of(child.id().cast_signed());
        let said = child.stdout.take();
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        let Some(identity) = identity else {
            return Err(self.not_running(&process.name));
        };
        machine::store(&self.plan.pid_file(&process.name), &identity)?;
        if let Some(said) = said {
            let mut line = String::new();
            BufReader::new(said).read_line(&mut line).at("hear from", &log_path)?;
            if line.trim() != "ready" {
                return Err(self.not_running(&process.name));
            }
        }
        Ok(())
    }

    /// Kills a process with SIGKILL and waits until it is gone.
    pub fn kill9(&self, process: &str) -> Result<()> {
        let running = self.running(process)?;
        running.signal(Signal::SIGKILL)?;
        self.gone(process, running, KILLED)
    }

    /// Asks a process to end with SIGTERM and waits until it is gone.
    pub fn stop(&self, process: &str) -> Result<()> {
        let running = self.running(process)?;
        running.signal(Signal::SIGTERM)?;
        running.signal(Signal::SIGCONT)?;
        self.gone(process, running, STOPPED)
    }

    /// Freezes a process with SIGSTOP.
    pub fn pause(&self, process: &str) -> Result<()> {
        self.running(process)?.signal(Signal::SIGSTOP).map(drop)
    }

    /// Lets a frozen process go on.
    pub fn resume(&self, process: &str) -> Result<()> {
        self.running(process)?.signal(Signal::SIGCONT).map(drop)
    }

    /// The pid of a process, while it runs.
    pub fn pid(&self, process: &str) -> Result<Option<i32>> {
        let process = self.plan.process(process)?;
        Ok(self.identity(&process.name)?.map(|identity| identity.pid))
    }

    /// Waits until a process answers: a daemon listens on its port, libvirtd has told what the host can do.
    pub fn wait_ready(&self, process: &str) -> Result<()> {
        let process = self.plan.process(process)?;
        let outcome = poll(READY, || {
            if self.answers(&process) {
                return Some(Ok(()));
            }
            match self.identity(&process.name) {
                Ok(Some(_)) => None,
                Ok(None) => Some(Err(self.not_running(&process.name))),
                Err(error) => Some(Err(error)),
            }
        });
        outcome.unwrap_or_else(|| {
            let log = tool::tail(&self.plan.log(&process.name), 20);
            Err(Error::Timeout { name: process.name.clone(), what: "ready", seconds: READY.as_secs(), log })
        })
    }

    pub(crate) fn process_status(&self, process: &Process) -> Result<ProcessStatus> {
        let pid = self.identity(&process.name)?.map(|identity| identity.pid);
        Ok(ProcessStatus {
            name: process.name.clone(),
            address: (process.program != Program::Libvirtd).then(|| process.member.api()),
            pid,
            ready: pid.is_some() && self.answers(process),
            log: self.plan.log(&process.name),
        })
    }

    /// Whether each process that was started still runs.
    pub(crate) fn runs_whole(&self) -> Result<bool> {
        for process in self.plan.first_processes() {
            if self.identity(&process.name)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn answers(&self, process: &Process) -> bool {
        match process.program {
            Program::Controller | Program::Hostd => self
                .identity(&process.name)
                .is_ok_and(|found| found.is_some_and(|identity| listens(identity.pid, process.member.api().port()))),
            Program::Libvirtd => self
                .exec_in(&process.member.name, &["virsh", "--quiet", "--connect", "qemu:///system", "capabilities"])
                .is_ok(),
            Program::Keeper => true,
        }
    }

    fn identity(&self, process: &str) -> Result<Option<Identity>> {
        Ok(Identity::load(&self.plan.pid_file(process))?.filter(|identity| identity.is_alive()))
    }

    fn running(&self, process: &str) -> Result<Identity> {
        let process = self.plan.process(process)?;
        self.identity(&process.name)?.ok_or_else(|| self.not_running(&process.name))
    }

    fn not_running(&self, name: &str) -> Error {
        Error::NotRunning { name: name.to_owned(), log: tool::tail(&self.plan.log(name), 20) }
    }

    fn gone(&self, name: &str, process: Identity, limit: std::time::Duration) -> Result<()> {
        let gone = process.wait_gone(limit);
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        if gone {
            return Ok(());
        }
        let log = tool::tail(&self.plan.log(name), 20);
        Err(Error::Timeout { name: name.to_owned(), what: "gone", seconds: limit.as_secs(), log })
    }

    /// The command line of a process. Every word in front of the program replaces itself by the next one, so that the
    /// pid is the program's.
    fn command_of(&self, process: &Process) -> Result<Command> {
        let member = &process.member;
        let plan = &self.plan;
        let mut command = match process.program {
            Program::Keeper => {
                let mut command = plain("setsid", plan.number);
                command
                    .args(["nsenter", &net(&plan.namespace(member)), "unshare", "--mount", "--uts", "sh", "-c"])
                    .args([include_str!("keeper.sh"), "keeper", &member.name])
                    .arg(plan.folder(member));
                for (below, over) in libvirt::BOUND {
                    command.args([below, over]);
                }
                command
            }
            Program::Libvirtd | Program::Controller | Program::Hostd => {
                let entering = self.enter(member)?;
                let mut command = plain("setsid", plan.number);
                command.arg(entering.get_program()).args(entering.get_args());
                command
            }
        };
        match process.program {
            Program::Keeper => &mut command,
            Program::Libvirtd => command.arg(&plan.binaries.libvirtd),
            Program::Controller => command.arg(&plan.binaries.controller).arg("--config").arg(plan.config(member)),
            Program::Hostd => command.arg(&plan.binaries.hostd).arg("--config").arg(plan.config(member)),
        };
        Ok(command)
    }

    /// The beginning of a command in the namespaces of a member; the program and its words follow.
    pub(crate) fn enter(&self, member: &Member) -> Result<Command> {
        let mut command = plain("nsenter", self.plan.number);
        match member.kind {
            Kind::Controller => command.arg(net(&self.plan.namespace(member))),
            Kind::Host => {
                let keeper = self.running(&format!("{}-keeper", member.name))?;
                command.args(["--target", &keeper.pid.to_string(), "--mount", "--uts", "--net"])
            }
        };
        Ok(command)
    }
}

fn net(namespace: &str) -> String {
    format!("--net=/run/netns/{namespace}")
}

/// A command with an environment of its own, so that a lab does not depend on who started it, and with the lab's mark.
fn plain(program: &str, number: u8) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", tool::search_path())
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .env("RUST_BACKTRACE", "1")
        .env(MARK, number.to_string());
    if let Some(level) = std::env::var_os("RUST_LOG") {
        command.env("RUST_LOG", level);
    }
    command
}

/// Whether something listens on this port in the network namespace of a process. Seen from outside, because a
/// connection without a certificate would be a line in the daemon's log.
fn listens(pid: i32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        fs::read_to_string(format!("/proc/{pid}/net/{table}")).is_ok_and(|table| has_listener(&table, port))
    })
}

fn has_listener(table: &str, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().is_some_and(|local| local.ends_with(&wanted));
        // 0A is TCP_LISTEN.
        local && fields.nth(1) == Some("0A")
    })
}

/// The digest of a file in hexadecimal. coreutils is many times faster at it than a build without optimization.
pub(crate) fn sha256(file: &Path) -> Result<String> {
    let output = tool::run(Command::new("sha256sum").arg("--zero").arg(file))?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}

pub(crate) fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    machine::remove_file(to)?;
    // A link fails across file systems.
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).at("copy", from)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection_and_from_other_ports() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let listening = format!("{head}   0: 0B07580A:1D10 00000000:0000 0A 00000000:00000000\n");
        assert!(has_listener(&listening, 7440));
        assert!(!has_listener(&listening, 7441));
        let connected = format!("{head}   0: 0B07580A:1D10 0107580A:D431 01 00000000:00000000\n");
        assert!(!has_listener(&connected, 7440));
    }
}
