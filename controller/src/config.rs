//! The configuration, parsed wholly before any port opens.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use berth_model::{ClusterId, Name};
use berth_raft::Member;
use serde::Deserialize;

/// `controller.toml`. Unknown fields are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This member's name, which its certificate must carry.
    pub name: Name,
    /// This member's number. Needed where there is no `bootstrap`: in a member that joined a cluster that runs.
    pub id: Option<u64>,
    /// The cluster's identity, as in its certificates. Needed where there is no `bootstrap`.
    pub cluster: Option<ClusterId>,
    /// Where log, snapshots and vote are kept.
    pub data_dir: PathBuf,
    /// Where operators and hosts are answered, `address:port`.
    pub api_listen: String,
    /// Where other members are answered, `address:port`.
    pub raft_listen: String,
    /// What others are told instead of `api_listen`.
    pub api_address: Option<String>,
    /// What others are told instead of `raft_listen`.
    pub raft_address: Option<String>,
    /// Where metrics are read, `address:port`; not served if this is missing.
    pub metrics_listen: Option<String>,
    /// The key that opens secrets; a file that only its owner may read.
    pub sealing_key: PathBuf,
    /// This member's certificate.
    pub tls: Tls,
    /// The cluster as it begins; read only while `data_dir` is empty. From then on the members and their addresses are
    /// in the replicated state, whatever stands here. Missing in a member that joined a cluster that runs.
    pub bootstrap: Option<Bootstrap>,
}

/// Where the certificate is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The cluster's authority.
    pub ca: PathBuf,
    /// This member's certificate.
    pub cert: PathBuf,
    /// Its key; a file that only its owner may read.
    pub key: PathBuf,
}

/// The cluster as it begins.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Its identity, as in its certificates.
    pub cluster: ClusterId,
    /// Its members; the same list on each of them.
    pub members: Vec<BootstrapMember>,
}

/// One member as the cluster begins.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootstrapMember {
    /// Its number, unique in the cluster for ever.
    pub id: u64,
    /// Its name.
    pub name: Name,
    /// Where it answers operators and hosts.
    pub api: String,
    /// Where it answers other members.
    pub raft: String,
    /// What it shares the fate of: a rack, a room, a machine.
    #[serde(default)]
    pub domain: String,
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let config: Self = toml::from_str(&text).with_context(|| format!("{} is not valid", path.display()))?;
        config.check().with_context(|| format!("{} cannot work", path.display()))?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        let Some(bootstrap) = &self.bootstrap else {
            ensure!(
                self.id.is_some_and(|id| id != 0) && self.cluster.is_some(),
                "without [bootstrap] the file must say `id` and `cluster`, as 'berth-controller join' writes them"
            );
            return Ok(());
        };
        let members = &bootstrap.members;
        ensure!(!members.is_empty(), "bootstrap.members is empty; name at least this controller");
        for (at, member) in members.iter().enumerate() {
            ensure!(member.id != 0, "bootstrap.members[{at}].id is 0; ids begin at 1");
            let twin = members[..at].iter().any(|other| other.id == member.id || other.name == member.name);
            ensure!(!twin, "bootstrap.members[{at}] has the id or name of another member");
        }
        let Some(own) = members.iter().find(|member| member.name == self.name) else {
            bail!("bootstrap.members does not name {:?}; add it, with the same list on each member", self.name);
        };
        ensure!(
            self.id.is_none_or(|id| id == own.id),
            "bootstrap.members says that {:?} has id {}, this file says {}",
            self.name,
            own.id,
            self.id.unwrap_or_default()
        );
        ensure!(
            self.cluster.is_none_or(|cluster| cluster == bootstrap.cluster),
            "bootstrap.cluster is {}, `cluster` says another",
            bootstrap.cluster
        );
        if !self.is_pristine() {
            // The replicated membership says by now where everybody is; this member may have moved.
            return Ok(());
        }
        let (api, raft) = (self.api_address(), self.raft_address());
        ensure!(
            own.api == api,
            "bootstrap.members says that {:?} answers at {}, this file says {api}",
            self.name,
            own.api
        );
        ensure!(
            own.raft == raft,
            "bootstrap.members says that {:?} has raft at {}, this file says {raft}",
            self.name,
            own.raft
        );
        Ok(())
    }

    /// Whether nothing was ever kept here, so that `bootstrap` is still to be followed.
    fn is_pristine(&self) -> bool {
        std::fs::read_dir(&self.data_dir).map_or(true, |mut entries| entries.next().is_none())
    }

    /// What others are told.
    pub fn api_address(&self) -> &str {
        self.api_address.as_deref().unwrap_or(&self.api_listen)
    }

    /// What other members are told.
    pub fn raft_address(&self) -> &str {
        self.raft_address.as_deref().unwrap_or(&self.raft_listen)
    }

    /// This member's number.
    pub fn id(&self) -> u64 {
        let members = self.bootstrap.iter().flat_map(|bootstrap| &bootstrap.members);
        let own = members.into_iter().find(|member| member.name == self.name).map(|member| member.id);
        self.id.or(own).expect("checked when the file was read")
    }

    /// The cluster's identity.
    pub fn cluster(&self) -> ClusterId {
        let first = self.bootstrap.as_ref().map(|bootstrap| bootstrap.cluster);
        self.cluster.or(first).expect("checked when the file was read")
    }

    /// This member as this file says.
    pub fn seat(&self) -> Member {
        let id = self.id();
        let first = self.members().into_iter().find(|member| member.id == id);
        first.unwrap_or_else(|| Member {
            id,
            name: self.name.to_string(),
            raft_addr: self.raft_address().to_owned(),
            api_addr: self.api_address().to_owned(),
            domain: String::new(),
        })
    }

    /// The members as the cluster begins; none for a member that joins.
    pub fn members(&self) -> Vec<Member> {
        let member = |member: &BootstrapMember| Member {
            id: member.id,
            name: member.name.to_string(),
            raft_addr: member.raft.clone(),
            api_addr: member.api.clone(),
            domain: member.domain.clone(),
        };
        self.bootstrap.iter().flat_map(|bootstrap| &bootstrap.members).map(member).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "c1"
        data_dir = "/var/lib/berth/controller"
        api_listen = "10.0.0.1:7440"
        raft_listen = "10.0.0.1:7441"
        sealing_key = "/etc/berth/sealing.key"
        [tls]
        ca = "/etc/berth/tls/ca.pem"
        cert = "/etc/berth/tls/cert.pem"
        key = "/etc/berth/tls/key.pem"
        [bootstrap]
        cluster = "lab"
        [[bootstrap.members]]
        id = 1
        name = "c1"
        api = "10.0.0.1:7440"
        raft = "10.0.0.1:7441"
    "#;

    fn problem(text: &str) -> String {
        match toml::from_str::<Config>(text) {
            Err(error) => error.to_string(),
            Ok(config) => format!("{:#}", config.check().unwrap_err()),
        }
    }

    #[test]
    fn the_documented_example_is_good() {
        let config: Config = toml::from_str(GOOD).unwrap();
        config.check().unwrap();
        assert_eq!(config.id(), 1);
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_field() {
        assert!(problem(&GOOD.replace("name = \"c1\"\n        data", "name = \"c9\"\n        data")).contains("c9"));
        assert!(problem(&GOOD.replace("sealing_key", "sealing_kee")).contains("sealing_kee"));
        assert!(problem(&GOOD.replace("id = 1", "id = 0")).contains("ids begin at 1"));
        assert!(problem(&GOOD.replace("api = \"10.0.0.1", "api = \"10.0.0.9")).contains("10.0.0.9"));
        assert!(problem(&format!("id = 2\n{GOOD}")).contains("has id 1, this file says 2"));
        assert!(problem(&format!("cluster = \"other\"\n{GOOD}")).contains("says another"));
    }

    #[test]
    fn a_member_that_moved_need_not_rewrite_how_the_cluster_began() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("CURRENT"), "gen-1").unwrap();
        let moved = GOOD
            .replace("/var/lib/berth/controller", folder.path().to_str().unwrap())
            .replace("api_listen = \"10.0.0.1", "api_listen = \"10.0.0.9");
        toml::from_str::<Config>(&moved).unwrap().check().unwrap();
    }

    #[test]
    fn a_member_that_joins_has_its_id_and_no_first_members() {
        let without = GOOD.split_once("[bootstrap]").unwrap().0;
        assert!(problem(without).contains("`id` and `cluster`"));
        assert!(problem(&format!("id = 0\ncluster = \"lab\"\n{without}")).contains("`id` and `cluster`"));
        let config: Config = toml::from_str(&format!("id = 7\ncluster = \"lab\"\n{without}")).unwrap();
        config.check().unwrap();
        assert_eq!((config.id(), config.cluster().to_string()), (7, "lab".to_owned()));
        assert!(config.members().is_empty());
    }
}
