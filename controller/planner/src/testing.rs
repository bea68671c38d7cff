//! An independent judge of placements, for tests and benches: slow, plain, and without a line of the planner's own code.
//!
//! It keeps all VMs in plain lists, counts by walking them, and finds out whether a host could take a VM by trying every set
//! of threads and devices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::host::{Host, Liveness, NodeId, PciAddress, Thread, ThreadId};
use berth_model::image::ImageOnHost;
use berth_model::placement::{Domain, Operator, Selector, Strength, TaintEffect, WhenUnsatisfiable};
use berth_model::vm::{NumaPolicy, Resources, SmtPolicy, Vm, VmSpec};
use berth_model::{Bytes, HostUid, PageSize, VmUid};
use berth_state::Cluster;

/// All VMs and what they have, by host.
#[derive(Debug, Default)]
pub struct Judge {
    hosts: BTreeMap<HostUid, Arc<Host>>,
    there: BTreeMap<HostUid, Vec<(Arc<Vm>, Resources)>>,
    /// What orphans and ended placements hold.
    held: BTreeMap<HostUid, Vec<Resources>>,
    strays: BTreeSet<VmUid>,
}

fn selects(hosts: &Selector, host: &Host) -> bool {
    let mut labels = host.meta.labels.clone();
    for (key, domain) in
        [("berth.dev/host", Domain::Host), ("berth.dev/rack", Domain::Rack), ("berth.dev/zone", Domain::Zone)]
    {
        if let (Some(part), false) = (host.domain(&domain), labels.contains_key(key)) {
            labels.insert(key.to_owned(), part.to_owned());
        }
    }
    hosts.0.iter().all(|asked| match asked.operator {
        Operator::In if asked.values.is_empty() => labels.contains_key(&asked.key),
        Operator::In => labels.get(&asked.key).is_some_and(|value| asked.values.contains(value)),
        Operator::NotIn => !labels.get(&asked.key).is_some_and(|value| asked.values.contains(value)),
        Operator::Exists => labels.contains_key(&asked.key),
        Operator::DoesNotExist => !labels.contains_key(&asked.key),
        Operator::Gt | Operator::Lt => asked.is_met_by(&labels),
    })
}

/// Whether the host may take the VM by its labels, groups and taints, is heard of and not cordoned.
fn eligible(host: &Host, spec: &VmSpec) -> bool {
    let rules = &spec.rules;
    let tolerated = |taint| rules.tolerations.iter().any(|held| held.tolerates(taint));
    host.liveness == Liveness::Alive
        && !host.spec.cordoned
        && (rules.hosts.is_empty() || rules.hosts.iter().any(|hosts| selects(hosts, host)))
        && rules.host_group.as_ref().is_none_or(|group| host.spec.groups.contains(group))
        && host.spec.taints.iter().all(|taint| taint.effect != TaintEffect::NoSchedule || tolerated(taint))
}

impl Judge {
    /// Of all VMs of this view that are placed.
    pub fn new(view: &Cluster) -> Self {
        let mut judge =
            Self { hosts: view.hosts.iter().map(|(uid, host)| (*uid, Arc::clone(host))).collect(), ..Self::default() };
        for vm in view.vms.values() {
            if let Some(held) = &vm.assignment {
                judge.place(vm, held.host, held.resources.clone());
            }
        }
        for ((host, _), holding) in &view.holdings {
            judge.held.entry(*host).or_default().push(holding.resources.clone());
        }
        for host in view.hosts.values() {
            judge.strays.extend(host.orphans.iter().map(|orphan| orphan.vm));
            for ended in &host.evictions {
                judge.held.entry(host.uid()).or_default().push(ended.resources.clone());
                if host.liveness == Liveness::Alive {
                    judge.strays.insert(ended.vm);
                }
            }
        }
        judge
    }

    /// The VM has these resources there from now on.
    pub fn place(&mut self, vm: &Arc<Vm>, host: HostUid, resources: Resources) {
        self.there.entry(host).or_default().push((Arc::clone(vm), resources));
    }

    /// The VM is nowhere any more.
    pub fn remove(&mut self, vm: VmUid) {
        for held in self.there.values_mut() {
            held.retain(|(held, _)| held.uid() != vm);
        }
    }

    /// The host is not there any more, nor what it held.
    pub fn forget_host(&mut self, host: HostUid) {
        self.hosts.remove(&host);
        self.there.remove(&host);
        self.held.remove(&host);
    }

    fn booked(&self, host: HostUid) -> impl Iterator<Item = &Resources> {
        let there = self.there.get(&host).into_iter().flatten().map(|(_, resources)| resources);
        there.chain(self.held.get(&host).into_iter().flatten())
    }

    /// VMs of the same project that a selector selects, by part of the cluster.
    fn counted(&self, vm: &Vm, domain: &Domain, vms: &Selector) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for (host, held) in &self.there {
            let Some(part) = self.hosts.get(host).and_then(|host| host.domain(domain)) else { continue };
            let of_them = |(other, _): &&(Arc<Vm>, Resources)| {
                other.meta.project == vm.meta.project && vms.matches(&other.meta.labels)
            };
            let count = u32::try_from(held.iter().filter(of_them).count()).expect("fewer VMs than 2^32");
            if count > 0 {
                *counts.entry(part.to_owned()).or_default() += count;
            }
        }
        counts
    }

    /// Each rule of the VM, and of VMs that are placed, which the host would break.
    pub fn broken_rules(&self, vm: &Vm, host: &Host) -> Vec<String> {
        let mut broken = Vec::new();
        if !eligible(host, &vm.spec) {
            broken.push("the host is closed to it".to_owned());
        }
        let verified = Some(&ImageOnHost::Verified { virtual_size: vm.spec.image.virtual_size });
        if host.images.get(&vm.spec.image.sha256) != verified {
            broken.push("the host has not its image".to_owned());
        }
        if self.strays.contains(&vm.uid()) {
            broken.push("it may run elsewhere".to_owned());
        }
        for rule in vm.spec.rules.affinity.iter().filter(|rule| rule.strength == Strength::Required) {
            let counts = self.counted(vm, &rule.domain, &rule.vms);
            let part = host.domain(&rule.domain);
            let near = part.and_then(|part| counts.get(part)).copied().unwrap_or(0);
            let first = counts.is_empty() && rule.vms.matches(&vm.meta.labels);
            if rule.anti && near > 0 {
                broken.push(format!("{near} VMs with {} are near", rule.vms));
            }
            if !rule.anti && (part.is_none() || (near == 0 && !first)) {
                broken.push(format!("no VM with {} is near", rule.vms));
            }
        }
        for (other_host, held) in &self.there {
            let Some(other_host) = self.hosts.get(other_host) else { continue };
            for (other, _) in held.iter().filter(|(other, _)| other.meta.project == vm.meta.project) {
                let of_other = other.spec.rules.affinity.iter();
                for rule in of_other.filter(|rule| rule.anti && rule.strength == Strength::Required) {
                    let (here, there) = (host.domain(&rule.domain), other_host.domain(&rule.domain));
                    if here.is_some() && here == there && rule.vms.matches(&vm.meta.labels) {
                        broken.push(format!("{} keeps away from it", other.meta.name));
                    }
                }
            }
        }
        let strict = vm.spec.rules.spread.iter();
        for rule in strict.filter(|rule| rule.when_unsatisfiable == WhenUnsatisfiable::DoNotSchedule) {
            let counts = self.counted(vm, &rule.domain, &rule.vms);
            let Some(part) = host.domain(&rule.domain) else {
                broken.push(format!("the host is in no {}", rule.domain));
                continue;
            };
            let others = self.hosts.values().filter(|host| eligible(host, &vm.spec));
            let parts = others.filter_map(|host| host.domain(&rule.domain));
            let least = parts.map(|part| counts.get(part).copied().unwrap_or(0)).min().unwrap_or(0);
            let now = counts.get(part).copied().unwrap_or(0) + u32::from(rule.vms.matches(&vm.meta.labels));
            if now > least + rule.max_skew {
                broken.push(format!("{now} VMs with {} in {part}, {least} in the emptiest", rule.vms));
            }
        }
        broken
    }

    fn pages_free(&self, host: &Host, node: NodeId, page: PageSize) -> i128 {
        let inventory = &host.inventory;
        let total: u64 = match page {
            PageSize::Small => {
                let parts = inventory.memory.iter().filter(|part| part.node == node);
                parts.map(|part| part.ordinary.0).sum::<u64>() / 4096
            }
            PageSize::Huge2M | PageSize::Huge1G => {
                let pools = inventory.hugepages.iter().filter(|pool| pool.node == node && pool.page == page);
                pools.map(|pool| pool.total).sum()
            }
        };
        let parts = self.booked(host.uid()).flat_map(|held| &held.memory);
        let booked: u64 = parts.filter(|part| part.node == node && part.page == page).map(|part| part.count).sum();
        i128::from(total) - i128::from(booked)
    }

    fn ordinary_free(&self, host: &Host) -> i128 {
        let total: u64 = host.inventory.memory.iter().map(|part| part.ordinary.0).sum();
        i128::from(total) - self.booked(host.uid()).map(ordinary).sum::<i128>()
    }

    fn threads_taken(&self, host: &Host) -> BTreeSet<ThreadId> {
        let of_one = |held: &Resources| -> Vec<ThreadId> {
            held.vcpus.iter().copied().chain(held.dedicated.iter()).chain(held.idle.iter()).collect()
        };
        self.booked(host.uid()).flat_map(of_one).collect()
    }

    /// Thousandths of a thread that can still be promised.
    fn shared_free(&self, host: &Host) -> i128 {
        let threads = host.inventory.topology.threads.iter();
        let usable = threads.filter(|thread| !host.inventory.reserve.contains(thread.id)).count();
        let promised: u64 = self.booked(host.uid()).map(|held| held.shared_cpu).sum();
        usable as i128 * 1000 - self.threads_taken(host).len() as i128 * 1000 - i128::from(promised)
    }

    /// Whether less is on the host than is booked there.
    fn is_overbooked(&self, host: &Host) -> bool {
        let inventory = &host.inventory;
        let usable = |id: &ThreadId| inventory.topology.thread(*id).is_some() && !inventory.reserve.contains(*id);
        let mut parts = self.booked(host.uid()).flat_map(|held| &held.memory);
        let devices = |address: &PciAddress| inventory.devices.iter().any(|device| device.address == *address);
        !self.threads_taken(host).iter().all(usable)
            || parts.any(|part| self.pages_free(host, part.node, part.page) < 0)
            || self.ordinary_free(host) < 0
            || self.shared_free(host) < 0
            || !self.booked(host.uid()).flat_map(|held| &held.devices).all(devices)
    }

    fn device_is_free(&self, host: &Host, address: PciAddress) -> bool {
        let Some(device) = host.inventory.devices.iter().find(|device| device.address == address) else { return false };
        let Some(group) = device.iommu_group else { return false };
        let taken: BTreeSet<PciAddress> = self.booked(host.uid()).flat_map(|held| held.devices.clone()).collect();
        !host.inventory.devices.iter().any(|other| {
            let tied = other.address == address
                || other.iommu_group == Some(group)
                || other.physical == Some(address)
                || device.physical == Some(other.address);
            tied && taken.contains(&other.address)
        })
    }

    /// Everything that is wrong with giving the VM these resources there, before it has them.
    pub fn faults(&self, vm: &Vm, host: HostUid, given: &Resources) -> Vec<String> {
        let Some(host) = self.hosts.get(&host) else { return vec!["there is no such host".into()] };
        let mut faults = self.broken_rules(vm, host);
        faults.extend(self.wrong_room(vm, host, given));
        faults
    }

    fn wrong_room(&self, vm: &Vm, host: &Host, given: &Resources) -> Vec<String> {
        let (spec, inventory) = (&vm.spec, &host.inventory);
        let mut faults = Vec::new();
        let mut hold = |holds: bool, what: &str| {
            if !holds {
                faults.push(what.to_owned());
            }
        };
        hold(!self.is_overbooked(host), "the host is overbooked");
        let taken = self.threads_taken(host);
        let exclusive: Vec<ThreadId> =
            given.vcpus.iter().copied().chain(given.dedicated.iter()).chain(given.idle.iter()).collect();
        let set: BTreeSet<ThreadId> = exclusive.iter().copied().collect();
        hold(set.len() == exclusive.len(), "a thread is given twice");
        hold(set.is_disjoint(&taken), "a thread belongs to another");
        let is_for_vms = |id: &ThreadId| inventory.topology.thread(*id).is_some() && !inventory.reserve.contains(*id);
        hold(set.iter().all(is_for_vms), "a thread is not for VMs");
        let shared = set.len() as i128 * 1000 + i128::from(given.shared_cpu);
        hold(self.shared_free(host) >= shared, "too few threads are left for those that share");
        let pinned = spec.performance.is_pinned();
        let vcpus = if pinned { spec.cpus as usize } else { 0 };
        hold(given.vcpus.len() == vcpus, "not a thread for each virtual CPU");
        let used: Vec<&Thread> = given
            .vcpus
            .iter()
            .copied()
            .chain(given.dedicated.iter())
            .filter_map(|id| inventory.topology.thread(id))
            .collect();
        if pinned {
            hold(
                policy_holds(spec, inventory.topology.threads.as_slice(), &used, given),
                "the threads break the policy",
            );
            hold(given.dedicated.len() == spec.tuning.dedicated_threads() as usize, "not the dedicated threads");
        } else {
            hold(given.dedicated.is_empty() && given.idle.is_empty(), "threads for one that has none");
        }
        hold(given.shared_cpu == spec.shared_cpu(host.spec.overcommit), "another share of CPU than asked for");
        let page = spec.page_size();
        hold(given.memory.iter().all(|part| part.page == page), "pages of another size");
        let pages: u64 = given.memory.iter().map(|part| part.count).sum();
        hold(pages == page.pages_for(spec.booked_memory(host.spec.overcommit)), "another amount of memory");
        let nodes: BTreeSet<NodeId> = given.memory.iter().map(|part| part.node).collect();
        hold(nodes.len() == given.memory.len(), "a node is named twice");
        let enough =
            |part: &berth_model::vm::NodePages| self.pages_free(host, part.node, part.page) >= i128::from(part.count);
        hold(given.memory.iter().all(enough), "too few pages");
        hold(self.ordinary_free(host) >= ordinary(given), "too little ordinary memory");
        hold(given.overhead == spec.overhead(), "another overhead");
        let all_nodes: BTreeSet<NodeId> = used.iter().map(|thread| thread.node).chain(nodes).collect();
        let single = pinned && spec.tuning.numa == NumaPolicy::Single;
        hold(!single || all_nodes.len() == 1, "more than one node");
        let mut kinds: BTreeMap<_, u32> = BTreeMap::new();
        for demand in &spec.devices {
            *kinds.entry(demand.kind).or_default() += demand.count;
        }
        for address in &given.devices {
            hold(self.device_is_free(host, *address), "a device is not free");
            let device = inventory.devices.iter().find(|device| device.address == *address);
            if let Some(device) = device {
                let near = device.node.is_none_or(|node| all_nodes.contains(&node));
                hold(!single || near, "a device of another node");
                *kinds.entry(device.kind).or_default() = kinds.get(&device.kind).copied().unwrap_or(0).wrapping_sub(1);
                let card = given.devices.iter().any(|other| device.physical == Some(*other));
                hold(!card, "a card and a function of it");
            }
        }
        hold(kinds.values().all(|count| *count == 0), "not the devices asked for");
        let own: BTreeSet<PciAddress> = given.devices.iter().copied().collect();
        hold(own.len() == given.devices.len(), "a device is given twice");
        faults
    }

    /// Whether the host has room, found by trying every set of threads and of devices: for small machines only.
    pub fn has_room(&self, spec: &VmSpec, host: &Host) -> bool {
        if self.is_overbooked(host) {
            return false;
        }
        let inventory = &host.inventory;
        let page = spec.page_size();
        let pages = i128::from(page.pages_for(spec.booked_memory(host.spec.overcommit)));
        let nodes: BTreeSet<NodeId> = inventory
            .memory
            .iter()
            .map(|part| part.node)
            .chain(inventory.hugepages.iter().map(|pool| pool.node))
            .chain(inventory.topology.threads.iter().map(|thread| thread.node))
            .collect();
        let guest = if page == PageSize::Small { pages * 4096 } else { 0 };
        if self.ordinary_free(host) < guest + i128::from(spec.overhead().0) {
            return false;
        }
        let room = |node: &NodeId| self.pages_free(host, *node, page).max(0);
        if nodes.iter().map(room).sum::<i128>() < pages {
            return false;
        }
        let shared = self.shared_free(host);
        if !spec.performance.is_pinned() {
            return shared >= i128::from(spec.shared_cpu(host.spec.overcommit)) && self.has_devices(spec, host, None);
        }
        let taken = self.threads_taken(host);
        let all = &inventory.topology.threads;
        let free: Vec<&Thread> =
            all.iter().filter(|thread| !inventory.reserve.contains(thread.id) && !taken.contains(&thread.id)).collect();
        let wanted = (spec.cpus + spec.tuning.dedicated_threads()) as usize;
        if free.len() < wanted {
            return false;
        }
        assert!(free.len() <= 20, "every set of threads is tried: only for small machines");
        (0_u32..1 << free.len()).filter(|set| set.count_ones() as usize == wanted).any(|set| {
            let used: Vec<&Thread> =
                free.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0).map(|(_, thread)| *thread).collect();
            let Some(idle) = idle_for(spec, all, &used, |id| free.iter().any(|thread| thread.id == id)) else {
                return false;
            };
            if shared < (wanted + idle.len()) as i128 * 1000 {
                return false;
            }
            if spec.tuning.numa == NumaPolicy::Fewest {
                return self.has_devices(spec, host, None);
            }
            let on: BTreeSet<NodeId> = used.iter().map(|thread| thread.node).collect();
            let [node] = on.iter().copied().collect::<Vec<_>>()[..] else { return false };
            room(&node) >= pages && self.has_devices(spec, host, Some(node))
        })
    }

    fn has_devices(&self, spec: &VmSpec, host: &Host, node: Option<NodeId>) -> bool {
        let devices = &host.inventory.devices;
        let mut wanted: BTreeMap<_, u32> = BTreeMap::new();
        for demand in &spec.devices {
            *wanted.entry(demand.kind).or_default() += demand.count;
        }
        wanted.retain(|_, count| *count > 0);
        (0_u32..1 << devices.len()).any(|set| {
            let chosen: Vec<_> =
                devices.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0).map(|(_, device)| device).collect();
            let mut kinds: BTreeMap<_, u32> = BTreeMap::new();
            for device in &chosen {
                *kinds.entry(device.kind).or_default() += 1;
            }
            kinds == wanted
                && chosen.iter().all(|device| {
                    self.device_is_free(host, device.address)
                        && node.is_none_or(|node| device.node.is_none_or(|held| held == node))
                        && !chosen.iter().any(|other| other.physical == Some(device.address))
                })
        })
    }

    /// Whether the VM could be placed on this host now.
    pub fn could_take(&self, vm: &Vm, host: &Host) -> bool {
        self.broken_rules(vm, host).is_empty() && self.has_room(&vm.spec, host)
    }
}

fn ordinary(held: &Resources) -> i128 {
    let small = held.memory.iter().filter(|part| part.page == PageSize::Small);
    let guest = small.map(|part| i128::from(part.count) * i128::from(PageSize::Small.bytes().0)).sum::<i128>();
    guest + i128::from(Bytes(held.overhead.0).0)
}

/// The siblings that have to stay idle beside these threads; none if the policy cannot be kept.
fn idle_for(
    spec: &VmSpec,
    all: &[Thread],
    used: &[&Thread],
    is_free: impl Fn(ThreadId) -> bool,
) -> Option<Vec<ThreadId>> {
    if spec.tuning.smt == SmtPolicy::Siblings {
        return Some(Vec::new());
    }
    let mut idle = Vec::new();
    for thread in all.iter().filter(|thread| used.iter().any(|held| held.core == thread.core)) {
        if used.iter().any(|held| held.id == thread.id) {
            continue;
        }
        if !is_free(thread.id) {
            return None;
        }
        idle.push(thread.id);
    }
    let cores: BTreeSet<_> = used.iter().map(|thread| thread.core).collect();
    (spec.tuning.smt == SmtPolicy::WholeCores || cores.len() == used.len()).then_some(idle)
}

fn policy_holds(spec: &VmSpec, all: &[Thread], used: &[&Thread], given: &Resources) -> bool {
    let idle: BTreeSet<ThreadId> = given.idle.iter().collect();
    idle_for(spec, all, used, |id| idle.contains(&id))
        .is_some_and(|needed| needed.into_iter().collect::<BTreeSet<_>>() == idle)
}
