//! Changes, and what is refused.

use super::*;

/// Voters 1 to `size`, all answering, member 1 leading at index 100.
fn view(size: u64) -> View {
    let seat = |id: u64| Seat {
        address: Address {
            name: format!("m{id}"),
            raft_addr: format!("raft-{id}"),
            lineage: 7,
            is_seated: true,
            ..Address::default()
        },
        replicated: Some(100),
        answers: true,
        has_forgotten: false,
    };
    View {
        leader: 1,
        last_log: 100,
        members: (1..=size).map(|id| (id, seat(id))).collect(),
        voters: (1..=size).collect(),
        has_committed: true,
        is_committed: true,
        is_joint: false,
    }
}

fn new(name: &str) -> NewMember {
    NewMember { name: name.to_owned(), raft_addr: format!("raft-{name}"), ..NewMember::default() }
}

fn with_learner(mut view: View, name: &str) -> (View, u64) {
    let (id, address) = view.newcomer(&new(name), None);
    view.members.insert(id, Seat { address, replicated: Some(view.last_log), answers: true, has_forgotten: false });
    (view, id)
}

fn kind(result: Result<Step, Refusal>) -> RefusalKind {
    match result {
        Err(refusal) | Ok(Step::Wait(refusal)) => refusal.kind,
        Ok(step) => panic!("{step:?}"),
    }
}

fn silence(view: &mut View, id: u64) {
    view.members.get_mut(&id).unwrap().answers = false;
}

#[test]
fn a_new_member_gets_an_id_above_every_id_and_index_and_the_lineage_of_the_cluster() {
    let Ok(Step::Submit { changes: ChangeMembers::AddNodes(added), member }) = decide(&view(3), &Change::Add(new("x")))
    else {
        panic!()
    };
    assert_eq!(member.id, 101);
    assert_eq!((added[&101].lineage, added[&101].is_seated), (7, false));
    let mut old = view(3);
    old.last_log = 2;
    let Ok(Step::Submit { member, .. }) = decide(&old, &Change::Add(new("x"))) else { panic!() };
    assert_eq!(member.id, 4);
}

#[test]
fn adding_the_same_member_again_changes_nothing_and_another_of_its_name_or_address_is_refused() {
    let (view, id) = with_learner(view(3), "x");
    let Ok(Step::Done(member)) = decide(&view, &Change::Add(new("x"))) else { panic!() };
    assert_eq!(member.id, id);
    let moved = NewMember { raft_addr: "elsewhere".to_owned(), ..new("x") };
    assert_eq!(kind(decide(&view, &Change::Add(moved))), RefusalKind::NameTaken);
    let double = NewMember { raft_addr: "raft-2".to_owned(), ..new("y") };
    assert_eq!(kind(decide(&view, &Change::Add(double))), RefusalKind::AddressTaken);
    assert_eq!(kind(decide(&view, &Change::Add(new("")))), RefusalKind::Invalid);
}

#[test]
fn what_is_in_the_log_and_not_committed_is_not_yet_so() {
    let (mut view, id) = with_learner(view(3), "x");
    let moved = Member { raft_addr: "raft-2".to_owned(), ..view.members[&2].address.member(2) };
    let replaced = Change::Replace { dead: 99, with: new("x") };
    let asked_again = [Change::Add(new("x")), replaced, Change::Promote(2), Change::Update(moved)];
    for change in &asked_again {
        assert!(matches!(decide(&view, change), Ok(Step::Done(_))), "{change:?}");
    }
    view.is_committed = false;
    for change in &asked_again {
        assert_eq!(kind(decide(&view, change)), RefusalKind::UnderWay, "{change:?}");
    }
    // A removal that is lost leaves the member where it was.
    view.members.remove(&id);
    assert_eq!(kind(decide(&view, &Change::Remove { id, force: false })), RefusalKind::UnderWay);
    view.is_committed = true;
    assert_eq!(kind(decide(&view, &Change::Remove { id, force: false })), RefusalKind::UnknownMember);
}

#[test]
fn a_learner_is_promoted_when_it_answers_and_has_caught_up() {
    let (good, id) = with_learner(view(3), "x");
    assert!(matches!(decide(&good, &Change::Promote(id)), Ok(Step::Submit { .. })));
    let mut silent = good.clone();
    silence(&mut silent, id);
    assert_eq!(kind(decide(&silent, &Change::Promote(id))), RefusalKind::Silent);
    let mut lagging = good.clone();
    lagging.last_log = 5000;
    let Ok(Step::Wait(refusal)) = decide(&lagging, &Change::Promote(id)) else { panic!() };
    assert_eq!((refusal.kind, refusal.reason.contains("lags by 4900 entries")), (RefusalKind::Lagging, true));
    let mut forgetful = good.clone();
    forgetful.members.get_mut(&id).unwrap().has_forgotten = true;
    assert_eq!(kind(decide(&forgetful, &Change::Promote(id))), RefusalKind::HasForgotten);
    assert!(matches!(decide(&good, &Change::Promote(2)), Ok(Step::Done(_))));
    assert_eq!(kind(decide(&good, &Change::Promote(99))), RefusalKind::UnknownMember);
}

#[test]
fn a_removal_that_would_lose_the_quorum_is_refused_with_who_is_silent() {
    let mut view = view(3);
    silence(&mut view, 3);
    let refusal = decide(&view, &Change::Remove { id: 2, force: false }).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::WouldLoseQuorum);
    assert!(refusal.reason.contains("m3 does not"), "{}", refusal.reason);
    assert!(matches!(decide(&view, &Change::Remove { id: 3, force: false }), Ok(Step::Submit { .. })));
    assert!(matches!(decide(&view, &Change::Remove { id: 2, force: true }), Ok(Step::Submit { .. })));
    // The leader itself: two are left, and one of them is silent.
    assert_eq!(kind(decide(&view, &Change::Remove { id: 1, force: false })), RefusalKind::WouldLoseQuorum);
}

#[test]
fn the_last_voter_stays_even_by_force() {
    let (view, learner) = with_learner(view(1), "x");
    assert_eq!(kind(decide(&view, &Change::Remove { id: 1, force: true })), RefusalKind::LastVoter);
    assert!(matches!(decide(&view, &Change::Remove { id: learner, force: false }), Ok(Step::Submit { .. })));
}

#[test]
fn a_promotion_that_would_lose_the_quorum_is_refused() {
    // Two voters of whom one is silent cannot make a majority of three.
    let (mut view, id) = with_learner(view(4), "x");
    silence(&mut view, 2);
    silence(&mut view, 3);
    // Of five, three must answer: 1, 4 and the newcomer do.
    assert!(matches!(decide(&view, &Change::Promote(id)), Ok(Step::Submit { .. })));
    silence(&mut view, 4);
    assert_eq!(kind(decide(&view, &Change::Promote(id))), RefusalKind::WouldLoseQuorum);
}

#[test]
fn while_a_change_is_under_way_the_next_one_waits() {
    let (mut view, id) = with_learner(view(3), "x");
    view.is_committed = false;
    assert_eq!(kind(decide(&view, &Change::Promote(id))), RefusalKind::UnderWay);
    view.is_committed = true;
    view.is_joint = true;
    assert_eq!(kind(decide(&view, &Change::Add(new("y")))), RefusalKind::UnderWay);
    assert_eq!(upkeep(&view), Some(Upkeep::Finish));
    view.is_committed = false;
    assert_eq!(upkeep(&view), None);
}

#[test]
fn a_replacement_comes_as_a_learner_and_takes_the_place_once_it_has_caught_up() {
    let mut before = view(3);
    silence(&mut before, 3);
    let change = Change::Replace { dead: 3, with: new("x") };
    let Ok(Step::Submit { changes: ChangeMembers::AddNodes(added), member }) = decide(&before, &change) else {
        panic!()
    };
    assert_eq!(added[&member.id].replaces, Some(3));
    let mut during = before.clone();
    let seat = Seat { address: added[&member.id].clone(), replicated: None, answers: false, has_forgotten: false };
    during.members.insert(member.id, seat);
    assert_eq!(decide(&during, &change), Ok(Step::Done(member.clone())), "asked twice");
    assert_eq!(upkeep(&during), None, "it has not even been heard");
    let seat = during.members.get_mut(&member.id).unwrap();
    (seat.answers, seat.replicated, seat.address.is_seated) = (true, Some(100), true);
    let Some(Upkeep::Replace { changes: ChangeMembers::Batch(changes), .. }) = upkeep(&during) else { panic!() };
    assert!(changes.contains(&ChangeMembers::ReplaceAllVoters(BTreeSet::from([1, 2, member.id]))));
    during.last_log = 9000;
    assert_eq!(upkeep(&during), None, "it lags");
}

#[test]
fn a_replacement_that_cannot_stand_is_refused() {
    let mut view = view(3);
    silence(&mut view, 2);
    silence(&mut view, 3);
    // With the newcomer two of three answer.
    let change = Change::Replace { dead: 3, with: new("x") };
    assert!(matches!(decide(&view, &change), Ok(Step::Submit { .. })));
    let same_name = Change::Replace { dead: 3, with: new("m3") };
    assert_eq!(kind(decide(&view, &same_name)), RefusalKind::NameTaken);
    let unknown = Change::Replace { dead: 9, with: new("x") };
    assert_eq!(kind(decide(&view, &unknown)), RefusalKind::UnknownMember);
}

#[test]
fn who_has_acknowledged_something_is_noted_once() {
    let mut view = view(3);
    view.members.get_mut(&2).unwrap().address.is_seated = false;
    let seat = view.members.get_mut(&3).unwrap();
    (seat.address.is_seated, seat.replicated) = (false, None);
    let Some(Upkeep::Seat(seated)) = upkeep(&view) else { panic!() };
    assert_eq!(seated.keys().collect::<Vec<_>>(), [&2]);
    assert!(seated[&2].is_seated);
    // The list of the first members is in every fresh directory, and is no sign of anything.
    view.members.get_mut(&2).unwrap().replicated = Some(0);
    assert_eq!(upkeep(&view), None);
}

#[test]
fn a_member_that_moved_is_updated_and_keeps_its_name() {
    let view = view(3);
    let moved =
        Member { raft_addr: "elsewhere".to_owned(), domain: "rack 2".to_owned(), ..view.members[&2].address.member(2) };
    let Ok(Step::Submit { changes: ChangeMembers::SetNodes(set), .. }) = decide(&view, &Change::Update(moved.clone()))
    else {
        panic!()
    };
    assert_eq!((set[&2].member(2), set[&2].is_seated, set[&2].lineage), (moved.clone(), true, 7));
    let renamed = Member { name: "other".to_owned(), ..moved.clone() };
    assert_eq!(kind(decide(&view, &Change::Update(renamed))), RefusalKind::Invalid);
    let double = Member { raft_addr: "raft-3".to_owned(), ..moved };
    assert_eq!(kind(decide(&view, &Change::Update(double))), RefusalKind::AddressTaken);
}
