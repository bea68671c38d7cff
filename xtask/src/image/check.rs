//! Boots an image under plain QEMU, emulated, and holds it against what its recipe promises.
//!
//! No libvirt and no Berth: when a VM does not come up, this tells whether the image or the product is at fault.
//! The guest gets a seed with a host name and one command, is shut down by its power button, and booted a second time.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Image;
use crate::checkout;

const HOSTNAME: &str = "checkpoint-host";

/// A guest that is silent for so long will not come up.
const GIVE_UP: Duration = Duration::from_secs(120);

/// What the recipe promises about a boot.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Promise {
    /// Memory of the guest, MiB.
    memory_mib: u32,
    /// CPUs of the guest, and queues of its disk.
    cpus: u32,
    /// Seconds from the start of QEMU until the console has shown the login prompt and everything below, not counting those in which QEMU waited for a CPU that others used.
    up_within_s: u64,
    /// Seconds from the power button to the end of QEMU.
    off_within_s: u64,
    /// Texts that the console must show on every boot; `{hostname}`, `{cpus}` and `{boot}` stand for the seed's name, the number of
    /// CPUs and the number of the boot.
    console: Vec<String>,
    /// Texts that the console must show on the first boot only.
    #[serde(default)]
    first_boot: Vec<String>,
    /// Whether the QEMU guest agent answers.
    #[serde(default)]
    agent: bool,
}

/// Boots twice: a disk that comes up once may still have been damaged by its first shutdown.
pub(super) fn boot(image: &Image, promise: &Promise) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let disk = scratch.path().join("overlay.qcow2");
    checkout::output(
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(&image.path).arg(&disk),
    )?;
    let seed = scratch.path().join("seed.img");
    make_seed(&seed)?;
    for boot in 1..=2 {
        let mut guest = Guest::start(scratch.path(), &disk, &seed, promise)?;
        let outcome = guest.follow(boot, promise);
        if let Err(error) = outcome {
            return Err(error
                .context(format!("boot {boot} of {} broke its promise; its console:\n{}", image.name, guest.console)));
        }
    }
    Ok(())
}

/// A NoCloud seed on FAT.
fn make_seed(path: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let meta = folder.path().join("meta-data");
    let user = folder.path().join("user-data");
    std::fs::write(&meta, format!("instance-id: check-1\nlocal-hostname: {HOSTNAME}\n"))?;
    // The shell does a sum, so that only a command that ran, not its mere text, shows the answer.
    std::fs::write(
        &user,
        "#cloud-config\nruncmd:\n  - [ sh, -c, \"echo seed-command-ran-$((40 + 2)) > /dev/console\" ]\n",
    )?;
    checkout::output(Command::new("mformat").args(["-C", "-f", "1440", "-v", "cidata", "-i"]).arg(path).arg("::"))?;
    checkout::output(Command::new("mcopy").arg("-i").arg(path).args([&meta, &user]).arg("::"))?;
    Ok(())
}

/// A running QEMU; ended when dropped.
struct Guest {
    child: Child,
    started: Instant,
    control: PathBuf,
    agent: PathBuf,
    bytes: Receiver<Vec<u8>>,
    console: String,
}

impl Guest {
    fn start(folder: &Path, disk: &Path, seed: &Path, promise: &Promise) -> Result<Self> {
        let (control, agent) = (folder.join("qmp"), folder.join("agent"));
        for left_over in [&control, &agent] {
            let _ = std::fs::remove_file(left_over);
        }
        let mut child = Command::new("qemu-system-x86_64")
            .args([
                "-machine",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-nodefaults",
                "-display",
                "none",
                "-serial",
                "stdio",
            ])
            .args(["-m", &promise.memory_mib.to_string(), "-smp", &promise.cpus.to_string()])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", control.display())])
            .args(["-drive", &format!("if=none,id=disk,format=qcow2,cache=unsafe,file={}", disk.display())])
            .args(["-device", &format!("virtio-blk-pci,drive=disk,num-queues={}", promise.cpus)])
            .args(["-drive", &format!("if=none,id=seed,format=raw,readonly=on,file={}", seed.display())])
            .args(["-device", "virtio-blk-pci,drive=seed", "-device", "virtio-rng-pci"])
            .args(["-chardev", &format!("socket,id=agent,server=on,wait=off,path={}", agent.display())])
            .args([
                "-device",
                "virtio-serial-pci",
                "-device",
                "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let mut serial = child.stdout.take().expect("standard output is piped");
        let (sender, bytes) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = serial.read(&mut buffer) {
                // Nobody listens any more, or the guest is off.
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, started: Instant::now(), control, agent, bytes, console: String::new() })
    }

    /// One boot from power on to power off.
    fn follow(&mut self, boot: u32, promise: &Promise) -> Result<()> {
        let deadline = self.started + GIVE_UP.max(Duration::from_secs(2 * promise.up_within_s));
        let prompt = format!("{HOSTNAME} login:");
        let only_now = promise.first_boot.iter().filter(|_| boot == 1);
        let texts = promise.console.iter().chain(only_now).map(|text| {
            text.replace("{hostname}", HOSTNAME)
                .replace("{cpus}", &promise.cpus.to_string())
                .replace("{boot}", &boot.to_string())
        });
        for text in texts.chain([prompt]) {
            self.wait_for(&text, deadline).with_context(|| format!("no {text:?} on the console"))?;
        }
        let (up, kept_waiting) = (self.started.elapsed(), self.kept_waiting());
        if up.saturating_sub(kept_waiting) > Duration::from_secs(promise.up_within_s) {
            bail!(
                "it took {:.1} s to come up, promised are {} s (others kept QEMU waiting for {:.1} s, which is not counted)",
                up.as_secs_f64(),
                promise.up_within_s,
                kept_waiting.as_secs_f64()
            );
        }
        if promise.agent {
            self.ping_agent()?;
        }
        self.press_power_button()?;
        let pressed = Instant::now();
        let off_by = pressed + Duration::from_secs(promise.off_within_s);
        while let Ok(bytes) = self.bytes.recv_timeout(off_by.saturating_duration_since(Instant::now())) {
            self.console.push_str(&String::from_utf8_lossy(&bytes));
        }
        if Instant::now() >= off_by {
            bail!("still on {} s after its power button", promise.off_within_s);
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("QEMU ended with {status}");
        }
        eprintln!(
            "check: boot {boot}: up after {:.1} s ({:.1} s of it waiting for a CPU), off {:.1} s after the power button",
            up.as_secs_f64(),
            kept_waiting.as_secs_f64(),
            pressed.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Waits until the console has shown a text.
    fn wait_for(&mut self, text: &str, deadline: Instant) -> Result<()> {
        while !self.console.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let bytes = self.bytes.recv_timeout(left).context("the guest fell silent or ended")?;
            self.console.push_str(&String::from_utf8_lossy(&bytes));
        }
        Ok(())
    }

    /// The agent's channel is virtio-serial, and its answer to a ping is an empty object.
    fn ping_agent(&self) -> Result<()> {
        let mut stream = UnixStream::connect(&self.agent).context("the guest agent's channel")?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        writeln!(stream, "{{\"execute\":\"guest-ping\"}}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).context("the guest agent does not answer")?;
        if answer.trim() != "{\"return\": {}}" {
            bail!("the guest agent answered a ping by {answer:?}");
        }
        Ok(())
    }

    /// How long the busiest thread of QEMU was ready to run but had no CPU: on a busy machine the rest is what the guest itself takes.
    /// Zero where the kernel does not count it.
    fn kept_waiting(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.child.id());
        let waits = std::fs::read_dir(tasks).into_iter().flatten().filter_map(|task| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().nth(1)?.parse().ok()
        });
        Duration::from_nanos(waits.max().unwrap_or(0))
    }

    fn press_power_button(&self) -> Result<()> {
        let stream = UnixStream::connect(&self.control).context("QEMU's control socket")?;
        let mut answers = BufReader::new(stream.try_clone()?).lines();
        let mut stream = stream;
        answers.next().context("QEMU said no word")??;
        for command in ["qmp_capabilities", "system_powerdown"] {
            writeln!(stream, "{{\"execute\":\"{command}\"}}")?;
            answers.next().with_context(|| format!("no answer to {command}"))??;
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Ends a guest that broke its promise; one that is off already takes no harm.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
