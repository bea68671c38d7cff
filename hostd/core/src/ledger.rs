//! The accepted set as a value: what this host was told, and what it remembers of carrying it out.
//!
//! The ledger says no to the past (laws 3 and 12): a session of another cluster or of a lower incarnation or term is
//! refused whole, unless it says that a majority knows nothing of the higher term, which then was never its past; an entry whose stamp is older than the one held is refused by itself, so that one stale word does not
//! keep the others from being heard. It never turns silence into an instruction (law 5): an entry that a whole set no
//! longer mentions merely leaves the ledger, and its domain runs on as an orphan.
//!
//! Every change is a [`Record`]; replaying the records gives the same ledger. User data has no place in any of them.

use std::collections::BTreeMap;

use berth_model::image::Sha256Digest;
use berth_model::session::{Absent, DesiredEntry, Holding, Present, Welcome};
use berth_model::vm::{Assignment, DeviceDemand, Performance, Power, Resources, RunStrategy, Tuning, VmSpec};
use berth_model::{BootId, Bytes, ClusterId, HostUid, Incarnation, Millis, Name, Stamp, Term, VmUid};

use crate::clock::Now;
use crate::journal::Journal;

/// A VM that shall exist here. It has no field for user data, so none can reach the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Berth {
    /// Which.
    pub vm: VmUid,
    /// By which it is compared with older words about the same VM.
    pub stamp: Stamp,
    /// Its project, for people.
    pub project: Name,
    /// Its name.
    pub name: Name,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory: Bytes,
    /// Its tuning template.
    pub performance: Performance,
    /// What the template came to.
    pub tuning: Tuning,
    /// PCI devices that were asked for.
    pub devices: Vec<DeviceDemand>,
    /// What its disk starts as, by name, for people.
    pub image_name: Name,
    /// What its disk starts as.
    pub image: Sha256Digest,
    /// The disk's size.
    pub disk_size: Bytes,
    /// When it should run.
    pub run: RunStrategy,
    /// How long its guest has to shut down.
    pub grace: Millis,
    /// What was chosen.
    pub resources: Resources,
    /// How often one more run was asked for.
    pub restart_count: u64,
    /// What operators last said about its run.
    pub power: Power,
}

impl Berth {
    /// Its strategy as it counts now.
    pub const fn run_now(&self) -> RunStrategy {
        self.power.effective(self.run)
    }

    fn from_present(present: &Present, stamp: Stamp) -> Self {
        let Present { vm, project, name, spec, assignment, restart_count, power, user_data: _ } = present;
        let VmSpec {
            instance_type: _,
            preference: _,
            cpus,
            memory,
            performance,
            tuning,
            devices,
            rules: _,
            image,
            disk_size,
            run,
            grace,
            user_data: _,
        } = spec;
        let Assignment { host: _, epoch: _, resources, at: _ } = assignment;
        Self {
            vm: *vm,
            stamp,
            project: project.clone(),
            name: name.clone(),
            cpus: *cpus,
            memory: *memory,
            performance: *performance,
            tuning: *tuning,
            devices: devices.clone(),
            image_name: image.name.clone(),
            image: image.sha256,
            disk_size: *disk_size,
            run: *run,
            grace: *grace,
            resources: resources.clone(),
            restart_count: *restart_count,
            power: *power,
        }
    }
}

impl Berth {
    /// What the controllers are told of it once they no longer know it.
    pub fn holding(&self) -> Holding {
        let Self {
            vm,
            stamp: _,
            project,
            name,
            cpus,
            memory,
            performance,
            tuning,
            devices,
            image_name,
            image,
            disk_size,
            run: _,
            grace: _,
            resources,
            restart_count,
            power: _,
        } = self;
        Holding {
            vm: *vm,
            project: project.clone(),
            name: name.clone(),
            cpus: *cpus,
            memory: *memory,
            performance: *performance,
            tuning: *tuning,
            devices: devices.clone(),
            image_name: image_name.clone(),
            image: *image,
            disk_size: *disk_size,
            run: self.run_now(),
            resources: resources.clone(),
            restart_count: *restart_count,
        }
    }
}

/// One accepted entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Shall exist.
    Present(Box<Berth>),
    /// Shall not exist.
    Absent(Absent),
}

impl Entry {
    /// Which VM it speaks of.
    pub fn vm(&self) -> VmUid {
        match self {
            Self::Present(berth) => berth.vm,
            Self::Absent(absent) => absent.vm,
        }
    }

    /// By which it is compared.
    pub fn stamp(&self) -> Stamp {
        match self {
            Self::Present(berth) => berth.stamp,
            Self::Absent(absent) => absent.stamp,
        }
    }

    /// Whether `offered` may take this entry's place: a later placement may, and so may a later word about the same
    /// one, but a placement that ended does not come back.
    fn yields_to(&self, offered: &Self) -> bool {
        match (self, offered) {
            (Self::Absent(_), Self::Present(_)) => offered.stamp() > self.stamp(),
            (Self::Present(_) | Self::Absent(_), _) => offered.stamp() >= self.stamp(),
        }
    }
}

/// One change of the ledger, as it is written down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Who this host is. The first record.
    Host(HostUid),
    /// The boot in which moments of the boot clock were written.
    Boot(BootId),
    /// The cluster and the highest words heard from it.
    Cluster {
        /// Its id.
        cluster: ClusterId,
        /// The highest incarnation.
        incarnation: Incarnation,
        /// The highest term within that incarnation.
        term: Term,
    },
    /// An entry was accepted.
    Entry(Entry),
    /// A VM is spoken of no more; its journal goes too.
    Forget(VmUid),
    /// What is remembered of a VM changed.
    Journal(VmUid, Journal),
    /// An entry that left without an instruction: what its domain, if there is one, was given.
    Orphaned(Box<Berth>),
    /// What an entry that left had been given is remembered no more.
    Unorphaned(VmUid),
}

/// Why a session is not the host's to obey.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another cluster.
    #[error(
        "BE-5007: this host belongs to cluster {ours}, the controller speaks for {theirs}; \
         to give the host to another cluster, remove its VMs and start it with an empty data_dir"
    )]
    OtherCluster {
        /// Held.
        ours: ClusterId,
        /// Offered.
        theirs: ClusterId,
    },
    /// A word from before what was already heard.
    #[error(
        "BE-5007: the controller speaks with incarnation {offered_incarnation} term {offered_term}, this host has \
         already heard incarnation {held_incarnation} term {held_term}; the controller is of the past, or its data \
         was put back without a restore, which would have raised the incarnation"
    )]
    Past {
        /// Held.
        held_incarnation: Incarnation,
        /// Held.
        held_term: Term,
        /// Offered.
        offered_incarnation: Incarnation,
        /// Offered.
        offered_term: Term,
    },
}

/// Why one entry was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryRefusal {
    /// A newer word is held.
    #[error("VM {vm}: the word of placement {offered} is older than placement {held}, which this host obeys")]
    Older {
        /// Which VM.
        vm: VmUid,
        /// Held.
        held: Stamp,
        /// Offered.
        offered: Stamp,
    },
    /// It was placed on another host.
    #[error("VM {vm} was placed on host {host}, which is not this one")]
    OtherHost {
        /// Which VM.
        vm: VmUid,
        /// Whose it is.
        host: HostUid,
    },
}

/// What taking in a set or a delta did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Accepted {
    /// Which VMs' entries are new or different.
    pub changed: Vec<VmUid>,
    /// Which VMs' entries left. Their domains, if any, run on.
    pub left: Vec<VmUid>,
    /// Which entries were not taken.
    pub refused: Vec<EntryRefusal>,
}

/// The ledger of one host.
#[derive(Clone, Debug)]
pub struct Ledger {
    host: HostUid,
    boot: Option<BootId>,
    cluster: Option<(ClusterId, Incarnation, Term)>,
    entries: BTreeMap<VmUid, Entry>,
    journals: BTreeMap<VmUid, Journal>,
    /// Entries that left without an instruction, as long as a domain of theirs may be here.
    orphaned: BTreeMap<VmUid, Berth>,
    unsaved: Vec<Record>,
}

impl Ledger {
    /// The empty ledger of a host that was just given its identity. Its first record is unsaved.
    pub fn new(host: HostUid) -> Self {
        let mut ledger = Self::blank(host);
        ledger.unsaved.push(Record::Host(host));
        ledger
    }

    /// The ledger that `records` tell of; none if they do not name a host.
    pub fn replay(records: impl IntoIterator<Item = Record>) -> Option<Self> {
        let mut ledger: Option<Self> = None;
        for record in records {
            match (&mut ledger, record) {
                (None, Record::Host(host)) => ledger = Some(Self::blank(host)),
                (None, _) => return None,
                (Some(ledger), record) => ledger.apply(record),
            }
        }
        ledger
    }

    fn blank(host: HostUid) -> Self {
        Self {
            host,
            boot: None,
            cluster: None,
            entries: BTreeMap::new(),
            journals: BTreeMap::new(),
            orphaned: BTreeMap::new(),
            unsaved: Vec::new(),
        }
    }

    /// The fewest records that tell the whole ledger, for writing it anew.
    pub fn snapshot(&self) -> Vec<Record> {
        let Self { host, boot, cluster, entries, journals, orphaned, unsaved: _ } = self;
        let mut records = vec![Record::Host(*host)];
        records.extend(boot.clone().map(Record::Boot));
        records.extend(cluster.map(|(cluster, incarnation, term)| Record::Cluster { cluster, incarnation, term }));
        records.extend(entries.values().cloned().map(Record::Entry));
        records.extend(journals.iter().map(|(vm, journal)| Record::Journal(*vm, journal.clone())));
        records.extend(orphaned.values().cloned().map(|berth| Record::Orphaned(Box::new(berth))));
        records
    }

    /// Takes in a record that is written down already.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Host(host) => self.host = host,
            Record::Boot(boot) => self.boot = Some(boot),
            Record::Cluster { cluster, incarnation, term } => self.cluster = Some((cluster, incarnation, term)),
            Record::Entry(entry) => {
                self.orphaned.remove(&entry.vm());
                self.entries.insert(entry.vm(), entry);
            }
            Record::Forget(vm) => {
                self.entries.remove(&vm);
                self.journals.remove(&vm);
            }
            Record::Journal(vm, journal) => {
                self.journals.insert(vm, journal);
            }
            Record::Orphaned(berth) => {
                self.orphaned.insert(berth.vm, *berth);
            }
            Record::Unorphaned(vm) => {
                self.orphaned.remove(&vm);
            }
        }
    }

    fn write(&mut self, record: Record) {
        self.unsaved.push(record.clone());
        self.apply(record);
    }

    /// Whether something is not yet on its way to the disk.
    pub fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// What must be written down before anything is done by it.
    pub fn take_unsaved(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.unsaved)
    }

    /// Who this host is.
    pub fn host(&self) -> HostUid {
        self.host
    }

    /// Its cluster, with the highest incarnation and term heard.
    pub fn cluster(&self) -> Option<(ClusterId, Incarnation, Term)> {
        self.cluster
    }

    /// The accepted entries.
    pub fn entries(&self) -> &BTreeMap<VmUid, Entry> {
        &self.entries
    }

    /// What VMs were given whose entries left without an instruction.
    pub fn orphaned(&self) -> &BTreeMap<VmUid, Berth> {
        &self.orphaned
    }

    /// Forgets what VMs were given of which no domain is here any more.
    pub fn keep_orphaned(&mut self, is_here: impl Fn(VmUid) -> bool) {
        let gone: Vec<_> = self.orphaned.keys().copied().filter(|vm| !is_here(*vm)).collect();
        for vm in gone {
            self.write(Record::Unorphaned(vm));
        }
    }

    /// What is remembered of the VMs.
    pub fn journals(&self) -> &BTreeMap<VmUid, Journal> {
        &self.journals
    }

    /// What is remembered of one VM.
    pub fn journal(&self, vm: VmUid) -> Journal {
        self.journals.get(&vm).cloned().unwrap_or_default()
    }

    /// Remembers something of a VM that has an entry; of others nothing is kept.
    pub fn set_journal(&mut self, vm: VmUid, journal: Journal) {
        if self.entries.contains_key(&vm) && self.journal(vm) != journal {
            self.write(Record::Journal(vm, journal));
        }
    }

    /// Notes which boot this is, and forgets what only another boot's clock could tell.
    pub fn enter_boot(&mut self, boot: &BootId, now: Now) {
        if self.boot.as_ref() == Some(boot) {
            return;
        }
        for (vm, journal) in self.journals.clone() {
            self.set_journal(vm, journal.rebooted(now));
        }
        self.write(Record::Boot(boot.clone()));
    }

    /// Takes a session's first word, or says why not (law 12).
    pub fn greet(&mut self, welcome: &Welcome) -> Result<(), Refusal> {
        let offered = (welcome.cluster, welcome.incarnation, welcome.term);
        if let Some((ours, incarnation, term)) = self.cluster {
            if ours != welcome.cluster {
                return Err(Refusal::OtherCluster { ours, theirs: welcome.cluster });
            }
            // Data that was put back brings lower terms with it. Refused, the host would be nobody's for ever; what it
            // obeyed since is held by the stamps of its entries.
            let put_back = welcome.incarnation == incarnation && welcome.overrides == Some(term);
            if (welcome.incarnation, welcome.term) < (incarnation, term) && !put_back {
                return Err(Refusal::Past {
                    held_incarnation: incarnation,
                    held_term: term,
                    offered_incarnation: welcome.incarnation,
                    offered_term: welcome.term,
                });
            }
        }
        if self.cluster != Some(offered) {
            let (cluster, incarnation, term) = offered;
            self.write(Record::Cluster { cluster, incarnation, term });
        }
        Ok(())
    }

    /// Takes in a whole desired set: what it mentions is compared, what it does not mention leaves.
    pub fn accept_set(&mut self, entries: &[DesiredEntry]) -> Accepted {
        let mut accepted = Accepted::default();
        for entry in entries {
            self.accept(entry, &mut accepted);
        }
        let mentioned: std::collections::BTreeSet<_> = entries.iter().map(DesiredEntry::vm).collect();
        let unmentioned: Vec<_> = self.entries.keys().copied().filter(|vm| !mentioned.contains(vm)).collect();
        self.forget(&unmentioned, &mut accepted);
        accepted
    }

    /// Takes in changes to the desired set.
    pub fn accept_delta(&mut self, entries: &[DesiredEntry], forgotten: &[VmUid]) -> Accepted {
        let mut accepted = Accepted::default();
        for entry in entries {
            self.accept(entry, &mut accepted);
        }
        self.forget(forgotten, &mut accepted);
        accepted
    }

    fn accept(&mut self, offered: &DesiredEntry, accepted: &mut Accepted) {
        let entry = match offered {
            DesiredEntry::Present(present, _) if present.assignment.host != self.host => {
                let (vm, host) = (present.vm, present.assignment.host);
                accepted.refused.push(EntryRefusal::OtherHost { vm, host });
                return;
            }
            DesiredEntry::Present(present, stamp) => Entry::Present(Box::new(Berth::from_present(present, *stamp))),
            DesiredEntry::Absent(absent) => Entry::Absent(*absent),
        };
        let vm = entry.vm();
        let held = self.entries.get(&vm);
        if held == Some(&entry) {
            return;
        }
        if let Some(held) = held
            && !held.yields_to(&entry)
        {
            let (held, offered) = (held.stamp(), entry.stamp());
            accepted.refused.push(EntryRefusal::Older { vm, held, offered });
            return;
        }
        self.write(Record::Entry(entry));
        self.set_journal(vm, self.journal(vm).asked_anew());
        accepted.changed.push(vm);
    }

    fn forget(&mut self, vms: &[VmUid], accepted: &mut Accepted) {
        for vm in vms {
            let Some(entry) = self.entries.get(vm).cloned() else { continue };
            self.write(Record::Forget(*vm));
            accepted.left.push(*vm);
            if let Entry::Present(berth) = entry {
                self.write(Record::Orphaned(berth));
            }
        }
    }
}

#[cfg(test)]
mod tests;
