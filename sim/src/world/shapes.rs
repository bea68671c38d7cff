//! What hosts and VMs of the simulated worlds look like. New demands and rules of VMs come in here.

use std::ops::Range;

use berth_control::Seal;
use berth_control::admit::CreateVm;
use berth_model::host::Inventory;
use berth_model::session::UserData;
use berth_model::testing::{IMAGE_SIZE, Machine};
use berth_model::vm::VmSpec;
use berth_model::{Bytes, Sealed};

use crate::dice::Dice;

/// The image that every host holds and every VM starts from.
pub(crate) const IMAGE: &str = "tiny";

/// A host of a history: with one of three away, the others still hold all VMs that clients ever keep.
pub(crate) fn small_machine(dice: &mut Dice) -> Machine {
    let nodes = 1 + u32::from(dice.percent(50));
    let threads = 1 + u32::from(dice.percent(50));
    let all = if threads == 2 { 24..32 } else { 44..60 };
    let cores = number(dice, all) / nodes;
    Machine { nodes, cores, threads, reserve: 1, hugepages: u64::from(4096 / nodes), ordinary: Bytes::gib(16) }
}

/// The same host with half of its cores and pages gone.
pub(crate) fn halved(whole: Machine) -> Inventory {
    Machine { cores: (whole.cores / 2).max(2), hugepages: whole.hugepages / 2, ..whole }.inventory()
}

/// A VM of a history.
pub(crate) fn small_vm(dice: &mut Dice, name: String) -> CreateVm {
    CreateVm {
        name,
        cpus: Some(number(dice, 1..4)),
        memory: Some(Bytes::mib(2 * dice.within(32..129)).0),
        image: IMAGE.into(),
        disk_size: Some(2 * IMAGE_SIZE.0),
        run: if dice.percent(10) { "Halted".into() } else { String::new() },
        user_data: dice.percent(40).then(|| b"#cloud-config".to_vec()),
        ..CreateVm::default()
    }
}

/// A host of a large world: two sockets with 32 cores of two threads each, 512 GiB of which nearly all are hugepages.
pub(crate) const fn large_machine() -> Machine {
    Machine { nodes: 2, cores: 32, threads: 2, reserve: 2, hugepages: 114_688, ordinary: Bytes::gib(24) }
}

/// A VM of a large world.
pub(crate) fn large_vm(dice: &mut Dice, name: String) -> CreateVm {
    // One to four threads, so that fifty of them fill a host as far as it should be.
    let cpus = dice.weighted(&[(1, 40), (2, 40), (4, 20)]);
    let memory = dice.weighted(&[(Bytes::gib(4), 40), (Bytes::gib(8), 40), (Bytes::gib(16), 20)]);
    CreateVm {
        name,
        cpus: Some(cpus),
        memory: Some(memory.0),
        image: IMAGE.into(),
        disk_size: Some(2 * IMAGE_SIZE.0),
        ..CreateVm::default()
    }
}

/// What kind of VM this is, in one word.
pub(crate) fn kind(spec: &VmSpec) -> String {
    spec.performance.to_string()
}

fn number(dice: &mut Dice, range: Range<u32>) -> u32 {
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
