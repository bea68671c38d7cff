//! A host from the inside: its libvirt, its QEMUs, its files.

use std::path::PathBuf;

use berth_lab::Lab;
use serde_json::Value;

/// One host of the lab.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    lab: &'a Lab,
    /// Its name.
    pub name: &'a str,
}

/// A domain, by the name that libvirt knows it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its QEMU.
    pub pid: i32,
}

impl<'a> Host<'a> {
    pub(crate) fn new(lab: &'a Lab, name: &'a str) -> Self {
        Self { lab, name }
    }

    /// Runs virsh on this host.
    pub fn try_virsh(&self, words: &[&str]) -> Result<String, String> {
        let words = [&["virsh", "--quiet", "--connect", "qemu:///system"], words].concat();
        self.lab.exec_in(self.name, &words).map_err(|error| error.to_string())
    }

    /// Runs virsh on this host; it must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn virsh(&self, words: &[&str]) -> String {
        self.try_virsh(words).unwrap_or_else(|error| panic!("{}: virsh {words:?}: {error}", self.name))
    }

    /// The names of all domains, running or not, in order.
    pub fn domains(&self) -> Vec<String> {
        let mut names: Vec<_> = self.virsh(&["list", "--all", "--name"]).lines().map(str::to_owned).collect();
        names.retain(|name| !name.trim().is_empty());
        names.sort();
        names
    }

    /// Asks a domain's QEMU itself.
    ///
    /// # Panics
    /// When it gives no answer.
    pub fn qmp(&self, domain: &str, command: &str, arguments: &Value) -> Value {
        let command = serde_json::json!({ "execute": command, "arguments": arguments }).to_string();
        let said = self.virsh(&["qemu-monitor-command", domain, &command]);
        let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("QMP said {said}: {error}"));
        said["return"].clone()
    }

    /// The QEMU of a domain of this name, while one runs.
    pub fn qemu(&self, domain: &str) -> Option<Domain> {
        let path = self.path("run/libvirt/qemu").join(format!("{domain}.pid"));
        let pid = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        lives(pid).then(|| Domain { name: domain.to_owned(), pid })
    }

    /// The QEMU of a VM of Berth's.
    ///
    /// # Panics
    /// When none runs.
    pub fn qemu_of(&self, vm: &str) -> Domain {
        self.qemu(&format!("berth-{vm}")).unwrap_or_else(|| panic!("{} runs no QEMU for VM {vm}", self.name))
    }

    /// Makes and starts a small domain that is none of this cluster's business, with this metadata.
    ///
    /// # Panics
    /// When libvirt refuses.
    pub fn foreign(&self, name: &str, metadata: &str) -> Domain {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><metadata>{metadata}</metadata><memory unit='MiB'>16</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
        );
        let path = self.path(&format!("{name}.xml"));
        std::fs::write(&path, xml).expect("the host's folder can be written");
        self.virsh(&["define", &path.display().to_string()]);
        self.virsh(&["start", name]);
        self.qemu(name).unwrap_or_else(|| panic!("libvirt started {name} and no QEMU is there"))
    }

    /// A file or folder of this host.
    ///
    /// # Panics
    /// Never, for a host that is in the lab.
    pub fn path(&self, below: &str) -> PathBuf {
        self.lab.folder(self.name).expect("the host is in the lab").join(below)
    }

    /// Files of this VM below the host's folders that hold volumes and seeds.
    pub fn files_of(&self, vm: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path("volumes"), self.path("run/berth")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.file_name().is_some_and(|name| name.to_string_lossy().contains(vm)) {
                    found.push(path);
                } else if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found
    }
}

impl Domain {
    /// Whether this very QEMU lives.
    pub fn lives(&self) -> bool {
        lives(self.pid)
    }

    /// KiB of hugetlb pages that it has touched, as the kernel says.
    ///
    /// # Panics
    /// When it is gone.
    pub fn hugepage_kib(&self) -> u64 {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", self.pid)).expect("QEMU runs");
        let fields = ["Private_Hugetlb:", "Shared_Hugetlb:"];
        let lines = smaps.lines().filter(|line| fields.iter().any(|field| line.starts_with(field)));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    }

    /// The CPU threads on which the kernel lets one of its threads run, as a CPU list.
    ///
    /// # Panics
    /// When there is no such thread.
    pub fn may_run_on(&self, thread: i32) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/task/{thread}/status", self.pid)).expect("QEMU runs");
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        allowed.expect("the kernel tells it of each thread").trim().to_owned()
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn kill9(&self) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), nix::sys::signal::Signal::SIGKILL)
            .expect("QEMU runs");
    }
}

/// Whether a process is there and no zombie.
pub fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
