//! Who the controllers are: formed, grown, replaced and asked for their numbers by commands alone, without a file written
//! by hand.

use std::path::PathBuf;
use std::time::Duration;

use berth_integration::{Cli, World, controller, denial, until};
use berth_pki::{Credentials, Expect, Role};
use berth_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::machines::{Machines, SOON, names, status, voters};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_from_one_to_three_and_replaces_a_dead_member_by_commands_alone() {
    let machines = Machines::of(World::machines(4));
    let cli = machines.alone().await;
    let digest = "0123456789abcdef".repeat(4);
    cli.ok(&["image", "create", "tiny", "--sha256", &digest, "--size", "64MiB"]).await;
    cli.ok(&["vm", "create", "before", "--image", "tiny", "--cpus", "1", "--memory", "64MiB", "--halted", "--no-wait"])
        .await;

    machines.add(&cli, "c2", &["--domain", "rack-1"]).await;
    let seen = status(&cli).await;
    assert_eq!(voters(&seen), ["c1", "c2"]);
    assert_eq!(names(&seen, "warnings", |_| true), ["SharedFailureDomain", "EvenVoters"], "{seen:#}");
    machines.add(&cli, "c3", &["--domain", "rack-3"]).await;
    cli.ok(&["cluster", "member", "update", "c2", "--domain", "rack-2"]).await;
    let seen = status(&cli).await;
    assert_eq!((voters(&seen), names(&seen, "warnings", |_| true)), (vec!["c1", "c2", "c3"], vec![]), "{seen:#}");
    for name in ["c1", "c2", "c3"] {
        let endpoint = format!("{}:7440", machines.address(name));
        let vms = cli.json(&["vm", "list", "--endpoint", &endpoint]).await;
        assert_eq!(vms["items"][0]["metadata"]["name"], "before", "through {name}");
    }
    let config = std::fs::read_to_string(machines.folder("c1").join("operator/config.yaml")).unwrap();
    assert!(config.contains(&format!("{}:7440", machines.address("c3"))), "the operator's endpoints follow:\n{config}");

    // The same command again changes nothing.
    let again =
        ["cluster", "member", "add", "c3", "--address", &machines.address("c3"), "--domain", "rack-3", "--no-wait"];
    let authority = machines.folder("c1").join("authority").display().to_string();
    let bundle = machines.folder("c1").join("c3.bundle").display().to_string();
    cli.ok(&[&again[..], &["--authority", &authority, "--out", &bundle]].concat()).await;
    assert_eq!(voters(&status(&cli).await), ["c1", "c2", "c3"]);

    // With one dead the other two are all that can decide.
    machines.world.kill9("c3");
    until("the leader misses c3", SOON, async || {
        let seen = status(&cli).await;
        if names(&seen, "warnings", |_| true) == ["MemberSilent"] { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
    let said = cli.run(&["cluster", "member", "remove", "c2", "--yes"]).await;
    assert_eq!(said.exit, Some(1), "{said:#?}");
    assert!(said.err.contains("error[BE-5010]") && said.err.contains("hint:"), "{said:#?}");
    let said = cli.run(&["cluster", "member", "remove", "c3"]).await;
    assert_eq!(said.exit, Some(2), "nobody was there to confirm: {said:#?}");
    let said = cli.run(&["cluster", "member", "remove", "c9", "--yes"]).await;
    assert!(said.err.contains("error[BE-5011]"), "{said:#?}");

    let bundle = machines.folder("c1").join("c4.bundle").display().to_string();
    let address = machines.address("c4");
    let words = ["cluster", "member", "replace", "c3", "--with", "c4", "--address", &address, "--yes"];
    let words = [&words[..], &["--authority", &authority, "--out", &bundle]].concat();
    let joining = async {
        until("the bundle is written", SOON, async || {
            if PathBuf::from(&bundle).exists() { Ok(()) } else { Err("it is not there".to_owned()) }
        })
        .await;
        machines.join("c4", &bundle).await;
    };
    let (said, ()) = tokio::join!(cli.ok(&words), joining);
    assert_eq!(said, "c4 votes, c3 is no member any more\n");
    let seen = status(&cli).await;
    assert_eq!((voters(&seen), names(&seen, "members", |_| true).len()), (vec!["c1", "c2", "c4"], 3), "{seen:#}");

    let said = cli.ok(&["cluster", "transfer-leader", "c4"]).await;
    assert_eq!(said, "c4 leads\n");
    assert_eq!(status(&cli).await["leader"], "c4");
    // A planned stop hands the lead on before the member is gone.
    machines.world.stop("c4");
    cli.ok(&["vm", "create", "after", "--image", "tiny", "--cpus", "1", "--memory", "64MiB", "--halted", "--no-wait"])
        .await;
    assert!(["c1", "c2"].contains(&status(&cli).await["leader"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_survivor_of_a_disaster_grows_to_three_again_by_commands_alone_with_the_same_data() {
    let machines = Machines::of(World::machines(4));
    let cli = machines.alone().await;
    let vm = |name: &'static str| {
        ["vm", "create", name, "--image", "tiny", "--cpus", "1", "--memory", "64MiB", "--halted", "--no-wait"]
    };
    let digest = "0123456789abcdef".repeat(4);
    cli.ok(&["image", "create", "tiny", "--sha256", &digest, "--size", "64MiB"]).await;
    cli.ok(&vm("before")).await;
    for name in ["c2", "c3"] {
        machines.add(&cli, name, &[]).await;
    }
    cli.ok(&vm("with-three")).await;
    let before = status(&cli).await;

    machines.world.kill9("c2");
    machines.world.kill9("c3");
    machines.world.stop("c1");
    let config = machines.folder("c1").join("controller.toml").display().to_string();
    let cluster = before["cluster"].as_str().unwrap();
    let force = ["force-new-cluster", "--config", &config, "--i-know-that-acknowledged-changes-may-be-lost", cluster];
    let said = controller(&force).await;
    assert_eq!(said.exit, Some(0), "{said:#?}");
    machines.world.start("c1");
    let alone = status(&cli).await;
    assert_eq!((voters(&alone), &alone["incarnation"]), (vec!["c1"], &1.into()), "{alone:#}");

    // One machine is new, the other was a member and is set up anew.
    machines.wipe("c2");
    for name in ["c4", "c2"] {
        machines.add(&cli, name, &[]).await;
    }
    let grown = status(&cli).await;
    assert_eq!(voters(&grown), ["c1", "c4", "c2"], "{grown:#}");
    let ids = |status: &serde_json::Value| -> Vec<u64> {
        status["members"].as_array().unwrap().iter().map(|member| member["id"].as_u64().unwrap()).collect()
    };
    let (old, new) = (ids(&before), ids(&grown));
    assert!(new[1..].iter().all(|id| id > old.iter().max().unwrap()), "no number is given again: {old:?}, {new:?}");
    assert!(grown["revision"].as_u64() > before["revision"].as_u64().map(|before| before + (1 << 32)), "{grown:#}");
    let everywhere = async |wanted: &[&str], members: &[&str]| {
        for name in members {
            let endpoint = format!("{}:7440", machines.address(name));
            let vms = cli.json(&["vm", "list", "--endpoint", &endpoint]).await;
            let held: Vec<_> = vms["items"].as_array().unwrap().iter().map(|vm| &vm["metadata"]["name"]).collect();
            assert_eq!(held, wanted, "through {name}");
        }
    };
    everywhere(&["before", "with-three"], &["c1", "c4", "c2"]).await;
    // The dead member that comes back on its old data is no part of it, and three are as good as three ever were.
    machines.world.start("c3");
    machines.world.kill9("c1");
    cli.ok(&vm("again")).await;
    everywhere(&["again", "before", "with-three"], &["c4", "c2"]).await;
    assert_eq!(voters(&status(&cli).await), ["c1", "c4", "c2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_controllers_form_from_the_bundles_of_one_command() {
    let machines = Machines::of(World::machines(3));
    let out = machines.world.lab().state_dir().join("new").display().to_string();
    let others = ["c2", "c3"].map(|name| format!("{name}={},rack-{name}", machines.address(name)));
    let words = ["init", "--name", "c1", "--address", &machines.address("c1"), "--out", &out];
    machines.controller("c1", &[&words[..], &["--member", &others[0], "--member", &others[1]]].concat()).await;
    for name in ["c1", "c2", "c3"] {
        machines.join(name, &format!("{out}/bundles/{name}.bundle")).await;
    }
    let cli = Cli::new(format!("{out}/operator/config.yaml"));
    let digest = "0123456789abcdef".repeat(4);
    cli.ok(&["image", "create", "tiny", "--sha256", &digest, "--size", "64MiB"]).await;
    let seen = status(&cli).await;
    assert_eq!((voters(&seen), names(&seen, "warnings", |_| true)), (vec!["c1", "c2", "c3"], vec![]), "{seen:#}");
    let reachable = names(&seen, "members", |member| member["reachable"] == true && member["version"] != "");
    assert_eq!(reachable.len(), 3, "each said its version itself: {seen:#}");
    for flag in ["--stale", "--lease"] {
        let images = cli.json(&["image", "list", flag]).await;
        assert_eq!(images["items"][0]["metadata"]["name"], "tiny", "{flag}");
    }

    // Its numbers are read by those who may, and by nobody else.
    let scraper = Credentials::load(&PathBuf::from(&out).join("scraper")).unwrap();
    let leader = seen["leader"].as_str().unwrap();
    let at = machines.world.lab().member(leader).unwrap().metrics().to_string();
    let text = scrape(&at, &scraper).await;
    for line in
        ["berth_build_info{program=\"berth-controller\"", "\nberth_raft_is_leader 1\n", "\nberth_raft_is_running 1\n"]
    {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let counted = "berth_api_requests_total{method=\"ImageService/CreateImage\",code=\"Ok\"} 1";
    let mut all = String::new();
    for name in ["c1", "c2", "c3"] {
        all += &scrape(&machines.world.lab().member(name).unwrap().metrics().to_string(), &scraper).await;
    }
    assert_eq!(all.matches(counted).count(), 1, "one of the members took the request\n{all}");
    let authority = berth_pki::Authority::load(&PathBuf::from(&out).join("authority")).unwrap();
    let host = berth_pki::Identity::new(authority.cluster(), Role::Host, "h1").unwrap();
    let day = berth_pki::Validity::days(std::time::SystemTime::now(), 1);
    let host = Credentials::from_issued(&authority.issue(&host, &[], day).unwrap()).unwrap();
    assert_eq!(denial(&at, Role::Controller, &host).await, berth_pki::Problem::RoleRefused);

    // A scraper reads numbers and nothing else.
    let api = machines.world.api_as(leader, &scraper);
    let refused = api.send(v1::GetStatusRequest::default()).await.unwrap_err();
    assert_eq!(berth_integration::code(&refused), "BE-4003");
    let operator = Credentials::load(&PathBuf::from(&out).join("operator")).unwrap();
    let odd =
        v1::AddMemberRequest { name: "c4".into(), api_address: "nowhere".into(), ..v1::AddMemberRequest::default() };
    let mut client = berth_proto::v1::cluster_service_client::ClusterServiceClient::new(
        machines.world.api_as(leader, &operator).channel(),
    );
    assert_eq!(berth_integration::code(&client.add_member(odd).await.unwrap_err()), "BE-5016");
}

/// Reads `/metrics` as a monitoring system does.
async fn scrape(address: &str, credentials: &Credentials) -> String {
    let config = credentials.client_config(Expect::any(Role::Controller));
    let mut stream = berth_pki::connect(address, config, Duration::from_secs(3)).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: metrics\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The end of the stream may come without TLS's own goodbye.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("openmetrics-text"), "{answer}");
    answer
}
