//! What a process has used, as the kernel and the process itself count it.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_pki::{Credentials, Expect, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Ticks in a second of the times in `/proc/PID/stat`: fixed by Linux's interface on every architecture we build for.
const TICKS: f64 = 100.0;

/// etcd's counter of the syncs of its log.
pub(crate) const ETCD_SYNCS: &str = "etcd_disk_wal_fsync_duration_seconds_count";
/// A controller's counter of the syncs of its log.
pub(crate) const CONTROLLER_SYNCS: &str = "berth_raft_barrier_seconds_count";

/// What a process has used since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// Processor time, in seconds.
    pub(crate) cpu_s: f64,
    /// Bytes written to keep the data: of the log itself what it appended, of etcd the kernel's count, of controllers not
    /// known. The kernel counts whole folios of the page cache, which for small appends to a file that is there already is
    /// far too much.
    pub(crate) written: u64,
    /// Times the log was brought to the disk.
    pub(crate) syncs: u64,
}

impl Usage {
    /// What was used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu_s: self.cpu_s - before.cpu_s,
            written: self.written.saturating_sub(before.written),
            syncs: self.syncs.saturating_sub(before.syncs),
        }
    }
}

/// Processor time and bytes written of a process; its syncs are another's to fill in.
pub(crate) fn of_process(pid: u32) -> Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}; did the process end?"))
    };
    let cpu_s = cpu_seconds(&read("stat")?).context("/proc/PID/stat has another form than expected")?;
    let written = field(&read("io")?, "write_bytes:").context("/proc/PID/io tells no write_bytes")?;
    Ok(Usage { cpu_s, written, syncs: 0 })
}

/// User and system time of a `/proc/PID/stat`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some((f64::from(ticks()?) + f64::from(ticks()?)) / TICKS)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Memory that a process holds, in bytes.
pub(crate) fn memory(pid: u32) -> Result<u64> {
    of_status(pid, "VmRSS:")
}

/// The most memory that a process ever held, in bytes.
pub(crate) fn most_memory(pid: u32) -> Result<u64> {
    of_status(pid, "VmHWM:")
}

fn of_status(pid: u32, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}; did the process end?"))?;
    Ok(field(&status, name).with_context(|| format!("{path} tells no {name}"))? * 1024)
}

/// Bytes that a folder takes on the disk.
pub(crate) fn disk(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // Files come and go while the member runs.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", folder.display())),
    };
    for entry in entries {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += disk(&entry.path())?,
            Ok(metadata) => bytes += metadata.blocks() * 512,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

/// How long a member may take to give its metrics.
const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET /metrics HTTP/1.0\r\n\r\n";

/// A member's metrics at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Page(String);

impl Page {
    fn new(page: String) -> Result<Self> {
        let is_given = page.starts_with("HTTP/1.0 200") || page.starts_with("HTTP/1.1 200");
        ensure!(is_given, "the metrics are not given: {}", page.lines().next().unwrap_or(""));
        Ok(Self(page))
    }

    /// A counter or a gauge without labels.
    pub(crate) fn value(&self, name: &str) -> Result<u64> {
        field(&self.0, &format!("{name} ")).with_context(|| format!("the metrics hold no {name}"))
    }
}

/// The metrics of a member of etcd, which the bench lets it serve in plain text.
pub(crate) fn etcd_metrics(metrics: SocketAddr) -> Result<Page> {
    let mut stream = TcpStream::connect_timeout(&metrics, PATIENCE).context("the metrics are not served")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Page::new(page)
}

/// The metrics of a controller, which it serves over mutual TLS only.
pub(crate) async fn controller_metrics(metrics: SocketAddr, credentials: &Credentials) -> Result<Page> {
    let config = credentials.client_config(Expect::any(Role::Controller));
    let read = async {
        let mut stream = berth_pki::connect(&metrics.to_string(), config, PATIENCE).await?;
        stream.write_all(REQUEST).await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        Page::new(page)
    };
    tokio::time::timeout(PATIENCE, read).await.context("the metrics do not come")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_whatever_the_program_is_called() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 100 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let page = "# HELP x\netcd_disk_wal_fsync_duration_seconds_count 42\nVmRSS:\t  10 kB\n";
        assert_eq!((field(page, ETCD_SYNCS), field(page, "VmRSS:")), (Some(42), Some(10)));
        assert_eq!(field(page, "nothing"), None);
    }
}
