use berth_model::Revision;
use berth_model::session::ProtocolRange;
use berth_model::{BootId, Incarnation, Term};

use super::*;
use crate::testing::{host, welcome};

fn ms(millis: u64) -> BootTime {
    BootTime::from_millis(millis)
}

fn hello() -> Hello {
    Hello {
        cluster: None,
        incarnation: Incarnation(0),
        term: Term(0),
        protocol: ProtocolRange { oldest: 1, newest: 1 },
        host: host(),
        name: "h1".parse().unwrap(),
        address: "10.0.0.1:7443".into(),
        boot: BootId("b".into()),
        start: 1,
        version: "0.1.0".into(),
    }
}

fn session() -> Session {
    Session::new(Options::new(vec!["c1".into(), "c2".into(), "c3".into()]), 0)
}

/// The address that is dialled, if one is.
fn dialled(effects: &[Effect]) -> Option<(ConnectionId, &str)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Connect { connection, address } => Some((*connection, address.as_str())),
        Effect::Send { .. } | Effect::Close { .. } | Effect::Lost { .. } => None,
    })
}

fn tick(session: &mut Session, at: u64) -> Vec<Effect> {
    let mut effects = vec![];
    session.tick(ms(at), 0, &mut effects);
    effects
}

fn hear(session: &mut Session, connection: ConnectionId, message: ToHost, at: u64) -> (Option<Heard>, Vec<Effect>) {
    let mut effects = vec![];
    let heard = session.received(connection, message, ms(at), 0, &mut effects);
    (heard, effects)
}

/// A session that stands since `at`.
fn open(at: u64) -> (Session, ConnectionId) {
    let mut session = session();
    let connection = dialled(&tick(&mut session, at)).map(|(connection, _)| connection).unwrap();
    session.dialed(connection, hello(), ms(at), &mut vec![]);
    hear(&mut session, connection, ToHost::Welcome(welcome(1)), at);
    assert!(session.is_open());
    (session, connection)
}

fn answer(number: u64, may_start_for: u64) -> ToHost {
    ToHost::HeartbeatAck { number, may_start_for: Millis(may_start_for) }
}

#[test]
fn every_controller_is_tried_before_a_pause_that_grows() {
    let mut session = session();
    let mut at = 0;
    for pause in [200, 400, 800] {
        let mut effects = tick(&mut session, at);
        for address in ["c1", "c2", "c3"] {
            let (connection, dialled_address) = dialled(&effects).unwrap();
            assert_eq!(dialled_address, address);
            effects = vec![];
            session.ended(connection, "refused", ms(at), u64::MAX, &mut effects);
        }
        assert_eq!(dialled(&effects), None);
        let until = session.deadline().unwrap().as_millis();
        assert!((at + pause / 2..=at + pause).contains(&until), "{until} after {at}");
        at = until;
    }
}

#[test]
fn a_redirect_is_followed_at_once_but_not_for_ever() {
    let mut session = session();
    let mut effects = tick(&mut session, 0);
    for _ in 0..3 {
        let (connection, _) = dialled(&effects).unwrap();
        session.dialed(connection, hello(), ms(0), &mut vec![]);
        effects = hear(&mut session, connection, ToHost::Redirect { leader: Some("c9".into()) }, 0).1;
        assert_eq!(dialled(&effects).map(|(_, address)| address), Some("c9"));
    }
    let (connection, _) = dialled(&effects).unwrap();
    session.dialed(connection, hello(), ms(0), &mut vec![]);
    let effects = hear(&mut session, connection, ToHost::Redirect { leader: Some("c9".into()) }, 0).1;
    assert_eq!(dialled(&effects).map(|(_, address)| address), Some("c2"), "the next of its own list");
}

#[test]
fn permission_counts_from_when_the_answered_heartbeat_was_sent() {
    let (mut session, connection) = open(1000);
    tick(&mut session, 1000);
    hear(&mut session, connection, answer(1, 500), 1400);
    assert_eq!(session.permission().until, Some(ms(1500)), "not 1900");
    assert_eq!(session.permission().at(ms(1499)), None, "the set was not received");
    session.confirm();
    assert_eq!(session.permission().at(ms(1499)), Some(ms(1500)));
    assert_eq!(session.permission().at(ms(1500)), None);
}

#[test]
fn an_old_or_made_up_answer_gives_no_permission() {
    let (mut session, connection) = open(0);
    tick(&mut session, 0);
    tick(&mut session, 1000);
    hear(&mut session, connection, answer(2, 300), 1001);
    hear(&mut session, connection, answer(1, 9000), 1002);
    hear(&mut session, connection, answer(7, 9000), 1003);
    assert_eq!(session.permission().until, Some(ms(1300)));
}

#[test]
fn a_session_ends_when_three_heartbeats_stay_unanswered() {
    let (mut session, connection) = open(0);
    for at in [0, 1000, 2000] {
        tick(&mut session, at);
        hear(&mut session, connection, answer(at / 1000 + 1, 5000), at);
    }
    for at in [3000, 4000, 4999] {
        tick(&mut session, at);
        assert!(session.is_open());
    }
    let effects = tick(&mut session, 5000);
    assert!(effects.contains(&Effect::Close { connection }));
    assert_eq!(session.permission(), Permission::default(), "no session, no permission, whatever was granted");
}

#[test]
fn an_ended_session_takes_its_permission_with_it() {
    let (mut session, connection) = open(0);
    tick(&mut session, 0);
    hear(&mut session, connection, answer(1, 9000), 1);
    session.confirm();
    session.ended(connection, "reset", ms(2), 0, &mut vec![]);
    assert_eq!(session.permission(), Permission::default());
}

#[test]
fn a_delta_before_the_set_and_words_out_of_turn_end_the_session() {
    let delta = ToHost::DesiredDelta { revision: Revision(1), entries: vec![], forgotten: vec![] };
    for word in [delta, ToHost::Welcome(welcome(2))] {
        let (mut session, connection) = open(0);
        let (heard, effects) = hear(&mut session, connection, word, 1);
        assert_eq!(heard, None);
        assert!(effects.contains(&Effect::Close { connection }));
    }
    let mut session = session();
    let connection = dialled(&tick(&mut session, 0)).map(|(connection, _)| connection).unwrap();
    session.dialed(connection, hello(), ms(0), &mut vec![]);
    let set = ToHost::DesiredSet { revision: Revision(1), entries: vec![] };
    assert_eq!(hear(&mut session, connection, set, 1).0, None, "a set before the welcome");
}

#[test]
fn a_word_of_an_earlier_connection_is_not_heard() {
    let (mut session, earlier) = open(0);
    session.ended(earlier, "reset", ms(1), 0, &mut vec![]);
    let set = ToHost::DesiredSet { revision: Revision(1), entries: vec![] };
    assert_eq!(hear(&mut session, earlier, set, 2), (None, vec![]));
}

#[test]
fn a_refusal_is_not_tried_again_at_once() {
    let (mut session, connection) = open(0);
    let refuse = ToHost::Refuse { code: "BE-5007".into(), message: "another cluster".into() };
    let (_, effects) = hear(&mut session, connection, refuse, 0);
    assert_eq!(dialled(&effects), None);
    assert!(session.deadline().unwrap() >= ms(5000));
}

#[test]
fn a_leader_that_welcomes_and_hangs_up_is_not_dialled_without_pause() {
    let mut session = session();
    let mut effects = tick(&mut session, 0);
    let mut dials = 0;
    while let Some((connection, _)) = dialled(&effects) {
        dials += 1;
        session.dialed(connection, hello(), ms(0), &mut vec![]);
        hear(&mut session, connection, ToHost::Welcome(welcome(1)), 0);
        effects = vec![];
        session.ended(connection, "reset", ms(0), 0, &mut effects);
    }
    assert_eq!(dials, 3);
}

/// What is dialled from now on when nobody answers, until the next pause.
fn round(session: &mut Session, mut effects: Vec<Effect>, at: u64) -> Vec<String> {
    let mut addresses = vec![];
    while let Some((connection, address)) = dialled(&effects) {
        addresses.push(address.to_owned());
        effects = vec![];
        session.ended(connection, "refused", ms(at), 0, &mut effects);
    }
    addresses
}

fn told(addresses: &[&str]) -> ToHost {
    ToHost::Controllers { addresses: addresses.iter().map(|address| (*address).to_owned()).collect() }
}

#[test]
fn controllers_that_a_leader_told_of_are_tried_first_and_the_configured_ones_after_them() {
    let (mut session, connection) = open(0);
    let heard = hear(&mut session, connection, told(&["c3:1", "c4:1"]), 1).0;
    assert_eq!(heard, Some(Heard::Controllers(vec!["c3:1".into(), "c4:1".into()])));
    assert_eq!(hear(&mut session, connection, told(&["c3:1", "c4:1"]), 2).0, None, "it is known");
    assert!(session.is_open());
    hear(&mut session, connection, answer(1, 1), 2);
    let mut effects = vec![];
    session.ended(connection, "reset", ms(3), 0, &mut effects);
    let mut tried = round(&mut session, effects, 3);
    tried[..2].sort();
    assert_eq!(tried, ["c3:1", "c4:1", "c1", "c2", "c3"]);
    // Its next start knows them too, and each of the first has its turn as the first.
    let options = Options { learned: vec!["c3:1".into(), "c1".into()], ..Options::new(vec!["c1".into(), "c2".into()]) };
    for (entropy, wanted) in [(0, ["c3:1", "c1", "c2"]), (1, ["c1", "c3:1", "c2"])] {
        let mut session = Session::new(options.clone(), entropy);
        let effects = tick(&mut session, 0);
        assert_eq!(round(&mut session, effects, 0), wanted);
    }
}

#[test]
fn a_list_without_any_address_changes_nothing_and_what_is_none_is_passed_over() {
    let (mut session, connection) = open(0);
    for nothing in [told(&[]), told(&["", "c1", ":1", "c1:0", "c1:70000"])] {
        assert_eq!(hear(&mut session, connection, nothing, 1).0, None);
    }
    let heard = hear(&mut session, connection, told(&["c1", "[::1]:7440"]), 1).0;
    assert_eq!(heard, Some(Heard::Controllers(vec!["[::1]:7440".into()])));
    let many: Vec<String> = (1..100).map(|number| format!("c{number}:1")).collect();
    let Some(Heard::Controllers(kept)) = hear(&mut session, connection, ToHost::Controllers { addresses: many }, 1).0
    else {
        panic!("a list")
    };
    assert_eq!(kept.len(), MOST_CONTROLLERS);
}

#[test]
fn only_a_leader_that_holds_the_session_tells_where_the_controllers_are() {
    let mut session = session();
    let connection = dialled(&tick(&mut session, 0)).map(|(connection, _)| connection).unwrap();
    session.dialed(connection, hello(), ms(0), &mut vec![]);
    let (heard, effects) = hear(&mut session, connection, told(&["c9:1"]), 1);
    assert_eq!(heard, None);
    assert!(!round(&mut session, effects, 1).contains(&"c9:1".to_owned()));
}

#[test]
fn a_controller_that_refuses_does_not_keep_the_others_from_their_turn() {
    let options = Options { learned: vec!["old:1".into()], ..Options::new(vec!["c1".into(), "c2".into()]) };
    let mut session = Session::new(options, 0);
    let mut tried = vec![];
    let mut at = 0;
    for _ in 0..4 {
        let (connection, address) = dialled(&tick(&mut session, at)).map(|(id, to)| (id, to.to_owned())).unwrap();
        tried.push(address);
        session.dialed(connection, hello(), ms(at), &mut vec![]);
        let refusal = ToHost::Refuse { code: "BE-5007".into(), message: "an older copy".into() };
        hear(&mut session, connection, refusal, at);
        at = session.deadline().unwrap().as_millis();
    }
    assert_eq!(tried, ["old:1", "c1", "c2", "old:1"]);
}
