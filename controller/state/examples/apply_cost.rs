//! What one change costs in apply, history and digest included, and what the history takes: run it with `--release`.

#![expect(clippy::print_stdout, reason = "it is a measurement, and prints what it found")]

use std::collections::BTreeMap;
use std::time::Instant;

use berth_model::image::ImageRef;
use berth_model::placement::Rules;
use berth_model::vm::{Performance, RunStrategy, Tuning, VmSpec};
use berth_model::{Actor, ActorRole, Bytes, Millis, Name, Timestamp, Uid, VmUid};
use berth_state::{Batch, Body, Cluster, Command, Expect, apply, record};

const VMS: u64 = 10_000;
const CHANGES: u64 = 300_000;

fn main() {
    let actor = Actor { role: ActorRole::Operator, name: "ada".into() };
    let mut at = Timestamp::from_millis(1_800_000_000_000);
    let mut cluster = Cluster::default();
    let mut run = |cluster: &mut Cluster, body: Body| {
        at = at.plus(Millis(1));
        let command = Command { request: None, actor: actor.clone(), body };
        let (answers, _) = apply::apply(cluster, &Batch { at, commands: vec![command] });
        assert!(answers[0].result.is_ok(), "{answers:?}");
    };
    let id = "bench".parse().expect("a good id");
    run(&mut cluster, Body::Bootstrap { cluster: id, version: Cluster::NEWEST_VERSION });
    let spec = VmSpec {
        instance_type: None,
        cpus: 2,
        memory: Bytes::mib(512),
        preference: None,
        performance: Performance::High,
        tuning: Tuning::of(Performance::High),
        devices: Vec::new(),
        rules: Rules::default(),
        image: ImageRef {
            name: "tiny".parse().expect("a good name"),
            sha256: berth_model::image::Sha256Digest([7; 32]),
            virtual_size: Bytes::mib(64),
        },
        disk_size: Bytes::mib(64),
        run: RunStrategy::Always,
        grace: VmSpec::GRACE,
        user_data: None,
    };
    let vm = |number: u64| VmUid(Uid::from_bits(u128::from(number) * 0x9e37_79b9_7f4a_7c15_f39c_c060));
    for number in 0..VMS {
        let name: Name = format!("vm-{number}").parse().expect("a good name");
        let labels = BTreeMap::from([("tier".to_owned(), "web".to_owned())]);
        let (project, annotations) = (Name::default_project(), BTreeMap::new());
        let spec = Box::new(spec.clone());
        run(&mut cluster, Body::CreateVm { uid: vm(number), project, name, labels, annotations, spec });
    }
    let began = Instant::now();
    for number in 0..CHANGES {
        let run_strategy = if (number / VMS).is_multiple_of(2) { RunStrategy::Halted } else { RunStrategy::Always };
        run(&mut cluster, Body::SetRun { vm: vm(number % VMS), run: run_strategy, expect: Expect::default() });
        // What a publisher does after each entry: the copy makes every later change copy its path.
        std::hint::black_box(cluster.clone());
    }
    let took = began.elapsed();
    println!("{:.2} µs a change", took.as_secs_f64() * 1e6 / 300_000.0);
    let history = &cluster.history;
    println!("{} changes, {} bytes, {} in memory", history.len(), history.bytes(), history.packed_bytes());
    let began = Instant::now();
    let snapshot = record::encode_snapshot(&cluster).expect("it can be written");
    println!("a snapshot of {} bytes in {:.0?}", snapshot.len(), began.elapsed());
    let began = Instant::now();
    let restored = record::decode_snapshot(&snapshot).expect("it can be read");
    println!("read in {:.0?}", began.elapsed());
    assert!(restored.digest() == cluster.digest());
}
