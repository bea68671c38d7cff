//! Who gets a session, what it is told, and what of it is believed.

use berth_model::host::Liveness;

use berth_model::session::{DesiredEntry, Hello, ProtocolRange, Report, ToHost, UserData, VmReport, Welcome};
use berth_model::testing::{Machine, cluster_id, observed, vm_spec};
use berth_model::vm::{DomainState, VmSpec};
use berth_model::{Bytes, Incarnation, Millis, Revision, Sealed, Term, VmUid};
use berth_state::testing::{World, delete_vm, facts, report};
use berth_state::{Body, Cluster};

use super::{HostSession, Leading, Refused};
use crate::liveness::{HEARTBEAT_EVERY, MAY_START_FOR};
use crate::ports::Seal;
use crate::testing::{Mirror, hello};

fn leading() -> Leading {
    Leading { cluster: cluster_id(), incarnation: Incarnation(3), term: Term(7) }
}

fn known() -> Hello {
    Hello { cluster: Some(cluster_id()), incarnation: Incarnation(3), term: Term(7), ..hello(1) }
}

fn refused(change: impl FnOnce(&mut Hello)) -> Refused {
    let mut hello = known();
    change(&mut hello);
    HostSession::accept(leading(), &hello, "h1").unwrap_err()
}

fn session() -> HostSession {
    HostSession::accept(leading(), &known(), "h1").unwrap().0
}

#[test]
fn a_host_that_knows_this_cluster_or_none_is_welcome() {
    for hello in [known(), hello(1)] {
        let (session, welcome) = HostSession::accept(leading(), &hello, "h1").unwrap();
        assert_eq!(session.host(), hello.host);
        let Leading { cluster, incarnation, term } = leading();
        let expected =
            Welcome { cluster, incarnation, term, protocol: 1, heartbeat_every: HEARTBEAT_EVERY, overrides: None };
        assert_eq!(welcome, ToHost::Welcome(expected));
    }
}

#[test]
fn a_host_of_another_cluster_or_of_a_later_time_is_refused() {
    let other = refused(|hello| hello.cluster = Some("prod".parse().unwrap()));
    assert_eq!(
        (other.code(), &other.to_string()[..]),
        ("BE-5007", "host h1 belongs to cluster prod, this is lab; give it a fresh data directory to move it")
    );
    let restored = refused(|hello| (hello.incarnation, hello.term) = (Incarnation(4), Term(1)));
    assert!(matches!(restored, Refused::OlderIncarnation { theirs: Incarnation(4), .. }));
    assert_eq!(restored.code(), "BE-5007");
}

#[test]
fn a_host_that_heard_a_higher_term_is_told_that_it_is_overridden() {
    let ahead = Hello { term: Term(8), ..known() };
    let (_, welcome) = HostSession::accept(leading(), &ahead, "h1").unwrap();
    let ToHost::Welcome(Welcome { term, overrides, .. }) = welcome else { panic!("a welcome") };
    assert_eq!((term, overrides), (Term(7), Some(Term(8))));
}

#[test]
fn a_host_speaks_for_no_other() {
    let mut world = World::new();
    let first = world.host(1, Machine::cores(8).inventory());
    assert_eq!(session().check_identity(&world.cluster), Ok(()));
    let as_other = |name: &str, host| {
        let claim = Hello { host, name: name.parse().unwrap(), ..known() };
        HostSession::accept(leading(), &claim, name).unwrap().0.check_identity(&world.cluster).unwrap_err()
    };
    let thief = as_other("h2", first);
    assert_eq!(thief.code(), "BE-4003");
    assert!(thief.to_string().contains("which is that of host h1"), "{thief}");
    let twin = as_other("h1", hello(2).host);
    assert_eq!((twin.code(), twin.to_string()), ("BE-2001", format!("the name \"h1\" belongs to host {first}")));
}

#[test]
fn terms_are_compared_within_an_incarnation_only() {
    let before_the_restore = Hello { incarnation: Incarnation(2), term: Term(900), ..known() };
    assert!(HostSession::accept(leading(), &before_the_restore, "h1").is_ok());
}

#[test]
fn a_host_of_another_name_or_language_is_refused() {
    let renamed = refused(|hello| hello.name = "h2".parse().unwrap());
    assert_eq!(
        (renamed.code(), &renamed.to_string()[..]),
        ("BE-4003", "the host calls itself \"h2\", its certificate says \"h1\"")
    );
    let newer = refused(|hello| hello.protocol = ProtocolRange { oldest: 2, newest: 3 });
    assert_eq!(
        (newer.code(), &newer.to_string()[..]),
        ("BE-5006", "host h1 speaks protocol 2 to 3, this controller 1 to 1; upgrade the older of the two")
    );
}

#[test]
fn the_whole_set_is_sent_once_and_then_only_what_changed() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(8).inventory());
    let first = world.vm(1, vm_spec(1, Bytes::mib(64)));
    let second = world.vm(2, vm_spec(1, Bytes::mib(64)));
    world.assign(first, host, [0], 0);
    let mut session = session();
    let mut tell = |world: &World| session.desired(&world.cluster, &Mirror).0;
    let ids = |entries: &[DesiredEntry]| entries.iter().map(DesiredEntry::vm).collect::<Vec<VmUid>>();

    let Some(ToHost::DesiredSet { revision, entries }) = tell(&world) else { panic!("the whole set comes first") };
    assert_eq!((revision, ids(&entries)), (world.cluster.revision, vec![first]));
    assert_eq!(tell(&world), None, "nothing to say");

    world.assign(second, host, [1], 0);
    let Some(ToHost::DesiredDelta { entries, forgotten, .. }) = tell(&world) else { panic!("then a delta") };
    assert_eq!((ids(&entries), forgotten), (vec![second], vec![]));

    world.done(delete_vm(first));
    let Some(ToHost::DesiredDelta { entries, .. }) = tell(&world) else { panic!("then a delta") };
    assert!(matches!(entries[..], [DesiredEntry::Absent(absent)] if absent.vm == first));

    let stamp = entries[0].stamp();
    let vms = vec![(first, VmReport::Gone(stamp))];
    world.done(report(1, Report { number: 2, vms, ..Report::default() }));
    let Some(ToHost::DesiredDelta { revision, entries, forgotten }) = tell(&world) else { panic!("then a delta") };
    assert_eq!((revision, ids(&entries), forgotten), (world.cluster.revision, vec![], vec![first]));
}

/// A state at this revision in which the first host is heard of so, or is not known.
fn view(revision: u64, liveness: Option<Liveness>) -> Cluster {
    let mut world = World::new();
    if let Some(liveness) = liveness {
        let host = world.host(1, Machine::cores(8).inventory());
        world.liveness(host, liveness);
    }
    world.cluster.revision = Revision(revision);
    world.cluster
}

#[test]
fn an_empty_set_is_sent_too_and_an_older_view_says_nothing() {
    let mut session = session();
    let (set, unopened) = session.desired(&view(9, None), &Mirror);
    assert_eq!(set, Some(ToHost::DesiredSet { revision: Revision(9), entries: Vec::new() }));
    assert!(unopened.is_empty());
    let mut world = World::new();
    let host = world.host(1, Machine::cores(8).inventory());
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    world.assign(vm, host, [0], 0);
    world.cluster.revision = Revision(8);
    assert_eq!(session.desired(&world.cluster, &Mirror).0, None);
    world.cluster.revision = Revision(10);
    assert!(session.desired(&world.cluster, &Mirror).0.is_some());
}

#[test]
fn what_does_not_concern_the_host_is_not_said_again() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(8).inventory());
    let vm = world.vm(1, vm_spec(1, Bytes::mib(64)));
    let epoch = world.assign(vm, host, [0], 0);
    let mut session = session();
    assert!(session.desired(&world.cluster, &Mirror).0.is_some());
    let seen = VmReport::Seen(observed(epoch, DomainState::Running));
    world.done(report(1, Report { number: 2, vms: vec![(vm, seen)], ..Report::default() }));
    assert_eq!(session.desired(&world.cluster, &Mirror).0, None, "the host said so itself");
}

#[test]
fn a_vm_whose_user_data_cannot_be_opened_is_left_out_and_told_once_it_can() {
    let mut world = World::new();
    let host = world.host(1, Machine::cores(8).inventory());
    let uid = berth_model::testing::vm_uid(1);
    let mut data = Mirror.seal(b"#cloud-config", uid.0.as_str().as_bytes()).unwrap();
    data.key_id = "lost-key".into();
    let vm = world.vm(1, VmSpec { user_data: Some(data), ..vm_spec(1, Bytes::mib(64)) });
    world.assign(vm, host, [0], 0);
    let mut session = session();
    for _ in 0..2 {
        let (_, left_out) = session.desired(&world.cluster, &Mirror);
        assert_eq!(left_out, [(vm, "no key lost-key for it".to_owned())]);
    }
    let (told, left_out) = session.desired(&world.cluster, &AnyKey);
    assert!(left_out.is_empty());
    let Some(ToHost::DesiredDelta { entries, .. }) = told else { panic!("{told:?}") };
    assert_eq!(entries.iter().map(DesiredEntry::vm).collect::<Vec<_>>(), [vm]);
    assert_eq!(session.desired(&world.cluster, &AnyKey).0, None);
    world.done(delete_vm(vm));
    let (told, left_out) = session.desired(&world.cluster, &Mirror);
    assert!(left_out.is_empty(), "whom one removes one need not start");
    let Some(ToHost::DesiredDelta { entries, .. }) = told else { panic!("{told:?}") };
    assert!(matches!(entries[..], [DesiredEntry::Absent(absent)] if absent.vm == vm));
}

/// A sealing key that was found again.
struct AnyKey;

impl Seal for AnyKey {
    fn seal(&self, secret: &[u8], context: &[u8]) -> Result<Sealed, String> {
        Mirror.seal(secret, context)
    }

    fn open(&self, _: &Sealed, _: &[u8]) -> Result<UserData, String> {
        Ok(UserData(b"#cloud-config".to_vec()))
    }
}

#[test]
fn permission_to_start_comes_only_after_the_set() {
    let mut session = session();
    assert_eq!(session.heartbeat(1), ToHost::HeartbeatAck { number: 1, may_start_for: Millis(0) });
    session.desired(&view(1, Some(Liveness::Alive)), &Mirror);
    assert_eq!(session.heartbeat(2), ToHost::HeartbeatAck { number: 2, may_start_for: MAY_START_FOR });
}

#[test]
fn a_host_that_the_cluster_does_not_hear_of_starts_nothing() {
    let mut session = session();
    let none = |number| ToHost::HeartbeatAck { number, may_start_for: Millis(0) };
    for (number, liveness) in [(1, None), (2, Some(Liveness::Suspect)), (3, Some(Liveness::Lost))] {
        session.desired(&view(number, liveness), &Mirror);
        assert_eq!(session.heartbeat(number), none(number), "{liveness:?}");
    }
    session.desired(&view(4, Some(Liveness::Alive)), &Mirror);
    session.desired(&view(3, Some(Liveness::Lost)), &Mirror);
    assert_eq!(session.heartbeat(4), ToHost::HeartbeatAck { number: 4, may_start_for: MAY_START_FOR }, "an older view");
    session.desired(&view(5, Some(Liveness::Lost)), &Mirror);
    assert_eq!(session.heartbeat(5), none(5));
}

#[test]
fn reports_are_taken_in_order_and_once_under_the_name_that_was_proved() {
    let mut session = session();
    let numbered = |number| Report { number, ..Report::default() };
    assert_eq!(session.report(numbered(2)), None, "the first is number 1");
    let taken = session.report(numbered(1)).unwrap();
    assert_eq!(taken, Body::ReportHost { facts: facts(1), report: Box::new(numbered(1)) });
    for wrong in [0, 1, 3, u64::MAX] {
        assert_eq!(session.report(numbered(wrong)), None, "{wrong}");
    }
    assert!(session.report(numbered(2)).is_some());
}
