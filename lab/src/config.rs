//! The configuration files of a lab's members and of its operator.

use std::path::Path;

use serde::Serialize;

use crate::plan::{Kind, Member, Plan};

#[derive(Serialize)]
struct Tls {
    ca: String,
    cert: String,
    key: String,
}

impl Tls {
    fn below(folder: &Path) -> Self {
        let file = |name| text(&folder.join("tls").join(name));
        Self { ca: file("ca.pem"), cert: file("cert.pem"), key: file("key.pem") }
    }
}

#[derive(Serialize)]
struct Controller {
    name: String,
    data_dir: String,
    api_listen: String,
    raft_listen: String,
    metrics_listen: String,
    sealing_key: String,
    tls: Tls,
    bootstrap: Bootstrap,
}

#[derive(Serialize)]
struct Bootstrap {
    cluster: String,
    members: Vec<BootstrapMember>,
}

#[derive(Serialize)]
struct BootstrapMember {
    id: u8,
    name: String,
    api: String,
    raft: String,
}

#[derive(Serialize)]
struct Hostd {
    name: String,
    data_dir: String,
    listen: String,
    address: String,
    controllers: Vec<String>,
    images_dir: String,
    volumes_dir: String,
    run_dir: &'static str,
    libvirt_uri: &'static str,
    sysfs_root: &'static str,
    host_cores: u32,
    hugepages_2m: u64,
    host_memory: &'static str,
    tls: Tls,
    lab_slice: LabSlice,
}

#[derive(Serialize)]
struct LabSlice {
    cpus: String,
    memory: String,
    hugepages_2m: u64,
}

#[derive(Serialize)]
struct Client {
    current: &'static str,
    clusters: [ClientCluster; 1],
}

#[derive(Serialize)]
struct ClientCluster {
    name: &'static str,
    endpoints: Vec<String>,
    ca: String,
    cert: String,
    key: String,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn controllers(plan: &Plan) -> Vec<String> {
    plan.formed().map(|member| member.api().to_string()).collect()
}

/// `controller.toml` or `hostd.toml` of a member.
pub(crate) fn member(plan: &Plan, member: &Member) -> String {
    let rendered = match member.kind {
        Kind::Controller => toml::to_string(&controller(plan, member)),
        Kind::Host => toml::to_string(&hostd(plan, member)),
    };
    rendered.expect("the configurations hold texts, numbers and tables of these")
}

fn controller(plan: &Plan, member: &Member) -> Controller {
    let folder = plan.folder(member);
    let members = plan.formed().map(|member| BootstrapMember {
        id: member.id,
        name: member.name.clone(),
        api: member.api().to_string(),
        raft: member.raft().to_string(),
    });
    Controller {
        name: member.name.clone(),
        data_dir: text(&folder.join("data")),
        api_listen: member.api().to_string(),
        raft_listen: member.raft().to_string(),
        metrics_listen: member.metrics().to_string(),
        sealing_key: text(&folder.join("sealing.key")),
        tls: Tls::below(&folder),
        bootstrap: Bootstrap { cluster: plan.cluster.clone(), members: members.collect() },
    }
}

fn hostd(plan: &Plan, member: &Member) -> Hostd {
    let folder = plan.folder(member);
    Hostd {
        name: member.name.clone(),
        data_dir: text(&folder.join("data")),
        listen: member.api().to_string(),
        address: member.api().to_string(),
        controllers: controllers(plan),
        images_dir: text(&folder.join("images")),
        volumes_dir: text(&folder.join("volumes")),
        run_dir: "/run/berth",
        libvirt_uri: "qemu:///system",
        sysfs_root: "/",
        // The machine is shared as it is: keeping cores on each of its hosts would keep nothing free.
        host_cores: 0,
        hugepages_2m: plan.slice.hugepages_2m,
        host_memory: "256MiB",
        tls: Tls::below(&folder),
        lab_slice: LabSlice {
            cpus: plan.slice.cpus.clone(),
            memory: format!("{}MiB", plan.slice.memory_mib),
            hugepages_2m: plan.slice.hugepages_2m,
        },
    }
}

/// `config.yaml` of a client whose certificate is in `folder`. JSON, which is YAML too.
pub(crate) fn client(plan: &Plan, folder: &Path) -> String {
    let file = |name| text(&folder.join(name));
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let cluster = ClientCluster { name: "lab", endpoints: controllers(plan), ca, cert, key };
    let client = Client { current: "lab", clusters: [cluster] };
    serde_json::to_string_pretty(&client).expect("the configuration holds texts only") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_knows_all_members_and_its_own_files() {
        let plan = crate::plan::tests::plan();
        let table: toml::Table = member(&plan, plan.member("c2").unwrap()).parse().unwrap();
        assert_eq!(table["name"].as_str(), Some("c2"));
        assert_eq!(table["api_listen"].as_str(), Some("10.88.7.12:7440"));
        assert_eq!(table["raft_listen"].as_str(), Some("10.88.7.12:7441"));
        assert_eq!(table["tls"]["key"].as_str(), Some("/srv/lab/c2/tls/key.pem"));
        assert_eq!(table["bootstrap"]["cluster"].as_str(), Some("labcluster"));
        let members = table["bootstrap"]["members"].as_array().unwrap();
        assert_eq!(members.len(), 3);
        assert_eq!(members[2]["id"].as_integer(), Some(3));
        assert_eq!(members[2]["raft"].as_str(), Some("10.88.7.13:7441"));
    }

    #[test]
    fn each_host_gets_its_slice_and_dials_every_controller() {
        let plan = crate::plan::tests::plan();
        let table: toml::Table = member(&plan, plan.member("h2").unwrap()).parse().unwrap();
        assert_eq!(table["listen"].as_str(), Some("10.88.7.22:7443"));
        assert_eq!(table["controllers"].as_array().unwrap().len(), 3);
        assert_eq!(table["lab_slice"]["cpus"].as_str(), Some("0-1"));
        assert_eq!(table["lab_slice"]["memory"].as_str(), Some("2048MiB"));
        assert_eq!(table["lab_slice"]["hugepages_2m"].as_integer(), Some(512));
        assert_eq!(table["images_dir"].as_str(), Some("/srv/lab/h2/images"));
    }
}
