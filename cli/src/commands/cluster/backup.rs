//! `berth cluster backup`: a file that is whole or is not there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_frame::backup::{Head, Reader};
use berth_model::{Bytes, Timestamp};
use berth_proto::v1;
use berth_proto::v1::backup_service_client::BackupServiceClient;
use serde::Serialize;
use tonic::transport::Channel;

use super::super::Session;
use crate::args::Global;
use crate::client::{ATTEMPT, LARGEST_ANSWER, Trouble, Verdict, judge};
use crate::exit::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::render;

/// How long the next piece may take: the controller reads them from memory.
const PIECE_WITHIN: Duration = Duration::from_secs(30);

/// What a backup is of.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct BackupView {
    file: String,
    cluster: String,
    incarnation: u64,
    revision: u64,
    made_at: String,
    made_by: String,
    program: String,
    vms: u64,
    hosts: u64,
    images: u64,
    changes: u64,
    bytes: u64,
    digest: String,
    /// The keys that open its secrets. They are not in it.
    needs_keys: Vec<String>,
}

impl BackupView {
    fn new(file: &Path, head: Head, bytes: u64) -> Self {
        use std::fmt::Write as _;
        let mut digest = String::new();
        for byte in head.digest {
            write!(digest, "{byte:02x}").expect("writing to a string cannot fail");
        }
        Self {
            file: file.display().to_string(),
            cluster: head.cluster,
            incarnation: head.incarnation,
            revision: head.revision,
            made_at: Timestamp::from_millis(head.made_at_ms).to_string(),
            made_by: head.made_by,
            program: head.program,
            vms: head.vms,
            hosts: head.hosts,
            images: head.images,
            changes: head.history,
            bytes,
            digest,
            needs_keys: head.key_ids,
        }
    }

    fn text(&self) -> String {
        let keys = if self.needs_keys.is_empty() { "none".to_owned() } else { self.needs_keys.join(", ") };
        render::fields(&[
            ("File", self.file.clone()),
            ("Cluster", format!("{}, incarnation {}", self.cluster, self.incarnation)),
            ("Revision", self.revision.to_string()),
            ("Made", format!("{} by {} (version {})", self.made_at, self.made_by, self.program)),
            (
                "Holds",
                format!("{} VMs, {} hosts, {} images, {} changes", self.vms, self.hosts, self.images, self.changes),
            ),
            ("State", Bytes(self.bytes).to_string()),
            ("Digest", self.digest.clone()),
            ("Needs keys", keys),
        ])
    }
}

/// What everybody who has the file must know.
const WARNING: &str = "the file holds sealed secrets and NOT the key that opens them: keep the sealing key file \
                       (sealing_key of controller.toml) somewhere else, or the secrets are lost with the controllers";

/// Takes a backup.
pub(in crate::commands) async fn run(mut session: Session<'_>, file: PathBuf) -> Result<ExitStatus, Failure> {
    if file.exists() {
        return Err(Failure::usage(format!("{} exists already, and a backup replaces nothing", file.display()))
            .hint("give another name"));
    }
    let aside = aside(&file);
    let taken = take(&mut session, &aside).await;
    let checked = match taken {
        Ok(()) => check(&aside).and_then(|checked| adopt(&aside, &file).map(|()| checked)),
        Err(failure) => Err(failure),
    };
    let (head, bytes) = checked.inspect_err(|_| {
        // Half a backup is of no use; if it cannot be removed, its name says what it is.
        let _ = fs::remove_file(&aside);
    })?;
    let view = BackupView::new(&file, head, bytes);
    session.print(&view, |_| view.text())?;
    session.printer.note(WARNING);
    Ok(ExitStatus::Ok)
}

/// Checks a file.
pub(in crate::commands) fn verify(global: &Global, printer: &mut Printer, file: &Path) -> Result<ExitStatus, Failure> {
    let (head, bytes) = check(file)?;
    let view = BackupView::new(file, head, bytes);
    let text = render::output(global.output, &view, || view.text())?;
    printer.data(&text)?;
    printer.note(WARNING);
    Ok(ExitStatus::Ok)
}

fn check(file: &Path) -> Result<(Head, u64), Failure> {
    let opened = File::open(file).map_err(|error| local("open", file, &error))?;
    Reader::begin(BufReader::new(opened)).and_then(Reader::verify).map_err(|error| {
        if error.kind() == io::ErrorKind::InvalidData {
            Failure::refused(format!("{}: {error}", file.display()))
                .code("BE-5032")
                .hint("take another backup, or use an older one")
        } else {
            local("read", file, &error)
        }
    })
}

/// The name under which a backup is written until it is whole.
fn aside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    file.with_file_name(name)
}

/// Writes what the first controller that can gives.
async fn take(session: &mut Session<'_>, aside: &Path) -> Result<(), Failure> {
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(aside)
        .map_err(|error| local("create", aside, &error))?;
    let mut last = String::new();
    for _ in 0..session.client.endpoints() {
        let trouble = match session.client.channel(ATTEMPT).await {
            Ok(channel) => match stream(channel, &mut out).await {
                Ok(()) => {
                    out.sync_all().map_err(|error| local("sync", aside, &error))?;
                    return Ok(());
                }
                Err(Broken::Here(error)) => return Err(local("write", aside, &error)),
                Err(Broken::There(trouble)) => trouble,
            },
            Err(trouble) => trouble,
        };
        if let Verdict::Final(failure) = judge(session.client.endpoint(), &trouble) {
            return Err(failure);
        }
        last = format!("{}: {}", session.client.endpoint(), trouble.in_words());
        session.client.turn();
        out.set_len(0).map_err(|error| local("shorten", aside, &error))?;
        io::Seek::rewind(&mut out).map_err(|error| local("rewind", aside, &error))?;
    }
    Err(Failure::new(ExitStatus::Unavailable, format!("no controller gave a backup; the last was {last}"))
        .code("BE-5001")
        .hint("a majority of controllers must run; see 'berth cluster status'"))
}

enum Broken {
    Here(io::Error),
    There(Trouble),
}

async fn stream(channel: Channel, out: &mut File) -> Result<(), Broken> {
    let there = |status: tonic::Status| Broken::There(Trouble::of_status(&status));
    let mut client = BackupServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
    let asked = tokio::time::timeout(PIECE_WITHIN, client.backup(v1::BackupRequest {})).await;
    let mut pieces = asked.map_err(|_| Broken::There(Trouble::TooLate))?.map_err(there)?.into_inner();
    loop {
        let next = tokio::time::timeout(PIECE_WITHIN, pieces.message()).await;
        match next.map_err(|_| Broken::There(Trouble::TooLate))?.map_err(there)? {
            Some(v1::BackupPiece { bytes }) => out.write_all(&bytes).map_err(Broken::Here)?,
            None => return Ok(()),
        }
    }
}

/// Gives a whole backup its name, unless the name was taken meanwhile.
fn adopt(aside: &Path, file: &Path) -> Result<(), Failure> {
    fs::hard_link(aside, file).map_err(|error| local("give its name to", file, &error))?;
    fs::remove_file(aside).map_err(|error| local("remove", aside, &error))?;
    let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| local("sync", folder, &error))
}

fn local(action: &str, file: &Path, error: &io::Error) -> Failure {
    Failure::refused(format!("cannot {action} {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_frame::backup::Writer;

    fn backup(folder: &Path) -> PathBuf {
        let file = folder.join("berth.backup");
        let head = Head { cluster: "lab".into(), revision: 7, key_ids: vec!["k1".into()], ..Head::default() };
        let mut writer = Writer::begin(File::create(&file).unwrap(), &head).unwrap();
        writer.write_all(b"state").unwrap();
        writer.finish().unwrap();
        file
    }

    fn global() -> Global {
        Global::default()
    }

    #[test]
    fn a_whole_file_is_summed_up_and_the_key_is_spoken_of_loudly() {
        let folder = tempfile::tempdir().unwrap();
        let file = backup(folder.path());
        let (mut printer, out, err) = Printer::to_memory();
        verify(&global(), &mut printer, &file).unwrap();
        assert!(out.text().contains("lab, incarnation 0") && out.text().contains("k1"), "{}", out.text());
        assert!(err.text().contains("NOT the key"), "{}", err.text());
    }

    #[test]
    fn a_damaged_file_is_refused_with_its_code_and_a_missing_one_without() {
        let folder = tempfile::tempdir().unwrap();
        let file = backup(folder.path());
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, &bytes).unwrap();
        assert_eq!(check(&file).unwrap_err().code_text(), Some("BE-5032"));
        assert_eq!(check(&folder.path().join("none")).unwrap_err().code_text(), None);
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = backup(folder.path());
        let aside = aside(&file);
        fs::copy(&file, &aside).unwrap();
        fs::write(&file, "somebody else's").unwrap();
        assert!(adopt(&aside, &file).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"somebody else's");
    }
}
