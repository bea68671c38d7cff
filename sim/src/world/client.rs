//! Operators: what they ask for, how often they repeat it, and what they make of the answers.
//!
//! An answer that does not come is unknown, never a failure: the request is repeated by its name. Most requests go through the
//! real admission on the view of whichever controller is asked; some go past it, as from another version of the program,
//! because apply must refuse what admission would have.

use std::collections::BTreeMap;

use berth_control::ConsensusError;
use berth_control::admit::{
    self, CreateImage, CreateVm, HostTarget, OrphanTarget, Target, UpdateHost, UpdateLabels, UpdateVm,
};
use berth_control::error::Error;
use berth_model::host::{Host, Liveness};
use berth_model::instancetype::PreferenceSpec;
use berth_model::testing::{IMAGE_SIZE, digest, operator};
use berth_model::vm::{RunStrategy, SmtPolicy, VmSpec};
use berth_model::{Bytes, HostUid, Millis, Name, RequestId, Revision, Timestamp, VmUid};
use berth_state::requests::Verdict;
use berth_state::{Applied, Batch, Body, Cluster, Command, Expect, HostPatch};

use super::member::{self, Waiter};
use super::shapes::{self, IMAGE, Key};
use super::{Event, MEMBERS, World};
use crate::dice::Dice;
use crate::tally::Group;
use crate::witness::RequestKey;

/// What a client wants.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Create(Box<CreateVm>),
    Run(Target, RunStrategy),
    /// Whether the guest gets no time.
    Restart(Target, bool),
    Start(Target),
    /// Whether the guest gets no time.
    Stop(Target, bool),
    Reset(Target),
    Pause(Target),
    Resume(Target),
    Delete(Target),
    Labels(Target, UpdateLabels),
    Image(CreateImage),
    ForgetImage(String),
    Adopt(OrphanTarget),
    RemoveOrphan(OrphanTarget),
    Spec(Target, Box<UpdateVm>),
    Host(HostTarget, Box<UpdateHost>),
    /// The operator looked: the host has no power.
    Dead(HostTarget),
    ForgetHost(HostTarget),
    Type(String, u32),
    ForgetType(String),
    Preference(String, PreferenceSpec),
    ForgetPreference(String),
    /// Past admission.
    Raw(Body),
}

/// One request.
#[derive(Clone, Debug)]
struct Request {
    wish: Wish,
    key: Option<RequestKey>,
    attempts: u32,
    is_done: bool,
}

/// Those who ask.
#[derive(Debug)]
pub(crate) struct Clients {
    dice: Dice,
    requests: Vec<Request>,
    /// How many VMs they try to keep.
    vms: usize,
    names: u64,
    /// Whether the image that VMs start from was asked for.
    has_image: bool,
    /// Requests that are not answered for good.
    pub(crate) open: usize,
}

/// How often a request is sent before its client gives up.
const ATTEMPTS: u32 = 8;

impl Clients {
    pub(crate) fn new(dice: Dice, vms: usize) -> Self {
        Self { dice, requests: Vec::new(), vms, names: 0, has_image: false, open: 0 }
    }
}

fn target(vm: &berth_model::vm::Vm) -> Target {
    Target { name: vm.meta.name.to_string(), ..Target::default() }
}

/// A host just as the operator saw it: what is said of it holds for nothing later.
fn as_seen(host: &Host) -> HostTarget {
    HostTarget {
        name: host.meta.name.to_string(),
        uid: host.meta.uid.to_string(),
        revision: Some(host.meta.revision.0),
    }
}

fn orphan(host: HostUid, vm: VmUid, view: &Cluster) -> OrphanTarget {
    let host = view.hosts.get(&host).map(|host| host.meta.name.to_string()).unwrap_or_default();
    OrphanTarget { host, vm: vm.to_string(), ..OrphanTarget::default() }
}

impl World {
    /// A client has an idea.
    pub(super) fn operation(&mut self) {
        let member = self.clients.dice.index(MEMBERS);
        let wish = self.idea(member);
        self.wish(wish);
    }

    /// A client asks for something, under a name of its own.
    pub(crate) fn wish(&mut self, wish: Wish) {
        self.wish_later(0, wish);
    }

    /// The same after so many milliseconds.
    pub(crate) fn wish_later(&mut self, pause: u64, wish: Wish) {
        let now = self.wall();
        let dice = &mut self.clients.dice;
        // Only histories have requests with odd names: what is wanted after the faults, or in a large world, shall come.
        let kind = if self.settings.is_thorough && !self.is_healed { dice.within(0..200) } else { 200 };
        let made = match kind {
            0 => now.plus(Millis::seconds(3600)),
            1 => Timestamp::from_millis(now.as_millis() - 25 * 3600 * 1000),
            _ => now,
        };
        let mut body = [0; 32];
        body[..8].copy_from_slice(&dice.next().to_le_bytes());
        let mut key = (kind > 3).then(|| (RequestId::from_parts(made, dice.wide()), body));
        if kind < 2 {
            key = Some((RequestId::from_parts(made, dice.wide()), body));
        }
        if kind == 10
            && let Some(at) = (!self.clients.requests.is_empty()).then(|| dice.index(self.clients.requests.len()))
            && let Some((used, _)) = self.clients.requests[at].key
        {
            // The name of another request.
            key = Some((used, body));
        }
        let again = (kind == 11 || kind == 12).then(|| dice.within(1..3000));
        let number = self.clients.requests.len();
        self.clients.requests.push(Request { wish, key, attempts: 0, is_done: false });
        self.clients.open += 1;
        self.after(pause, Event::Ask(number));
        if let (Some(later), Some(_)) = (again, key) {
            // Sent twice, as by a client that does not wait for its answer.
            self.after(pause + later, Event::Ask(number));
        }
    }

    fn idea(&mut self, member: usize) -> Wish {
        let view = self.members[member].cluster.clone();
        let known = self.clients.names;
        let dice = &mut self.clients.dice;
        if view.info.is_none() && dice.percent(50) {
            return raw(dice, &view, known);
        }
        if !self.clients.has_image && view.images.is_empty() {
            self.clients.has_image = true;
            return Wish::tiny();
        }
        if view.images.is_empty() && dice.percent(50) {
            return Wish::tiny();
        }
        if let Some(wish) = self.about_hosts(&view) {
            return wish;
        }
        let dice = &mut self.clients.dice;
        let living: Vec<_> = view.vms.values().filter(|vm| !vm.meta.is_deleting()).cloned().collect();
        if living.len() < self.clients.vms && dice.percent(55) {
            self.clients.names += 1;
            let wanted = shapes::small_vm(dice, known);
            return Wish::Create(Box::new(wanted));
        }
        if dice.percent(12) {
            return raw(dice, &view, known);
        }
        let orphans: Vec<_> =
            view.hosts.values().flat_map(|host| host.orphans.iter().map(|orphan| (host.uid(), orphan.vm))).collect();
        if let Some((host, vm)) = dice.pick(&orphans)
            && dice.percent(20)
        {
            let target = orphan(host, vm, &view);
            return if dice.percent(50) { Wish::Adopt(target) } else { Wish::RemoveOrphan(target) };
        }
        if living.is_empty() {
            return Wish::tiny();
        }
        let vm = &living[dice.index(living.len())];
        let target = target(vm);
        match dice.within(0..100) {
            0..12 => Wish::Restart(target, dice.percent(25)),
            12..28 => Wish::Stop(target, dice.percent(25)),
            28..44 => Wish::Start(target),
            44..50 => Wish::Run(target, RunStrategy::ALL[dice.index(RunStrategy::ALL.len())]),
            50..57 => Wish::Pause(target),
            57..64 => Wish::Resume(target),
            64..68 => Wish::Reset(target),
            68..85 => Wish::Delete(target),
            85..88 => {
                let name = format!("image-{}", dice.within(0..4));
                Wish::Image(CreateImage {
                    name,
                    sha256: digest(9).to_string(),
                    virtual_size: IMAGE_SIZE.0,
                    ..CreateImage::default()
                })
            }
            88..90 => Wish::ForgetImage(format!("image-{}", dice.within(0..4))),
            90..95 => {
                let (fields, to) = shapes::change(dice);
                Wish::Spec(target, Box::new(UpdateVm { fields, to }))
            }
            _ => {
                let set = BTreeMap::from([("colour".to_owned(), format!("shade-{}", dice.within(0..9)))]);
                Wish::Labels(target, UpdateLabels { set, ..UpdateLabels::default() })
            }
        }
    }

    /// What operators do about hosts and about sizes: rarely anything.
    fn about_hosts(&mut self, view: &Cluster) -> Option<Wish> {
        let dark: Vec<_> = view
            .hosts
            .values()
            .filter(|host| host.liveness != Liveness::Alive)
            .filter(|host| self.homes.get(&host.uid()).is_some_and(|number| !self.hosts[*number].is_on))
            .map(|host| as_seen(host))
            .collect();
        let all: Vec<_> = view.hosts.values().map(|host| as_seen(host)).collect();
        let dice = &mut self.clients.dice;
        if !dark.is_empty() && dice.percent(12) {
            let dark = dark[dice.index(dark.len())].clone();
            return Some(if dice.percent(60) { Wish::Dead(dark) } else { Wish::ForgetHost(dark) });
        }
        if all.is_empty() || !dice.percent(6) {
            return None;
        }
        let host = all[dice.index(all.len())].clone();
        let number = dice.within(0..3);
        Some(match dice.within(0..10) {
            0..6 => Wish::Host(host, Box::new(shapes::remark(dice))),
            6 => Wish::Type(format!("size-{number}"), 1 + u32::from(dice.percent(50))),
            7 => Wish::ForgetType(format!("size-{number}")),
            8 => {
                let wishes = PreferenceSpec { smt: Some(SmtPolicy::WholeCores), ..PreferenceSpec::default() };
                Wish::Preference(format!("taste-{number}"), wishes)
            }
            _ => Wish::ForgetPreference(format!("taste-{number}")),
        })
    }

    /// A request is sent to some controller, which admits it and passes it on to the leader that it knows.
    pub(super) fn ask(&mut self, number: usize) {
        let via = self.clients.dice.index(MEMBERS);
        let request = &mut self.clients.requests[number];
        if request.is_done {
            return;
        }
        request.attempts += 1;
        let member = &self.members[via];
        if !member.is_up() {
            return self.ask_again(number);
        }
        let now = member.clock(self.now);
        let request = request.clone();
        if let Some((id, body)) = request.key
            && !matches!(request.wish, Wish::Raw(_))
            && self.clients.dice.percent(60)
        {
            match member.cluster.requests.look_up(id, &body, &operator(), now, member.cluster.last_at.max(now)) {
                Verdict::New => {}
                Verdict::Seen(answer) => {
                    self.witness.count(Group::Noted, "answer remembered");
                    return self.answered(number, &answer);
                }
                Verdict::Refused(why) => {
                    self.witness.count(Group::Admission, Error::from(why).code);
                    return self.give_up(number);
                }
            }
        }
        let random = self.clients.dice.wide();
        let admitted = match (&member.cluster.info, &request.wish) {
            (_, Wish::Raw(body)) => Ok(body.clone()),
            (None, _) => Err(Error::from(ConsensusError::NoLeader)),
            (Some(_), wish) => admit(&member.cluster, wish, random),
        };
        let leader = member.leadership.leader_api.as_deref().and_then(member::at);
        match (admitted, leader) {
            (Ok(body), Some(leader)) => {
                let pause = if leader == via { 0 } else { self.clients.dice.within(1..30) };
                let body = Box::new(body);
                self.after(pause, Event::Arrives { request: number, member: leader, body });
            }
            (Ok(_), None) => self.ask_again(number),
            (Err(why), _) => {
                self.witness.count(Group::Admission, why.code);
                // It may only be that this controller lags.
                let again = !self.settings.is_thorough || self.clients.dice.percent(30);
                if again { self.ask_again(number) } else { self.give_up(number) }
            }
        }
    }

    pub(super) fn arrives(&mut self, number: usize, member: usize, body: Body) {
        let request = &self.clients.requests[number];
        if request.is_done {
            return;
        }
        let command = Command { request: request.key, actor: operator(), body };
        let at = self.members[member].clock(self.now);
        self.propose(member, &Batch { at, commands: vec![command] }, None, Waiter::Client(number));
    }

    pub(super) fn client_told(&mut self, number: usize, result: Result<Vec<Applied>, ConsensusError>) {
        match result {
            Ok(mut answers) => {
                if !self.is_healed && self.clients.dice.percent(3) {
                    self.witness.count(Group::Noted, "answer lost on its way");
                    return self.ask_again(number);
                }
                if let Some(answer) = answers.pop() {
                    self.answered(number, &answer);
                }
            }
            Err(_) => self.ask_again(number),
        }
    }

    fn answered(&mut self, number: usize, answer: &Applied) {
        let request = &mut self.clients.requests[number];
        if let Some(key) = request.key {
            self.witness.acknowledged(key, answer);
        }
        if request.is_done {
            self.witness.count(Group::Noted, "answered twice");
            return;
        }
        self.give_up(number);
    }

    fn ask_again(&mut self, number: usize) {
        let request = &self.clients.requests[number];
        // Without a name of its own it must not be repeated.
        let may = request.key.is_some() || request.attempts == 1 && matches!(request.wish, Wish::Raw(_));
        let most = if self.settings.is_thorough { ATTEMPTS } else { u32::MAX };
        if !may || request.attempts >= most {
            return self.give_up(number);
        }
        let pause = self.clients.dice.within(100..4000);
        self.after(pause, Event::Ask(number));
    }

    fn give_up(&mut self, number: usize) {
        let request = &mut self.clients.requests[number];
        if !request.is_done {
            request.is_done = true;
            self.clients.open -= 1;
        }
    }
}

impl Wish {
    /// The image that VMs start from becomes known.
    pub(crate) fn tiny() -> Self {
        Self::Image(CreateImage {
            name: IMAGE.into(),
            sha256: digest(1).to_string(),
            virtual_size: IMAGE_SIZE.0,
            ..CreateImage::default()
        })
    }
}

fn admit(view: &Cluster, wish: &Wish, random: u128) -> Result<Body, Error> {
    let expect = Expect::default();
    let vm = |target: &Target| admit::find_vm(view, target).map(|vm| vm.uid());
    Ok(match wish {
        Wish::Create(request) => admit::create_vm(view, request, random, &Key { is_there: true })?,
        Wish::Run(target, run) => Body::SetRun { vm: vm(target)?, run: *run, expect },
        Wish::Restart(target, force) => Body::RestartVm { vm: vm(target)?, force: *force, expect },
        Wish::Start(target) => Body::StartVm { vm: vm(target)?, expect },
        Wish::Stop(target, force) => Body::StopVm { vm: vm(target)?, force: *force, expect },
        Wish::Reset(target) => Body::ResetVm { vm: vm(target)?, expect },
        Wish::Pause(target) => Body::PauseVm { vm: vm(target)?, expect },
        Wish::Resume(target) => Body::ResumeVm { vm: vm(target)?, expect },
        Wish::Delete(target) => Body::DeleteVm { vm: vm(target)?, expect },
        Wish::Labels(target, labels) => admit::update_labels(view, target, labels)?,
        Wish::Image(request) => admit::create_image(view, request, random)?,
        Wish::ForgetImage(name) => Body::DeleteImage { name: admit::name("image name", name)? },
        Wish::Adopt(target) => {
            let (host, vm) = admit::find_orphan(view, target)?;
            Body::AdoptOrphan { host, vm, expect }
        }
        Wish::RemoveOrphan(target) => {
            let (host, vm) = admit::find_orphan(view, target)?;
            Body::RemoveOrphan { host, vm, expect }
        }
        Wish::Spec(target, request) => admit::update_vm(view, target, request)?,
        Wish::Host(target, request) => admit::update_host(view, target, request)?,
        Wish::Dead(target) => admit::confirm_dead(view, target, &target.name)?,
        Wish::ForgetHost(target) => admit::remove_host(view, target, false)?,
        Wish::Type(name, cpus) => admit::create_instance_type(view, name, *cpus, Bytes::mib(64).0, random)?,
        Wish::ForgetType(name) => admit::delete_instance_type(view, name)?,
        Wish::Preference(name, wishes) => admit::create_preference(view, name, *wishes, random)?,
        Wish::ForgetPreference(name) => admit::delete_preference(view, name)?,
        Wish::Raw(body) => body.clone(),
    })
}

/// What admission would hardly let through.
fn raw(dice: &mut Dice, view: &Cluster, known: u64) -> Wish {
    let vms: Vec<_> = view.vms.keys().copied().collect();
    let hosts: Vec<_> = view.hosts.keys().copied().collect();
    let nobody = VmUid(berth_model::Uid::from_bits(dice.wide()));
    let vm = dice.pick(&vms).unwrap_or(nobody);
    let host = dice.pick(&hosts).unwrap_or(HostUid(nobody.0));
    let name = |text: &str| text.parse::<Name>().expect("a short word is a name");
    let expect = Expect { revision: Some(Revision(1)) };
    Wish::Raw(match dice.within(0..16) {
        0 => Body::SetRun { vm, run: RunStrategy::Always, expect },
        1 => Body::RestartVm { vm, force: false, expect: Expect::default() },
        2 => Body::SetLabels {
            vm,
            set: (0..65).map(|number| (format!("key-{number}"), String::new())).collect(),
            remove: Vec::new(),
            expect: Expect::default(),
        },
        3 => Body::DeleteImage { name: name(IMAGE) },
        4 => Body::AdoptOrphan { host, vm: nobody, expect: Expect::default() },
        5 => Body::RemoveOrphan { host, vm: nobody, expect: Expect::default() },
        6 => Body::RestartVm { vm: nobody, force: false, expect: Expect::default() },
        7 => Body::DeleteVm { vm, expect },
        8 => match view.vms.get(&vm) {
            Some(held) => Body::CreateVm {
                uid: nobody,
                project: Name::default_project(),
                name: held.meta.name.clone(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                // A secret is sealed for its own VM, and opens for no other.
                spec: Box::new(VmSpec { user_data: None, ..held.spec.clone() }),
            },
            None => Body::DeleteImage { name: name(&format!("image-{known}")) },
        },
        9 => Body::SetLabels { vm, set: BTreeMap::new(), remove: vec!["colour".to_owned()], expect: Expect::default() },
        10 => Body::DeleteInstanceType { name: name("standard-2") },
        11 => Body::RemoveHost { host, never_returns: false, expect: Expect::default() },
        12 => Body::Bootstrap { cluster: berth_model::testing::cluster_id(), version: Cluster::NEWEST_VERSION },
        13 => match view.vms.get(&vm) {
            Some(held) => {
                let spec = Box::new(VmSpec { cpus: held.spec.cpus % 3 + 1, ..held.spec.clone() });
                Body::SetSpec { vm, spec, expect: Expect::default() }
            }
            None => Body::DeleteImage { name: name(&format!("image-{known}")) },
        },
        14 => Body::ConfirmDead { host, expect },
        _ => Body::UpdateHost {
            host,
            patch: Box::new(HostPatch {
                set_labels: (0..65).map(|number| (format!("key-{number}"), String::new())).collect(),
                ..HostPatch::default()
            }),
            expect: Expect::default(),
        },
    })
}
