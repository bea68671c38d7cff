//! Bad input: a clear error with a code each time, and nothing changes.

use std::collections::BTreeMap;
use std::path::Path;

use berth_integration::request::{self, MIB};
use berth_integration::{Api, Call, Cli, World, code, denial};
use berth_pki::{Expect, Problem, Role, Trust, anonymous_client_config};
use berth_proto::status::from_status;
use berth_proto::v1;
use tonic::Code;

/// Far above every limit.
const HUNDRED_MB: usize = 100 << 20;

/// Sends what must be refused with this code, in words, and looks that nothing changed.
async fn refused<C: Call>(api: &Api, what: &str, request: C, grpc: Code, expected: &str) {
    let before = api.revision().await;
    let status = request.call(api).await.err().unwrap_or_else(|| panic!("{what}: was not refused"));
    let carried = from_status(&status);
    assert_eq!((carried.code.as_deref(), carried.grpc), (Some(expected), grpc), "{what}: {status:?}");
    assert!(carried.message.len() > 10, "{what}: the refusal says nothing: {status:?}");
    println!("{what}: {expected} {} {}", carried.message, carried.hint.unwrap_or_default());
    assert_eq!(api.revision().await, before, "{what}: something changed");
}

fn changed(change: impl FnOnce(&mut v1::CreateVmRequest, &mut v1::VmSpec)) -> v1::CreateVmRequest {
    let mut request = request::vm("fresh");
    let mut spec = request.spec.take().unwrap();
    change(&mut request, &mut spec);
    request.spec = Some(spec);
    request
}

fn device(kind: &str, count: u32) -> v1::DeviceDemand {
    v1::DeviceDemand { kind: kind.to_owned(), count }
}

/// Hosts with all of these labels.
fn on_hosts(labels: &[(&str, &str)]) -> v1::Rules {
    let one = |(key, value): &(&str, &str)| v1::Requirement {
        key: (*key).to_owned(),
        operator: v1::Operator::In.into(),
        values: vec![(*value).to_owned()],
    };
    let selector = v1::Selector { all: labels.iter().map(one).collect() };
    v1::Rules { hosts: vec![selector], ..v1::Rules::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_with_a_code_and_change_nothing() {
    let world = World::up(0).await;
    world.name_an_image().await;
    let api = world.api(&world.follower().await);
    api.ask(request::vm("taken")).await;
    world.settled(&api).await;

    let vm = |change: fn(&mut v1::VmSpec)| changed(|_, spec| change(spec));
    let cases: Vec<(&str, v1::CreateVmRequest, Code, &str)> = vec![
        (
            "an instance type that is not known",
            vm(|spec| {
                (spec.cpus, spec.memory_bytes) = (None, None);
                spec.instance_type = "standard-3".to_owned();
            }),
            Code::InvalidArgument,
            "BE-1002",
        ),
        ("no CPUs", vm(|spec| spec.cpus = Some(0)), Code::InvalidArgument, "BE-1003"),
        ("a million CPUs", vm(|spec| spec.cpus = Some(1_000_000)), Code::InvalidArgument, "BE-1003"),
        ("no memory", vm(|spec| spec.memory_bytes = Some(0)), Code::InvalidArgument, "BE-1004"),
        (
            "memory of no whole page",
            vm(|spec| spec.memory_bytes = Some(128 * MIB + 1)),
            Code::InvalidArgument,
            "BE-1004",
        ),
        ("all memory there could be", vm(|spec| spec.memory_bytes = Some(u64::MAX)), Code::InvalidArgument, "BE-1004"),
        ("an image that is not known", vm(|spec| spec.image = "windows".to_owned()), Code::InvalidArgument, "BE-1005"),
        (
            "a disk smaller than its image",
            vm(|spec| spec.disk_size_bytes = Some(512)),
            Code::InvalidArgument,
            "BE-1006",
        ),
        ("no image", vm(|spec| spec.image.clear()), Code::InvalidArgument, "BE-1012"),
        ("no size", vm(|spec| spec.cpus = None), Code::InvalidArgument, "BE-1012"),
        (
            "nothing asked",
            {
                let mut request = request::vm("fresh");
                request.spec = None;
                request
            },
            Code::InvalidArgument,
            "BE-1012",
        ),
        (
            "user data that is too long",
            vm(|spec| spec.user_data = Some(vec![b'#'; (1 << 20) + 1])),
            Code::InvalidArgument,
            "BE-1008",
        ),
        (
            "user data that is no text",
            vm(|spec| spec.user_data = Some(vec![0xff, 0xfe])),
            Code::InvalidArgument,
            "BE-1008",
        ),
        ("devices of no kind", vm(|spec| spec.devices = vec![device("gpu", 1)]), Code::InvalidArgument, "BE-1007"),
        (
            "four billion devices",
            vm(|spec| spec.devices = vec![device("10de:2204", u32::MAX)]),
            Code::InvalidArgument,
            "BE-1016",
        ),
        (
            "more devices than a guest has interrupt vectors for",
            vm(|spec| {
                spec.cpus = Some(64);
                spec.devices = vec![device("10de:2204", 32)];
            }),
            Code::InvalidArgument,
            "BE-1017",
        ),
        (
            "a preference that is not known",
            vm(|spec| spec.preference = "nobody".to_owned()),
            Code::InvalidArgument,
            "BE-1014",
        ),
        (
            "hugepages for a VM that is over-subscribed",
            vm(|spec| {
                spec.performance = v1::Performance::Density.into();
                spec.tuning = Some(v1::Tuning { pages: v1::PageSize::PageSize2m.into(), ..v1::Tuning::default() });
            }),
            Code::InvalidArgument,
            "BE-1015",
        ),
        (
            "an expression of a megabyte",
            vm(|spec| spec.rules = Some(on_hosts(&[("zone", &"x".repeat(1 << 20))]))),
            Code::InvalidArgument,
            "BE-1018",
        ),
        (
            "two zones at once",
            vm(|spec| spec.rules = Some(on_hosts(&[("zone", "a"), ("zone", "b")]))),
            Code::InvalidArgument,
            "BE-1019",
        ),
        (
            "10,000 labels",
            changed(|request, _| {
                request.labels = (0..10_000).map(|number| (format!("k{number}"), String::new())).collect();
            }),
            Code::InvalidArgument,
            "BE-1013",
        ),
        ("a field that is only read", vm(|spec| spec.has_user_data = true), Code::InvalidArgument, "BE-1007"),
        ("a run strategy that is not known", vm(|spec| spec.run_strategy = 77), Code::InvalidArgument, "BE-1007"),
        ("a name that is taken", request::vm("taken"), Code::AlreadyExists, "BE-2001"),
        ("a name in capitals", request::vm("Web"), Code::InvalidArgument, "BE-1001"),
        ("a name with a dot", request::vm("web.1"), Code::InvalidArgument, "BE-1001"),
        ("a name that ends in a hyphen", request::vm("web-"), Code::InvalidArgument, "BE-1001"),
        ("a name that is a path", request::vm("../../etc/passwd"), Code::InvalidArgument, "BE-1001"),
        ("an empty name", request::vm(""), Code::InvalidArgument, "BE-1001"),
        ("a name of 64 letters", request::vm(&"a".repeat(64)), Code::InvalidArgument, "BE-1001"),
        (
            "a project that is no name",
            changed(|request, _| request.project = "no such".to_owned()),
            Code::InvalidArgument,
            "BE-1001",
        ),
        (
            "a label that is none",
            changed(|request, _| request.labels = BTreeMap::from([("?".to_owned(), String::new())])),
            Code::InvalidArgument,
            "BE-1013",
        ),
        (
            "a request id that is none",
            changed(|request, _| request.write.as_mut().unwrap().request_id = "1".to_owned()),
            Code::InvalidArgument,
            "BE-1010",
        ),
        (
            "a request id of the year 2000",
            changed(|request, _| {
                request.write.as_mut().unwrap().request_id = "00dc6acf-ac00-7000-8000-000000000001".to_owned();
            }),
            Code::Aborted,
            "BE-2006",
        ),
        (
            "a request id of the far future",
            changed(|request, _| {
                request.write.as_mut().unwrap().request_id = "ffffffff-ffff-7fff-bfff-ffffffffffff".to_owned();
            }),
            Code::InvalidArgument,
            "BE-2007",
        ),
    ];
    for (what, request, grpc, expected) in cases {
        refused(&api, what, request, grpc, expected).await;
    }

    let label = |set: &[(&str, &str)], remove: &[&str]| {
        let owned = |text: &&str| (*text).to_owned();
        let set = set.iter().map(|(key, value)| (owned(key), owned(value))).collect();
        request::labels("taken", set, remove.iter().map(owned).collect())
    };
    let mut changed_meanwhile = label(&[("app", "web")], &[]);
    changed_meanwhile.write.as_mut().unwrap().expected_revision = Some(1);
    let cases = [
        ("no label at all", label(&[], &[]), Code::InvalidArgument, "BE-1012"),
        ("a label with a blank", label(&[("a b", "c")], &[]), Code::InvalidArgument, "BE-1013"),
        ("a key to remove that is none", label(&[], &["?"]), Code::InvalidArgument, "BE-1013"),
        ("a label to set and to remove", label(&[("a", "b")], &["a"]), Code::InvalidArgument, "BE-1013"),
        ("labels of a VM that changed meanwhile", changed_meanwhile, Code::Aborted, "BE-2003"),
        (
            "labels of a VM that is not there",
            v1::UpdateLabelsRequest { name: "nobody".to_owned(), ..label(&[("a", "b")], &[]) },
            Code::NotFound,
            "BE-2002",
        ),
    ];
    for (what, request, grpc, expected) in cases {
        refused(&api, what, request, grpc, expected).await;
    }

    refused(&api, "starting what is not there", request::start("nobody"), Code::NotFound, "BE-2002").await;
    let mut stale = request::stop("taken");
    stale.write.as_mut().unwrap().expected_revision = Some(1);
    refused(&api, "a VM that changed meanwhile", stale, Code::Aborted, "BE-2003").await;
    let mut other = request::delete("taken");
    other.write.as_mut().unwrap().expected_uid = Some("someone-else".to_owned());
    refused(&api, "another VM of that name", other, Code::Aborted, "BE-2003").await;
    let digest = request::image("img", "not a digest", 512);
    refused(&api, "an image without a digest", digest, Code::InvalidArgument, "BE-1011").await;
    let used = v1::DeleteImageRequest { write: request::write(), name: "tiny".to_owned() };
    refused(&api, "removing an image that a VM uses", used, Code::FailedPrecondition, "BE-2009").await;
    let missing = v1::GetHostRequest { name: "h9".to_owned(), ..v1::GetHostRequest::default() };
    refused(&api, "a host that is not there", missing, Code::NotFound, "BE-3003").await;

    // A message that no limit could mean.
    let huge = changed(|_, spec| spec.user_data = Some(vec![b'x'; HUNDRED_MB]));
    refused(&api, "a message of 100 MB", huge, Code::OutOfRange, "BE-1009").await;
    // The connection and the member are as good as before.
    api.ask(request::vm("fresh")).await;
    world.settled(&api).await;
    world.identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_of_this_cluster_and_of_the_right_role_get_in() {
    let world = World::up(0).await;
    world.name_an_image().await;
    let operator = world.api("c1");
    let before = world.settled(&operator).await;
    let status = operator.status().await.unwrap();

    let (stranger, _) = world.of_another_ca();
    let host = world.credentials(Role::Host, "h1");
    let admin = world.credentials(Role::Operator, "eve");
    for member in &status.members {
        // Nobody.
        let ca = world.lab().authority().unwrap();
        let trust = Trust::from_pem(ca.cluster(), ca.cert_pem().as_bytes()).unwrap();
        for address in [&member.api_address, &member.raft_address] {
            let nobody = anonymous_client_config(trust.clone(), Expect::any(Role::Controller));
            let refused = berth_pki::connect(address, nobody, std::time::Duration::from_secs(3)).await.err().unwrap();
            assert_eq!(refused.problem, Problem::NoCertificate, "{address}");
            // Someone of another authority.
            assert_eq!(denial(address, Role::Controller, &stranger).await, Problem::CertificateOfOtherCa, "{address}");
        }
        // The members' own port is for members.
        for other in [&host, &admin] {
            assert_eq!(
                denial(&member.raft_address, Role::Controller, other).await,
                Problem::RoleRefused,
                "{}",
                other.identity()
            );
        }
    }
    for member in world.controllers() {
        let not_allowed = |status: &tonic::Status| {
            assert_eq!((code(status).as_str(), status.code()), ("BE-4003", Code::PermissionDenied), "{status:?}");
        };
        // A host and a scraper at the operators' API, on reads and writes alike.
        for role in [Role::Host, Role::Scraper, Role::Facade] {
            let other = world.api_as(&member, &world.credentials(role, "intruder"));
            not_allowed(&other.send(v1::ListVmsRequest::default()).await.unwrap_err());
            not_allowed(&other.send(v1::GetStatusRequest::default()).await.unwrap_err());
            not_allowed(&other.send(request::vm("intruder")).await.unwrap_err());
            not_allowed(&other.watch(None).await.err().unwrap());
        }
        // An operator at the hosts' API.
        not_allowed(&world.api_as(&member, &admin).hello(v1::Hello::default()).await.unwrap_err());
    }
    // A host that calls itself by another host's name.
    let leader = world.leader().await;
    let hello = v1::Hello {
        protocol: Some(v1::ProtocolRange { oldest: 1, newest: 1 }),
        host: "h9-uid".to_owned(),
        name: "h9".to_owned(),
        address: "10.0.0.1:7443".to_owned(),
        boot: "00000000-0000-4000-8000-000000000001".to_owned(),
        start: 1,
        version: "0".to_owned(),
        ..v1::Hello::default()
    };
    let answer = world.api_as(&leader, &host).hello(hello).await;
    match answer {
        Ok(Some(v1::ToHost { word: Some(v1::to_host::Word::Refuse(refusal)) })) => {
            assert!(refusal.code.starts_with("BE-4"), "{refusal:?}");
        }
        Ok(None) | Err(_) => {}
        Ok(Some(welcome)) => panic!("a host was let in under another's name: {welcome:?}"),
    }
    assert!(operator.ask(v1::ListHostsRequest::default()).await.hosts.is_empty(), "a host was made");
    assert_eq!(operator.revision().await, before, "something changed");
}

fn manifest(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_is_wrong_with_a_code_and_an_exit_code() {
    let world = World::up(0).await;
    world.name_an_image().await;
    let (cli, api) = (world.cli(), world.api("c1"));
    cli.ok(&["vm", "create", "taken", "--image", "tiny", "--cpus", "1", "--memory", "128MiB", "--no-wait"]).await;
    let before = world.settled(&api).await;

    let create = |more: &[&'static str]| [&["vm", "create"], more, &["--no-wait"]].concat();
    let size = ["--cpus", "1", "--memory", "128MiB"];
    for (words, expected) in [
        (create(&["x", "--image", "tiny", "--instancetype", "standard-3"]), "BE-1002"),
        (create(&["x", "--image", "tiny", "--cpus", "0", "--memory", "128MiB"]), "BE-1003"),
        (create(&["x", "--image", "tiny", "--cpus", "1", "--memory", "1KiB"]), "BE-1004"),
        (create(&[&["x", "--image", "windows"][..], &size].concat()), "BE-1005"),
        (create(&[&["Not_A_Label", "--image", "tiny"][..], &size].concat()), "BE-1001"),
        (create(&[&["taken", "--image", "tiny"][..], &size].concat()), "BE-2001"),
        (create(&["x", "--image", "tiny"]), "BE-1012"),
        (vec!["vm", "start", "nobody"], "BE-2002"),
        (vec!["vm", "show", "nobody"], "BE-2002"),
        (vec!["vm", "delete", "nobody"], "BE-2002"),
        (vec!["host", "show", "h9"], "BE-3003"),
        (vec!["vm", "stop", "taken", "--expected-revision", "1"], "BE-2003"),
    ] {
        cli.run(&words).await.refused(1, expected);
    }

    let folder = tempfile::tempdir().unwrap();
    let head = "apiVersion: berth/v1\nkind: VirtualMachine\nmetadata: { name: x }\n";
    let file = |name: &str, text: &str| manifest(folder.path(), name, &format!("{head}{text}"));
    for (path, expected, mentions) in [
        (
            file("unknown-field.yaml", "spec: { image: tiny, cpus: 1, memoryy: 128MiB }\n"),
            "BE-1007",
            vec!["memoryy", "`memory`", ":4:"],
        ),
        (file("unknown-word.yaml", "spec: { image: tiny, runStrategy: Sometimes }\n"), "BE-1007", vec!["Sometimes"]),
        (file("not-yaml.yaml", "spec: { image: [\n"), "BE-1007", vec!["not-yaml.yaml"]),
        (file("no-cpus.yaml", "spec: { image: tiny, cpus: 0, memory: 128MiB }\n"), "BE-1003", vec!["cpus"]),
        (file("type.yaml", "spec: { image: tiny, instanceType: huge-1 }\n"), "BE-1002", vec!["huge-1", "standard-2"]),
    ] {
        let said = cli.run(&["vm", "create", "--no-wait", "-f", &path]).await;
        said.refused(1, expected);
        for word in mentions {
            assert!(said.err.contains(word), "{word} is not in {said:#?}");
        }
    }
    let huge = folder.path().join("huge.yaml");
    std::fs::write(&huge, vec![b'#'; HUNDRED_MB]).unwrap();
    cli.run(&["vm", "create", "--no-wait", "-f", &huge.display().to_string()]).await.refused(1, "BE-1009");

    // Whoever has no certificate, one of another authority, or one of another role.
    let admin = std::fs::read_to_string(world.lab().admin_config_path()).unwrap();
    let mut nobody: serde_json::Value = serde_json::from_str(&admin).unwrap();
    for field in ["cert", "key"] {
        nobody["clusters"][0].as_object_mut().unwrap().remove(field);
    }
    let nobody = Cli::new(manifest(folder.path(), "nobody.yaml", &nobody.to_string()));
    let (_, stranger) = world.of_another_ca();
    let host = world.lab().client("a-host", &world.lab().authority().unwrap(), Role::Host, "h1").unwrap();
    let list = ["vm", "list"];
    let create = ["vm", "create", "x", "--image", "tiny", "--cpus", "1", "--memory", "128MiB", "--no-wait"];
    for words in [&list[..], &create[..]] {
        nobody.run(words).await.refused(4, "BE-4001");
        stranger.run(words).await.refused(4, "BE-4002");
        Cli::new(&host.config).run(words).await.refused(4, "BE-4003");
    }
    // Wrong usage and nobody at home are told apart from refusals.
    assert_eq!(cli.run(&["vm", "create"]).await.exit, Some(2));
    let away = cli.run(&["--endpoint", "127.0.0.1:1", "--timeout", "500ms", "vm", "list"]).await;
    away.refused(3, "BE-5008");

    assert_eq!(api.revision().await, before, "something changed");
}
