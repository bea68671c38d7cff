use std::fmt::Write as _;
use std::fs;

use tempfile::TempDir;

use super::*;

/// Unpacks a fixture: lines of `path: content`.
fn machine(text: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (path, content) = line.split_once(": ").unwrap();
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{content}\n")).unwrap();
    }
    root
}

/// One line a core: `core 0: threads 0,8 socket 0 node 0`.
fn shown(topology: &Topology) -> String {
    let mut text = String::new();
    for core in topology.cores() {
        let threads: ThreadSet = topology.siblings(core).collect();
        let one = topology.thread(threads.iter().next().unwrap()).unwrap();
        writeln!(text, "core {core}: threads {threads} socket {} node {}", one.socket, one.node).unwrap();
    }
    text
}

#[test]
fn a_small_virtual_machine_has_two_cores_of_one_thread() {
    let root = machine(include_str!("../../fixtures/two-cpu-vm.tree"));
    let topology = read(root.path()).unwrap();
    assert_eq!(shown(&topology), "core 0: threads 0 socket 0 node 0\ncore 1: threads 1 socket 0 node 0\n");
}

#[test]
fn on_two_sockets_equal_core_ids_are_different_cores() {
    let root = machine(include_str!("../../fixtures/two-socket-smt.tree"));
    let topology = read(root.path()).unwrap();
    assert_eq!(
        shown(&topology),
        "core 0: threads 0,8 socket 0 node 0\n\
         core 1: threads 1,9 socket 0 node 0\n\
         core 2: threads 2,10 socket 0 node 0\n\
         core 3: threads 3,11 socket 0 node 0\n\
         core 4: threads 4,12 socket 1 node 1\n\
         core 5: threads 5,13 socket 1 node 1\n\
         core 6: threads 6,14 socket 1 node 1\n\
         core 7: threads 7,15 socket 1 node 1\n"
    );
    assert_eq!(topology.host_reserve(2).to_string(), "0-1,8-9");
    assert!(topology.threads.is_sorted_by_key(|thread| thread.id));
}

#[test]
fn on_many_nodes_an_offline_thread_is_left_out_and_its_sibling_stays() {
    let root = machine(include_str!("../../fixtures/many-nodes-one-offline.tree"));
    let topology = read(root.path()).unwrap();
    assert_eq!(
        shown(&topology),
        "core 0: threads 0,8 socket 0 node 0\n\
         core 1: threads 1,9 socket 0 node 0\n\
         core 2: threads 2 socket 0 node 1\n\
         core 3: threads 3,11 socket 0 node 1\n\
         core 4: threads 4,12 socket 0 node 2\n\
         core 5: threads 5,13 socket 0 node 2\n\
         core 6: threads 6,14 socket 0 node 3\n\
         core 7: threads 7,15 socket 0 node 3\n"
    );
}

#[test]
fn a_laptop_without_numa_folders_is_all_node_0() {
    let root = machine(include_str!("../../fixtures/laptop-no-numa.tree"));
    let topology = read(root.path()).unwrap();
    assert_eq!(shown(&topology), "core 0: threads 0-1 socket 0 node 0\ncore 1: threads 2-3 socket 0 node 0\n");
}

#[test]
fn this_machine_is_read_whole() {
    let topology = read(Path::new("/")).unwrap();
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert_eq!(topology.threads.iter().map(|thread| thread.id).collect::<ThreadSet>(), online.parse().unwrap());
}

#[test]
fn a_slice_keeps_the_numbers_and_refuses_threads_that_are_not_online() {
    let root = machine(include_str!("../../fixtures/many-nodes-one-offline.tree"));
    let whole = read(root.path()).unwrap();
    let slice = restrict(&whole, &"4-5,12".parse().unwrap()).unwrap();
    assert_eq!(shown(&slice), "core 4: threads 4,12 socket 0 node 2\ncore 5: threads 5 socket 0 node 2\n");
    let refused = restrict(&whole, &"9-10".parse().unwrap()).unwrap_err();
    assert!(matches!(refused, Error::ThreadNotOnline(ThreadId(10))), "{refused}");
}

#[test]
fn errors_name_the_file() {
    let root = machine(include_str!("../../fixtures/two-cpu-vm.tree"));
    let package = root.path().join("sys/devices/system/cpu/cpu1/topology/physical_package_id");
    fs::write(&package, "one\n").unwrap();
    let malformed = read(root.path()).unwrap_err().to_string();
    assert!(malformed.contains("cpu1/topology/physical_package_id") && malformed.contains("\"one\""), "{malformed}");
    fs::remove_file(&package).unwrap();
    let missing = read(root.path()).unwrap_err().to_string();
    assert!(missing.contains("cpu1/topology/physical_package_id"), "{missing}");
    fs::write(&package, "0\n").unwrap();
    fs::write(root.path().join("sys/devices/system/node/node0/cpulist"), "0\n").unwrap();
    let homeless = read(root.path()).unwrap_err().to_string();
    assert!(homeless.contains("CPU 1") && homeless.contains("sys/devices/system/node"), "{homeless}");
}

#[test]
fn threads_know_the_last_cache_that_they_share() {
    let root = machine(include_str!("../../fixtures/two-caches.tree"));
    let topology = read(root.path()).unwrap();
    let caches: Vec<_> = topology.threads.iter().map(|thread| thread.cache).collect();
    assert_eq!(caches, [0, 0, 1, 1, 0, 0, 1, 1]);
}

#[test]
fn without_a_word_on_caches_a_socket_is_taken_for_one() {
    let root = machine(include_str!("../../fixtures/two-socket-smt.tree"));
    let topology = read(root.path()).unwrap();
    assert!(topology.threads.iter().all(|thread| thread.cache == thread.socket));
}
