//! What hosts and VMs of the simulated worlds look like. New demands and rules of VMs come in here.

use std::collections::BTreeMap;
use std::ops::Range;

use berth_control::Seal;
use berth_control::admit::{CreateVm, UpdateHost};
use berth_model::host::Inventory;
use berth_model::instancetype::PreferenceSpec;
use berth_model::placement::{
    Domain, HostWish, Operator, Requirement, Rules, Selector, Spread, Strength, Taint, TaintEffect, Toleration,
    VmAffinity, WhenUnsatisfiable,
};
use berth_model::session::UserData;
use berth_model::testing::{IMAGE_SIZE, Machine};
use berth_model::vm::{SmtPolicy, VmSpec};
use berth_model::{Bytes, Sealed};

use crate::dice::Dice;

/// The image that every host holds and every VM starts from.
pub(crate) const IMAGE: &str = "tiny";

/// A host of a history: with one of three away, the others still hold all VMs that clients ever keep.
pub(crate) fn small_machine(dice: &mut Dice) -> Machine {
    let nodes = 1 + u32::from(dice.percent(50));
    let threads = 1 + u32::from(dice.percent(50));
    let all = if threads == 2 { 24..32 } else { 44..60 };
    let cores = small_number(dice, all) / nodes;
    Machine { nodes, cores, threads, reserve: 1, hugepages: u64::from(4096 / nodes), ordinary: Bytes::gib(16) }
}

/// The same host with half of its cores and pages gone.
pub(crate) fn halved(whole: Machine) -> Inventory {
    Machine { cores: (whole.cores / 2).max(2), hugepages: whole.hugepages / 2, ..whole }.inventory()
}

/// A VM of a history. Its number is part of its name, and two in a row are a pair.
pub(crate) fn small_vm(dice: &mut Dice, number: u64) -> CreateVm {
    let performance = dice.weighted(&[("high", 60), ("standard", 25), ("density", 15)]);
    let smt = (performance == "high" && dice.percent(15)).then_some(SmtPolicy::WholeCores);
    CreateVm {
        name: format!("vm-{number}"),
        labels: BTreeMap::from([("pair".to_owned(), format!("p{}", number / 2))]),
        performance: performance.into(),
        tuning: PreferenceSpec { smt, ..PreferenceSpec::default() },
        rules: if dice.percent(40) { small_rules(dice, number) } else { Rules::default() },
        cpus: Some(small_number(dice, 1..4)),
        memory: Some(Bytes::mib(2 * dice.within(32..129)).0),
        image: IMAGE.into(),
        disk_size: Some(2 * IMAGE_SIZE.0),
        run: match dice.within(0..20) {
            0..2 => "Halted".into(),
            2..4 => "RerunOnFailure".into(),
            4..6 => "Manual".into(),
            6 => "Once".into(),
            _ => String::new(),
        },
        user_data: dice.percent(40).then(|| b"#cloud-config".to_vec()),
        ..CreateVm::default()
    }
}

/// Rules of a VM of a history: what they require can be had while two hosts take VMs.
fn small_rules(dice: &mut Dice, number: u64) -> Rules {
    let pair = Selector(vec![requirement("pair", &[&format!("p{}", number / 2)])]);
    let apart = |strength, domain| VmAffinity { anti: true, strength, domain, vms: pair.clone() };
    match dice.within(0..6) {
        0 => Rules { affinity: vec![apart(Strength::Required, Domain::Host)], ..Rules::default() },
        1 => Rules { affinity: vec![apart(Strength::Preferred(50), Domain::Zone)], ..Rules::default() },
        2 => Rules { spread: vec![evenly(Domain::Zone, WhenUnsatisfiable::ScheduleAnyway)], ..Rules::default() },
        3 => Rules { tolerations: vec![Toleration::default()], ..Rules::default() },
        4 => {
            let wish = HostWish { weight: 30, hosts: Selector(vec![requirement("disk", &["ssd"])]) };
            Rules { host_wishes: vec![wish], ..Rules::default() }
        }
        _ => Rules { priority: if dice.percent(50) { 10 } else { -10 }, ..Rules::default() },
    }
}

fn evenly(domain: Domain, when_unsatisfiable: WhenUnsatisfiable) -> Spread {
    Spread { domain, max_skew: 2, when_unsatisfiable, vms: Selector::default() }
}

fn requirement(key: &str, values: &[&str]) -> Requirement {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    Requirement { key: key.into(), operator: Operator::In, values }
}

/// What of a VM an operator changes, and to what.
pub(crate) fn change(dice: &mut Dice) -> (Vec<String>, CreateVm) {
    match dice.within(0..3) {
        0 => {
            let rules = Rules { priority: 1 + i32::from(dice.percent(50)), ..Rules::default() };
            (vec!["rules.priority".into()], CreateVm { rules, ..CreateVm::default() })
        }
        1 => (vec!["rules".into()], CreateVm::default()),
        _ => (vec!["cpus".into()], CreateVm { cpus: Some(small_number(dice, 1..4)), ..CreateVm::default() }),
    }
}

/// What of a host an operator changes.
pub(crate) fn remark(dice: &mut Dice) -> UpdateHost {
    let effect = if dice.percent(50) { TaintEffect::NoSchedule } else { TaintEffect::PreferNoSchedule };
    let taint = Taint { key: "maintenance".into(), value: String::new(), effect };
    match dice.within(0..6) {
        0 => UpdateHost { cordoned: Some(true), ..UpdateHost::default() },
        1 => UpdateHost { cordoned: Some(false), ..UpdateHost::default() },
        2 => UpdateHost { zone: Some(format!("z{}", dice.within(0..3))), ..UpdateHost::default() },
        3 => UpdateHost { set_taints: vec![taint], ..UpdateHost::default() },
        4 => UpdateHost { remove_taints: vec![(taint.key, None)], ..UpdateHost::default() },
        _ => {
            let set_labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
            UpdateHost { set_labels, ..UpdateHost::default() }
        }
    }
}

/// A host of a large world: two sockets with 32 cores of two threads each, 512 GiB of which a fifth are hugepages.
pub(crate) const fn large_machine() -> Machine {
    Machine { nodes: 2, cores: 32, threads: 2, reserve: 2, hugepages: 28_672, ordinary: Bytes::gib(200) }
}

/// The marks of a host of a large world: in one of 8 zones, with 16 hosts to a rack; the first is kept for many small VMs.
pub(crate) fn large_marks(number: usize) -> UpdateHost {
    let disk = if number.is_multiple_of(2) { "ssd" } else { "nvme" };
    let mut set_labels = BTreeMap::from([("disk".to_owned(), disk.to_owned())]);
    if number == 0 {
        set_labels.insert(PACKED.to_owned(), "yes".to_owned());
    }
    UpdateHost {
        set_labels,
        zone: Some(format!("zone-{}", number % 8)),
        rack: Some(format!("rack-{}", number / 16)),
        ..UpdateHost::default()
    }
}

/// The label of the host for many small VMs.
const PACKED: &str = "packed";
/// One of so many VMs of a large world goes there: 312 of 50,000.
const PACKED_OF: usize = 160;

/// A VM of a large world: of ten one is pinned with hugepages, three have all they asked for, six are over-subscribed; two
/// have rules. A host of fifty such VMs is as full as it should be.
pub(crate) fn large_vm(dice: &mut Dice, number: usize) -> CreateVm {
    let asked = CreateVm {
        name: format!("vm-{number}"),
        labels: BTreeMap::from([("unit".to_owned(), unit(number))]),
        image: IMAGE.into(),
        disk_size: Some(2 * IMAGE_SIZE.0),
        ..CreateVm::default()
    };
    let gib = |gib| Some(Bytes::gib(gib).0);
    if number.is_multiple_of(PACKED_OF) {
        let rules = Rules { hosts: vec![Selector(vec![requirement(PACKED, &[])])], ..Rules::default() };
        return CreateVm { performance: "density".into(), cpus: Some(1), memory: gib(1), rules, ..asked };
    }
    let (performance, cpus, memory) = match number % 10 {
        1 => ("high", dice.weighted(&[(2, 40), (4, 40), (8, 20)]), dice.weighted(&[(8, 40), (16, 40), (32, 20)])),
        2..=4 => ("standard", dice.weighted(&[(2, 50), (4, 50)]), dice.weighted(&[(4, 40), (8, 40), (16, 20)])),
        _ => ("density", dice.weighted(&[(2, 40), (4, 60)]), dice.weighted(&[(4, 30), (8, 40), (16, 30)])),
    };
    let rules = if number % 100 < 20 { large_rules(number) } else { Rules::default() };
    CreateVm { performance: performance.into(), cpus: Some(cpus), memory: gib(memory), rules, ..asked }
}

/// Four VMs are a unit.
fn unit(number: usize) -> String {
    format!("u{}", number / 4)
}

/// Rules of five kinds.
fn large_rules(number: usize) -> Rules {
    let unit = Selector(vec![requirement("unit", &[&unit(number)])]);
    let near = |anti, strength, domain| VmAffinity { anti, strength, domain, vms: unit.clone() };
    match number % 5 {
        0 => Rules { hosts: vec![Selector(vec![requirement("disk", &["ssd"])])], ..Rules::default() },
        1 => Rules { affinity: vec![near(true, Strength::Required, Domain::Host)], ..Rules::default() },
        2 => Rules { affinity: vec![near(false, Strength::Preferred(50), Domain::Zone)], ..Rules::default() },
        3 => {
            let spread = Spread { vms: unit, ..evenly(Domain::Zone, WhenUnsatisfiable::ScheduleAnyway) };
            Rules { spread: vec![spread], ..Rules::default() }
        }
        _ => {
            let place = |zone: String| Selector(vec![requirement("berth.dev/zone", &[&zone])]);
            Rules { hosts: vec![place(format!("zone-{}", number / 5 % 8))], ..Rules::default() }
        }
    }
}

/// What kind of VM this is, in one word.
pub(crate) fn kind(spec: &VmSpec) -> String {
    spec.performance.to_string()
}

fn small_number(dice: &mut Dice, range: Range<u32>) -> u32 {
    let drawn = dice.within(u64::from(range.start)..u64::from(range.end));
    u32::try_from(drawn).expect("drawn from a range of 32 bits")
}

/// The key that seals secrets, as one controller holds it.
#[derive(Debug)]
pub(crate) struct Key {
    /// Whether it is where it belongs.
    pub(crate) is_there: bool,
}

impl Seal for Key {
    fn seal(&self, secret: &[u8], context: &[u8]) -> Result<Sealed, String> {
        Ok(Sealed { key_id: "k1".into(), nonce: context.to_vec(), ciphertext: secret.iter().rev().copied().collect() })
    }

    fn open(&self, sealed: &Sealed, context: &[u8]) -> Result<UserData, String> {
        if !self.is_there || sealed.nonce != context {
            return Err(format!("no key {} for it", sealed.key_id));
        }
        Ok(UserData(sealed.ciphertext.iter().rev().copied().collect()))
    }
}
