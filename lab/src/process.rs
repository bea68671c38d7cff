//! Processes of a lab: starting them so that they outlive their starter, knowing them again, and finding all of them.
//!
//! A pid alone says nothing once its process has ended, so each is kept with its start time. For clean-up that is not
//! enough either: a lab may die between a start and the note of it, and daemons start processes of their own. So a lab's
//! processes are also found by what they cannot shed: its network namespaces, a word in their environment, and the
//! mount namespace they share with one that has either.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{At as _, Error, Result};
use crate::plan::namespace_prefix;

/// The variable that all processes of a lab have in their environment, with the lab's number.
pub(crate) const MARK: &str = "BERTH_LAB";

/// One process, for ever: a pid that is given out again comes with another start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    /// In clock ticks since boot.
    pub(crate) start_time: u64,
}

impl Identity {
    /// The process that has this pid now, unless it only waits to be reaped.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_time) = parse_stat(&stat)?;
        let ended = match state {
            'X' => true,
            // Its first thread has ended. While others have not, the process still holds its files and its ports.
            'Z' => fs::read_dir(format!("/proc/{pid}/task")).map_or(true, |threads| threads.count() <= 1),
            _ => false,
        };
        (!ended).then_some(Self { pid, start_time })
    }

    /// This process.
    pub(crate) fn own() -> Option<Self> {
        Self::of(std::process::id().cast_signed())
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal if this very process is still there; says whether it was.
    pub(crate) fn signal(self, signal: Signal) -> Result<bool> {
        if !self.is_alive() {
            return Ok(false);
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => Err(error).at("signal", format!("/proc/{}", self.pid)),
        }
    }

    /// Waits until it has ended; says whether it did.
    pub(crate) fn wait_gone(self, limit: Duration) -> bool {
        poll(limit, || (!self.is_alive()).then_some(())).is_some()
    }

    pub(crate) fn load(path: &Path) -> Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| Error::Damaged { path: path.to_owned(), source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("read", path),
        }
    }
}

/// State and start time out of `/proc/PID/stat`. The command, in parentheses, may hold anything, even parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of the whole line; state is field 3.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Asks again and again, at first after 2 ms and at last each 200 ms, until there is an answer or the limit is over.
pub(crate) fn poll<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// A namespace: the kernel's own number for it.
type Namespace = (u64, u64);

fn namespace(path: impl AsRef<Path>) -> Option<Namespace> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

struct Candidate {
    identity: Identity,
    /// It is just becoming another program, and says nothing of itself.
    in_exec: bool,
    network: Option<Namespace>,
    mount: Option<Namespace>,
    marked: bool,
}

/// All processes of lab `number`, never this one.
pub(crate) fn of_lab(number: u8) -> Vec<Identity> {
    look(number).0
}

/// The processes of lab `number`, and whether there may be one more that cannot be told at this moment.
///
/// Before a child of the lab's starter becomes another program it holds a copy of the starter's lock, so that nobody
/// looks for it; and once it has entered a namespace it is known by that. In between its environment is empty for the
/// moments in which the kernel replaces one program by the next.
fn look(number: u8) -> (Vec<Identity>, bool) {
    let own = std::process::id();
    let candidates: Vec<_> =
        pids().filter(|pid| pid.unsigned_abs() != own).filter_map(|pid| look_at(pid, number)).collect();
    let theirs = network_namespaces(number).iter().filter_map(|name| namespace(format!("/run/netns/{name}"))).collect();
    let ours = [namespace("/proc/self/ns/net"), namespace("/proc/self/ns/mnt")].into_iter().flatten().collect();
    let now = uptime_ticks();
    let unsure = candidates
        .iter()
        .any(|candidate| candidate.in_exec && candidate.identity.start_time.saturating_add(YOUNG_TICKS) > now);
    (closure(&candidates, theirs, &ours), unsure)
}

/// Ten seconds: longer than a process of ours takes from its start into its namespace. The kernel counts 100 to the
/// second in everything it shows. Older processes with an empty environment were made that way.
const YOUNG_TICKS: u64 = 1000;

/// Time since boot as processes' start times count it; 0 if it cannot be told, which makes every process young.
fn uptime_ticks() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let mut parts = text.split([' ', '.']).map_while(|part| part.parse::<u64>().ok());
    parts.next().and_then(|seconds| Some(seconds * 100 + parts.next()?)).unwrap_or(0)
}

/// Those in a namespace of the lab or marked, and those who share a namespace with them, other than the machine's own.
fn closure(candidates: &[Candidate], mut theirs: BTreeSet<Namespace>, ours: &BTreeSet<Namespace>) -> Vec<Identity> {
    let mut found = vec![false; candidates.len()];
    loop {
        let mut grew = false;
        for (candidate, found) in candidates.iter().zip(&mut found).filter(|(_, found)| !**found) {
            let spaces: Vec<_> = [candidate.network, candidate.mount].into_iter().flatten().collect();
            if candidate.marked || spaces.iter().any(|space| theirs.contains(space)) {
                theirs.extend(spaces.into_iter().filter(|space| !ours.contains(space)));
                *found = true;
                grew = true;
            }
        }
        if !grew {
            break;
        }
    }
    candidates.iter().zip(found).filter(|(_, found)| *found).map(|(candidate, _)| candidate.identity).collect()
}

fn look_at(pid: i32, number: u8) -> Option<Candidate> {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mark = format!("{MARK}={number}");
    // Kernel threads have no environment either, but no program.
    let in_exec = environment.is_empty() && fs::read_link(format!("/proc/{pid}/exe")).is_ok();
    Some(Candidate {
        identity: Identity::of(pid)?,
        in_exec,
        network: namespace(format!("/proc/{pid}/ns/net")),
        mount: namespace(format!("/proc/{pid}/ns/mnt")),
        marked: environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()),
    })
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The names of the network namespaces of lab `number` that exist.
pub(crate) fn network_namespaces(number: u8) -> Vec<String> {
    let prefix = namespace_prefix(number);
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    names.sort();
    names
}

/// Kills every process of lab `number` and waits until none is left; says which were still there at the limit.
pub(crate) fn kill_all(number: u8, limit: Duration) -> Result<Vec<Identity>> {
    let mut problem = None;
    let gone = poll(limit, || {
        // Looked for anew each time: what forked between the look and the signal is found in the next round.
        let (left, unsure) = look(number);
        for process in &left {
            if let Err(error) = process.signal(Signal::SIGKILL) {
                problem.get_or_insert(error);
            }
        }
        (left.is_empty() && !unsure).then_some(())
    });
    match problem {
        Some(problem) => Err(problem),
        None => Ok(if gone.is_some() { Vec::new() } else { of_lab(number) }),
    }
}

/// A process in words, for a report of what is left.
pub(crate) fn describe(process: Identity) -> String {
    let command = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    let words = String::from_utf8_lossy(&command).replace('\0', " ");
    format!("process {} ({})", process.pid, words.trim().chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse_stat(stat), Some(('S', 777)));
        assert_eq!(parse_stat("42 (cut"), None);
    }

    #[test]
    fn this_process_is_alive_and_a_namesake_of_another_time_is_not_touched() {
        let own = Identity::of(std::process::id().cast_signed()).unwrap();
        assert!(own.is_alive());
        let namesake = Identity { start_time: own.start_time + 1, ..own };
        assert!(!namesake.is_alive());
        // Would end this test if it were sent.
        assert!(!namesake.signal(Signal::SIGKILL).unwrap());
    }

    #[test]
    fn a_lab_is_what_shares_its_namespaces_or_its_mark_and_never_the_machines_own() {
        let one = |pid, network: u64, mount: u64, marked| Candidate {
            identity: Identity { pid, start_time: 0 },
            in_exec: false,
            network: Some((4, network)),
            mount: Some((4, mount)),
            marked,
        };
        let (machine_net, machine_mount) = (1, 2);
        let all = [
            one(14, 30, 20, false), // shares only the mount namespace of 12, listed before it
            one(10, machine_net, machine_mount, false),
            one(11, 5, machine_mount, false), // in the lab's network namespace: a controller
            one(12, machine_net, 20, true),   // marked, in a mount namespace that no file names
            one(13, machine_net, machine_mount, false),
            one(15, 30, machine_mount, false), // shares only the network namespace of 14
            one(16, 6, 40, false),             // another lab's
        ];
        let theirs = BTreeSet::from([(4, 5)]);
        let ours = BTreeSet::from([(4, machine_net), (4, machine_mount)]);
        let found: Vec<_> = closure(&all, theirs, &ours).into_iter().map(|identity| identity.pid).collect();
        assert_eq!(found, [14, 11, 12, 15]);
    }
}
