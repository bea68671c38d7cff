//! A [`Machine`] behind the port of a host daemon.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_host::backend::{Backend, BackendError, DomainSeen};
use berth_host::step::Step;
use berth_model::VmUid;

use crate::machine::Machine;

/// A backend whose domains are values. Starting one takes a while, as it does with QEMU; nothing else does.
#[derive(Debug)]
pub struct SimBackend {
    machine: Mutex<Machine>,
    boot_time: Duration,
}

impl SimBackend {
    /// A backend on this machine; `boot_time` is how long a start blocks its caller.
    pub fn new(machine: Machine, boot_time: Duration) -> Self {
        Self { machine: Mutex::new(machine), boot_time }
    }

    /// The machine, to look at it or to let something happen to it.
    pub fn machine(&self) -> MutexGuard<'_, Machine> {
        // A thread that panicked in the middle of a step leaves the machine as a killed QEMU would: as it is.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for SimBackend {
    fn scan(&self) -> Result<Vec<DomainSeen>, BackendError> {
        self.machine().scan()
    }

    fn execute(&self, step: &Step) -> Result<(), BackendError> {
        if matches!(step, Step::Start(_)) {
            std::thread::sleep(self.boot_time);
        }
        let mut machine = self.machine();
        machine.execute(step, None)?;
        // Its guests always heed at once: nobody is there who would let time pass for them.
        if let Step::Shutdown(vm) = step {
            machine.guest_ends(*vm, berth_model::vm::StopReason::GuestShutdown, None);
        }
        Ok(())
    }

    fn leftovers(&self, vm: VmUid) -> Result<bool, BackendError> {
        self.machine().leftovers(vm)
    }
}
