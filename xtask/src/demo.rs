//! `./x demo`: one command boots a real VM on a real cluster, shows the proof, and breaks things to show what holds.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_lab::Lab;
use serde_json::Value;

use crate::checkout;
use crate::lab::{self, berth};

/// The VM that the demo makes.
const VM: &str = "demo";
/// What its first boot does besides: the guest's own words are part of the proof.
const USER_DATA: &str =
    "#cloud-config\nruncmd:\n  - echo hello from the guest, cpus $(nproc), hugepage-backed and pinned\n";

/// Entry of the sub-command.
pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    let lab = lab::up(3, 2, &["tiny".to_owned()])?;
    create(&lab)?;
    listen(&lab)?;
    let proof = Proof::read(&lab)?;
    proof.show(&lab)?;
    kill_the_leader(&lab, &proof)?;
    kill_hostd(&lab, &proof)?;
    title(&format!("Done in {:.0} s. The cluster stays up; try", started.elapsed().as_secs_f64()));
    println!("  export BERTH_CONFIG={} PATH={}:$PATH", lab.admin_config_path().display(), lab::binaries().display());
    println!("  berth vm show {VM}            # what was asked, chosen and seen");
    println!("  berth vm console {VM}         # log in as root; Ctrl-] leaves");
    println!("  berth host show {}           # threads, hugepages, why it is not KVM", proof.host);
    println!("  berth vm create big --image tiny --cpus 2 --memory 1GiB --no-wait && berth vm show big");
    println!("  berth cluster status");
    println!("  ./x lab down               # leaves nothing behind");
    Ok(())
}

fn title(text: &str) {
    println!("\n\u{1b}[1m{text}\u{1b}[0m");
}

/// Runs the command line as a person would, showing the command and what it prints.
fn show(lab: &Lab, words: &[&str]) -> Result<()> {
    println!("$ berth {}", words.join(" "));
    checkout::run(berth(lab).args(words))
}

/// Runs the command line and reads its JSON.
fn ask(lab: &Lab, words: &[&str]) -> Result<Value> {
    let text = checkout::output(berth(lab).args(words).args(["--output", "json"]))?;
    serde_json::from_str(&text).with_context(|| format!("berth {} gave no JSON", words.join(" ")))
}

fn create(lab: &Lab) -> Result<()> {
    title("1. An operator types one command");
    let user_data = lab.state_dir().join("demo-user-data.yaml");
    std::fs::write(&user_data, USER_DATA)?;
    let user_data = user_data.display().to_string();
    let size = ["--cpus", "2", "--memory", "256MiB", "--performance", "high"];
    show(lab, &[&["vm", "create", VM, "--image", "tiny"][..], &size, &["--user-data", &user_data]].concat())
}

/// Joined while the guest still boots: a serial console shows what is said while one listens.
fn listen(lab: &Lab) -> Result<()> {
    title("2. The guest's own words, from its serial console");
    show(lab, &["vm", "console", VM, "--until", "hello from the guest", "--timeout", "90s"])?;
    println!();
    Ok(())
}

/// What proves that the VM is what was asked for.
struct Proof {
    vm: String,
    host: String,
    threads: Vec<u64>,
    pid: String,
}

impl Proof {
    fn read(lab: &Lab) -> Result<Self> {
        let vm = ask(lab, &["vm", "show", VM])?;
        let text = |pointer: &str| {
            vm.pointer(pointer).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("no {pointer}"))
        };
        let (uid, host) = (text("/metadata/uid")?, text("/status/host")?);
        let threads = vm.pointer("/status/placement/vcpus").and_then(Value::as_array).context("no placement")?;
        let threads = threads.iter().filter_map(Value::as_u64).collect();
        let pid = qemu_pid(lab, &host, &uid)?;
        Ok(Self { vm: uid, host, threads, pid })
    }

    fn domain(&self) -> String {
        format!("berth-{}", self.vm)
    }

    fn show(&self, lab: &Lab) -> Result<()> {
        title("3. The controller chose a host and exact threads, and says why");
        show(lab, &["vm", "show", VM])?;
        show(lab, &["host", "list"])?;

        title("4. The vCPUs are pinned one to one, as libvirt reports");
        let pins = self.on_host(lab, &["virsh", "vcpupin", &self.domain()])?;
        print!("{pins}");
        for (vcpu, thread) in self.threads.iter().enumerate() {
            let pinned = pins.lines().any(|line| line.split_whitespace().eq([vcpu.to_string(), thread.to_string()]));
            ensure!(pinned, "libvirt does not pin vCPU {vcpu} to thread {thread}");
        }

        title("5. Guest memory lies on hugepages, as the kernel says of this QEMU");
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", self.pid)).context("QEMU is gone")?;
        let huge = hugepage_kib(&smaps);
        println!("QEMU {} maps {} MiB of hugetlb pages (Private_Hugetlb + Shared_Hugetlb)", self.pid, huge / 1024);
        ensure!(huge >= 256 * 1024, "QEMU holds only {huge} KiB of hugepages");

        title("6. The disk is virtio-blk with a queue for each vCPU, as QEMU itself reports");
        let queues = self.queues(lab)?;
        println!("QMP qom-get num-queues: {queues}, of {} vCPUs", self.threads.len());
        ensure!(queues == self.threads.len() as u64, "the disk has {queues} queues");
        Ok(())
    }

    fn on_host(&self, lab: &Lab, words: &[&str]) -> Result<String> {
        Ok(lab.exec_in(&self.host, words)?)
    }

    fn queues(&self, lab: &Lab) -> Result<u64> {
        let monitor = |command: &str| -> Result<Value> {
            let words = ["virsh", "qemu-monitor-command", &self.domain(), command];
            Ok(serde_json::from_str(&self.on_host(lab, &words)?)?)
        };
        let blocks = monitor(r#"{"execute":"query-block"}"#)?;
        let disk = blocks["return"].as_array().into_iter().flatten().filter_map(|block| block["qdev"].as_str());
        let disk = disk.into_iter().find(|path| path.contains("virtio")).context("QMP shows no virtio disk")?;
        let path = disk.trim_end_matches("/virtio-backend");
        let get = serde_json::json!({"execute": "qom-get", "arguments": {"path": path, "property": "num-queues"}});
        monitor(&get.to_string())?["return"].as_u64().context("QMP does not tell num-queues")
    }
}

/// KiB of hugetlb pages in a process's maps.
fn hugepage_kib(smaps: &str) -> u64 {
    let fields = ["Private_Hugetlb:", "Shared_Hugetlb:"];
    let lines = smaps.lines().filter(|line| fields.iter().any(|field| line.starts_with(field)));
    lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// The QEMU of a VM on its host.
fn qemu_pid(lab: &Lab, host: &str, vm: &str) -> Result<String> {
    let pid = lab.exec_in(host, &["cat", &format!("/run/libvirt/qemu/berth-{vm}.pid")])?;
    Ok(pid.trim().to_owned())
}

fn kill_the_leader(lab: &Lab, proof: &Proof) -> Result<()> {
    let status = ask(lab, &["cluster", "status"])?;
    let leader = status["leader"].as_str().filter(|name| !name.is_empty()).context("nobody leads")?.to_owned();
    title(&format!("7. The leading controller {leader} is killed with -9; the cluster goes on"));
    lab.kill9(&leader)?;
    let killed = Instant::now();
    show(lab, &["vm", "list"])?;
    println!("answered {:.1} s after the kill", killed.elapsed().as_secs_f64());
    show(lab, &["cluster", "status"])?;
    ensure!(qemu_pid(lab, &proof.host, &proof.vm)? == proof.pid, "the VM was restarted");
    lab.start(&leader)?;
    lab.wait_ready(&leader)?;
    Ok(())
}

fn kill_hostd(lab: &Lab, proof: &Proof) -> Result<()> {
    title(&format!("8. The daemon of {} is killed with -9; the VM runs on and is adopted", proof.host));
    lab.kill9(&proof.host)?;
    ensure!(Command::new("kill").args(["-0", &proof.pid]).status()?.success(), "the VM died with the daemon");
    println!("QEMU {} runs without its daemon", proof.pid);
    lab.start(&proof.host)?;
    lab.wait_ready(&proof.host)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let vm = ask(lab, &["vm", "show", VM])?;
        let host = ask(lab, &["host", "show", &proof.host])?;
        if vm.pointer("/status/phase").and_then(Value::as_str) == Some("Running") && host.to_string().contains("Alive")
        {
            break;
        }
        if Instant::now() > deadline {
            let mut why = String::new();
            let _ = write!(why, "the VM was not adopted: {vm}");
            bail!(why);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(qemu_pid(lab, &proof.host, &proof.vm)? == proof.pid, "the VM was restarted");
    println!("adopted: the same QEMU {}", proof.pid);
    show(lab, &["vm", "list"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hugepages_are_summed_over_all_maps() {
        let smaps = "Rss: 4 kB\nPrivate_Hugetlb:    2048 kB\nShared_Hugetlb: 0 kB\nPrivate_Hugetlb: 4096 kB\n";
        assert_eq!(hugepage_kib(smaps), 6144);
    }
}
