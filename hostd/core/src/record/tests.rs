use berth_model::session::Absent;
use berth_model::vm::{Ended, StopReason};
use berth_model::{BootId, Incarnation, Term, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::clock::BootTime;
use crate::journal::{Journal, Run};
use crate::ledger::{Entry, Ledger};
use crate::testing::{always, cluster, host, stamp, vm};

fn hex(record: Record) -> String {
    encode(record).unwrap().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn present() -> Record {
    let mut ledger = Ledger::new(host());
    ledger.accept_set(&[always(1, 5)]);
    Record::Entry(ledger.entries()[&vm(1)].clone())
}

fn one_of_each() -> Vec<(Record, &'static str)> {
    let absent = Absent { vm: vm(2), stamp: stamp(300), with_disk: true };
    let journal = Journal {
        restart_done: 3,
        resume_done: 300,
        reset_done: 5,
        begun: true,
        failures: 2,
        next_try: Some(BootTime::from_millis(1000)),
        run: Run::Stopped { reason: StopReason::Crashed, since: Timestamp::from_millis(9) },
        last_end: Some(Ended { reason: StopReason::Panicked, at: Timestamp::from_millis(8) }),
        gone: Some(stamp(4)),
    };
    let run = Run::Running { since: Timestamp::from_millis(9), from: None };
    vec![
        (Record::Host(host()), "425254480103010006000000c21afd3f05686f737431"),
        (Record::Boot(BootId("b1".into())), "425254480203010003000000bf8bce1c026231"),
        (
            Record::Cluster { cluster: cluster(), incarnation: Incarnation(2), term: Term(300) },
            "42525448030301000700000074a7161b036c616202ac02",
        ),
        (
            present(),
            "42525448040301008a000000b562514a0003766d3101050764656661756c74047765623101808080800100010000000000000474696e794030373037303730373037303730373037303730373037303730373037303730373037303730373037303730373037303730373037303730373037303730373037808080800400b0ea0101010000010001000001000180018080803400000000000000",
        ),
        (Record::Entry(Entry::Absent(absent)), "4252544804030100090000008f22a9640103766d3201ac0201"),
        (Record::Forget(vm(1)), "4252544805030100040000002611de1303766d31"),
        (
            Record::Journal(vm(1), journal),
            "425254480603010016000000f7e7e15303766d3103ac0205010201e807020309010608010104",
        ),
        (
            Record::Journal(vm(2), Journal { run, ..Journal::default() }),
            "42525448060301000f00000016a4d70803766d320000000000000109000000",
        ),
    ]
}

#[test]
fn the_bytes_of_every_record_of_version_1_are_these() {
    for (record, golden) in one_of_each() {
        assert_eq!(hex(record.clone()), golden, "{record:?}");
    }
}

#[test]
fn what_is_written_is_read() {
    for (record, _) in one_of_each() {
        let mut bytes = encode(record.clone()).unwrap();
        let length = bytes.len();
        bytes.extend_from_slice(b"more");
        assert_eq!(decode(&bytes).unwrap(), (record, length));
    }
}

#[test]
fn an_unknown_kind_or_version_is_named_and_never_skipped() {
    let later = berth_frame::encode_value(kind::ENTRY, 2, &1_u8).unwrap();
    assert!(matches!(decode(&later), Err(RecordError::Unknown { kind: 0x0304, version: 2 })));
    let other = berth_frame::encode_value(0x03ff, 1, &1_u8).unwrap();
    let error = decode(&other).unwrap_err();
    assert!(matches!(error, RecordError::Unknown { kind: 0x03ff, version: 1 }));
    assert!(error.to_string().contains("start the version that wrote it"), "{error}");
}

#[test]
fn a_record_cut_short_is_told_from_a_damaged_one() {
    let bytes = encode(present()).unwrap();
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).unwrap_err().is_cut_short());
    }
    let mut damaged = bytes;
    damaged[20] ^= 1;
    assert!(!decode(&damaged).unwrap_err().is_cut_short());
}

proptest! {
    #[test]
    fn reading_arbitrary_bytes_never_panics(body: Vec<u8>, kind in 0x0300_u16..0x0308) {
        let _ = decode(&body);
        let _ = decode(&berth_frame::encode(kind, 1, &body).unwrap());
    }
}
