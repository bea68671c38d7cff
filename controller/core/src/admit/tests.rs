//! What is let through with which defaults, and what is refused with which code and advice.

use std::collections::BTreeMap;

use berth_model::image::ImageSpec;
use berth_model::placement::Rules;
use berth_model::testing::{IMAGE_SIZE, Machine, digest, image_ref, name, vm_uid};
use berth_model::vm::{Performance, RunStrategy, Tuning, VmSpec};
use berth_model::{Bytes, ImageUid, Uid};
use berth_state::testing::World;
use berth_state::{Body, Cluster};

use super::{CreateImage, CreateVm, Target, UpdateLabels, create_image, create_vm, find_vm, update_labels};
use crate::error::{Error, Kind};
use crate::testing::{Mirror, target, wanted};

/// A cluster with a host of eight cores, the image `tiny` and a VM `vm-1`.
fn view() -> Cluster {
    let mut world = World::new();
    world.host(1, Machine::cores(8).inventory());
    world.vm(1, berth_model::testing::vm_spec(1, Bytes::mib(64)));
    world.cluster
}

fn admitted(view: &Cluster, request: &CreateVm) -> VmSpec {
    match create_vm(view, request, 7, &Mirror) {
        Ok(Body::CreateVm { spec, .. }) => *spec,
        other => panic!("{other:?}"),
    }
}

fn refused(change: impl FnOnce(&mut CreateVm)) -> Error {
    let mut request = wanted("web");
    change(&mut request);
    create_vm(&view(), &request, 7, &Mirror).unwrap_err()
}

#[test]
fn every_default_is_expanded_and_stored_by_value() {
    let request = CreateVm { disk_size: None, ..wanted("web") };
    let expected = VmSpec {
        instance_type: None,
        cpus: 2,
        memory: Bytes::mib(128),
        preference: None,
        performance: Performance::High,
        tuning: Tuning::of(Performance::High),
        devices: Vec::new(),
        rules: Rules::default(),
        image: image_ref(),
        disk_size: IMAGE_SIZE,
        run: RunStrategy::Always,
        grace: VmSpec::GRACE,
        user_data: None,
    };
    let body = create_vm(&view(), &request, 7, &Mirror).unwrap();
    let Body::CreateVm { uid, project, name: called, labels, annotations, spec } = body else { panic!("{body:?}") };
    assert_eq!((uid, project, called), (vm_uid(7), name("default"), name("web")));
    assert_eq!((*spec, labels, annotations), (expected, BTreeMap::new(), BTreeMap::new()));
}

#[test]
fn an_instance_type_gives_the_size_and_is_kept_as_a_name_only() {
    let mut world = World::new();
    world.host(1, Machine { hugepages: 8192, ..Machine::cores(8) }.inventory());
    let request = CreateVm {
        instance_type: Some("standard-2".into()),
        cpus: None,
        memory: None,
        run: "Halted".into(),
        ..wanted("web")
    };
    let spec = admitted(&world.cluster, &request);
    assert_eq!((spec.cpus, spec.memory, spec.run), (2, Bytes::gib(8), RunStrategy::Halted));
    assert_eq!(spec.instance_type, Some(name("standard-2")));
}

#[test]
fn user_data_is_sealed_for_its_vm_and_never_shows() {
    let secret = b"#cloud-config\npassword: hunter2\n".to_vec();
    let request = CreateVm { user_data: Some(secret.clone()), ..wanted("web") };
    assert!(!format!("{request:?}").contains("hunter2"));
    let body = create_vm(&view(), &request, 7, &Mirror).unwrap();
    let shown = format!("{body:?}");
    assert!(shown.contains("Sealed(32 bytes under key k1)"), "{shown}");
    assert!(!shown.contains("hunter2") && !shown.contains("104, 117, 110, 116, 101, 114"), "{shown}");
    let Body::CreateVm { uid, spec, .. } = body else { unreachable!() };
    let sealed = spec.user_data.unwrap();
    assert_ne!(sealed.ciphertext, secret);
    let open = |for_whom: &str| crate::Seal::open(&Mirror, &sealed, for_whom.as_bytes());
    assert_eq!(open(uid.0.as_str()).unwrap().0, secret);
    assert!(open(vm_uid(8).0.as_str()).is_err(), "it cannot be moved to another VM");
    assert_eq!(admitted(&view(), &CreateVm { user_data: Some(Vec::new()), ..wanted("web") }).user_data, None);
}

#[test]
fn user_data_that_cannot_be_sealed_is_our_fault_and_the_reason_is_for_the_log() {
    struct NoKey;
    impl crate::Seal for NoKey {
        fn seal(&self, _: &[u8], _: &[u8]) -> Result<berth_model::Sealed, String> {
            Err("the key file is gone".into())
        }
        fn open(&self, _: &berth_model::Sealed, _: &[u8]) -> Result<berth_model::session::UserData, String> {
            Err("the key file is gone".into())
        }
    }
    let request = CreateVm { user_data: Some(b"x".to_vec()), ..wanted("web") };
    let error = create_vm(&view(), &request, 7, &NoKey).unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Internal, "BE-9001"));
    assert_eq!(error.context.as_deref(), Some("the key file is gone"));
    assert!(!error.message.contains("key file"));
}

/// Each bad input: what is asked, the code, the message, the advice.
#[test]
fn each_bad_input_has_a_code_a_reason_and_advice() {
    type Change = fn(&mut CreateVm);
    let names = "use 1 to 63 characters of a-z, 0-9 and '-', with a letter or digit at both ends, such as web-1";
    let sizes = "give an instance type, or both cpus and memory";
    let images = "'berth image list' shows what is there, 'berth image create' makes one known";
    let keys = "keys are [prefix/]name with at most 63 characters of letters, digits, '-', '_' and '.' in the name";
    let table: &[(Change, &str, &str, &str)] = &[
        (
            |request| request.name = "Web_1".into(),
            "BE-1001",
            "VM name \"Web_1\" is not a valid name: a name holds only a-z, 0-9 and '-', not 'W'",
            names,
        ),
        (
            |request| request.name.clear(),
            "BE-1001",
            "VM name \"\" is not a valid name: a name must not be empty",
            names,
        ),
        (
            |request| request.project = "-".into(),
            "BE-1001",
            "project \"-\" is not a valid name: a name must start and end with a letter or a digit",
            names,
        ),
        (
            |request| {
                (request.instance_type, request.cpus, request.memory) = (Some("huge-1".into()), None, None);
            },
            "BE-1002",
            "unknown instance type \"huge-1\"",
            "known are standard-2, standard-4, standard-8",
        ),
        (
            |request| request.instance_type = Some("standard-2".into()),
            "BE-1007",
            "an instance type and cpus or memory are both given",
            "give either the instance type or cpus and memory",
        ),
        (
            |request| request.cpus = Some(0),
            "BE-1003",
            "cpus is 0; a VM has 1 to 248",
            "2 to 8 are usual; with the template 'high' each gets a CPU thread of the host for itself",
        ),
        (
            |request| request.cpus = Some(249),
            "BE-1003",
            "cpus is 249; a VM has 1 to 248",
            "2 to 8 are usual; with the template 'high' each gets a CPU thread of the host for itself",
        ),
        (|request| request.cpus = None, "BE-1012", "cpus is missing", sizes),
        (|request| request.memory = None, "BE-1012", "memory is missing", sizes),
        (
            |request| request.memory = Some(32 << 20),
            "BE-1004",
            "memory is 32MiB; a VM has 64MiB to 1TiB",
            "give it with its unit, such as 4GiB",
        ),
        (
            |request| request.memory = Some(u64::MAX),
            "BE-1004",
            "memory is 18446744073709551615B; a VM has 64MiB to 1TiB",
            "give it with its unit, such as 4GiB",
        ),
        (
            |request| request.memory = Some(65 << 20),
            "BE-1004",
            "memory 65MiB is not a whole number of 2MiB hugepages",
            "use a multiple of 2MiB",
        ),
        (|request| request.image.clear(), "BE-1012", "image is missing", "'berth image list' shows what is there"),
        (|request| request.image = "tini".into(), "BE-1005", "unknown image \"tini\"", images),
        (
            |request| request.disk_size = Some(1 << 20),
            "BE-1006",
            "disk size 1MiB is smaller than image \"tiny\", which has 64MiB",
            "ask for at least the image's size, or leave the disk size out to have just that",
        ),
        (
            |request| request.disk_size = Some((64 << 20) + 1),
            "BE-1006",
            "disk size 67108865B is not a whole number of 512-byte sectors up to 64TiB",
            "give it with its unit, such as 20GiB",
        ),
        (
            |request| request.performance = "turbo".into(),
            "BE-1007",
            "performance \"turbo\" is not known",
            "the templates are 'high' (CPU threads of its own, hugepages), 'standard' and 'density' (over-subscribed)",
        ),
        (
            |request| request.run = "Sometimes".into(),
            "BE-1007",
            "run strategy \"Sometimes\" is not known",
            "use Always, RerunOnFailure, Manual, Once or Halted",
        ),
        (
            |request| request.user_data = Some(vec![b'x'; (1 << 20) + 1]),
            "BE-1008",
            "user data has 1048577 bytes, at most 1MiB are allowed",
            "let the guest fetch what is large",
        ),
        (
            |request| request.user_data = Some(vec![0xff]),
            "BE-1008",
            "user data is not UTF-8 text",
            "cloud-init wants text such as #cloud-config or a script",
        ),
        (
            |request| drop(request.labels.insert("a b".into(), "c".into())),
            "BE-1013",
            "labels: \"a b\" is not a valid key",
            keys,
        ),
        (
            |request| drop(request.labels.insert("a".into(), "b c".into())),
            "BE-1013",
            "labels: the value of \"a\" is not a valid label value",
            keys,
        ),
        (
            |request| request.labels = (0..65).map(|number| (format!("k{number}"), String::new())).collect(),
            "BE-1013",
            "labels: 65 are given, at most 64 are allowed",
            keys,
        ),
        (
            |request| drop(request.annotations.insert("a".into(), "x".repeat(16 * 1024 + 1))),
            "BE-1013",
            "annotations: the value of \"a\" has 16385 bytes, at most 16384 are allowed",
            keys,
        ),
    ];
    for (change, code, message, advice) in table {
        let error = refused(change);
        assert_eq!((error.code, &error.message[..], error.hint.as_deref()), (*code, *message, Some(*advice)));
        assert_eq!(error.kind, Kind::Invalid, "{code}");
    }
}

#[test]
fn what_no_host_could_hold_is_refused_with_each_hosts_reason() {
    let error = refused(|request| request.memory = Some(64 << 30));
    assert_eq!((error.kind, error.code), (Kind::Precondition, "BE-3001"));
    assert_eq!(
        error.message,
        "no host could ever hold a VM of 2 CPUs and 64GiB, even when empty: \
         h1 needs 32768 free 2MiB hugepages, has 1024 of 1024"
    );
    let advice = "ask for less, or add a larger host first; 'berth host list' shows what there is";
    assert_eq!(error.hint.as_deref(), Some(advice));
    let mut world = World::new();
    for number in 1..8 {
        world.host(number, Machine::cores(1).inventory());
    }
    let error = create_vm(&world.cluster, &wanted("web"), 7, &Mirror).unwrap_err();
    assert!(error.message.ends_with("h4 needs 2 free CPU threads, has 1 of 1; and 3 more"), "{}", error.message);
}

#[test]
fn without_hosts_a_vm_may_wait_for_the_first_one() {
    admitted(&World::new().cluster, &wanted("web"));
}

#[test]
fn a_name_that_is_taken_is_refused_and_the_same_name_in_another_project_is_not() {
    let error = refused(|request| request.name = "vm-1".into());
    assert_eq!(
        (error.kind, error.code, &error.message[..]),
        (Kind::AlreadyExists, "BE-2001", "VM \"vm-1\" exists already")
    );
    admitted(&view(), &CreateVm { project: "other".into(), ..wanted("vm-1") });
}

#[test]
fn a_long_text_is_not_thrown_back_at_full_length() {
    for error in [
        refused(|request| request.name = "x".repeat(100_000)),
        refused(|request| request.image = "x".repeat(100_000)),
        refused(|request| drop(request.labels.insert("/".repeat(100_000), String::new()))),
    ] {
        assert!(error.message.len() < 300, "{}", error.message.len());
    }
}

#[test]
fn a_vm_is_found_by_its_name_and_only_as_the_client_saw_it() {
    let view = view();
    assert_eq!(find_vm(&view, &target("vm-1")).unwrap().uid(), vm_uid(1));
    let seen = Target { uid: vm_uid(1).to_string(), ..target("vm-1") };
    assert!(find_vm(&view, &seen).is_ok());
    let replaced = find_vm(&view, &Target { uid: vm_uid(2).to_string(), ..target("vm-1") }).unwrap_err();
    assert_eq!((replaced.kind, replaced.code), (Kind::Conflict, "BE-2003"));
    let nowhere = find_vm(&view, &target("vm-2")).unwrap_err();
    assert_eq!(nowhere.message, "there is no VM \"vm-2\" in project \"default\"");
    assert_eq!((nowhere.code, nowhere.hint.as_deref()), ("BE-2002", Some("'berth vm list' shows what is there")));
}

#[test]
fn an_image_is_a_name_a_digest_and_a_size() {
    let good = CreateImage {
        name: "debian".into(),
        labels: BTreeMap::new(),
        sha256: digest(9).to_string(),
        virtual_size: 2 << 30,
    };
    let body = create_image(&view(), &good, 7).unwrap();
    let spec = ImageSpec { sha256: digest(9), virtual_size: Bytes::gib(2) };
    let uid = ImageUid(Uid::from_bits(7));
    assert_eq!(body, Body::CreateImage { uid, name: name("debian"), labels: BTreeMap::new(), spec });
    let refused = |change: fn(&mut CreateImage)| {
        let mut request = good.clone();
        change(&mut request);
        create_image(&view(), &request, 7).unwrap_err().code
    };
    assert_eq!(refused(|image| image.name = "A".into()), "BE-1001");
    assert_eq!(refused(|image| image.sha256 = "abc".into()), "BE-1011");
    assert_eq!(refused(|image| image.virtual_size = 0), "BE-1006");
    assert_eq!(refused(|image| image.virtual_size = 513), "BE-1006");
    assert_eq!(refused(|image| image.virtual_size = (64 << 40) + 512), "BE-1006");
    assert_eq!(refused(|image| image.name = "tiny".into()), "BE-2001");
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

#[test]
fn a_change_of_labels_names_the_vm_and_carries_what_the_client_saw() {
    let request = UpdateLabels { set: labels([("app", "web")]), remove: vec!["example.org/tier".into()] };
    let seen = Target { revision: Some(7), ..target("vm-1") };
    let body = update_labels(&view(), &seen, &request).unwrap();
    let expect = berth_state::Expect { revision: Some(berth_model::Revision(7)) };
    assert_eq!(body, Body::SetLabels { vm: vm_uid(1), set: request.set, remove: request.remove, expect });
    let error = update_labels(&view(), &target("nobody"), &UpdateLabels { set: labels([("a", "b")]), remove: vec![] });
    assert_eq!(error.unwrap_err().code, "BE-2002");
}

#[test]
fn a_change_of_labels_that_makes_no_sense_is_refused_with_what_is_wrong() {
    let many: Vec<String> = (0..65).map(|number| format!("k{number}")).collect();
    let table = [
        (labels([]), vec![], "BE-1012", "no label is given to set or to remove"),
        (labels([("a b", "c")]), vec![], "BE-1013", "labels: \"a b\" is not a valid key"),
        (labels([("a", "b c")]), vec![], "BE-1013", "labels: the value of \"a\" is not a valid label value"),
        (labels([]), vec!["?".to_owned()], "BE-1013", "labels: \"?\" is not a valid key"),
        (labels([("a", "b")]), vec!["a".to_owned()], "BE-1013", "labels: \"a\" is to be set and to be removed"),
        (labels([]), many, "BE-1013", "labels: 65 keys are to be removed, at most 64 can be"),
    ];
    for (set, remove, code, message) in table {
        let error = update_labels(&view(), &target("vm-1"), &UpdateLabels { set, remove }).unwrap_err();
        assert_eq!((error.kind, error.code, &error.message[..]), (Kind::Invalid, code, message));
        assert!(error.hint.is_some(), "{message}");
    }
}
