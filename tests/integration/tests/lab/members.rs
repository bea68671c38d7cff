//! Who the controllers are: formed, grown, replaced and asked for their numbers by commands alone, without a file written
//! by hand.

use std::path::PathBuf;
use std::time::Duration;

use berth_integration::{Cli, World, controller, denial, until};
use berth_pki::{Credentials, Expect, Role};
use berth_proto::v1;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The longest that a new controller may take to have caught up and vote, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Machines on which clusters are formed.
struct Machines(World);

impl Machines {
    fn folder(&self, name: &str) -> PathBuf {
        self.0.lab().folder(name).unwrap()
    }

    fn address(&self, name: &str) -> String {
        self.0.lab().member(name).unwrap().address.to_string()
    }

    /// The words that put a controller's files where the lab looks for them.
    fn place(&self, name: &str) -> Vec<String> {
        let folder = self.folder(name);
        ["--root".into(), folder.display().to_string(), "--data-dir".into(), folder.join("data").display().to_string()]
            .into()
    }

    async fn controller(&self, name: &str, words: &[&str]) -> String {
        let place = self.place(name);
        let all: Vec<&str> = words.iter().copied().chain(place.iter().map(String::as_str)).collect();
        let said = controller(&all).await;
        assert_eq!(said.exit, Some(0), "{said:#?}");
        said.out
    }

    /// Unpacks a bundle on its machine and starts the controller there.
    async fn join(&self, name: &str, bundle: &str) {
        self.controller(name, &["join", bundle]).await;
        self.0.start(name);
    }

    /// A cluster of one, and its operator's command line.
    async fn alone(&self) -> Cli {
        self.controller("c1", &["init", "--name", "c1", "--address", &self.address("c1"), "--domain", "rack-1"]).await;
        self.0.start("c1");
        Cli::new(self.folder("c1").join("operator/config.yaml"))
    }

    /// Adds a controller as an operator does: one command that waits, and meanwhile the work on the new machine.
    async fn add(&self, cli: &Cli, name: &str, more: &[&str]) {
        let (bundle, address) = (self.folder("c1").join(format!("{name}.bundle")), self.address(name));
        let (bundle, authority) =
            (bundle.display().to_string(), self.folder("c1").join("authority").display().to_string());
        let words =
            ["cluster", "member", "add", name, "--address", &address, "--authority", &authority, "--out", &bundle];
        let joining = async {
            until("the bundle is written", SOON, async || {
                if PathBuf::from(&bundle).exists() { Ok(()) } else { Err("it is not there".to_owned()) }
            })
            .await;
            self.join(name, &bundle).await;
        };
        let words = [&words[..], more].concat();
        let (said, ()) = tokio::join!(cli.ok(&words), joining);
        assert_eq!(said, format!("{name} votes\n"));
    }
}

async fn status(cli: &Cli) -> Value {
    cli.json(&["cluster", "status"]).await
}

fn names<'a>(status: &'a Value, of: &str, wanted: impl Fn(&Value) -> bool) -> Vec<&'a str> {
    let all = status[of].as_array().unwrap().iter().filter(|one| wanted(one));
    all.map(|one| one[if of == "warnings" { "kind" } else { "name" }].as_str().unwrap()).collect()
}

fn voters(status: &Value) -> Vec<&str> {
    names(status, "members", |member| member["voter"] == true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_from_one_to_three_and_replaces_a_dead_member_by_commands_alone() {
    let machines = Machines(World::machines(4));
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
    machines.0.kill9("c3");
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
    machines.0.stop("c4");
    cli.ok(&["vm", "create", "after", "--image", "tiny", "--cpus", "1", "--memory", "64MiB", "--halted", "--no-wait"])
        .await;
    assert!(["c1", "c2"].contains(&status(&cli).await["leader"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_controllers_form_from_the_bundles_of_one_command() {
    let machines = Machines(World::machines(3));
    let out = machines.0.lab().state_dir().join("new").display().to_string();
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
    let at = machines.0.lab().member(leader).unwrap().metrics().to_string();
    let text = scrape(&at, &scraper).await;
    for line in
        ["berth_build_info{program=\"berth-controller\"", "\nberth_raft_is_leader 1\n", "\nberth_raft_is_running 1\n"]
    {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let counted = "berth_api_requests_total{method=\"ImageService/CreateImage\",code=\"Ok\"} 1";
    let mut all = String::new();
    for name in ["c1", "c2", "c3"] {
        all += &scrape(&machines.0.lab().member(name).unwrap().metrics().to_string(), &scraper).await;
    }
    assert_eq!(all.matches(counted).count(), 1, "one of the members took the request\n{all}");
    let authority = berth_pki::Authority::load(&PathBuf::from(&out).join("authority")).unwrap();
    let host = berth_pki::Identity::new(authority.cluster(), Role::Host, "h1").unwrap();
    let day = berth_pki::Validity::days(std::time::SystemTime::now(), 1);
    let host = Credentials::from_issued(&authority.issue(&host, &[], day).unwrap()).unwrap();
    assert_eq!(denial(&at, Role::Controller, &host).await, berth_pki::Problem::RoleRefused);

    // A scraper reads numbers and nothing else.
    let api = machines.0.api_as(leader, &scraper);
    let refused = api.send(v1::GetStatusRequest::default()).await.unwrap_err();
    assert_eq!(berth_integration::code(&refused), "BE-4003");
    let operator = Credentials::load(&PathBuf::from(&out).join("operator")).unwrap();
    let odd =
        v1::AddMemberRequest { name: "c4".into(), api_address: "nowhere".into(), ..v1::AddMemberRequest::default() };
    let mut client = berth_proto::v1::cluster_service_client::ClusterServiceClient::new(
        machines.0.api_as(leader, &operator).channel(),
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
