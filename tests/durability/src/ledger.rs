//! A host's ledger as a subject: words about a few VMs, each with a rising epoch.

use std::path::Path;

use anyhow::{Context, ensure};
use berth_host::ledger::Ledger;
use berth_hostd::ledger_store::LedgerStore;
use berth_model::session::{Absent, DesiredEntry};
use berth_model::{Epoch, HostUid, Incarnation, Stamp, VmUid};

use crate::Said;
use crate::said::Word;

/// VMs that are spoken of: few, so that the log says little for its length and is written anew now and then.
const VMS: u64 = 40;

fn host() -> HostUid {
    "host1".parse().expect("it is an identity")
}

fn vm(number: u64) -> VmUid {
    format!("vm{number}").parse().expect("it is an identity")
}

fn epoch_of(ledger: &Ledger, number: u64) -> u64 {
    ledger.entries().get(&vm(number)).map_or(0, |entry| entry.stamp().epoch.0)
}

#[expect(clippy::print_stdout, reason = "the harness listens there")]
fn say(word: Word) {
    println!("{word}");
}

pub(crate) fn write(folder: &Path) -> anyhow::Result<()> {
    let (mut store, mut ledger) = LedgerStore::open(folder, host)?;
    say(Word::Ready);
    let mut epoch = (0..VMS).map(|number| epoch_of(&ledger, number)).max().unwrap_or_default();
    loop {
        epoch += 1;
        let number = epoch % VMS;
        let stamp = Stamp { incarnation: Incarnation(1), epoch: Epoch(epoch) };
        ledger.accept_delta(&[DesiredEntry::Absent(Absent { vm: vm(number), stamp, with_disk: true })], &[]);
        store.append(ledger.take_unsaved())?;
        say(Word::Safe { lane: number, number: epoch });
    }
}

pub(crate) fn verify(folder: &Path, said: &Said) -> anyhow::Result<()> {
    let (_store, ledger) = LedgerStore::open(folder, host).context("the ledger does not open")?;
    for (&lane, &number) in &said.lanes {
        let found = epoch_of(&ledger, lane);
        ensure!(found >= number, "VM {lane}: epoch {number} was acknowledged, the ledger says {found}");
    }
    Ok(())
}
