//! A small world for tests: a cluster to which things happen one after another, checked by [`audit`] after each.

use std::collections::BTreeMap;

use berth_model::host::{Inventory, Liveness};
use berth_model::image::ImageSpec;
use berth_model::session::Report;
use berth_model::testing::{self, NOW, cluster_id, digest, full_report, host_uid, image_uid, name, operator, vm_uid};
use berth_model::vm::{Assignment, Resources, Vm, VmSpec};
use berth_model::{Actor, BootId, Epoch, HostUid, Name, RequestId, Revision, Timestamp, VmUid};

use crate::apply::apply;
use crate::audit::audit;
use crate::cluster::Cluster;
use crate::command::{Batch, Body, Command, Expect, HostFacts};
use crate::outcome::{Applied, Change, Outcome, Rejection};

/// A cluster, the clock, and all that changed.
#[derive(Clone, Debug)]
pub struct World {
    /// The state.
    pub cluster: Cluster,
    /// The proposer's clock.
    pub at: Timestamp,
    /// Every change, in order.
    pub changes: Vec<Change>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Before the bootstrap.
    pub fn empty() -> Self {
        Self { cluster: Cluster::default(), at: NOW, changes: Vec::new() }
    }

    /// A new cluster that knows the image of `berth_model::testing::image_ref`.
    pub fn new() -> Self {
        let mut world = Self::empty();
        world.done(Body::Bootstrap { cluster: cluster_id(), version: Cluster::NEWEST_VERSION });
        world.done(create_image("tiny", 1));
        world
    }

    /// Applies a command with its request.
    pub fn command(&mut self, request: Option<(RequestId, [u8; 32])>, actor: Actor, body: Body) -> Applied {
        let batch = Batch { at: self.at, commands: vec![Command { request, actor, body }] };
        let (mut answers, changes) = apply(&mut self.cluster, &batch);
        self.changes.extend(changes);
        let broken = audit(&self.cluster);
        assert!(broken.is_empty(), "after {batch:?}: {broken:?}");
        answers.pop().expect("one command has one answer")
    }

    /// Applies a command.
    pub fn run(&mut self, body: Body) -> Result<Outcome, Rejection> {
        self.command(None, operator(), body).result
    }

    /// Applies a command that must be carried out; the state's revision after it.
    pub fn done(&mut self, body: Body) -> Revision {
        let shown = format!("{body:?}");
        if let Err(why) = self.run(body) {
            panic!("{shown} was refused: {why}");
        }
        self.cluster.revision
    }

    /// Applies a command that must be refused and must change nothing.
    pub fn refused(&mut self, body: Body) -> Rejection {
        let (mut before, shown) = (self.cluster.clone(), format!("{body:?}"));
        let refused = self.run(body).expect_err(&shown);
        before.last_at = self.cluster.last_at;
        assert!(before == self.cluster, "{shown} was refused and changed something");
        refused
    }

    /// A host of this number joins.
    pub fn host(&mut self, number: u32, inventory: Inventory) -> HostUid {
        self.done(report(number, full_report(inventory)));
        host_uid(u128::from(number))
    }

    /// A VM of this number is created.
    pub fn vm(&mut self, number: u32, spec: VmSpec) -> VmUid {
        self.done(create_vm(number, spec));
        vm_uid(u128::from(number))
    }

    /// A VM is given these threads, and its memory on this node; the epoch of that.
    pub fn assign(&mut self, vm: VmUid, host: HostUid, vcpus: impl IntoIterator<Item = u32>, node: u32) -> Epoch {
        let resources = self.berth(vm, host, vcpus, node);
        Epoch(self.done(self.assignment(vm, host, resources)).0)
    }

    /// The resources that [`World::assign`] gives.
    pub fn berth(&self, vm: VmUid, host: HostUid, vcpus: impl IntoIterator<Item = u32>, node: u32) -> Resources {
        testing::resources(&self.cluster.hosts[&host].inventory, &self.cluster.vms[&vm].spec, vcpus, node)
    }

    /// The command that gives a VM these resources.
    pub fn assignment(&self, vm: VmUid, host: HostUid, resources: Resources) -> Body {
        Body::Assign { vm, generation: self.cluster.vms[&vm].meta.generation, host, resources }
    }

    /// A VM.
    pub fn vm_now(&self, vm: VmUid) -> &Vm {
        &self.cluster.vms[&vm]
    }

    /// Where a VM is placed.
    pub fn placed(&self, vm: VmUid) -> &Assignment {
        self.vm_now(vm).assignment.as_ref().expect("the VM is placed")
    }

    /// Hosts' liveness changes.
    pub fn liveness(&mut self, host: HostUid, liveness: Liveness) {
        self.done(Body::SetLiveness { host, liveness });
    }
}

/// Whoever the host of this number is and wherever it answers, called `h` and the number.
pub fn facts(number: u32) -> HostFacts {
    HostFacts {
        uid: host_uid(u128::from(number)),
        name: name(&format!("h{number}")),
        address: format!("10.0.0.{number}:7443"),
        boot: BootId("boot-1".into()),
    }
}

/// A report of the host of this number.
pub fn report(number: u32, report: Report) -> Body {
    Body::ReportHost { facts: facts(number), report: Box::new(report) }
}

/// The creation of the VM of this number, called `vm-` and the number.
pub fn create_vm(number: u32, spec: VmSpec) -> Body {
    Body::CreateVm {
        uid: vm_uid(u128::from(number)),
        project: Name::default_project(),
        name: name(&format!("vm-{number}")),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        spec: Box::new(spec),
    }
}

/// An image with the digest of this number.
pub fn create_image(called: &str, number: u8) -> Body {
    Body::CreateImage {
        uid: image_uid(u128::from(number)),
        name: name(called),
        labels: BTreeMap::new(),
        spec: ImageSpec { sha256: digest(number), virtual_size: testing::IMAGE_SIZE },
    }
}

/// The deletion of a VM, whatever its revision.
pub fn delete_vm(vm: VmUid) -> Body {
    Body::DeleteVm { vm, expect: Expect::default() }
}

/// A state in which one VM is otherwise, its bookings included, by no command.
pub fn with_vm(view: &Cluster, vm: VmUid, change: impl FnOnce(&mut Vm)) -> Cluster {
    let mut other = view.clone();
    let before = std::sync::Arc::clone(&other.vms[&vm]);
    let mut after = Vm::clone(&before);
    change(&mut after);
    let after = std::sync::Arc::new(after);
    other.vms.insert(vm, std::sync::Arc::clone(&after));
    other.index_vm(Some(&before), Some(&after));
    other
}

/// Puts a VM in place as no command would: for bugs made on purpose, which must be found. It leaves the traces of this command.
pub fn put_vm(cluster: &mut Cluster, command: &Command, build: impl FnOnce(Revision) -> Vm) -> Vec<Change> {
    let mut changes = Vec::new();
    cluster.put_vm(&mut changes, build);
    crate::history::note(cluster, command, cluster.last_at, &changes);
    changes
}
