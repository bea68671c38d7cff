//! Backup files: what they say of themselves, and how a state goes in and comes out.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

use anyhow::{Context, bail};
use berth_frame::backup::{Head, Reader, Writer};
use berth_model::Timestamp;
use berth_state::{Cluster, record};

/// What a backup of this state says of itself.
pub(crate) fn head(view: &Cluster, member: &str, now: Timestamp) -> Head {
    let info = view.info;
    let keys: BTreeSet<_> =
        view.vms.values().filter_map(|vm| vm.spec.user_data.as_ref()).map(|it| &it.key_id).collect();
    Head {
        cluster: info.map(|info| info.id.to_string()).unwrap_or_default(),
        incarnation: info.map(|info| info.incarnation.0).unwrap_or_default(),
        cluster_version: info.map(|info| info.version).unwrap_or_default(),
        revision: view.revision.0,
        made_at_ms: now.as_millis(),
        made_by: member.to_owned(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        vms: view.vms.len() as u64,
        hosts: view.hosts.len() as u64,
        images: view.images.len() as u64,
        history: view.history.len(),
        key_ids: keys.into_iter().cloned().collect(),
        digest: view.digest().to_bytes(),
    }
}

/// Writes the whole file.
pub(crate) fn write<W: Write>(out: W, head: &Head, view: &Cluster) -> io::Result<W> {
    let mut writer = Writer::begin(out, head)?;
    record::write_snapshot(view, &mut writer).map_err(io::Error::other)?;
    writer.finish()
}

/// Reads a whole file: what it says of itself, and the state, whose digest was found to be the one it announces.
pub(crate) fn read(path: &Path) -> anyhow::Result<(Head, Cluster)> {
    let file = File::open(path).with_context(|| format!("cannot open the backup {}", path.display()))?;
    let damaged = || format!("BE-5032: the backup {} cannot be used; take another one", path.display());
    let mut reader = Reader::begin(BufReader::new(file)).with_context(damaged)?;
    let head = reader.head().clone();
    let cluster = record::read_snapshot(&mut reader).with_context(damaged)?;
    if cluster.digest().to_bytes() != head.digest {
        bail!("{}: its state has another digest than it announces", damaged());
    }
    Ok((head, cluster))
}
