//! Manifests that are understood, and those that are refused with a place.

use super::*;
use insta::assert_snapshot;

const GOOD: &str = "\
apiVersion: berth/v1
kind: VirtualMachine
metadata:
  name: web-1
  labels: { app: web }
spec:
  image: tiny
  cpus: 2
  memory: 256MiB
  diskSize: 134217728
  runStrategy: Halted
  userData: |
    #cloud-config
";

fn refusal(text: &str) -> String {
    parse("vm.yaml", text, "default").unwrap_err().render(false)
}

#[test]
fn a_manifest_becomes_the_request_that_the_arguments_would_make() {
    let request = parse("vm.yaml", GOOD, "shop").unwrap().remove(0);
    assert_eq!((request.project.as_str(), request.name.as_str()), ("shop", "web-1"));
    assert_eq!(request.labels["app"], "web");
    let spec = request.spec.unwrap();
    assert_eq!(spec.cpus, Some(2));
    assert_eq!(spec.memory_bytes, Some(256 << 20));
    assert_eq!(spec.disk_size_bytes, Some(128 << 20));
    assert_eq!(spec.run_strategy(), v1::RunStrategy::Halted);
    assert_eq!(spec.user_data.unwrap(), b"#cloud-config\n");
}

#[test]
fn several_documents_are_several_vms_and_empty_ones_none() {
    let two = format!("---\n{GOOD}---\n---\n{}", GOOD.replace("web-1", "web-2"));
    let names: Vec<_> = parse("vm.yaml", &two, "default").unwrap().into_iter().map(|request| request.name).collect();
    assert_eq!(names, ["web-1", "web-2"]);
}

#[test]
fn an_unknown_field_is_refused_with_its_place_and_the_nearest_known_one() {
    assert_snapshot!(refusal(&GOOD.replace("memory:", "memmory:")), @r"
    error[BE-1007]: vm.yaml:9:3: unknown field `memmory`
    hint: did you mean `memory`?
    ");
    assert_snapshot!(refusal(&GOOD.replace("cpus:", "gpus_of_a_kind:")), @r"
    error[BE-1007]: vm.yaml:8:3: unknown field `gpus_of_a_kind`
    hint: known are `instanceType`, `cpus`, `memory`, `performance`, `preference`, `tuning`, `devices`, `rules`, `image`, `diskSize`, `runStrategy`, `userData`
    ");
}

#[test]
fn the_place_in_a_later_document_counts_from_the_top_of_the_file() {
    let two = format!("{GOOD}---\n{}", GOOD.replace("labels:", "lables:"));
    assert_snapshot!(refusal(&two), @r"
    error[BE-1007]: vm.yaml:19:3: unknown field `lables`
    hint: did you mean `labels`?
    ");
}

#[test]
fn another_kind_version_or_shape_is_refused_with_its_place() {
    assert_snapshot!(refusal(&GOOD.replace("kind: VirtualMachine", "kind: VirtualMachin")), @r"
    error[BE-1007]: vm.yaml:2:7: unknown value `VirtualMachin`
    hint: did you mean `VirtualMachine`?
    ");
    assert_snapshot!(refusal(&GOOD.replace("berth/v1", "kubevirt.io/v1")), @r"
    error[BE-1007]: vm.yaml:1:13: unknown value `kubevirt.io/v1`
    hint: known are `berth/v1`
    ");
    assert_snapshot!(refusal(&GOOD.replace("cpus: 2", "cpus: two")), @"error[BE-1007]: vm.yaml:8:9: this is not a whole number");
    assert_snapshot!(refusal(&GOOD.replace("memory: 256MiB", "memory: 256 MB")), @r#"error[BE-1007]: vm.yaml:9:11: "256 MB" is not an amount of memory; write a whole number and a unit: 256MiB, 8GiB, or plain bytes"#);
    assert_snapshot!(refusal(&GOOD.replace("name: web-1", "name: Web_1")), @"error[BE-1007]: vm.yaml:4:9: a name holds only a-z, 0-9 and '-', not 'W'");
    assert_snapshot!(refusal(&GOOD.replace("  image: tiny\n", "")), @"error[BE-1007]: vm.yaml:11:3: the field `image` is missing");
    assert_snapshot!(refusal("kind: [\n"), @"error[BE-1007]: vm.yaml:1:7: one word is expected here");
    assert_snapshot!(refusal("\n"), @"error[BE-1007]: vm.yaml holds no document");
}

#[test]
fn a_file_of_a_hundred_megabytes_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.yaml");
    std::fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let failure = read(&path, "default").unwrap_err();
    assert_eq!(failure.code_text(), Some("BE-1009"));
    assert!(failure.to_string().ends_with("4 MiB that a manifest may have: it has 104857600 bytes"), "{failure}");
}

#[test]
fn a_stream_without_end_is_refused_at_the_limit() {
    let failure = limited("standard input", std::io::repeat(b'a')).unwrap_err();
    assert_eq!(failure.code_text(), Some("BE-1009"));
}

#[test]
fn a_manifest_says_how_a_vm_gets_its_resources_and_where_it_may_run() {
    let text = format!(
        "{GOOD}  performance: high-performance\n  preference: fast\n  tuning: {{ pages: never, smt: isolate }}\n  \
         devices: [{{ kind: '10de:2204' }}]\n  rules:\n    hosts: [gpu]\n    spread: [{{ domain: zone, maxSkew: 1, vms: app=web }}]\n"
    );
    let spec = parse("vm.yaml", &text, "shop").unwrap().remove(0).spec.unwrap();
    assert_eq!((spec.performance(), spec.preference.as_str()), (v1::Performance::High, "fast"));
    assert_eq!(spec.tuning.unwrap().pages(), v1::PageSize::PageSize4k);
    assert_eq!((spec.devices[0].kind.as_str(), spec.devices[0].count), ("10de:2204", 1));
    let rules = spec.rules.unwrap();
    assert_eq!(rules.spread[0].when_unsatisfiable(), v1::WhenUnsatisfiable::DoNotSchedule);
    assert_eq!(rules.hosts[0].all[0].operator(), v1::Operator::Exists);
}

#[test]
fn a_rule_that_is_misspelt_is_refused_with_its_place() {
    let said = refusal(&format!("{GOOD}  rules: {{ hosts: ['a=b,'] }}\n"));
    assert!(said.contains("BE-1007") && said.contains("is not a term"), "{said}");
    let said = refusal(&format!("{GOOD}  rules: {{ spreads: [] }}\n"));
    assert!(said.contains("unknown field `spreads`") && said.contains("`spread`"), "{said}");
}
