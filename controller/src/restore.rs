//! `berth-controller restore` and `force-new-cluster`: a cluster of one, made of a backup or of what one survivor has.
//!
//! Both make the next incarnation of the cluster (see [`berth_state::restore`]) in a fresh data directory whose only member is
//! this one. It is then grown like any other cluster. Nothing that exists is overwritten or removed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use berth_control::{Environment as _, Publisher};
use berth_model::Incarnation;
use berth_pki::SealingKey;
use berth_raft::{Member, StateMachine as _};
use berth_state::{Cluster, record};
use clap::Args;

use crate::backup;
use crate::config::Config;
use crate::environment::{self, Machine as Clock};
use crate::guard::Halt;
use crate::machine::Machine;

/// Make a cluster of one from a backup, in an empty data directory.
#[derive(Args, Debug)]
pub struct Restore {
    /// The backup, as 'berth cluster backup' wrote it
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The configuration of the member that shall have it
    #[arg(long, default_value = "/etc/berth/controller.toml", value_name = "FILE")]
    config: PathBuf,
    /// The least incarnation of the new cluster: give it when hosts refuse the cluster because they have obeyed a later one
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    min_incarnation: u64,
    /// Go on although the sealing key at hand does not open the secrets in the backup
    #[arg(long)]
    without_key: bool,
}

/// Make a cluster of one from what this member has, when the majority is lost for ever.
#[derive(Args, Debug)]
pub struct ForceNewCluster {
    /// The configuration of the member that survived
    #[arg(long, default_value = "/etc/berth/controller.toml", value_name = "FILE")]
    config: PathBuf,
    /// The cluster's id, typed by someone who knows what this means
    #[arg(long, value_name = "CLUSTER")]
    i_know_that_acknowledged_changes_may_be_lost: String,
    /// The least incarnation of the new cluster: give it when hosts refuse the cluster because they have obeyed a later one
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    min_incarnation: u64,
}

impl Restore {
    /// Restores; what was done, for people.
    pub fn run(&self) -> anyhow::Result<String> {
        let config = Config::load(&self.config)?;
        let (head, cluster) = backup::read(&self.from)?;
        let ours = config.cluster().to_string();
        ensure!(
            head.cluster == ours,
            "BE-5033: the backup is of cluster {:?}, the configuration is for {ours:?}; a backup makes only its own cluster anew",
            head.cluster
        );
        let key = SealingKey::load(&config.sealing_key).context("cannot load the sealing key")?;
        let closed: Vec<_> = head.key_ids.iter().filter(|id| id.as_str() != key.key_id()).cloned().collect();
        ensure!(
            closed.is_empty() || self.without_key,
            "BE-5033: secrets in the backup are sealed with key {}, and {} holds key {}; bring the right key file, or go on \
             with --without-key: VMs with such user data then are not told to their hosts until they are created anew",
            closed.join(", "),
            config.sealing_key.display(),
            key.key_id()
        );
        let made = make(&config, &config.data_dir, &cluster, 1, Incarnation(self.min_incarnation))?;
        Ok(format!(
            "{} is now the whole cluster {ours}, incarnation {} at revision {}, as it was at revision {} of the backup\n\
             - start it, and look at 'berth cluster status' and 'berth host orphans'\n\
             - VMs that came after the backup run on as orphans: 'berth vm adopt' or 'berth host remove-orphan'\n\
             - VMs that were deleted after the backup come back\n\
             - grow it with 'berth cluster member add'; other members need empty data directories\n",
            config.name, made.incarnation, made.revision, head.revision
        ))
    }
}

impl ForceNewCluster {
    /// Forces; what was done, for people.
    pub fn run(&self) -> anyhow::Result<String> {
        let config = Config::load(&self.config)?;
        let ours = config.cluster().to_string();
        ensure!(
            self.i_know_that_acknowledged_changes_may_be_lost == ours,
            "BE-5033: this makes {} the only member and forgets what only the others knew: changes that were acknowledged may \
             be lost, and whoever of the others still runs is no part of the cluster any more. If a majority can come back, let \
             it. If not, repeat with --i-know-that-acknowledged-changes-may-be-lost {ours}",
            config.name
        );
        let data = &config.data_dir;
        let (publisher, _views) = Publisher::new();
        let found = berth_raft::recover(data, config.id(), Machine::new(publisher, Halt::new()))
            .with_context(|| format!("cannot read what {} has", config.name))?;
        let cluster = found.machine.snapshot();
        ensure!(
            cluster.info.is_some_and(|info| info.id == config.cluster()),
            "BE-5033: {} holds no state of cluster {ours}; nothing can be made of it",
            data.display()
        );
        let (revision, term) = (cluster.revision, found.last_term + 1);
        let (fresh, kept) = (beside(data, "forced"), beside(data, &format!("before-revision-{revision}")));
        let made = make(&config, &fresh, &cluster, term, Incarnation(self.min_incarnation))?;
        fs::rename(data, &kept)
            .with_context(|| format!("cannot move {} aside to {}", data.display(), kept.display()))?;
        fs::rename(&fresh, data)
            .with_context(|| format!("cannot move {} to {}; do it by hand", fresh.display(), data.display()))?;
        let others: Vec<_> = found.members.iter().filter(|member| member.id != config.id()).collect();
        let others: Vec<_> = others.iter().map(|member| member.name.as_str()).collect();
        Ok(format!(
            "{} is now the whole cluster {ours}, incarnation {} at revision {}, made of all it had, up to revision {revision}\n\
             - CHANGES THAT WERE ACKNOWLEDGED AND DID NOT REACH THIS MEMBER ARE LOST\n\
             - no members any more: {}. Never start them again on their old data; empty it before they are added anew\n\
             - the old data directory is kept at {}\n\
             - start this member, and look at 'berth cluster status' and 'berth host orphans'\n",
            config.name,
            made.incarnation,
            made.revision,
            if others.is_empty() { "none were known".to_owned() } else { others.join(", ") },
            kept.display()
        ))
    }
}

/// A directory beside the data directory.
fn beside(data: &Path, what: &str) -> PathBuf {
    let mut name = data.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    data.with_file_name(name)
}

/// What was made.
struct Made {
    incarnation: u64,
    revision: u64,
}

/// Writes the next incarnation of a state into a directory of its own.
fn make(config: &Config, data: &Path, cluster: &Cluster, term: u64, at_least: Incarnation) -> anyhow::Result<Made> {
    let now = environment::now();
    let dice = Clock.random().to_le_bytes();
    let (random, lineage) = dice.split_at(8);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("a half of sixteen bytes"));
    let renewed = berth_state::restore::renew(cluster, now, number(random), at_least);
    let Some(info) = renewed.info else {
        bail!("BE-5033: the state has no identity; it is of a cluster that never began")
    };
    let made = Made { incarnation: info.incarnation.0, revision: renewed.revision.0 };
    let member = Member {
        id: config.id(),
        name: config.name.to_string(),
        raft_addr: config.raft_address().to_owned(),
        api_addr: config.api_address().to_owned(),
        ..Member::default()
    };
    // Later than the log of any earlier life, so that no member's number is ever given again.
    let base = (term, now.as_millis());
    berth_raft::seed(data, &member, base, number(lineage), move |out| Ok(record::write_snapshot(&renewed, out)?))
        .with_context(|| format!("BE-5033: cannot make a cluster in {}", data.display()))?;
    Ok(made)
}
