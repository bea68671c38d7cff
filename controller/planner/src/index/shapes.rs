//! What a host is for VMs of one shape, as far as no booking changes it: labels, group, taints, image, liveness, cordon.
//!
//! Many VMs ask the same of hosts. What each host is for such a shape is worked out once and again when the host
//! changes, not for each VM.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use berth_model::host::{Host, Liveness};
use berth_model::image::{ImageOnHost, ImageRef, Sha256Digest};
use berth_model::placement::{Domain, HostWish, Rules, Selector, TaintEffect, Toleration};
use berth_model::vm::VmSpec;
use berth_model::{Bytes, Name};

use crate::refusal::Refusal;

/// What VMs ask of hosts apart from room.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Asked {
    image: (Sha256Digest, Bytes),
    hosts: Vec<Selector>,
    group: Option<Name>,
    tolerations: Vec<Toleration>,
    wishes: Vec<HostWish>,
}

impl Asked {
    fn is_that_of(&self, spec: &VmSpec) -> bool {
        let (image, rules) = (&spec.image, &spec.rules);
        self.image == (image.sha256, image.virtual_size)
            && self.hosts == rules.hosts
            && self.group == rules.host_group
            && self.tolerations == rules.tolerations
            && self.wishes == rules.host_wishes
    }

    fn hash_of(spec: &VmSpec) -> u64 {
        let mut hasher = DefaultHasher::new();
        let (image, rules) = (&spec.image, &spec.rules);
        image.sha256.0.hash(&mut hasher);
        image.virtual_size.hash(&mut hasher);
        rules.hosts.hash(&mut hasher);
        rules.host_group.hash(&mut hasher);
        rules.tolerations.hash(&mut hasher);
        rules.host_wishes.hash(&mut hasher);
        hasher.finish()
    }
}

/// What one host is for a shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    /// It may take such VMs by its labels, groups and taints, is heard of and not cordoned: its parts of the cluster are
    /// those that a spread is over.
    pub(crate) counts: bool,
    /// It may take such VMs now if there is room.
    pub(crate) open: bool,
    /// Taints that would rather keep them away.
    pub(crate) taints: u32,
    /// Weights of wishes that it does not meet.
    pub(crate) unmet: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Shape {
    asked: Asked,
    /// By row.
    pub(crate) standings: Vec<Standing>,
    /// See [`least`]; none if a host changed since.
    least: Option<(u32, u32)>,
    used: u64,
}

/// The least taints and the least weights of wishes that are not met, each of all hosts that are open.
fn least(standings: &[Standing]) -> (u32, u32) {
    let open = || standings.iter().filter(|standing| standing.open);
    let taints = open().map(|standing| standing.taints).min();
    (taints.unwrap_or(0), open().map(|standing| standing.unmet).min().unwrap_or(0))
}

impl Shape {
    /// What a host is for it, worked out anew.
    pub(super) fn standing_of(&self, host: &Host) -> Standing {
        standing(host, &self.asked)
    }

    /// No host that is open has fewer taints than the first, or lesser weights than the second.
    pub(crate) fn least(&self) -> (u32, u32) {
        self.least.unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Shapes {
    pub(super) all: Vec<Shape>,
    numbers: HashMap<u64, Vec<usize>>,
}

impl Shapes {
    /// More shapes than this are not kept beyond the call that made them.
    const MOST: usize = 256;

    /// The shape of a VM; a new one is worked out for all hosts.
    pub(super) fn of<'a>(&mut self, spec: &VmSpec, call: u64, hosts: impl Iterator<Item = &'a Host>) -> usize {
        let hash = Asked::hash_of(spec);
        let known = self.numbers.get(&hash).into_iter().flatten().find(|at| self.all[**at].asked.is_that_of(spec));
        if let Some(at) = known.copied() {
            let shape = &mut self.all[at];
            shape.used = call;
            shape.least.get_or_insert_with(|| least(&shape.standings));
            return at;
        }
        let (ImageRef { sha256, virtual_size, .. }, rules) = (&spec.image, &spec.rules);
        let asked = Asked {
            image: (*sha256, *virtual_size),
            hosts: rules.hosts.clone(),
            group: rules.host_group.clone(),
            tolerations: rules.tolerations.clone(),
            wishes: rules.host_wishes.clone(),
        };
        let standings: Vec<Standing> = hosts.map(|host| standing(host, &asked)).collect();
        let least = Some(least(&standings));
        self.all.push(Shape { asked, standings, least, used: call });
        self.numbers.entry(hash).or_default().push(self.all.len() - 1);
        self.all.len() - 1
    }

    /// A host changed, or came at the end.
    pub(super) fn update(&mut self, row: usize, host: &Host) {
        for shape in &mut self.all {
            let now = standing(host, &shape.asked);
            match shape.standings.get_mut(row) {
                Some(held) if *held == now => continue,
                Some(held) => *held = now,
                None => shape.standings.push(now),
            }
            // Worked out anew when it is asked for.
            shape.least = None;
        }
    }

    /// Drops the shapes that were asked for least recently if there are too many. Numbers are others then.
    pub(super) fn trim(&mut self) {
        if self.all.len() <= Self::MOST {
            return;
        }
        let mut used: Vec<u64> = self.all.iter().map(|shape| shape.used).collect();
        used.sort_unstable();
        let kept_from = used[used.len() - Self::MOST / 2];
        let mut kept = Vec::new();
        let mut numbers: HashMap<u64, Vec<usize>> = HashMap::new();
        let hashes: HashMap<usize, u64> =
            self.numbers.iter().flat_map(|(hash, held)| held.iter().map(|at| (*at, *hash))).collect();
        for (at, shape) in std::mem::take(&mut self.all).into_iter().enumerate() {
            if shape.used >= kept_from && kept.len() < Self::MOST {
                numbers.entry(hashes[&at]).or_default().push(kept.len());
                kept.push(shape);
            }
        }
        self.all = kept;
        self.numbers = numbers;
    }
}

/// What every host has as if it were a label, so that rules can name it: its name, its rack and its zone.
const PLACES: [(&str, Domain); 3] =
    [("berth.dev/host", Domain::Host), ("berth.dev/rack", Domain::Rack), ("berth.dev/zone", Domain::Zone)];

/// Whether a selector of hosts selects this one.
fn selects(selector: &Selector, host: &Host) -> bool {
    if !selector.0.iter().any(|asked| asked.key.starts_with("berth.dev/")) {
        return selector.matches(&host.meta.labels);
    }
    let mut labels = host.meta.labels.clone();
    for (key, domain) in &PLACES {
        if let Some(part) = host.domain(domain) {
            labels.entry((*key).to_owned()).or_insert_with(|| part.to_owned());
        }
    }
    selector.matches(&labels)
}

fn standing(host: &Host, asked: &Asked) -> Standing {
    let counts =
        state_of(host).is_ok() && asked_for(host, &asked.hosts, asked.group.as_ref(), &asked.tolerations).is_ok();
    let disliked = |effect| untolerated(host, &asked.tolerations, effect).count();
    let unmet = asked.wishes.iter().filter(|wish| !selects(&wish.hosts, host)).map(|wish| wish.weight);
    Standing {
        counts,
        open: counts && has_image(host, asked.image).is_ok(),
        taints: u32::try_from(disliked(TaintEffect::PreferNoSchedule)).unwrap_or(u32::MAX),
        unmet: unmet.fold(0, u32::saturating_add),
    }
}

/// Whether the host takes VMs at all.
pub(crate) fn state_of(host: &Host) -> Result<(), Refusal> {
    match host.liveness {
        Liveness::Alive => {}
        Liveness::Suspect => return Err(Refusal::NotAlive("Suspect")),
        Liveness::Lost => return Err(Refusal::NotAlive("Lost")),
    }
    if host.spec.cordoned { Err(Refusal::Cordoned) } else { Ok(()) }
}

/// Whether the host has the image.
fn has_image(host: &Host, (sha256, virtual_size): (Sha256Digest, Bytes)) -> Result<(), Refusal> {
    match host.images.get(&sha256) {
        None => Err(Refusal::ImageMissing),
        Some(ImageOnHost::Refused { reason }) => Err(Refusal::ImageRefused(reason.clone())),
        Some(ImageOnHost::Verified { virtual_size: found }) if *found != virtual_size => {
            Err(Refusal::ImageSize { expected: virtual_size, found: *found })
        }
        Some(ImageOnHost::Verified { .. }) => Ok(()),
    }
}

fn untolerated<'a>(
    host: &'a Host,
    tolerations: &'a [Toleration],
    effect: TaintEffect,
) -> impl Iterator<Item = &'a berth_model::placement::Taint> {
    let taints = host.spec.taints.iter().filter(move |taint| taint.effect == effect);
    taints.filter(|taint| !tolerations.iter().any(|toleration| toleration.tolerates(taint)))
}

fn asked_for(host: &Host, hosts: &[Selector], group: Option<&Name>, tolerations: &[Toleration]) -> Result<(), Refusal> {
    if !hosts.is_empty() && !hosts.iter().any(|selector| selects(selector, host)) {
        return Err(Refusal::NotAskedFor(hosts.to_vec()));
    }
    if let Some(group) = group.filter(|group| !host.spec.groups.contains(*group)) {
        return Err(Refusal::NotInGroup(group.clone()));
    }
    untolerated(host, tolerations, TaintEffect::NoSchedule)
        .next()
        .map_or(Ok(()), |taint| Err(Refusal::Tainted(taint.clone())))
}

/// Why the host is closed to the VM, whatever room it has and whatever other VMs there are.
pub(crate) fn closed(host: &Host, overbooked: Option<&String>, spec: &VmSpec) -> Result<(), Refusal> {
    state_of(host)?;
    if let Some(why) = overbooked {
        return Err(Refusal::Overbooked(why.clone()));
    }
    has_image(host, (spec.image.sha256, spec.image.virtual_size))?;
    let Rules { hosts, host_group, tolerations, .. } = &spec.rules;
    asked_for(host, hosts, host_group.as_ref(), tolerations)
}
