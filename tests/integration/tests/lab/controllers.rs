//! Three controllers and no host: the replicated state as its clients see it.

use std::collections::{BTreeMap, BTreeSet};
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use berth_integration::request::{self, insist};
use berth_integration::{Api, Lists, World, code, figure, until};
use berth_proto::v1;
use berth_proto::v1::watch_vms_event::Event;

/// The longest that a write may take that is sent when the leader was killed: a promise to operators, kept with the
/// shipped defaults even on two busy cores. What it really took is shown; about 1.5 s is usual.
const FAILOVER: Duration = Duration::from_secs(3);

fn names(vms: &[v1::Vm]) -> BTreeSet<String> {
    vms.iter().map(|vm| vm.meta.as_ref().unwrap().name.clone()).collect()
}

async fn names_on(api: &Api, consistency: v1::Consistency) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let request =
            v1::ListVmsRequest { consistency: consistency.into(), page_token, ..v1::ListVmsRequest::default() };
        let page = api.ask(request).await;
        all.extend(names(&page.vms));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_member_answers_reads_and_takes_writes() {
    let world = World::up(0).await;
    world.name_an_image().await;
    let mut made = BTreeSet::new();
    for api in world.apis() {
        let name = format!("through-{}", api.member);
        let answer = api.ask(request::vm(&name)).await;
        assert_eq!(answer.vm.unwrap().meta.unwrap().name, name);
        made.insert(name);
        // What was acknowledged by one member is seen through each, at once.
        for other in world.apis() {
            assert_eq!(names_on(&other, v1::Consistency::Linearizable).await, made, "through {}", other.member);
            let status = other.ask(v1::GetStatusRequest::default()).await;
            assert_eq!(
                (status.answered_by.as_str(), status.members.len(), status.vms),
                (other.member.as_str(), 3, u32::try_from(made.len()).unwrap())
            );
            let types = other.ask(v1::ListInstanceTypesRequest::default()).await.instance_types;
            let types: Vec<_> = types.iter().map(|kind| kind.meta.as_ref().unwrap().name.as_str()).collect();
            assert_eq!(types, ["standard-2", "standard-4", "standard-8"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_change_through_any_member_and_the_command_line_and_select_at_once() {
    let world = World::up(0).await;
    world.name_an_image().await;
    let (api, cli) = (world.api("c1"), world.cli());
    api.ask(request::vm("web-1")).await;
    api.ask(request::vm("web-2")).await;
    let selected = async |api: &Api, terms: &str| {
        let request = v1::ListVmsRequest { label_selector: terms.to_owned(), ..v1::ListVmsRequest::default() };
        names(&api.ask(request).await.vms)
    };
    for (at, api) in world.apis().iter().enumerate() {
        let set = BTreeMap::from([("turn".to_owned(), at.to_string())]);
        let answer = api.ask(request::labels("web-1", set, Vec::new())).await;
        let meta = answer.vm.unwrap().meta.unwrap();
        assert_eq!((&meta.labels["turn"], meta.revision, meta.generation), (&at.to_string(), answer.revision, 1));
        for other in world.apis() {
            assert_eq!(selected(&other, &format!("turn={at}")).await, BTreeSet::from(["web-1".to_owned()]));
        }
    }
    assert_eq!(cli.ok(&["vm", "label", "web-1", "app=web", "turn-"]).await, "web-1 has app=web\n");
    let before = world.settled(&api).await;
    assert_eq!(cli.ok(&["vm", "label", "web-1", "app=web"]).await, "web-1 has app=web\n");
    assert_eq!(api.revision().await, before, "what is so already changes nothing");
    cli.run(&["vm", "label", "web-1", "app=db", "--expected-revision", "1"]).await.refused(1, "BE-2003");
    cli.run(&["vm", "label", "web-1", "app=a b"]).await.refused(1, "BE-1013");
    assert_eq!(cli.ok(&["vm", "label", "web-1", "app-"]).await, "web-1 has no labels\n");
    world.settled(&api).await;
    world.identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_again_gets_its_first_answer_and_changes_nothing() {
    let world = World::up(0).await;
    world.name_an_image().await;
    let first_member = world.api(&world.follower().await);
    let request = request::vm("once");
    let first = first_member.ask(request.clone()).await;
    let uid = first.vm.as_ref().unwrap().meta.as_ref().unwrap().uid.clone();
    let revision = world.settled(&first_member).await;

    let same = |answer: v1::VmAnswer, through: &str| {
        assert_eq!(answer.revision, first.revision, "through {through}");
        assert_eq!(answer.request_id, first.request_id, "through {through}");
        assert_eq!(answer.vm.unwrap().meta.unwrap().uid, uid, "through {through}");
    };
    for api in world.apis() {
        same(api.ask(request.clone()).await, &api.member);
    }
    assert_eq!(first_member.revision().await, revision, "a repeated request changed something");

    // The same id for something else: refused, whatever differs and whoever is asked.
    let mut larger = request.clone();
    larger.spec.as_mut().unwrap().cpus = Some(2);
    let mut other_method = request::delete("once");
    other_method.write.clone_from(&request.write);
    for api in world.apis() {
        assert_eq!(code(&api.send(larger.clone()).await.unwrap_err()), "BE-2005", "through {}", api.member);
        assert_eq!(code(&api.send(other_method.clone()).await.unwrap_err()), "BE-2005", "through {}", api.member);
    }
    assert_eq!(first_member.revision().await, revision, "a refused request changed something");

    // The next leader knows it too, and so does it after a restart of everything.
    let leader = world.leader().await;
    world.kill9(&leader);
    let heir = world.api(&world.leader().await);
    same(heir.ask(request.clone()).await, "the next leader");
    assert_eq!(code(&heir.send(larger.clone()).await.unwrap_err()), "BE-2005");
    for member in world.controllers().iter().filter(|member| **member != leader) {
        world.kill9(member);
    }
    for member in world.controllers() {
        world.start(&member);
    }
    let again = world.api(&world.leader().await);
    same(again.ask(request.clone()).await, "a leader after a restart of all members");
    assert_eq!(code(&again.send(larger).await.unwrap_err()), "BE-2005");
    assert_eq!(again.revision().await, revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_within_three_seconds_and_no_acknowledged_vm_is_lost() {
    let world = Arc::new(World::up(0).await);
    world.name_an_image().await;

    // Someone goes on writing through all of this, at any member that answers.
    let over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (over, apis) = (Arc::clone(&over), world.apis());
        async move {
            let mut acknowledged = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let name = format!("steady-{}", acknowledged.len());
                let request = request::vm(&name);
                let answer = insist(&apis, Duration::from_secs(30), request).await.unwrap();
                assert_eq!(answer.vm.unwrap().meta.unwrap().name, name);
                acknowledged.push(name);
            }
            acknowledged
        }
    });

    let mut made = BTreeSet::new();
    let mut slowest = Duration::ZERO;
    for round in 1..=5 {
        let leader = world.leader().await;
        let other = world.api(&world.follower().await);
        let revision = other.revision().await;
        let request = request::vm(&format!("after-kill-{round}"));
        let killed = Instant::now();
        world.kill9(&leader);
        let answer = insist(from_ref(&other), Duration::from_secs(30), request.clone()).await.unwrap();
        let took = killed.elapsed();
        figure(&format!("write through {} acknowledged after kill {round} of leader {leader}", other.member), took);
        slowest = slowest.max(took);
        assert!(answer.revision > revision);
        made.insert(request.name);

        world.start(&leader);
        let restarted = world.api(&leader);
        let what = format!("{leader} has caught up");
        until(&what, Duration::from_secs(20), async || match restarted.own_revision().await {
            Ok(reached) if reached >= answer.revision => Ok(()),
            Ok(reached) => Err(format!("it is at {reached} of {}", answer.revision)),
            Err(status) => Err(status.to_string()),
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    let steady = writer.await.unwrap();
    println!("figure: {} VMs acknowledged meanwhile", steady.len());
    assert!(steady.len() > 5, "the writer hardly got through: {steady:?}");
    made.extend(steady);
    for api in world.apis() {
        assert_eq!(names_on(&api, v1::Consistency::Linearizable).await, made, "through {}", api.member);
    }
    world.settled(&world.api("c1")).await;
    world.identical().await;
    assert!(slowest < FAILOVER, "a write took {slowest:?} after the leader was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_answer_the_same_bytes_at_each_revision_also_after_all_were_killed() {
    let world = World::up(0).await;
    world.name_an_image().await;
    let apis = world.apis();
    let writer = tokio::spawn({
        let api = world.api(&world.follower().await);
        async move {
            for n in 0..30 {
                let mut request = request::vm(&format!("vm-{n}"));
                request.labels = (0..8).map(|key| (format!("key-{key}"), format!("value-{n}"))).collect();
                request.annotations = (0..8).map(|key| (format!("note-{key}"), format!("\u{fc} {n}"))).collect();
                api.ask(request).await;
                if n % 3 == 0 {
                    api.ask(request::stop(&format!("vm-{n}"))).await;
                }
                if n % 5 == 0 {
                    api.ask(request::delete(&format!("vm-{n}"))).await;
                }
            }
        }
    });
    // While that goes on, each member's lists by revision: whenever two have been at one, they must have been the same.
    let mut seen: std::collections::BTreeMap<u64, (Lists, BTreeSet<String>)> = std::collections::BTreeMap::new();
    while !writer.is_finished() {
        for api in &apis {
            let Some(lists) = Lists::of(api).await.unwrap() else { continue };
            let (first, members) = seen.entry(lists.revision).or_insert_with(|| (lists.clone(), BTreeSet::new()));
            assert_eq!(&lists, first, "{} at revision {}", api.member, lists.revision);
            members.insert(api.member.clone());
        }
    }
    writer.await.unwrap();
    let shared = seen.values().filter(|(_, members)| members.len() > 1).count();
    println!("figure: {shared} of {} revisions seen on more than one member while they moved", seen.len());

    let revision = world.settled(&apis[0]).await;
    assert_eq!(world.identical().await, revision);
    let before = Lists::of(&apis[0]).await.unwrap().unwrap();

    for member in world.controllers() {
        world.kill9(&member);
    }
    let started = Instant::now();
    for member in world.controllers() {
        world.start(&member);
    }
    let leader = world.leader().await;
    figure("three killed controllers have a leader again", started.elapsed());
    assert_eq!(world.api(&leader).revision().await, revision);
    assert_eq!(world.identical().await, revision);
    assert_eq!(Lists::of(&world.api("c1")).await.unwrap().unwrap(), before, "the state is not what it was");
}

/// What a watch said, up to a revision.
async fn said(events: &mut tonic::Streaming<v1::WatchVmsEvent>, up_to: u64) -> Vec<(u64, String)> {
    let mut said = Vec::new();
    loop {
        let event = tokio::time::timeout(Duration::from_secs(20), events.message()).await;
        let event = event.expect("the watch says what happened").unwrap().expect("the watch goes on");
        let name = |vm: v1::Vm| vm.meta.unwrap().name;
        let text = match event.event.unwrap() {
            Event::Added(vm) => format!("added {}", name(vm)),
            Event::Modified(vm) => format!("modified {}", name(vm)),
            Event::Deleted(vm) => format!("deleted {}", name(vm)),
            Event::Bookmark(mark) => {
                assert!(!mark.initial_list_done, "a watch from a revision has no initial list");
                continue;
            }
        };
        said.push((event.revision, text));
        if event.revision >= up_to {
            return said;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_broke_goes_on_through_another_member_without_a_gap() {
    let world = World::up(0).await;
    world.name_an_image().await;
    let begin = world.settled(&world.api("c1")).await;
    let leader = world.leader().await;
    let other = world.api(&world.follower().await);

    let mut first = world.api(&leader).watch(Some(begin)).await.unwrap();
    other.ask(request::vm("a")).await;
    other.ask(request::vm("b")).await;
    let before = said(&mut first, world.settled(&other).await).await;
    let seen = before.last().unwrap().0;

    // The member that served the watch dies; meanwhile things happen.
    world.kill9(&leader);
    let ended = tokio::time::timeout(Duration::from_secs(10), first.message()).await.expect("the watch ends");
    assert!(!matches!(ended, Ok(Some(_))), "a dead member went on talking: {ended:?}");
    let within = Duration::from_secs(20);
    insist(from_ref(&other), within, request::vm("c")).await.unwrap();
    insist(from_ref(&other), within, request::delete("a")).await.unwrap();
    let last = world.settled(&other).await;

    let mut resumed = other.watch(Some(seen)).await.unwrap();
    let after = said(&mut resumed, last).await;
    assert!(after.iter().all(|(revision, _)| *revision > seen), "heard twice: {after:?}");
    for wanted in ["added c", "deleted a"] {
        assert!(after.iter().any(|(_, text)| text == wanted), "{wanted} is not among {after:?}");
    }
    // A third member, restarted meanwhile or not, tells the whole story in the same order.
    world.start(&leader);
    for api in world.apis() {
        let what = format!("{} has caught up", api.member);
        until(&what, within, async || match api.own_revision().await {
            Ok(reached) if reached >= last => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        let mut whole = api.watch(Some(begin)).await.unwrap();
        assert_eq!(said(&mut whole, last).await, [before.clone(), after.clone()].concat(), "from {}", api.member);
    }
    // Without a revision there is the list first, closed by a bookmark.
    let mut listed = other.watch(None).await.unwrap();
    let mut names = BTreeSet::new();
    loop {
        match listed.message().await.unwrap().unwrap().event.unwrap() {
            Event::Added(vm) => names.insert(vm.meta.unwrap().name),
            Event::Bookmark(mark) if mark.initial_list_done => break,
            unexpected => panic!("not part of a list: {unexpected:?}"),
        };
    }
    assert_eq!(names, ["b", "c"].map(str::to_owned).into());
}

/// More mebibytes than the log grows by before a member makes a snapshot, so that a restart begins from that.
const BEYOND_A_SNAPSHOT: usize = 80;

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_revision_that_is_forgotten_is_told_to_list_again() {
    let world = World::up(0).await;
    world.name_an_image().await;
    let leader = world.leader().await;
    let api = world.api(&leader);
    api.ask(request::vm("x")).await;
    let begin = world.settled(&api).await;

    // Each of these brings a mebibyte into the log, and leaves nothing behind but its events.
    let writing = Instant::now();
    let each = BEYOND_A_SNAPSHOT / 8;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let api = api.clone();
            tokio::spawn(async move {
                for number in 0..each {
                    let mut large = request::vm(&format!("large-{writer}-{number}"));
                    large.spec.as_mut().unwrap().user_data = Some(vec![b'#'; 1 << 20]);
                    api.ask(large).await;
                    api.ask(request::delete(&format!("large-{writer}-{number}"))).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    figure(&format!("{} VMs with a mebibyte of user data each, by 8 clients", each * 8), writing.elapsed());
    assert!(api.watch(Some(begin - 1)).await.is_ok(), "the leader remembers");

    let member = world.follower().await;
    let restarted = world.api(&member);
    // The snapshot is written beside all else; until it is there, a restart reads the whole log again.
    let what = "a restarted member remembers only what its snapshot left";
    let (refused, _) = until(what, Duration::from_secs(30), async || {
        world.kill9(&member);
        world.start(&member);
        until("the restarted member has caught up", Duration::from_secs(20), async || {
            match restarted.own_revision().await {
                Ok(reached) if reached >= begin => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        restarted.watch(Some(begin - 1)).await.err().ok_or_else(|| "it remembers everything".to_owned())
    })
    .await;
    assert_eq!((code(&refused).as_str(), refused.code()), ("BE-5005", tonic::Code::OutOfRange), "{refused:?}");
    assert!(refused.message().contains("the oldest that can be asked for is"), "{refused:?}");
    // From the list's own revision it works, and the next change comes.
    let mut events = restarted.watch(Some(restarted.revision().await)).await.unwrap();
    let deleted = restarted.ask(request::delete("x")).await;
    assert_eq!(said(&mut events, deleted.revision).await, [(deleted.revision, "deleted x".to_owned())]);
    world.identical().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_on_each_member() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let world = World::up(0).await;
    for api in world.apis() {
        for service in ["", "berth.v1.VmService"] {
            let request = HealthCheckRequest { service: service.to_owned() };
            let answer = HealthClient::new(api.channel()).check(request).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{service:?} on {}", api.member);
        }
        let ask = async |request: MessageRequest| {
            let request = ServerReflectionRequest { message_request: Some(request), ..Default::default() };
            let words = tokio_stream::once(request);
            let answers = ServerReflectionClient::new(api.channel()).server_reflection_info(words).await.unwrap();
            answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
        };
        let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
            panic!("no list of services");
        };
        let services: BTreeSet<_> = list.service.into_iter().map(|service| service.name).collect();
        for service in ["Vm", "Host", "Image", "InstanceType", "Cluster", "Console", "Agent"] {
            assert!(services.contains(&format!("berth.v1.{service}Service")), "{services:?}");
        }
        let symbol = MessageRequest::FileContainingSymbol("berth.v1.VmService".to_owned());
        let MessageResponse::FileDescriptorResponse(files) = ask(symbol).await else { panic!("no descriptors") };
        let files = files.file_descriptor_proto.iter();
        let files: Vec<prost_types::FileDescriptorProto> =
            files.map(|file| prost::Message::decode(file.as_slice()).unwrap()).collect();
        assert!(files.iter().any(|file| file.service.iter().any(|service| service.name() == "VmService")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_nobody_confirmed_is_called_unknown_and_is_made_once_when_it_is_sent_again() {
    let world = World::up(0).await;
    world.name_an_image().await;
    let leader = world.leader().await;
    let others: Vec<String> = world.controllers().into_iter().filter(|member| *member != leader).collect();
    for member in &others {
        world.lab().pause(member).unwrap();
    }
    // The leader has taken it into its log before it can notice that it is alone.
    let endpoint = world.lab().member(&leader).unwrap().api().to_string();
    let create = ["vm", "create", "doubtful", "--image", "tiny", "--cpus", "1", "--memory", "64MiB", "--no-wait"];
    let cli = world.cli();
    let said = cli.run(&[&create[..], &["--endpoint", &endpoint, "--timeout", "12s"]].concat()).await;
    assert_eq!(said.exit, Some(5), "{said:#?}");
    assert!(said.err.contains("error[BE-5002]"), "{said:#?}");
    let (_, rest) = said.err.split_once("--request-id ").unwrap();
    let id = rest.split(':').next().unwrap();

    for member in &others {
        world.lab().resume(member).unwrap();
    }
    let again = [&create[..], &["--request-id", id]].concat();
    let first = cli.json(&again).await;
    let second = cli.json(&again).await;
    assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"], "it was made once");
    let all = names_on(&world.api(&world.leader().await), v1::Consistency::Linearizable).await;
    assert_eq!(all, BTreeSet::from(["doubtful".to_owned()]));
}
