//! A libvirt of the test's own with real QEMU and a guest of 100 bytes: inside the process, or as a daemon.
//!
//! `qemu:///embed?root=DIR` runs libvirt's QEMU driver without any daemon. One process may use one such folder, so each
//! process makes its own, and removes what earlier processes left behind: folders, and if they were killed, domains and
//! hugepages. All mounts are made for the process alone and go with it; in the same way a libvirtd of the test's own
//! finds its usual folders empty and the machine's libvirtd, if there is one, is not concerned.
//!
//! To be run by nextest, one process for each test: libvirt's embedded driver registers itself anew at each connection
//! and after about ten of them a process can make no more.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use berth_host::step::{DomainSpec, Mark};
use berth_libvirt::{BaseImage, Capabilities, DiskFiles, DiskFormat, LibvirtBackend, Options};
use berth_model::host::{NodeId, ThreadId};
use berth_model::image::Sha256Digest;
use berth_model::vm::{Accelerator, CpuShape, NodePages, Performance, Resources};
use berth_model::{Bytes, ClusterId, Epoch, Incarnation, PageSize, Stamp, VmUid};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

const PREFIX: &str = "/tmp/berth-libvirt-";
const POOL: &str = "/proc/sys/vm/nr_hugepages";

pub(crate) struct Host {
    pub(crate) root: PathBuf,
    pub(crate) uri: String,
    pub(crate) capabilities: Capabilities,
    pages: Mutex<u64>,
}

pub(crate) fn cluster() -> ClusterId {
    "test".parse().unwrap()
}

impl Host {
    /// The one inside this process.
    pub(crate) fn embedded() -> &'static Self {
        static HOST: OnceLock<Host> = OnceLock::new();
        enter_private_mounts();
        HOST.get_or_init(|| {
            let root = Self::prepare();
            fs::create_dir(root.join("etc")).unwrap();
            fs::write(root.join("etc/qemu.conf"), settings(&root)).unwrap();
            std::os::unix::fs::symlink(cache(), root.join("cache")).unwrap();
            let uri = format!("qemu:///embed?root={}", root.display());
            let capabilities = Capabilities::probe(&uri, Accelerator::Tcg).expect("libvirt answers");
            Self { root, uri, capabilities, pages: Mutex::new(0) }
        })
    }

    /// One with a libvirtd of its own, where it usually is. One per process.
    pub(crate) fn with_libvirtd() -> (&'static Self, Libvirtd) {
        enter_private_mounts();
        let root = Self::prepare();
        for (name, usual) in
            [("run", "/run"), ("lib", "/var/lib/libvirt"), ("log", "/var/log/libvirt"), ("etc", "/etc/libvirt")]
        {
            fs::create_dir(root.join(name)).unwrap();
            bind(&root.join(name), usual);
        }
        bind(&cache(), "/var/cache/libvirt");
        fs::write("/etc/libvirt/qemu.conf", settings(&root)).unwrap();
        fs::write("/etc/libvirt/libvirtd.conf", "auth_unix_rw = \"none\"\n").unwrap();
        fs::create_dir("/run/lock").unwrap(); // where libvirt locks consoles
        let libvirtd = Libvirtd::start();
        let uri = "qemu:///system".to_owned();
        let answered = || Capabilities::probe(&uri, Accelerator::Tcg);
        // It needs a moment to listen; nothing but asking tells when.
        let deadline = Instant::now() + Duration::from_secs(60);
        let capabilities = loop {
            match answered() {
                Ok(capabilities) => break capabilities,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        };
        (Box::leak(Box::new(Self { root, uri, capabilities, pages: Mutex::new(0) })), libvirtd)
    }

    fn prepare() -> PathBuf {
        remove_what_the_dead_left();
        let root = PathBuf::from(format!("{PREFIX}{}", std::process::id()));
        for folder in ["hugepages", "files"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let hugepages = root.join("hugepages");
        mount(Some("hugetlbfs"), &hugepages, Some("hugetlbfs"), MsFlags::empty(), Some("pagesize=2M"))
            .expect("the kernel has hugepages");
        root
    }

    pub(crate) fn backend(&self) -> LibvirtBackend {
        LibvirtBackend::new(Options { uri: self.uri.clone(), cluster: cluster() })
    }

    /// Adds hugepages of 2 MiB to the kernel's pool, which other programs share; given back when dropped.
    pub(crate) fn add_hugepages(&'static self, count: u64) -> AddedPages {
        let mut pages = self.pages.lock().unwrap();
        *pages += count;
        // Written down first, so that whoever cleans up after a killed process gives them back.
        fs::write(self.root.join("pages"), pages.to_string()).unwrap();
        change_pool(i64::try_from(count).unwrap());
        AddedPages { host: self, count }
    }

    /// A VM of two vCPUs and 64 MiB, ready to be started. Its end removes its domain.
    pub(crate) fn vm(&'static self, name: &str) -> TestVm {
        let vm: VmUid = format!("{name}-{}", std::process::id()).parse().unwrap();
        let base = self.root.join("files").join(format!("{vm}.img"));
        fs::write(&base, boot_disk()).unwrap();
        let disk = self.root.join("files").join(format!("{vm}.qcow2"));
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&base, &disk])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let seed = self.root.join("files").join(format!("{vm}.seed"));
        fs::write(&seed, [0; 2048]).unwrap();
        let files = DiskFiles {
            disk,
            base: Some(BaseImage { path: base, format: DiskFormat::Raw }),
            direct_io: true,
            io_uring: true,
            seed: Some(seed),
            vnc_socket: Some(self.root.join("files").join(format!("{vm}.vnc"))),
            console_log: Some(self.root.join("files").join(format!("{vm}.log"))),
        };
        TestVm { backend: self.backend(), host: self, spec: spec(vm), files }
    }
}

/// A libvirtd of the test's own; killed when dropped. Its QEMUs live on, as they would anywhere.
pub(crate) struct Libvirtd(Child);

impl Libvirtd {
    fn start() -> Self {
        // It dies with the thread that started it, should the test be killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "libvirtd"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("setpriv of util-linux"))
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        *self = Self::start();
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn settings(root: &Path) -> String {
    format!(
        "stdio_handler = \"file\"\nuser = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\nnamespaces = []\n\
         cgroup_controllers = []\nremember_owner = 0\nhugetlbfs_mount = \"{}\"\n",
        root.join("hugepages").display()
    )
}

/// What libvirt found out about this QEMU takes seconds to find; it is kept from one run to the next.
fn cache() -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libvirt-cache");
    fs::create_dir_all(&cache).unwrap();
    cache
}

fn bind(from: &Path, to: &str) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap_or_else(|error| panic!("{to}: {error}; is libvirt-daemon-system installed?"));
}

/// Ordinary pages, so that most tests need nothing of the shared pool.
fn spec(vm: VmUid) -> DomainSpec {
    let memory = Bytes::mib(64);
    DomainSpec {
        mark: Mark {
            cluster: cluster(),
            vm,
            project: "default".parse().unwrap(),
            name: "guest".parse().unwrap(),
            stamp: Stamp { incarnation: Incarnation(0), epoch: Epoch(7) },
            restart_count: 0,
        },
        cpus: 2,
        memory,
        page: PageSize::Small,
        performance: Performance::High,
        queues: 2,
        dedicated_iothreads: 0,
        floats: None,
        cpu_shape: CpuShape::Cores,
        resources: Resources {
            vcpus: vec![ThreadId(1), ThreadId(0)],
            emulator: "0-1".parse().unwrap(),
            iothread: "1".parse().unwrap(),
            memory: pages(PageSize::Small, memory),
            overhead: Bytes::mib(112),
            ..Resources::default()
        },
        image: Sha256Digest([0; 32]),
        disk_size: Bytes::mib(1),
        accelerator: Accelerator::Tcg,
        user_data: None,
    }
}

pub(crate) fn pages(page: PageSize, memory: Bytes) -> Vec<NodePages> {
    vec![NodePages { node: NodeId(0), page, count: page.pages_for(memory) }]
}

pub(crate) struct TestVm {
    pub(crate) backend: LibvirtBackend,
    pub(crate) host: &'static Host,
    pub(crate) spec: DomainSpec,
    pub(crate) files: DiskFiles,
}

impl TestVm {
    pub(crate) fn uid(&self) -> VmUid {
        self.spec.mark.vm
    }

    pub(crate) fn start(&self) {
        let rendered = self.backend.start(&self.spec, &self.files, &self.host.capabilities).unwrap();
        assert_eq!(rendered.degraded, Vec::<String>::new());
        let seen =
            self.backend.scan().unwrap().into_iter().find(|seen| seen.mark.vm == self.uid()).expect("it is there");
        assert_eq!((seen.is_read_back, seen.degraded), (true, vec![]), "it runs as it was asked");
    }
}

impl Drop for TestVm {
    fn drop(&mut self) {
        let ended = self.backend.force_off(self.uid()).and_then(|()| self.backend.undefine(self.uid()));
        if !std::thread::panicking() {
            ended.expect("a VM of ours can be ended");
        }
    }
}

pub(crate) struct AddedPages {
    host: &'static Host,
    count: u64,
}

impl Drop for AddedPages {
    fn drop(&mut self) {
        let mut pages = self.host.pages.lock().unwrap();
        change_pool(-i64::try_from(self.count).unwrap());
        *pages -= self.count;
        fs::write(self.host.root.join("pages"), pages.to_string()).unwrap();
    }
}

/// Changes the pool by so many pages, one process at a time.
fn change_pool(by: i64) {
    let lock = fs::File::create("/tmp/berth-hugepages.lock").unwrap();
    lock.lock().unwrap();
    let before: i64 = fs::read_to_string(POOL).unwrap().trim().parse().unwrap();
    fs::write(POOL, (before + by).max(0).to_string()).unwrap();
    let after: i64 = fs::read_to_string(POOL).unwrap().trim().parse().unwrap();
    assert!(after >= before + by, "the kernel has {after} hugepages, {} were asked for", before + by);
}

/// Puts the calling thread, and all that it starts, into a mount namespace that only this process has.
fn enter_private_mounts() {
    static NAMESPACE: OnceLock<fs::File> = OnceLock::new();
    thread_local!(static INSIDE: Cell<bool> = const { Cell::new(false) });
    if INSIDE.replace(true) {
        return;
    }
    let mut made = false;
    let namespace = NAMESPACE.get_or_init(|| {
        made = true;
        unshare(CloneFlags::CLONE_NEWNS).expect("these tests run as root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        fs::File::open("/proc/thread-self/ns/mnt").unwrap()
    });
    if !made {
        // Of several threads only one that shares no working folder with the others may change its namespace.
        unshare(CloneFlags::CLONE_FS).unwrap();
        setns(namespace, CloneFlags::CLONE_NEWNS).unwrap();
    }
}

fn remove_what_the_dead_left() {
    for entry in fs::read_dir("/tmp").unwrap().filter_map(Result::ok) {
        let path = entry.path();
        let Some(owner) = path.to_str().and_then(|path| path.strip_prefix(PREFIX)) else { continue };
        if owner.parse::<u32>().is_err() || Path::new("/proc").join(owner).exists() {
            continue;
        }
        // Inside the process, and with a daemon.
        let folders = ["run/qemu", "run/libvirt/qemu"].map(|folder| fs::read_dir(path.join(folder)));
        for file in folders.into_iter().flatten().flatten().filter_map(Result::ok) {
            if file.path().extension().is_some_and(|extension| extension == "pid") {
                end_qemu(&file.path(), &path);
            }
        }
        let pages = fs::read_to_string(path.join("pages")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if fs::remove_dir_all(&path).is_ok() && pages > 0 {
            change_pool(-pages);
        }
    }
}

/// Ends a QEMU that outlived its test, if that number is still a QEMU of that folder.
fn end_qemu(pid_file: &Path, root: &Path) {
    let Some(pid) = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok()) else { return };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if String::from_utf8_lossy(&command).contains(root.to_str().unwrap()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// A disk whose boot sector greets on the serial port, then echoes what it receives. A byte 4 (Ctrl-D) or the power
/// button turn the machine off.
fn boot_disk() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[..GUEST.len()].copy_from_slice(GUEST);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

#[rustfmt::skip]
const GUEST: &[u8] = &[
    0xfa,               // 00 cli
    0x31, 0xc0,         // 01 xor %ax,%ax
    0x8e, 0xd8,         // 03 mov %ax,%ds
    0x8e, 0xd0,         // 05 mov %ax,%ss
    0xbc, 0x00, 0x7c,   // 07 mov $0x7c00,%sp
    0xfc,               // 0a cld
    0xbe, 0x55, 0x7c,   // 0b mov $0x7c55,%si
    0xba, 0x02, 0x06,   // 0e mov $0x602,%dx
    0xb8, 0x00, 0x01,   // 11 mov $0x100,%ax
    0xef,               // 14 out %ax,(%dx)
    0xac,               // 15 lods %ds:(%si),%al
    0x84, 0xc0,         // 16 test %al,%al
    0x74, 0x05,         // 18 je 0x1f
    0xe8, 0x29, 0x00,   // 1a call 0x46
    0xeb, 0xf6,         // 1d jmp 0x15
    0xba, 0x00, 0x06,   // 1f mov $0x600,%dx
    0xed,               // 22 in (%dx),%ax
    0xf6, 0xc4, 0x01,   // 23 test $0x1,%ah
    0x75, 0x15,         // 26 jne 0x3d
    0xba, 0xfd, 0x03,   // 28 mov $0x3fd,%dx
    0xec,               // 2b in (%dx),%al
    0xa8, 0x01,         // 2c test $0x1,%al
    0x74, 0xef,         // 2e je 0x1f
    0xba, 0xf8, 0x03,   // 30 mov $0x3f8,%dx
    0xec,               // 33 in (%dx),%al
    0x3c, 0x04,         // 34 cmp $0x4,%al
    0x74, 0x05,         // 36 je 0x3d
    0xe8, 0x0b, 0x00,   // 38 call 0x46
    0xeb, 0xe2,         // 3b jmp 0x1f
    0xba, 0x04, 0x06,   // 3d mov $0x604,%dx
    0xb8, 0x00, 0x20,   // 40 mov $0x2000,%ax
    0xef,               // 43 out %ax,(%dx)
    0xeb, 0xf7,         // 44 jmp 0x3d
    0x50,               // 46 push %ax
    0xba, 0xfd, 0x03,   // 47 mov $0x3fd,%dx
    0xec,               // 4a in (%dx),%al
    0xa8, 0x20,         // 4b test $0x20,%al
    0x74, 0xfb,         // 4d je 0x4a
    0x58,               // 4f pop %ax
    0xba, 0xf8, 0x03,   // 50 mov $0x3f8,%dx
    0xee,               // 53 out %al,(%dx)
    0xc3,               // 54 ret
    // 55 the greeting
    b'b', b'e', b'r', b't', b'h', b' ', b't', b'e', b's', b't', b' ', b'g', b'u', b'e', b's', b't', b'\r', b'\n', 0,
];
