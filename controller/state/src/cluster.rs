//! The whole replicated state.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_model::host::{Host, Liveness};
use berth_model::image::Image;
use berth_model::instancetype::{InstanceType, Preference};
use berth_model::placement::Proposal;
use berth_model::session::Holding;
use berth_model::vm::Vm;
use berth_model::{ClusterId, HostUid, Incarnation, Name, Revision, Timestamp, VmUid};
use imbl::{OrdMap, OrdSet, Vector};

use crate::digest::{Checkpoint, Digest, Part};
use crate::history::History;
use crate::ledger::HostBookings;
use crate::outcome::{Change, Object};
use crate::record;
use crate::requests::Requests;

/// What is known of the cluster as a whole, from its bootstrap on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClusterInfo {
    /// Its identity.
    pub id: ClusterId,
    /// How often it was restored.
    pub incarnation: Incarnation,
    /// The rules by which `apply` works (law 11); raised only by a command.
    pub version: u32,
    /// When it was bootstrapped, by entry time.
    pub created_at: Timestamp,
}

/// The replicated state at one revision. Cloning is cheap: all maps share their structure.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Cluster {
    /// None before the bootstrap command.
    pub info: Option<ClusterInfo>,
    /// The last revision drawn.
    pub revision: Revision,
    /// The latest entry time; never goes back.
    pub last_at: Timestamp,
    /// All VMs.
    pub vms: OrdMap<VmUid, Arc<Vm>>,
    /// All hosts.
    pub hosts: OrdMap<HostUid, Arc<Host>>,
    /// All images.
    pub images: OrdMap<Name, Arc<Image>>,
    /// All instance types.
    pub instance_types: OrdMap<Name, Arc<InstanceType>>,
    /// All preferences.
    pub preferences: OrdMap<Name, Arc<Preference>>,
    /// What hosts remember of their orphans, by host and VM.
    pub holdings: OrdMap<(HostUid, VmUid), Arc<Holding>>,
    /// Moves that would make the cluster better, in the planner's order.
    pub proposals: Vector<Arc<Proposal>>,
    /// Answers to remembered requests (law 8).
    pub requests: Requests,
    /// Who changed what, and how each object was.
    pub history: History,
    /// The digest at the last points where members compare.
    pub checkpoints: Vector<Checkpoint>,
    /// The digest's sum over all objects.
    pub(crate) sum: Digest,
    /// Index: VM by project and name.
    pub(crate) vm_names: OrdMap<(Name, Name), VmUid>,
    /// Index: host by name.
    pub(crate) host_names: OrdMap<Name, HostUid>,
    /// Index: what the assignments add up to, by host. The ledger of law 9.
    pub(crate) bookings: OrdMap<HostUid, Arc<HostBookings>>,
    /// Index: VMs that wait for a host.
    pub(crate) waiting: OrdMap<VmUid, ()>,
    /// Index: VMs that hosts list as orphans or hold by a placement that ended without their word.
    pub(crate) strays: OrdMap<VmUid, OrdSet<HostUid>>,
    /// Index: hosts that did not yet say what runs on them since an older state was put back.
    pub(crate) awaited: OrdSet<HostUid>,
}

/// Why a VM must not be placed, or not there: a domain of it may run on a host that the cluster did not choose for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stray {
    /// The host lists it as an orphan, as after an older state was put back.
    Orphan(Arc<Host>),
    /// The host is heard of again and has not yet reported the end of a placement that was ended without its word.
    Evicted(Arc<Host>),
    /// An older state was put back, and the host did not yet say what runs on it; the VM is of that time.
    Awaited(Arc<Host>),
}

/// Which hosts, bookings and waiting VMs there were. Cheap to take and to compare: by identity, not by content.
#[derive(Clone, Debug)]
pub struct PlanningBasis {
    hosts: OrdMap<HostUid, Arc<Host>>,
    bookings: OrdMap<HostUid, Arc<HostBookings>>,
    waiting: OrdMap<VmUid, ()>,
}

impl PlanningBasis {
    /// Whether these are untouched in `cluster`. What a waiting VM asks for may still have changed.
    pub fn is_that_of(&self, cluster: &Cluster) -> bool {
        self.hosts.ptr_eq(&cluster.hosts)
            && self.bookings.ptr_eq(&cluster.bookings)
            && self.waiting.ptr_eq(&cluster.waiting)
    }
}

impl Cluster {
    /// The newest rules that this program knows.
    pub const NEWEST_VERSION: u32 = 1;

    /// The VM of this name.
    pub fn vm_by_name(&self, project: &Name, name: &Name) -> Option<&Arc<Vm>> {
        self.vm_names.get(&(project.clone(), name.clone())).and_then(|uid| self.vms.get(uid))
    }

    /// The VMs of a project in the order of their names, or of all projects, after the given project and name.
    pub fn vms_by_name<'a>(
        &'a self,
        project: Option<&'a Name>,
        after: Option<&'a (Name, Name)>,
    ) -> impl Iterator<Item = &'a Arc<Vm>> + 'a {
        use std::ops::Bound;
        let first = match (after, project) {
            (Some(key), _) => Bound::Excluded(key.clone()),
            (None, Some(project)) => {
                let least = "0".parse::<Name>().expect("a digit is a name");
                Bound::Included((project.clone(), least))
            }
            (None, None) => Bound::Unbounded,
        };
        self.vm_names
            .range((first, Bound::Unbounded))
            .take_while(move |((held, _), _)| project.is_none_or(|wanted| held == wanted))
            .filter_map(|(_, uid)| self.vms.get(uid))
    }

    /// The host of this name.
    pub fn host_by_name(&self, name: &Name) -> Option<&Arc<Host>> {
        self.host_names.get(name).and_then(|uid| self.hosts.get(uid))
    }

    /// What is booked on a host.
    pub fn bookings(&self, host: HostUid) -> Option<&Arc<HostBookings>> {
        self.bookings.get(&host)
    }

    /// What a host remembers of its orphans, in ascending order of uid.
    pub fn holdings_on(&self, host: HostUid) -> impl Iterator<Item = &Arc<Holding>> {
        // A host has few orphans, and a cluster has few hosts that have any.
        self.holdings.iter().filter(move |((held, _), _)| *held == host).map(|(_, holding)| holding)
    }

    /// What is booked on a host, and what its orphans and ended placements hold there besides: nobody else is placed on
    /// that.
    pub fn occupied(&self, host: HostUid) -> Arc<HostBookings> {
        self.occupied_by_others(host, None)
    }

    /// What is booked on a host, and what its orphans and ended placements but those of this VM hold there.
    pub(crate) fn occupied_by_others(&self, host: HostUid, but: Option<VmUid>) -> Arc<HostBookings> {
        let mut occupied = self.bookings.get(&host).cloned().unwrap_or_default();
        for holding in self.holdings_on(host).filter(|holding| Some(holding.vm) != but) {
            Arc::make_mut(&mut occupied).book(holding.vm, &holding.resources);
        }
        let evictions = self.hosts.get(&host).into_iter().flat_map(|held| &held.evictions);
        for eviction in evictions.filter(|eviction| Some(eviction.vm) != but) {
            Arc::make_mut(&mut occupied).book(eviction.vm, &eviction.resources);
        }
        occupied
    }

    /// Keeps what a host remembers of one of its orphans.
    pub(crate) fn put_holding(&mut self, host: HostUid, holding: Holding) {
        self.remove_holding(host, holding.vm);
        self.sum.add(Part::Holding, &[&record::encode_holding(host, &holding)]);
        self.holdings.insert((host, holding.vm), Arc::new(holding));
    }

    /// Forgets what a host remembers of an orphan.
    pub(crate) fn remove_holding(&mut self, host: HostUid, vm: VmUid) {
        if let Some(held) = self.holdings.remove(&(host, vm)) {
            self.sum.remove(Part::Holding, &[&record::encode_holding(host, &held)]);
        }
    }

    /// What forbids to place this VM anywhere: started, it might then run twice (law 3).
    ///
    /// A host that is not heard of and whose VMs were ended by an operator's word forbids nothing: that word was that they
    /// do not run.
    pub fn stray(&self, vm: VmUid) -> Option<Stray> {
        let hosts = |uids: Option<&OrdSet<HostUid>>| {
            uids.into_iter().flatten().filter_map(|host| self.hosts.get(host)).cloned().collect::<Vec<_>>()
        };
        let listed = hosts(self.strays.get(&vm)).into_iter().find_map(|host| {
            if host.orphans.iter().any(|orphan| orphan.vm == vm) {
                return Some(Stray::Orphan(host));
            }
            (host.liveness == Liveness::Alive).then_some(Stray::Evicted(host))
        });
        listed.or_else(|| {
            let created = self.vms.get(&vm)?.meta.created_at;
            let is_of_that_time = |host: &Arc<Host>| host.awaited.is_some_and(|until| created <= until);
            hosts(Some(&self.awaited)).into_iter().find(is_of_that_time).map(Stray::Awaited)
        })
    }

    /// Whether the host holds this VM by a placement that was ended without its word: it is placed anywhere but there.
    pub fn holds_ended(&self, host: HostUid, vm: VmUid) -> bool {
        self.strays.get(&vm).is_some_and(|listing| listing.contains(&host))
            && self.hosts.get(&host).is_some_and(|host| host.evictions.iter().any(|held| held.vm == vm))
    }

    /// Moves the indices from one version of a host to the next.
    pub(crate) fn index_host<'a>(&mut self, before: Option<&'a Host>, after: Option<&'a Host>) {
        let (old, new) = (before.map(strays).unwrap_or_default(), after.map(strays).unwrap_or_default());
        if let Some(host) = before.or(after).map(Host::uid) {
            if after.is_some_and(|host| host.awaited.is_some()) {
                self.awaited.insert(host);
            } else {
                self.awaited.remove(&host);
            }
            for gone in old.difference(&new) {
                let mut listing = self.strays.remove(gone).unwrap_or_default();
                listing.remove(&host);
                if !listing.is_empty() {
                    self.strays.insert(*gone, listing);
                }
            }
            for come in new.difference(&old) {
                self.strays.entry(*come).or_default().insert(host);
            }
        }
        let name = |host: &'a Host| &host.meta.name;
        if before.map(name) != after.map(name) {
            if let Some(host) = before {
                self.host_names.remove(&host.meta.name);
            }
            if let Some(host) = after {
                self.host_names.insert(host.meta.name.clone(), host.uid());
            }
        }
    }

    /// The VMs assigned to a host, in ascending order of uid.
    pub fn vms_on(&self, host: HostUid) -> impl Iterator<Item = &Arc<Vm>> {
        self.bookings.get(&host).into_iter().flat_map(|held| held.vms()).filter_map(|uid| self.vms.get(&uid))
    }

    /// The VMs that wait for a host, in ascending order of uid.
    pub fn waiting(&self) -> impl Iterator<Item = &Arc<Vm>> {
        self.waiting.keys().filter_map(|uid| self.vms.get(uid))
    }

    /// What placement looks at in this state, to be recognised in a later one.
    pub fn planning_basis(&self) -> PlanningBasis {
        let Self { hosts, bookings, waiting, .. } = self;
        PlanningBasis { hosts: hosts.clone(), bookings: bookings.clone(), waiting: waiting.clone() }
    }

    /// Replaces what is proposed; the same list keeps everything as it is.
    pub(crate) fn put_proposals(&mut self, proposals: Vector<Arc<Proposal>>) {
        for held in &self.proposals {
            self.sum.remove(Part::Proposal, &[&record::proposal_body(held)]);
        }
        for held in &proposals {
            self.sum.add(Part::Proposal, &[&record::proposal_body(held)]);
        }
        self.proposals = proposals;
    }

    fn draw(&mut self) -> Revision {
        self.revision = self.revision.next();
        self.revision
    }

    /// Puts a VM in place at the next revision, which `build` is given, and keeps the indices.
    pub(crate) fn put_vm(&mut self, changes: &mut Vec<Change>, build: impl FnOnce(Revision) -> Vm) -> Revision {
        let revision = self.draw();
        let mut vm = build(revision);
        vm.meta.revision = revision;
        let uid = vm.uid();
        let after = Arc::new(vm);
        let before = self.vms.insert(uid, Arc::clone(&after));
        self.index_vm(before.as_deref(), Some(&after));
        changes.push(Change { revision, object: Object::Vm { before, after: Some(after) } });
        revision
    }

    /// Removes a VM at the next revision and releases what it had booked.
    pub(crate) fn remove_vm(&mut self, changes: &mut Vec<Change>, uid: VmUid) {
        if let Some(before) = self.vms.remove(&uid) {
            let revision = self.draw();
            self.index_vm(Some(&before), None);
            changes.push(Change { revision, object: Object::Vm { before: Some(before), after: None } });
        }
    }

    /// Puts a host in place at the next revision.
    pub(crate) fn put_host(&mut self, changes: &mut Vec<Change>, mut host: Host) -> Revision {
        let revision = self.draw();
        host.meta.revision = revision;
        let uid = host.uid();
        let after = Arc::new(host);
        let before = self.hosts.insert(uid, Arc::clone(&after));
        self.index_host(before.as_deref(), Some(&after));
        changes.push(Change { revision, object: Object::Host { before, after: Some(after) } });
        revision
    }

    /// Removes a host at the next revision.
    pub(crate) fn remove_host(&mut self, changes: &mut Vec<Change>, uid: HostUid) {
        if let Some(before) = self.hosts.remove(&uid) {
            let revision = self.draw();
            self.index_host(Some(&before), None);
            changes.push(Change { revision, object: Object::Host { before: Some(before), after: None } });
        }
    }

    /// Puts an image in place at the next revision.
    pub(crate) fn put_image(&mut self, changes: &mut Vec<Change>, mut image: Image) -> Revision {
        let revision = self.draw();
        image.meta.revision = revision;
        let after = Arc::new(image);
        let before = self.images.insert(after.meta.name.clone(), Arc::clone(&after));
        changes.push(Change { revision, object: Object::Image { before, after: Some(after) } });
        revision
    }

    /// Removes an image at the next revision.
    pub(crate) fn remove_image(&mut self, changes: &mut Vec<Change>, name: &Name) {
        if let Some(before) = self.images.remove(name) {
            let revision = self.draw();
            changes.push(Change { revision, object: Object::Image { before: Some(before), after: None } });
        }
    }

    /// Puts an instance type in place at the next revision.
    pub(crate) fn put_instance_type(&mut self, changes: &mut Vec<Change>, mut instance_type: InstanceType) {
        let revision = self.draw();
        instance_type.meta.revision = revision;
        let after = Arc::new(instance_type);
        let before = self.instance_types.insert(after.meta.name.clone(), Arc::clone(&after));
        changes.push(Change { revision, object: Object::InstanceType { before, after: Some(after) } });
    }

    /// Removes an instance type at the next revision.
    pub(crate) fn remove_instance_type(&mut self, changes: &mut Vec<Change>, name: &Name) {
        if let Some(before) = self.instance_types.remove(name) {
            let revision = self.draw();
            changes.push(Change { revision, object: Object::InstanceType { before: Some(before), after: None } });
        }
    }

    /// Puts a preference in place at the next revision.
    pub(crate) fn put_preference(&mut self, changes: &mut Vec<Change>, mut preference: Preference) {
        let revision = self.draw();
        preference.meta.revision = revision;
        let after = Arc::new(preference);
        let before = self.preferences.insert(after.meta.name.clone(), Arc::clone(&after));
        changes.push(Change { revision, object: Object::Preference { before, after: Some(after) } });
    }

    /// Removes a preference at the next revision.
    pub(crate) fn remove_preference(&mut self, changes: &mut Vec<Change>, name: &Name) {
        if let Some(before) = self.preferences.remove(name) {
            let revision = self.draw();
            changes.push(Change { revision, object: Object::Preference { before: Some(before), after: None } });
        }
    }

    /// Moves the indices from one version of a VM to the next.
    pub(crate) fn index_vm<'a>(&mut self, before: Option<&'a Vm>, after: Option<&'a Vm>) {
        let assignment = |vm: &'a Vm| vm.assignment.as_ref().map(|held| (vm.uid(), held));
        let (old, new) = (before.and_then(assignment), after.and_then(assignment));
        if old != new {
            if let Some((uid, held)) = old {
                let bookings = self.bookings.entry(held.host).or_default();
                Arc::make_mut(bookings).release(uid, &held.resources);
                if bookings.is_empty() {
                    self.bookings.remove(&held.host);
                }
            }
            if let Some((uid, held)) = new {
                Arc::make_mut(self.bookings.entry(held.host).or_default()).book(uid, &held.resources);
            }
        }
        // Touched only when a name comes or goes: views share the names, and each touch would copy many of them.
        let name = |vm: &'a Vm| (&vm.meta.project, &vm.meta.name);
        if before.map(name) != after.map(name) {
            if let Some(vm) = before {
                self.vm_names.remove(&(vm.meta.project.clone(), vm.meta.name.clone()));
            }
            if let Some(vm) = after {
                self.vm_names.insert((vm.meta.project.clone(), vm.meta.name.clone()), vm.uid());
            }
        }
        match (before, after) {
            (_, Some(vm)) => {
                // Touched only when it becomes another set: whoever plans compares it by identity.
                let waits = vm.assignment.is_none() && !vm.meta.is_deleting();
                match (waits, self.waiting.contains_key(&vm.uid())) {
                    (true, false) => drop(self.waiting.insert(vm.uid(), ())),
                    (false, true) => drop(self.waiting.remove(&vm.uid())),
                    _ => {}
                }
            }
            (Some(vm), None) => drop(self.waiting.remove(&vm.uid())),
            (None, None) => {}
        }
    }
}

/// The VMs that a host lists as orphans or holds by an ended placement.
pub(crate) fn strays(host: &Host) -> BTreeSet<VmUid> {
    let orphans = host.orphans.iter().map(|orphan| orphan.vm);
    orphans.chain(host.evictions.iter().map(|held| held.vm)).collect()
}
