//! What tuning, devices and rules come to, what is refused with them, and what a change of a VM carries.

use berth_model::host::PciKind;
use berth_model::instancetype::InstanceTypeSpec;
use berth_model::placement::{Domain, Spread, WhenUnsatisfiable};
use berth_model::testing::{IMAGE_SIZE, Machine, name, vm_spec, vm_uid};
use berth_model::vm::{CpuShape, NumaPolicy, Performance, SmtPolicy, Tuning};
use berth_model::{PageSize, Revision};
use berth_state::testing::World;

use super::super::{create_instance_type, create_preference, delete_instance_type, delete_preference};
use super::*;
use crate::error::Kind;
use crate::testing::{Mirror, target, wanted};

fn world() -> World {
    let mut world = World::new();
    world.host(1, Machine { hugepages: 8192, ..Machine::cores(64) }.inventory());
    world.vm(1, vm_spec(2, Bytes::mib(128)));
    world
}

fn admitted(request: &CreateVm) -> VmSpec {
    match create_vm(&world().cluster, request, 7, &Mirror) {
        Ok(Body::CreateVm { spec, .. }) => *spec,
        other => panic!("{other:?}"),
    }
}

fn refusal(request: &CreateVm) -> (&'static str, String) {
    let error = create_vm(&world().cluster, request, 7, &Mirror).unwrap_err();
    assert!(error.hint.is_some(), "{error}");
    (error.code, error.message)
}

#[test]
fn each_template_has_two_words_or_one_and_its_own_pages() {
    for (word, performance, pages) in [
        ("", Performance::High, PageSize::Huge2M),
        ("high", Performance::High, PageSize::Huge2M),
        ("high-performance", Performance::High, PageSize::Huge2M),
        ("standard", Performance::Standard, PageSize::Small),
        ("density", Performance::Density, PageSize::Small),
        ("high-density", Performance::Density, PageSize::Small),
    ] {
        let spec = admitted(&CreateVm { performance: word.into(), ..wanted("web") });
        assert_eq!(
            (spec.performance, spec.tuning),
            (performance, Tuning { pages, ..Tuning::of(performance) }),
            "{word}"
        );
    }
}

#[test]
fn a_wish_of_the_vm_goes_before_the_preference_and_both_before_the_template() {
    let mut world = world();
    let theirs = PreferenceSpec {
        pages: Some(PageSize::Huge1G),
        smt: Some(SmtPolicy::Isolate),
        cpu_shape: Some(CpuShape::Sockets),
        ..PreferenceSpec::default()
    };
    let body = create_preference(&world.cluster, "fast", theirs, 3).unwrap();
    world.done(body);
    let own =
        PreferenceSpec { pages: Some(PageSize::Small), numa: Some(NumaPolicy::Single), ..PreferenceSpec::default() };
    let request = CreateVm { preference: Some("fast".into()), tuning: own, ..wanted("web") };
    let body = create_vm(&world.cluster, &request, 7, &Mirror).unwrap();
    let Body::CreateVm { spec, .. } = body else { panic!("{body:?}") };
    let expected = Tuning {
        pages: PageSize::Small,
        smt: SmtPolicy::Isolate,
        numa: NumaPolicy::Single,
        cpu_shape: CpuShape::Sockets,
        ..Tuning::of(Performance::High)
    };
    assert_eq!((spec.tuning, spec.preference), (expected, Some(name("fast"))));
}

#[test]
fn only_a_pinned_vm_can_ask_for_cores_nodes_and_hugepages() {
    type Wish = fn(&mut PreferenceSpec);
    let wishes: [(Wish, &str); 5] = [
        (|wish| wish.pages = Some(PageSize::Huge2M), "tuning.pages is 2MiB"),
        (|wish| wish.smt = Some(SmtPolicy::Isolate), "tuning.smt is isolate"),
        (|wish| wish.numa = Some(NumaPolicy::Single), "tuning.numa is single"),
        (|wish| wish.dedicated_emulator = Some(true), "tuning.dedicated_emulator is true"),
        (|wish| wish.dedicated_iothreads = Some(1), "tuning.dedicated_iothreads is 1"),
    ];
    for (wish, said) in wishes {
        let mut tuning = PreferenceSpec::default();
        wish(&mut tuning);
        for word in ["standard", "density"] {
            let (code, message) = refusal(&CreateVm { performance: word.into(), tuning, ..wanted("web") });
            assert_eq!(code, "BE-1015");
            assert!(message.starts_with(&format!("{said}, which the template '{word}' cannot give")), "{message}");
        }
        admitted(&CreateVm { tuning, ..wanted("web") });
    }
    let harmless = PreferenceSpec {
        pages: Some(PageSize::Small),
        cpu_shape: Some(CpuShape::Sockets),
        dedicated_emulator: Some(false),
        ..PreferenceSpec::default()
    };
    admitted(&CreateVm { performance: "density".into(), tuning: harmless, ..wanted("web") });
    let many = PreferenceSpec { dedicated_iothreads: Some(17), ..PreferenceSpec::default() };
    let (code, message) = refusal(&CreateVm { tuning: many, ..wanted("web") });
    assert_eq!((code, &message[..]), ("BE-1015", "tuning.dedicated_iothreads is 17; at most 16 are possible"));
}

#[test]
fn a_preference_that_the_template_cannot_give_is_named() {
    let mut world = world();
    let wishes = PreferenceSpec { smt: Some(SmtPolicy::WholeCores), ..PreferenceSpec::default() };
    let body = create_preference(&world.cluster, "cores", wishes, 3).unwrap();
    world.done(body);
    let request = CreateVm { performance: "standard".into(), preference: Some("cores".into()), ..wanted("web") };
    let error = create_vm(&world.cluster, &request, 7, &Mirror).unwrap_err();
    assert!(error.message.starts_with("tuning.smt is whole-cores (preference cores)"), "{error}");
    let (code, message) = refusal(&CreateVm { preference: Some("nobody".into()), ..wanted("web") });
    assert_eq!((code, &message[..]), ("BE-1014", "unknown preference \"nobody\""));
}

#[test]
fn memory_is_a_whole_number_of_the_pages_that_it_lies_on() {
    let pages = |pages| PreferenceSpec { pages: Some(pages), ..PreferenceSpec::default() };
    let request = |memory: u64, tuning| CreateVm { memory: Some(memory), tuning, ..wanted("web") };
    admitted(&request((64 << 20) + 4096, pages(PageSize::Small)));
    let (code, message) = refusal(&request((64 << 20) + 1, pages(PageSize::Small)));
    assert_eq!((code, &message[..]), ("BE-1004", "memory 67108865B is not a whole number of 4KiB pages"));
    let (code, message) = refusal(&request(1536 << 20, pages(PageSize::Huge1G)));
    assert_eq!((code, &message[..]), ("BE-1004", "memory 1536MiB is not a whole number of 1GiB hugepages"));
}

fn demand(count: u32) -> DeviceDemand {
    DeviceDemand { kind: "10de:2204".parse().unwrap(), count }
}

#[test]
fn devices_are_counted_and_refused_by_field() {
    let request = |devices: Vec<DeviceDemand>| CreateVm { devices, ..wanted("web") };
    let other = DeviceDemand { kind: PciKind { vendor: 1, product: 2 }, count: 31 };
    for (devices, message) in [
        (vec![demand(0)], "devices[0].count is 0; a VM has 1 to 32 devices"),
        (vec![demand(33)], "devices[0].count is 33; a VM has 1 to 32 devices"),
        (vec![demand(1), demand(2)], "devices[1].kind 10de:2204 is given twice"),
        (vec![demand(2), other], "devices: 33 are asked for, at most 32 are possible"),
    ] {
        assert_eq!(refusal(&request(devices)), ("BE-1016", message.to_owned()));
    }
    let (code, message) = refusal(&CreateVm { performance: "density".into(), ..request(vec![demand(1)]) });
    assert_eq!(code, "BE-1016");
    assert!(message.contains("'density'"), "{message}");
}

#[test]
fn a_vm_whose_devices_find_no_interrupt_vectors_is_refused_with_the_numbers() {
    let request = CreateVm { cpus: Some(32), devices: vec![demand(8)], ..wanted("web") };
    let (code, message) = refusal(&request);
    let expected = "1 disks, 1 network cards and 8 passed-through devices of a VM of 32 CPUs need 291 interrupt vectors \
                    even with one queue each, a guest has 200";
    assert_eq!((code, &message[..]), ("BE-1017", expected));
}

#[test]
fn rules_are_checked_and_kept() {
    let spread = |max_skew| Spread {
        domain: Domain::Host,
        max_skew,
        when_unsatisfiable: WhenUnsatisfiable::DoNotSchedule,
        vms: "app=web".parse().unwrap(),
    };
    let rules = |max_skew| Rules { spread: vec![spread(max_skew)], priority: 3, ..Rules::default() };
    assert_eq!(admitted(&CreateVm { rules: rules(1), ..wanted("web") }).rules, rules(1));
    assert_eq!(refusal(&CreateVm { rules: rules(0), ..wanted("web") }).0, "BE-1018");
}

fn updated(world: &World, fields: &[&str], to: CreateVm) -> Result<(VmSpec, Expect), Error> {
    let fields = fields.iter().map(|field| (*field).to_owned()).collect();
    match update_vm(&world.cluster, &target("vm-1"), &UpdateVm { fields, to })? {
        Body::SetSpec { vm, spec, expect } if vm == vm_uid(1) => Ok((*spec, expect)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_change_takes_only_the_fields_that_are_named_and_writes_over_what_was_read_only() {
    let world = world();
    let held = &world.cluster.vms[&vm_uid(1)];
    let to = CreateVm {
        cpus: Some(4),
        memory: Some(1 << 30),
        performance: "density".into(),
        rules: Rules { priority: 9, host_group: Some(name("x")), ..Rules::default() },
        ..CreateVm::default()
    };
    let (spec, expect) = updated(&world, &["cpus", "rules.priority"], to.clone()).unwrap();
    let rules = Rules { priority: 9, ..held.spec.rules.clone() };
    assert_eq!(spec, VmSpec { cpus: 4, rules, ..held.spec.clone() });
    assert_eq!(expect.revision, Some(held.meta.revision));
    let (spec, _) = updated(&world, &["performance"], to).unwrap();
    let tuning = Tuning::of(Performance::Density);
    assert_eq!(spec, VmSpec { performance: Performance::Density, tuning, ..held.spec.clone() });
    let seen = Target { revision: Some(5), ..target("vm-1") };
    let request = UpdateVm { fields: vec!["rules".into()], to: CreateVm::default() };
    let body = update_vm(&world.cluster, &seen, &request).unwrap();
    assert!(matches!(body, Body::SetSpec { expect, .. } if expect.revision == Some(Revision(5))));
}

#[test]
fn a_change_of_size_is_by_name_or_by_numbers() {
    let world = world();
    let by_name = CreateVm { instance_type: Some("standard-2".into()), ..CreateVm::default() };
    let (spec, _) = updated(&world, &["instance_type"], by_name.clone()).unwrap();
    assert_eq!((spec.instance_type, spec.cpus, spec.memory), (Some(name("standard-2")), 2, Bytes::gib(8)));
    let both = CreateVm { cpus: Some(3), ..by_name };
    assert_eq!(updated(&world, &["instance_type", "cpus"], both).unwrap_err().code, "BE-1007");
    assert_eq!(updated(&world, &["cpus"], CreateVm::default()).unwrap_err().code, "BE-1012");
    let absurd = CreateVm { cpus: Some(1000), ..CreateVm::default() };
    assert_eq!(updated(&world, &["cpus"], absurd).unwrap_err().code, "BE-1003");
}

#[test]
fn what_cannot_be_changed_is_refused_by_field() {
    let world = world();
    let error = updated(&world, &["rules", "user_data"], CreateVm::default()).unwrap_err();
    assert_eq!((error.code, &error.message[..]), ("BE-1007", "fields[1]: \"user_data\" cannot be changed"));
    assert_eq!(updated(&world, &[], CreateVm::default()).unwrap_err().code, "BE-1012");
    let smaller = CreateVm { disk_size: Some(IMAGE_SIZE.0 / 2), ..CreateVm::default() };
    assert_eq!(updated(&world, &["disk_size_bytes"], smaller).unwrap_err().code, "BE-1006");
}

#[test]
fn instance_types_and_preferences_are_made_within_the_limits_of_vms() {
    let world = world();
    let view = &world.cluster;
    let body = create_instance_type(view, "big", 16, 64 << 30, 3).unwrap();
    let spec = InstanceTypeSpec { cpus: 16, memory: Bytes::gib(64) };
    assert_eq!(body, Body::CreateInstanceType { uid: Uid::from_bits(3), name: name("big"), spec });
    let code = |result: Result<Body, Error>| result.unwrap_err().code;
    assert_eq!(code(create_instance_type(view, "Big", 16, 64 << 30, 3)), "BE-1001");
    assert_eq!(code(create_instance_type(view, "big", 0, 64 << 30, 3)), "BE-1003");
    assert_eq!(code(create_instance_type(view, "big", 1, (64 << 20) + 4096, 3)), "BE-1004");
    assert_eq!(code(create_instance_type(view, "standard-2", 1, 64 << 20, 3)), "BE-2001");
    let wish = PreferenceSpec { dedicated_emulator: Some(true), ..PreferenceSpec::default() };
    assert!(create_preference(view, "own", wish, 3).is_ok());
    assert_eq!(code(create_preference(view, "own", PreferenceSpec::default(), 3)), "BE-1012");
    let many = PreferenceSpec { dedicated_iothreads: Some(99), ..PreferenceSpec::default() };
    assert_eq!(code(create_preference(view, "own", many, 3)), "BE-1015");
    assert_eq!(code(create_preference(view, "sockets-advantage", wish, 3)), "BE-2001");
    let missing = delete_instance_type(view, &"x".repeat(100_000)).unwrap_err();
    assert_eq!((missing.kind, missing.code), (Kind::NotFound, "BE-2002"));
    assert!(missing.message.len() < 200);
    assert_eq!(code(delete_preference(view, "nobody")), "BE-2002");
    assert_eq!(delete_preference(view, "sockets-advantage").unwrap().name(), "DeletePreference");
}
