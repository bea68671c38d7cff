//! Three members in one process: forwarding, failover, restarts, linearizable reads, snapshots, and who is let in.

mod support;

use std::time::{Duration, Instant};

use berth_raft::{Bytes, ProposeError, ReadError, ReadMode, Role, SnapshotPolicy, State, TransferError};
use support::wire::{Ballot, ReadIndexRequest, ReadIndexResponse, VoteRequest, VoteResponse, call};
use support::{Cluster, PATIENCE, eventually, same_everywhere, split, stop_all};
use tonic::Code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_through_a_follower_is_seen_by_reads_on_every_member() {
    let cluster = Cluster::new(3);
    let (leader, followers) = split(cluster.start_all().await).await;
    let mut expected = Vec::new();
    for round in 0..20 {
        let node = [&followers[0], &followers[1], &leader][round % 3];
        let text = format!("write {round}");
        assert_eq!(node.propose(&text).await.unwrap(), u64::try_from(round).unwrap() + 1);
        expected.push(text);
        // At once and on the other members: a member that lags would show an older state.
        same_everywhere(&[&followers[1], &leader, &followers[0]], &expected).await;
    }
    let status = leader.handle.status();
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| member.role == Role::Voter));
    assert!(status.members.iter().all(|member| member.replicated.is_some()), "{status:?}");
    assert_eq!(followers[0].handle.status().leader.map(|member| member.id), Some(leader.id));
    stop_all(followers.into_iter().chain([leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_leaders_death_the_next_write_is_acknowledged_within_three_seconds_and_nothing_is_lost() {
    let cluster = Cluster::new(3);
    let (leader, followers) = split(cluster.start_all().await).await;
    let mut expected = Vec::new();
    for round in 0..50 {
        expected.push(format!("before {round}"));
        followers[round % 2].propose(&expected[round]).await.unwrap();
    }
    let dead = leader.id;
    let killed = Instant::now();
    cluster.kill(leader).await;
    expected.push("after".to_owned());
    // The proposal waits for the new leader by itself: while nobody leads it is certain that nothing was executed.
    assert_eq!(followers[0].propose("after").await.unwrap(), 51);
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(3), "the next write took {took:?}");
    same_everywhere(&[&followers[0], &followers[1]], &expected).await;
    let back = cluster.start(dead).await;
    expected.push("rejoined".to_owned());
    back.propose("rejoined").await.unwrap();
    same_everywhere(&[&back, &followers[0], &followers[1]], &expected).await;
    stop_all(followers.into_iter().chain([back])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_members_killed_and_restarted_have_the_same_state() {
    let cluster = Cluster::new(3);
    let nodes = cluster.start_all().await;
    let expected: Vec<_> = (0..30).map(|round| format!("write {round}")).collect();
    for (round, text) in expected.iter().enumerate() {
        nodes[round % 3].propose(text).await.unwrap();
    }
    for node in nodes {
        cluster.kill(node).await;
    }
    let nodes = cluster.start_all().await;
    same_everywhere(&nodes.iter().collect::<Vec<_>>(), &expected).await;
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_kills_every_answer_keeps_its_promise() {
    let cluster = Cluster::new(3);
    let mut nodes = cluster.start_all().await;
    let mut acknowledged = Vec::new();
    let mut refused = Vec::new();
    let mut unknown = 0;
    for round in 0..4_usize {
        let (leader, others) = split(nodes).await;
        let writers = others.iter().enumerate().map(|(writer, node)| async move {
            let mut answers = Vec::new();
            for number in 0..60 {
                let text = format!("{round}-{writer}-{number}");
                let patience = Duration::from_millis(if number % 7 == 0 { 20 } else { 5000 });
                answers.push((text.clone(), node.handle.propose(Bytes::from(text), patience).await));
            }
            answers
        });
        let id = leader.id;
        let killing = async {
            eventually("some progress", || others[0].machine.seen().len() > acknowledged.len() + 10).await;
            cluster.kill(leader).await;
        };
        let (answers, ()) = tokio::join!(futures::future::join_all(writers), killing);
        for (text, answer) in answers.into_iter().flatten() {
            match answer {
                Ok(_) => acknowledged.push(text),
                Err(ProposeError::NoLeader) => refused.push(text),
                Err(ProposeError::Unknown { .. }) => unknown += 1,
                Err(error) => panic!("{error}"),
            }
        }
        nodes = others;
        nodes.push(cluster.start(id).await);
    }
    let mut seen = Vec::new();
    for node in &nodes {
        node.handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
        let here = node.machine.seen();
        assert!(seen.is_empty() || seen == here, "two members differ");
        seen = here;
    }
    assert!(acknowledged.iter().all(|text| seen.contains(text)), "an acknowledged write is lost");
    assert!(refused.iter().all(|text| !seen.contains(text)), "a refused write was made");
    let mut once = seen.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), seen.len(), "a write was made twice");
    assert!(seen.len() <= acknowledged.len() + unknown);
    assert!(acknowledged.len() > 200, "only {} writes were acknowledged, {unknown} unknown", acknowledged.len());
    stop_all(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_reads_see_what_was_acknowledged_before_them_on_every_member() {
    let cluster = Cluster::new(3);
    let (leader, followers) = split(cluster.start_all().await).await;
    for round in 1..=30 {
        let nodes = [&leader, &followers[0], &followers[1]];
        nodes[round % 3].propose(&format!("write {round}")).await.unwrap();
        for node in nodes {
            node.handle.read_barrier(ReadMode::Lease, PATIENCE).await.unwrap();
            assert_eq!(node.machine.seen().len(), round, "member {}", node.id);
        }
    }
    stop_all(followers.into_iter().chain([leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_neither_answers_reads_nor_acknowledges_writes() {
    let cluster = Cluster::new(3);
    let (old, others) = split(cluster.start_all().await).await;
    others[0].propose("before").await.unwrap();
    cluster.cut(old.id, true);
    let short = Duration::from_millis(300);
    assert_eq!(old.handle.read_barrier(ReadMode::Index, short).await, Err(ReadError::NoLeader));
    let lost = old.handle.propose(Bytes::from_static(b"lost"), short).await;
    assert!(matches!(lost, Err(ProposeError::Unknown { .. } | ProposeError::NoLeader)), "{lost:?}");
    // It no longer says that it leads either, although it hears of no other leader, and a lease has run out.
    old.leadership(|now| now.leader.is_none() && !now.is_leader).await;
    assert_eq!(old.handle.read_barrier(ReadMode::Lease, short).await, Err(ReadError::NoLeader));
    let new = others[0].leadership(|now| now.leader.as_ref().is_some_and(|leader| leader.id != old.id)).await;
    assert!(new.term > 1);
    assert_eq!(others[1].propose("after").await.unwrap(), 2);
    assert_eq!(old.handle.read_barrier(ReadMode::Index, short).await, Err(ReadError::NoLeader));
    cluster.cut(old.id, false);
    let expected = ["before".to_owned(), "after".to_owned()];
    same_everywhere(&[&old, &others[0], &others[1]], &expected).await;
    stop_all(others.into_iter().chain([old])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_falls_silent_is_replaced_and_its_open_streams_are_given_up() {
    let cluster = Cluster::new(3);
    let (old, others) = split(cluster.start_all().await).await;
    others[0].propose("before").await.unwrap();
    cluster.freeze(old.id, true);
    // What was handed to the silent leader is in doubt, and it is said so as soon as the stream is given up.
    let began = Instant::now();
    let answer = others[0].handle.propose(Bytes::from_static(b"in doubt"), PATIENCE).await;
    assert!(matches!(answer, Err(ProposeError::Unknown { .. })), "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(6), "it took {:?}", began.elapsed());
    others[1].propose("after").await.unwrap();
    cluster.freeze(old.id, false);
    let expected = ["before".to_owned(), "after".to_owned()];
    same_everywhere(&[&others[0], &others[1], &old], &expected).await;
    stop_all(others.into_iter().chain([old])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_does_not_disturb_the_leader() {
    let cluster = Cluster::new(3);
    let (leader, others) = split(cluster.start_all().await).await;
    let term = leader.handle.status().term;
    let away = &others[0];
    cluster.cut(away.id, true);
    away.leadership(|now| now.leader.is_none() || now.term == term).await;
    leader.propose("meanwhile").await.unwrap();
    // Long enough for several elections, had it been allowed to stand without asking first.
    let until = Instant::now() + Duration::from_secs(4);
    eventually("four seconds", || Instant::now() > until).await;
    cluster.cut(away.id, false);
    same_everywhere(&[away], &["meanwhile".to_owned()]).await;
    assert_eq!(leader.handle.status().term, term, "the leader was not deposed");
    assert!(leader.handle.leadership().borrow().is_leader);
    stop_all(others.into_iter().chain([leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_down_is_dialled_with_pauses() {
    let cluster = Cluster::new(3);
    let (leader, others) = split(cluster.start_all().await).await;
    let down = others[0].id;
    cluster.cut(down, true);
    leader.propose("meanwhile").await.unwrap();
    // A heartbeat each 100 ms, and replication with a growing pause: at most some twenty calls a second, where a loop
    // without pauses makes thousands. A slow machine only makes it longer.
    let (first, started) = (cluster.dialled(down), Instant::now());
    eventually("a hundred calls", || cluster.dialled(down) >= first + 100).await;
    assert!(started.elapsed() > Duration::from_secs(3), "a hundred calls took only {:?}", started.elapsed());
    cluster.cut(down, false);
    stop_all(others.into_iter().chain([leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_far_behind_catches_up_by_a_snapshot() {
    let mut cluster = Cluster::new(3);
    cluster.snapshots = SnapshotPolicy { entries_between: 50, entries_kept: 5, ..SnapshotPolicy::default() };
    let (leader, mut others) = split(cluster.start_all().await).await;
    others[0].propose("first").await.unwrap();
    let away = others.remove(0);
    let id = away.id;
    away.stop().await;
    let mut expected = vec!["first".to_owned()];
    for round in 0..300 {
        // Some hundred kilobytes in all, so that the snapshot needs several reads.
        expected.push(format!("{round} {}", "x".repeat(10_000)));
        leader.propose(expected.last().unwrap()).await.unwrap();
    }
    eventually("purging", || leader.handle.status().purged.is_some_and(|purged| purged > 200)).await;
    let back = cluster.start(id).await;
    same_everywhere(&[&back], &expected).await;
    // The state is there a moment before it is told of.
    eventually("the snapshot", || back.handle.status().snapshot.is_some_and(|snapshot| snapshot >= 200)).await;
    // What came by snapshot survives a restart, and the log goes on after it.
    back.stop().await;
    let back = cluster.start(id).await;
    expected.push("last".to_owned());
    back.propose("last").await.unwrap();
    same_everywhere(&[&back, &leader, &others[0]], &expected).await;
    // Another one may just be in the making.
    let kept = || std::fs::read_dir(cluster.data_dir(id).join("snapshots")).unwrap().count();
    eventually("the end of what is unfinished, with one snapshot left", || kept() == 1).await;
    stop_all(others.into_iter().chain([back, leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_interrupted_goes_on_where_it_broke_and_disturbs_no_election() {
    let mut cluster = Cluster::new(3);
    cluster.snapshots = SnapshotPolicy { entries_between: 5, entries_kept: 1, ..SnapshotPolicy::default() };
    let (leader, mut others) = split(cluster.start_all().await).await;
    others[0].propose("first").await.unwrap();
    let away = others.remove(0);
    let id = away.id;
    away.stop().await;
    // Some dozen megabytes, so that the way takes a while.
    let mut expected = vec!["first".to_owned()];
    for round in 0..60 {
        expected.push(format!("{round} {}", "x".repeat(800_000)));
        leader.propose(expected.last().unwrap()).await.unwrap();
    }
    eventually("purging", || leader.handle.status().purged.is_some_and(|purged| purged > 50)).await;
    // A newer snapshot that is made meanwhile would be sent from its beginning.
    let is_last =
        |status: berth_raft::Status| status.snapshot.zip(status.last_log).is_some_and(|(at, end)| end - at < 5);
    eventually("the last snapshot", || is_last(leader.handle.status())).await;
    let term = leader.handle.status().term;
    let back = cluster.start(id).await;
    let received = || back.handle.status().receiving.map(|progress| progress.bytes).unwrap_or_default();
    eventually("some of the snapshot", || received() > 5_000_000).await;
    let told = leader.handle.status().members.iter().find(|one| one.member.id == id).unwrap().receiving;
    cluster.cut(id, true);
    eventually("the break", || back.handle.status().receiving.is_none()).await;
    assert!(told.is_none_or(|progress| progress.of > 30_000_000), "{told:?}");
    cluster.cut(id, false);
    // Nothing that was there is sent again: the first that is seen of it is more than there was.
    eventually("the rest", || received() > 0 || back.machine.seen().len() == expected.len()).await;
    let first = received();
    assert!(first == 0 || first > 5_000_000, "it began anew: {first} bytes");
    same_everywhere(&[&back], &expected).await;
    assert_eq!(leader.handle.status().term, term, "no election was needed");
    stop_all(others.into_iter().chain([back, leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_handed_over_without_an_election_wait() {
    let cluster = Cluster::new(3);
    let (leader, others) = split(cluster.start_all().await).await;
    let refusal = others[0].handle.transfer_leadership(None, PATIENCE).await.unwrap_err();
    assert_eq!(refusal, TransferError::NotLeader { leader: Some(format!("member-{}", leader.id)) });
    let nobody = leader.handle.transfer_leadership(Some(99), PATIENCE).await.unwrap_err();
    assert_eq!(nobody, TransferError::NoCandidate { to: Some(99) });
    let began = Instant::now();
    let target = others[1].id;
    let next = leader.handle.transfer_leadership(Some(target), PATIENCE).await.unwrap();
    assert_eq!(next.id, target);
    assert_eq!(leader.propose("through the new leader").await.unwrap(), 1);
    assert!(began.elapsed() < Duration::from_secs(1), "it took {:?}", began.elapsed());
    stop_all(others.into_iter().chain([leader])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_answered_and_with_it_everything_again() {
    let cluster = Cluster::new(3);
    let (leader, followers) = split(cluster.start_all().await).await;
    leader.propose("first").await.unwrap();
    let ids: Vec<_> = followers.iter().map(|node| node.id).collect();
    stop_all(followers).await;
    let short = Duration::from_millis(300);
    assert_eq!(leader.handle.read_barrier(ReadMode::Index, short).await, Err(ReadError::NoLeader));
    let answer = leader.handle.propose(Bytes::from_static(b"second"), short).await;
    assert!(matches!(answer, Err(ProposeError::Unknown { .. } | ProposeError::NoLeader)), "{answer:?}");
    assert_eq!(leader.handle.status().state, State::Running);
    let back = cluster.start(ids[0]).await;
    back.propose("third").await.unwrap();
    back.handle.read_barrier(ReadMode::Index, PATIENCE).await.unwrap();
    assert!(back.machine.seen().contains(&"third".to_owned()));
    stop_all([leader, back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_and_members_speak_for_themselves_only() {
    let cluster = Cluster::new(3);
    let (leader, others) = split(cluster.start_all().await).await;
    leader.propose("first").await.unwrap();
    let read = "/berth.raft.v1.Raft/ReadIndex";
    let question = ReadIndexRequest { timeout_ms: 5000 };
    let io = cluster.connect_as("member-2", leader.id).await.unwrap();
    let answer: ReadIndexResponse = call(io, read, question.clone()).await.unwrap();
    assert!(answer.index.is_some());
    let io = cluster.connect_as("stranger", leader.id).await.unwrap();
    let refusal = call::<_, ReadIndexResponse>(io, read, question).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);

    let term = leader.handle.status().term;
    let (victim, other) = (others[0].id, others[1].id);
    let ballot = |member| VoteRequest { ballot: Some(Ballot { term: term + 10, member, committed: false }) };
    let name = format!("member-{other}");
    let io = cluster.connect_as(&name, leader.id).await.unwrap();
    let refusal = call::<_, VoteResponse>(io, "/berth.raft.v1.Raft/Vote", ballot(victim)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied);
    assert!(refusal.message().contains(&format!("must not speak for member {victim}")), "{refusal}");
    let io = cluster.connect_as(&name, leader.id).await.unwrap();
    let answer: VoteResponse = call(io, "/berth.raft.v1.Raft/Vote", ballot(other)).await.unwrap();
    assert!(!answer.granted, "its log is shorter, and the leader leads");
    assert_eq!(leader.handle.status().term, term);
    stop_all(others.into_iter().chain([leader])).await;
}
