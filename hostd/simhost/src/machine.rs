//! The physics of one host: what a step does to it, and what happens to it without any.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_host::backend::{BackendError, DomainSeen};
use berth_host::plan::is_active;
use berth_host::step::{DomainSpec, Step};
use berth_model::host::{Inventory, NodeId, PciAddress, ThreadId};
use berth_model::vm::{DomainState, StopReason};
use berth_model::{Bytes, PageSize, Timestamp, VmUid};

/// One domain that is defined on the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Domain {
    /// What it was started with.
    pub spec: DomainSpec,
    /// Whether it runs.
    pub state: DomainState,
    /// Since when, where somebody could tell.
    pub since: Option<Timestamp>,
    /// Whether whoever started it saw to it how far it runs as it should.
    pub is_read_back: bool,
}

/// Why a domain cannot be started on a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// It runs already.
    Running,
    /// A thread that it was given does not exist here.
    NoThread(ThreadId),
    /// A thread that it was given is another running domain's.
    ThreadHeld {
        /// Which.
        thread: ThreadId,
        /// Whose.
        by: VmUid,
    },
    /// Pages that it was given are other running domains', or do not exist.
    PagesHeld {
        /// Where.
        node: NodeId,
        /// Of which size.
        page: PageSize,
        /// As many as it was given.
        wanted: u64,
        /// As many as are left.
        left: u64,
    },
    /// What it was promised of the threads that nobody has for himself is promised to other running domains.
    SharedHeld {
        /// Thousandths of a thread that it was promised.
        wanted: u64,
        /// As many as are left.
        left: u64,
    },
    /// A device that it was given does not exist here.
    NoDevice(PciAddress),
    /// A device that it was given is another running domain's.
    DeviceHeld {
        /// Which.
        device: PciAddress,
        /// Whose.
        by: VmUid,
    },
    /// What QEMU itself needs is other running domains', or does not exist.
    OrdinaryHeld {
        /// As much as it was given.
        wanted: Bytes,
        /// As much as is left.
        left: Bytes,
    },
    /// There is no disk to start it from.
    NoDisk,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => write!(f, "it runs already"),
            Self::NoThread(thread) => write!(f, "CPU thread {thread} does not exist"),
            Self::ThreadHeld { thread, by } => write!(f, "CPU thread {thread} is held by {by}, which runs"),
            Self::PagesHeld { node, page, wanted, left } => {
                write!(f, "{wanted} pages of {page} were given on node {node}, {left} are left")
            }
            Self::SharedHeld { wanted, left } => {
                write!(f, "{wanted} thousandths of a shared CPU thread were promised, {left} are left")
            }
            Self::NoDevice(device) => write!(f, "the device {device} does not exist"),
            Self::DeviceHeld { device, by } => write!(f, "the device {device} is held by {by}, which runs"),
            Self::OrdinaryHeld { wanted, left } => write!(f, "{wanted} of ordinary memory were given, {left} are left"),
            Self::NoDisk => write!(f, "it has no disk"),
        }
    }
}

/// One machine.
#[derive(Clone, Debug)]
pub struct Machine {
    inventory: Inventory,
    domains: BTreeMap<VmUid, Domain>,
    disks: BTreeSet<VmUid>,
    is_reachable: bool,
}

impl Machine {
    /// A machine that was just installed.
    pub fn new(inventory: Inventory) -> Self {
        Self { inventory, domains: BTreeMap::new(), disks: BTreeSet::new(), is_reachable: true }
    }

    /// What it is.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// It comes back as another machine than it was: with less memory, or with more.
    pub fn refit(&mut self, inventory: Inventory) {
        self.inventory = inventory;
    }

    /// Every domain that is defined.
    pub fn domains(&self) -> &BTreeMap<VmUid, Domain> {
        &self.domains
    }

    /// Whether guest code of this VM runs here or could run on.
    pub fn is_active(&self, vm: VmUid) -> bool {
        self.domains.get(&vm).is_some_and(|domain| is_active(domain.state))
    }

    /// Whether there is a disk of this VM.
    pub fn has_disk(&self, vm: VmUid) -> bool {
        self.disks.contains(&vm)
    }

    /// Whether the hypervisor answers.
    pub fn is_reachable(&self) -> bool {
        self.is_reachable
    }

    /// The hypervisor's daemon goes away, or comes back; guests run on.
    pub fn set_reachable(&mut self, is_reachable: bool) {
        self.is_reachable = is_reachable;
    }

    /// Every domain, as a host daemon sees them.
    pub fn scan(&self) -> Result<Vec<DomainSeen>, BackendError> {
        self.reach()?;
        let seen = |domain: &Domain| DomainSeen {
            mark: domain.spec.mark.clone(),
            state: domain.state,
            accelerator: domain.spec.accelerator,
            since: domain.since,
            floats: domain.spec.floats.clone(),
            is_read_back: domain.is_read_back,
            degraded: Vec::new(),
        };
        Ok(self.domains.values().map(seen).collect())
    }

    /// Whether anything is left of a VM.
    pub fn leftovers(&self, vm: VmUid) -> Result<bool, BackendError> {
        self.reach()?;
        Ok(self.domains.contains_key(&vm) || self.disks.contains(&vm))
    }

    /// Carries out a step at `now`. A guest that is asked to shut down goes when [`Machine::guest_ends`] says so.
    pub fn execute(&mut self, step: &Step, now: Option<Timestamp>) -> Result<(), BackendError> {
        self.reach()?;
        match step {
            Step::Prepare(spec) => {
                self.disks.insert(spec.mark.vm);
            }
            Step::Start(spec) => {
                if let Some(obstacle) = self.obstacle(spec) {
                    return Err(BackendError::Failed {
                        reason: "StartFailed",
                        what: format!("starting VM {}", spec.mark.name),
                        why: obstacle.to_string(),
                    });
                }
                let state = DomainState::Running;
                let domain = Domain { spec: DomainSpec::clone(spec), state, since: now, is_read_back: true };
                self.domains.insert(spec.mark.vm, domain);
            }
            // The request went out, and what the guest makes of it is the guest's; or the same QEMU goes on with a guest that
            // boots anew.
            Step::Shutdown(_) | Step::Reset { .. } => {}
            Step::ForceOff(vm) => self.guest_ends(*vm, StopReason::Unknown, now),
            Step::ReadBack(vm) => {
                if let Some(domain) = self.domains.get_mut(vm).filter(|domain| is_active(domain.state)) {
                    domain.is_read_back = true;
                }
            }
            Step::Repin { vm, floats } => {
                if let Some(domain) = self.domains.get_mut(vm).filter(|domain| is_active(domain.state)) {
                    domain.spec.floats = Some(floats.clone());
                }
            }
            Step::Pause(vm) => self.turn(*vm, DomainState::Running, DomainState::Paused, now),
            Step::Resume { vm, .. } => self.turn(*vm, DomainState::Paused, DomainState::Running, now),
            Step::Remove { vm, with_disk } => {
                if self.is_active(*vm) {
                    return Err(BackendError::Failed {
                        reason: "RemoveFailed",
                        what: format!("removing VM {vm}"),
                        why: "it runs".into(),
                    });
                }
                self.domains.remove(vm);
                if *with_disk {
                    self.disks.remove(vm);
                }
            }
        }
        Ok(())
    }

    /// What keeps a domain from being started here now.
    pub fn obstacle(&self, spec: &DomainSpec) -> Option<Obstacle> {
        let vm = spec.mark.vm;
        if self.is_active(vm) {
            return Some(Obstacle::Running);
        }
        if !self.disks.contains(&vm) {
            return Some(Obstacle::NoDisk);
        }
        let others: Vec<&DomainSpec> =
            self.domains.values().filter(|domain| is_active(domain.state)).map(|domain| &domain.spec).collect();
        self.cpu_obstacle(&others, spec)
            .or_else(|| self.memory_obstacle(&others, spec))
            .or_else(|| self.device_obstacle(&others, spec))
    }

    fn cpu_obstacle(&self, others: &[&DomainSpec], spec: &DomainSpec) -> Option<Obstacle> {
        let mut held = BTreeMap::new();
        for other in others {
            held.extend(other.resources.exclusive().map(|thread| (thread, other.mark.vm)));
        }
        for thread in spec.resources.exclusive() {
            if self.inventory.topology.thread(thread).is_none() {
                return Some(Obstacle::NoThread(thread));
            }
            if let Some(by) = held.get(&thread) {
                return Some(Obstacle::ThreadHeld { thread, by: *by });
            }
        }
        let usable = self.inventory.topology.threads.len() - self.inventory.reserve.len();
        let own = spec.resources.exclusive().count();
        let capacity = 1000 * u64::try_from(usable.saturating_sub(held.len() + own)).unwrap_or(0);
        let promised: u64 = others.iter().map(|other| other.resources.shared_cpu).sum();
        let (wanted, left) = (spec.resources.shared_cpu, capacity.saturating_sub(promised));
        // A pinned domain must leave the others what they were promised.
        let is_short = wanted > left || own > 0 && promised > capacity;
        is_short.then_some(Obstacle::SharedHeld { wanted, left })
    }

    fn memory_obstacle(&self, others: &[&DomainSpec], spec: &DomainSpec) -> Option<Obstacle> {
        let mut given: BTreeMap<(NodeId, PageSize), u64> = BTreeMap::new();
        for part in others.iter().flat_map(|other| &other.resources.memory) {
            *given.entry((part.node, part.page)).or_default() += part.count;
        }
        for part in &spec.resources.memory {
            let (node, page, wanted) = (part.node, part.page, part.count);
            let held = given.entry((node, page)).or_default();
            let left = self.pages(node, page).saturating_sub(*held);
            if wanted > left {
                return Some(Obstacle::PagesHeld { node, page, wanted, left });
            }
            *held += wanted;
        }
        let ordinary = |spec: &DomainSpec| spec.resources.overhead.saturating_add(spec.resources.ordinary_pages()).0;
        let total: u64 = self.inventory.memory.iter().map(|node| node.ordinary.0).sum();
        let held: u64 = others.iter().map(|other| ordinary(other)).sum();
        let (wanted, left) = (Bytes(ordinary(spec)), Bytes(total.saturating_sub(held)));
        (wanted > left).then_some(Obstacle::OrdinaryHeld { wanted, left })
    }

    /// All pages of this size on this node.
    fn pages(&self, node: NodeId, page: PageSize) -> u64 {
        if page == PageSize::Small {
            let ordinary = self.inventory.memory.iter().filter(|memory| memory.node == node);
            return ordinary.map(|memory| memory.ordinary.0 / page.bytes().0).sum();
        }
        let pools = self.inventory.hugepages.iter().filter(|pool| pool.node == node && pool.page == page);
        pools.map(|pool| pool.total).sum()
    }

    fn device_obstacle(&self, others: &[&DomainSpec], spec: &DomainSpec) -> Option<Obstacle> {
        spec.resources.devices.iter().find_map(|device| {
            if self.inventory.device(*device).is_none() {
                return Some(Obstacle::NoDevice(*device));
            }
            let holder = others.iter().find(|other| other.resources.devices.contains(device));
            holder.map(|other| Obstacle::DeviceHeld { device: *device, by: other.mark.vm })
        })
    }

    /// A running guest ends, by itself or because its QEMU does.
    pub fn guest_ends(&mut self, vm: VmUid, reason: StopReason, now: Option<Timestamp>) {
        if let Some(domain) = self.domains.get_mut(&vm)
            && is_active(domain.state)
        {
            domain.state = DomainState::Stopped(reason);
            domain.since = now;
        }
    }

    /// Whoever started this domain died, or heard no answer, before it could see how far it runs as it should.
    pub fn is_not_read_back(&mut self, vm: VmUid) {
        if let Some(domain) = self.domains.get_mut(&vm) {
            domain.is_read_back = false;
        }
    }

    /// A running guest's kernel gives up; QEMU stays.
    pub fn guest_panics(&mut self, vm: VmUid, now: Option<Timestamp>) {
        self.turn(vm, DomainState::Running, DomainState::Panicked, now);
    }

    fn turn(&mut self, vm: VmUid, from: DomainState, to: DomainState, now: Option<Timestamp>) {
        if let Some(domain) = self.domains.get_mut(&vm).filter(|domain| domain.state == from) {
            domain.state = to;
            domain.since = now;
        }
    }

    /// The definition of a domain is lost, and its guest with it. The disk stays.
    pub fn forget(&mut self, vm: VmUid) {
        self.domains.remove(&vm);
    }

    /// The power goes: no guest runs any more, and nobody knows why.
    pub fn lose_power(&mut self) {
        for domain in self.domains.values_mut().filter(|domain| is_active(domain.state)) {
            domain.state = DomainState::Stopped(StopReason::Unknown);
            domain.since = None;
        }
        self.is_reachable = true;
    }

    fn reach(&self) -> Result<(), BackendError> {
        if self.is_reachable {
            return Ok(());
        }
        Err(BackendError::Unreachable { what: "the simulated hypervisor".into(), why: "its daemon is away".into() })
    }
}

#[cfg(test)]
mod tests {
    use berth_host::step::Mark;
    use berth_model::Stamp;
    use berth_model::testing::{Machine as Shape, cluster_id, digest, name, resources, vm_spec, vm_uid};
    use berth_model::vm::Accelerator;

    use super::*;

    fn domain(number: u128, vcpus: impl IntoIterator<Item = u32>, memory: Bytes) -> Box<DomainSpec> {
        let inventory = Shape::cores(4).inventory();
        let vcpus: Vec<_> = vcpus.into_iter().collect();
        let spec = vm_spec(u32::try_from(vcpus.len()).unwrap(), memory);
        Box::new(DomainSpec {
            mark: Mark {
                cluster: cluster_id(),
                vm: vm_uid(number),
                project: name("default"),
                name: name("web"),
                stamp: Stamp::default(),
                restart_count: 0,
            },
            cpus: spec.cpus,
            memory,
            page: spec.page_size(),
            performance: spec.performance,
            queues: spec.cpus,
            dedicated_iothreads: 0,
            floats: None,
            cpu_shape: spec.tuning.cpu_shape,
            resources: resources(&inventory, &spec, vcpus, 0),
            image: digest(1),
            disk_size: Bytes::gib(1),
            accelerator: Accelerator::Kvm,
            user_data: None,
        })
    }

    fn machine() -> Machine {
        Machine::new(Shape::cores(4).inventory())
    }

    fn start(machine: &mut Machine, spec: &DomainSpec) -> Result<(), BackendError> {
        machine.execute(&Step::Prepare(Box::new(spec.clone())), None).unwrap();
        machine.execute(&Step::Start(Box::new(spec.clone())), None)
    }

    #[test]
    fn a_start_on_a_thread_or_on_pages_that_a_running_guest_holds_is_refused_until_it_ends() {
        let mut machine = machine();
        start(&mut machine, &domain(1, [0, 1], Bytes::mib(1024))).unwrap();
        let same_thread = domain(2, [1], Bytes::mib(64));
        let too_much = domain(3, [2], Bytes::mib(1026));
        start(&mut machine, &same_thread).unwrap_err();
        start(&mut machine, &too_much).unwrap_err();
        let held = Obstacle::ThreadHeld { thread: ThreadId(1), by: vm_uid(1) };
        assert_eq!(machine.obstacle(&same_thread), Some(held));
        assert!(matches!(machine.obstacle(&too_much), Some(Obstacle::PagesHeld { left: 512, .. })));
        machine.guest_ends(vm_uid(1), StopReason::Crashed, None);
        start(&mut machine, &same_thread).unwrap();
        start(&mut machine, &too_much).unwrap();
    }

    #[test]
    fn a_machine_that_returns_smaller_starts_nothing_on_what_it_lost() {
        let mut machine = machine();
        machine.refit(Shape::cores(2).inventory());
        start(&mut machine, &domain(1, [3], Bytes::mib(64))).unwrap_err();
        start(&mut machine, &domain(2, [1], Bytes::mib(64))).unwrap();
    }

    #[test]
    fn while_the_hypervisor_is_away_nothing_is_seen_nothing_is_done_and_guests_run_on() {
        let mut machine = machine();
        start(&mut machine, &domain(1, [0], Bytes::mib(64))).unwrap();
        machine.set_reachable(false);
        assert!(matches!(machine.scan(), Err(BackendError::Unreachable { .. })));
        machine.execute(&Step::ForceOff(vm_uid(1)), None).unwrap_err();
        machine.leftovers(vm_uid(1)).unwrap_err();
        assert!(machine.is_active(vm_uid(1)));
        machine.set_reachable(true);
        assert_eq!(machine.scan().unwrap()[0].state, DomainState::Running);
    }

    #[test]
    fn a_power_cut_ends_all_guests_and_leaves_definitions_and_disks() {
        let mut machine = machine();
        start(&mut machine, &domain(1, [0], Bytes::mib(64))).unwrap();
        machine.lose_power();
        assert_eq!(machine.scan().unwrap()[0].state, DomainState::Stopped(StopReason::Unknown));
        assert!(machine.leftovers(vm_uid(1)).unwrap());
        machine.execute(&Step::Remove { vm: vm_uid(1), with_disk: true }, None).unwrap();
        assert!(!machine.leftovers(vm_uid(1)).unwrap());
    }
}
