//! The laws under random weather: whatever the order of words, faults and deaths, no step breaks a law, and once the
//! faults stop everything comes to be as wanted.

use berth_model::session::{DesiredEntry, Present, VmReport};
use berth_model::vm::{DomainState, Observed, RunStrategy, StopReason};
use proptest::prelude::*;

use super::world::{Ending, World};
use crate::testing::{absent, always, halted, restarted, vm};

#[derive(Clone, Copy, Debug)]
enum Happening {
    Pass(u64),
    Work(usize, Ending),
    Greet,
    SendSet,
    AnswerHeartbeat(u64),
    CommitReport,
    LoseSession(bool),
    Want(u8, u8),
    Say(u8, Word),
    GuestPanics(u8),
    Forget(u8),
    StaleWord(u8),
    GuestEnds(u8, bool),
    KillDaemon(u64),
    Reboot(u64),
}

/// What is said about a VM's run.
#[derive(Clone, Copy, Debug)]
enum Word {
    Strategy(RunStrategy),
    Off { forced: bool },
    Start,
    Pause,
    Resume,
    Reset,
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        prop::sample::select(RunStrategy::ALL.to_vec()).prop_map(Word::Strategy),
        any::<bool>().prop_map(|forced| Word::Off { forced }),
        Just(Word::Start),
        Just(Word::Pause),
        Just(Word::Resume),
        Just(Word::Reset),
    ]
}

fn say(present: &mut Present, word: Word) {
    let power = &mut present.power;
    match word {
        Word::Strategy(run) => present.spec.run = run,
        Word::Off { forced } => (power.off, power.forced) = (true, forced),
        Word::Start => {
            (power.off, power.forced) = (false, false);
            present.restart_count += 1;
        }
        Word::Pause => power.paused = true,
        Word::Resume => {
            power.paused = false;
            power.resume_count += 1;
        }
        Word::Reset => power.reset_count += 1,
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    let ending = prop_oneof![
        12 => Just(Ending::Good),
        1 => Just(Ending::Failed),
        1 => Just(Ending::EffectUnanswered),
        1 => Just(Ending::Unreachable),
        2 => Just(Ending::GuestIgnores),
    ];
    prop_oneof![
        4 => prop_oneof![1_u64..2000, Just(31_000_u64)].prop_map(Happening::Pass),
        30 => (0_usize..4, ending).prop_map(|(which, ending)| Happening::Work(which, ending)),
        3 => Just(Happening::Greet),
        3 => Just(Happening::SendSet),
        6 => prop::sample::select(vec![0_u64, 300, 3000, 20_000]).prop_map(Happening::AnswerHeartbeat),
        4 => Just(Happening::CommitReport),
        1 => any::<bool>().prop_map(Happening::LoseSession),
        5 => (0_u8..3, 0_u8..4).prop_map(|(number, kind)| Happening::Want(number, kind)),
        5 => (0_u8..3, word()).prop_map(|(number, word)| Happening::Say(number, word)),
        1 => (0_u8..3).prop_map(Happening::GuestPanics),
        1 => (0_u8..3).prop_map(Happening::Forget),
        1 => (0_u8..3).prop_map(Happening::StaleWord),
        2 => (0_u8..3, any::<bool>()).prop_map(|(number, crashed)| Happening::GuestEnds(number, crashed)),
        1 => any::<u64>().prop_map(Happening::KillDaemon),
        1 => any::<u64>().prop_map(Happening::Reboot),
    ]
}

fn happen(world: &mut World, happening: Happening) {
    match happening {
        Happening::Pass(millis) => world.pass(millis),
        Happening::Work(which, ending) => world.work(which, ending),
        Happening::Greet => world.greet(),
        Happening::SendSet => world.send_set(),
        Happening::AnswerHeartbeat(may_start_for) => world.answer_heartbeat(may_start_for),
        Happening::CommitReport => world.commit_report(),
        Happening::LoseSession(new_term) => world.lose_session(new_term),
        Happening::Want(number, kind) => world.want(vm(number), |epoch, held| {
            let restarts = match held {
                Some(DesiredEntry::Present(present, _)) => present.restart_count,
                Some(DesiredEntry::Absent(_)) | None => 0,
            };
            match (kind, held) {
                (0, _) => Some(restarted(number, epoch, restarts)),
                (1, Some(_)) => Some(restarted(number, epoch, restarts + 1)),
                (2, Some(DesiredEntry::Present(present, stamp))) => {
                    let mut present = present.clone();
                    present.spec.run = RunStrategy::Halted;
                    Some(DesiredEntry::Present(present, *stamp))
                }
                (3, Some(_)) => Some(absent(number, epoch)),
                (_, None) => Some(always(number, epoch)),
                (_, Some(_)) => None,
            }
        }),
        Happening::Forget(number) => {
            world.forget(vm(number));
        }
        Happening::Say(number, said) => world.change(vm(number), |held| say(held, said)),
        Happening::GuestPanics(number) => world.guest_panics(vm(number)),
        Happening::StaleWord(number) => {
            let held = world.agent.ledger().entries().contains_key(&vm(number));
            if held {
                world.say(vec![absent(number, 0), halted(number, 0)], vec![]);
            }
        }
        Happening::GuestEnds(number, crashed) => world.guest_ends(vm(number), crashed),
        Happening::KillDaemon(fates) => world.kill_daemon(fates),
        Happening::Reboot(fates) => world.reboot(fates),
    }
}

/// What the strategies promise, in other words than those that decide.
fn is_as_wanted(present: &Present, runs: bool, observed: &Observed) -> bool {
    if present.power.paused || present.power.off {
        return !runs;
    }
    match present.spec.run {
        RunStrategy::Always => runs,
        RunStrategy::Halted => !runs,
        RunStrategy::RerunOnFailure => runs || observed.state == DomainState::Stopped(StopReason::GuestShutdown),
        RunStrategy::Manual => runs || observed.restart_count >= present.restart_count,
        RunStrategy::Once => true,
    }
}

fn check_all_is_as_wanted(world: &World) {
    for (vm, entry) in &world.set {
        let domain = world.domains.get(vm);
        match entry {
            DesiredEntry::Present(present, stamp) => {
                let newer = domain.is_some_and(|domain| domain.mark.stamp > *stamp);
                let runs = domain.is_some_and(|domain| domain.state == DomainState::Running);
                if runs && !newer {
                    assert!(domain.unwrap().mark.restart_count >= present.restart_count);
                }
                let VmReport::Seen(observed) = &world.view[vm] else { panic!("{vm} told as gone") };
                assert_eq!(observed.epoch, stamp.epoch);
                assert!(newer || is_as_wanted(present, runs, observed), "{vm}: {entry:?} but {domain:?}, {observed:?}");
                if !newer {
                    assert_eq!(observed.state == DomainState::Running, runs, "the leader knows");
                    let reason = observed.trouble.as_ref().map(|(reason, _)| &reason[..]);
                    assert_eq!(reason.filter(|reason| *reason != "Paused" || !present.power.paused), None);
                }
            }
            DesiredEntry::Absent(_) => panic!("{vm} was never told as gone: {domain:?}"),
        }
    }
    check_what_floats(world);
    for orphan in &world.orphans {
        assert!(!world.set.contains_key(&orphan.vm));
    }
    let unmentioned = world.domains.keys().filter(|vm| !world.set.contains_key(*vm)).count();
    assert_eq!(world.orphans.len(), unmentioned);
}

/// A running guest that floats may run on no thread that is promised to another.
fn check_what_floats(world: &World) {
    let promised = |thread| {
        world.set.values().any(|entry| match entry {
            DesiredEntry::Present(present, _) => {
                present.assignment.resources.exclusive().any(|promised| promised == thread)
            }
            DesiredEntry::Absent(_) => false,
        })
    };
    for (vm, domain) in &world.domains {
        let stamp = world.set.get(vm).map(DesiredEntry::stamp);
        let is_kept = matches!(world.set.get(vm), Some(DesiredEntry::Present(present, _)) if present.spec.run == RunStrategy::Always);
        assert!(!is_kept || domain.is_read_back || domain.state != DomainState::Running, "{vm} was never looked at");
        let obeyed = stamp.is_some_and(|stamp| domain.mark.stamp <= stamp);
        if let Some(floats) = domain.floats.as_ref().filter(|_| obeyed && domain.state == DomainState::Running) {
            assert_eq!(floats.vcpus.iter().find(|thread| promised(*thread)), None, "{vm} shares a promised thread");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn no_step_breaks_a_law_and_all_comes_to_rest_as_wanted(
        happenings in proptest::collection::vec(happening(), 1..250)
    ) {
        let mut world = World::new();
        for happening in happenings {
            happen(&mut world, happening);
        }
        world.settle();
        check_all_is_as_wanted(&world);
        let (steps, written) = (world.steps, world.disk.len());
        world.settle();
        prop_assert_eq!(world.steps, steps, "nothing is left to do");
        prop_assert!(world.disk.len() <= written + 3, "nothing is left to note but that each VM ran for long");
    }
}
