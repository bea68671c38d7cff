//! Whether KVM on this machine really runs guest code, found by running some.
//!
//! A machine may offer `/dev/kvm`, make virtual machines and virtual CPUs, and run a BIOS, and yet be unable to run an
//! ordinary kernel, because its KVM emulates guest code instruction by instruction and knows only some instructions.
//! So nothing is believed that was not seen: a tiny guest walks from real mode to long mode with paging, moves data
//! with SSE and takes exceptions, and says after each step that it is there. No CPU name, flag or kernel configuration
//! is looked at.
//!
//! The guest runs on a thread of its own and is broken off at the deadline by a signal to that thread. Should even
//! that not end it, the thread is left behind: the caller gets its answer in any case.

mod guest;

use std::ffi::CString;
use std::fmt;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_model::host::AcceleratorReport;
use berth_model::vm::Accelerator;
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// How long the whole preflight may take: about a thousand times what it takes where KVM works.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// How often a guest that outlives the deadline is signalled, and for how long in all before its thread is abandoned.
const KICK: Duration = Duration::from_millis(10);
const GRACE: Duration = Duration::from_secs(1);

/// What KVM has to be able to do, in the order in which it is tried.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// Open `/dev/kvm`, which speaks the stable API.
    Open,
    /// Make a virtual machine with memory and one virtual CPU.
    CreateVm,
    /// Run 16-bit code.
    RealMode,
    /// Switch to 32-bit protected mode.
    ProtectedMode,
    /// Switch to 64-bit mode with paging.
    LongMode,
    /// Load and store 16 bytes through an SSE register.
    Movaps,
    /// Take a trap and a fault through an interrupt descriptor table, and return from both.
    Exception,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::CreateVm,
        Self::RealMode,
        Self::ProtectedMode,
        Self::LongMode,
        Self::Movaps,
        Self::Exception,
    ];

    /// The steps that the guest reports, with the numbers it reports them by.
    const GUEST: [(u8, Self); 5] =
        [(1, Self::RealMode), (2, Self::ProtectedMode), (3, Self::LongMode), (4, Self::Movaps), (5, Self::Exception)];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::CreateVm => "create-vm",
            Self::RealMode => "real-mode",
            Self::ProtectedMode => "protected-mode",
            Self::LongMode => "long-mode",
            Self::Movaps => "movaps",
            Self::Exception => "exception",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the preflight found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preflight {
    /// The steps that succeeded, in order.
    pub passed: Vec<Step>,
    /// The step that did not, and what happened there; `None` if all succeeded.
    pub failure: Option<(Step, String)>,
}

impl Preflight {
    /// What follows from it: KVM only if every step passed, else QEMU's translator and the reason.
    pub fn report(&self) -> AcceleratorReport {
        match &self.failure {
            None => AcceleratorReport { accelerator: Accelerator::Kvm, failed_step: None, detail: None },
            Some((step, detail)) => AcceleratorReport {
                accelerator: Accelerator::Tcg,
                failed_step: Some(step.name().to_owned()),
                detail: Some(detail.clone()),
            },
        }
    }
}

/// Runs the preflight; answers at the latest about a second after `deadline`.
///
/// While it runs, SIGURG has an empty handler in this process; afterwards the former one is back.
pub fn preflight(deadline: Duration) -> Preflight {
    run("/dev/kvm", guest::PROGRAM, deadline)
}

/// What the guest's thread says.
enum Word {
    Passed(Step),
    /// The end: all passed, or what went wrong at the step after the last one passed.
    Ended(Result<(), String>),
}

fn run(device: &str, program: &'static [u8], deadline: Duration) -> Preflight {
    // The handler belongs to the whole process: one preflight at a time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let _handler = match EmptyHandler::install() {
        Ok(handler) => handler,
        Err(error) => return Collected::default().failed(format!("cannot set a signal handler: {error}")),
    };

    let (say, hear) = mpsc::channel();
    let overdue = Arc::new(AtomicBool::new(false));
    let device = device.to_owned();
    let thread = std::thread::Builder::new().name("kvm-preflight".to_owned()).spawn({
        let overdue = Arc::clone(&overdue);
        move || {
            let ended = walk(&device, program, &overdue, &mut |step| drop(say.send(Word::Passed(step))));
            drop(say.send(Word::Ended(ended)));
        }
    });
    let thread = match thread {
        Ok(thread) => thread,
        Err(error) => return Collected::default().failed(format!("cannot start a thread for the guest: {error}")),
    };

    let mut collected = Collected::default();
    let mut until = Instant::now() + deadline;
    let mut kicks_left = GRACE.as_millis() / KICK.as_millis();
    loop {
        match hear.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Word::Passed(step)) => collected.passed.push(step),
            Ok(Word::Ended(Ok(()))) => return collected.finished(),
            Ok(Word::Ended(Err(detail))) => return collected.failed(detail),
            Err(RecvTimeoutError::Timeout) if kicks_left > 0 => {
                overdue.store(true, Ordering::Relaxed);
                // A signal that comes just before the thread enters the guest is lost on it, hence again and again.
                if thread.is_finished() || pthread_kill(thread.as_pthread_t(), Signal::SIGURG).is_err() {
                    kicks_left = 1;
                }
                kicks_left -= 1;
                until = Instant::now() + KICK;
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                tracing::warn!("the KVM preflight's thread does not answer; it is left behind");
                return collected.failed(format!("gave no answer within {deadline:?}, not even to signals"));
            }
        }
    }
}

/// The steps passed so far.
#[derive(Default)]
struct Collected {
    passed: Vec<Step>,
}

impl Collected {
    fn failed(self, detail: String) -> Preflight {
        let step = Step::ALL.into_iter().find(|step| !self.passed.contains(step)).unwrap_or(Step::Exception);
        Preflight { passed: self.passed, failure: Some((step, detail)) }
    }

    fn finished(self) -> Preflight {
        if self.passed == Step::ALL {
            Preflight { passed: self.passed, failure: None }
        } else {
            self.failed("the guest ended without having reported this step".to_owned())
        }
    }
}

/// Does every step in order and tells `passed` of each.
fn walk(device: &str, program: &[u8], overdue: &AtomicBool, passed: &mut dyn FnMut(Step)) -> Result<(), String> {
    let path = CString::new(device).map_err(|error| error.to_string())?;
    let kvm = Kvm::new_with_path(&path).map_err(|error| format!("cannot open {device}: {error}"))?;
    if kvm.get_api_version() != 12 {
        return Err(format!("{device} speaks API {}, not 12", kvm.get_api_version()));
    }
    passed(Step::Open);

    let memory = GuestMemory::new(&guest::image(program));
    let vm = kvm.create_vm().map_err(|error| format!("KVM_CREATE_VM: {error}"))?;
    // Where processors without unrestricted guests keep three pages of their own; far from the guest's memory.
    vm.set_tss_address(0xfffb_d000).map_err(|error| format!("KVM_SET_TSS_ADDR: {error}"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: guest::MEMORY as u64,
        userspace_addr: memory.address(),
    };
    #[expect(unsafe_code, reason = "guest memory is handed to the kernel by address")]
    // SAFETY: the region is memory of our own, page-aligned and as long as said. Declared before `vm`, it is dropped
    // after it, and nothing on this side reads or writes it from here on.
    unsafe { vm.set_user_memory_region(region) }.map_err(|error| format!("KVM_SET_USER_MEMORY_REGION: {error}"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(|error| format!("KVM_CREATE_VCPU: {error}"))?;
    let features =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|error| format!("KVM_GET_SUPPORTED_CPUID: {error}"))?;
    vcpu.set_cpuid2(&features).map_err(|error| format!("KVM_SET_CPUID2: {error}"))?;
    let mut segments = vcpu.get_sregs().map_err(|error| format!("KVM_GET_SREGS: {error}"))?;
    segments.cs.base = 0;
    segments.cs.selector = 0;
    vcpu.set_sregs(&segments).map_err(|error| format!("KVM_SET_SREGS: {error}"))?;
    vcpu.set_regs(&kvm_regs { rip: guest::ENTRY, rflags: 2, ..kvm_regs::default() })
        .map_err(|error| format!("KVM_SET_REGS: {error}"))?;
    passed(Step::CreateVm);

    let mut expected = Step::GUEST.into_iter();
    loop {
        if overdue.load(Ordering::Relaxed) {
            return Err(format!("the guest did not come so far before the deadline; it is {}", place(&vcpu)));
        }
        let ended = match vcpu.run() {
            Ok(VcpuExit::IoOut(guest::PORT, &[number])) => match expected.next() {
                Some((next, step)) if next == number => {
                    passed(step);
                    if step == Step::Exception {
                        return Ok(());
                    }
                    continue;
                }
                _ => format!("the guest reported {number} out of turn"),
            },
            Ok(VcpuExit::Hlt) => "the guest's check of its own result failed".to_owned(),
            Ok(VcpuExit::InternalError) => {
                "KVM could not run the guest's instruction (KVM_EXIT_INTERNAL_ERROR)".to_owned()
            }
            Ok(VcpuExit::Shutdown) => "the guest's processor shut down (triple fault)".to_owned(),
            Ok(VcpuExit::Intr) => continue,
            Ok(other) => format!("KVM left the guest unexpectedly: {other:?}"),
            Err(error) if [nix::libc::EINTR, nix::libc::EAGAIN].contains(&error.errno()) => continue,
            Err(error) => format!("KVM_RUN: {error}"),
        };
        return Err(format!("{ended}, {}", place(&vcpu)));
    }
}

/// Where the guest is, for a report.
fn place(vcpu: &VcpuFd) -> String {
    vcpu.get_regs().map_or_else(
        |_| "at an unknown address".to_owned(),
        |registers| format!("at guest address {:#x}", registers.rip),
    )
}

/// Page-aligned memory that lends itself to a guest.
struct GuestMemory(Vec<Page>);

#[derive(Clone)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

impl GuestMemory {
    fn new(image: &[u8]) -> Self {
        let (pages, rest) = image.as_chunks::<4096>();
        debug_assert!(rest.is_empty(), "guest memory is whole pages");
        Self(pages.iter().map(|page| Page(*page)).collect())
    }

    fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }
}

/// An empty handler for SIGURG, without which the signal would interrupt nothing; the former one returns on drop.
struct EmptyHandler(SigAction);

impl EmptyHandler {
    fn install() -> nix::Result<Self> {
        extern "C" fn nothing(_: i32) {}
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        #[expect(unsafe_code, reason = "signal handlers may run anywhere")]
        // SAFETY: the handler does nothing at all.
        unsafe { sigaction(Signal::SIGURG, &action) }.map(Self)
    }
}

impl Drop for EmptyHandler {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "signal handlers may run anywhere")]
        // SAFETY: what was in force before is put back.
        let restored = unsafe { sigaction(Signal::SIGURG, &self.0) };
        restored.expect("an action that the kernel gave out can be set again");
    }
}

#[cfg(test)]
mod tests;
