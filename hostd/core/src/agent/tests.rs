mod laws;
mod world;

use berth_model::session::VmReport;
use berth_model::vm::{DomainState, RunStrategy, StopReason};

use self::world::{Ending, World};
use crate::agent::Input;
use crate::testing::{absent, always, halted, restarted, running, stamp, vm};

fn told(world: &World, number: u8) -> DomainState {
    match &world.view[&vm(number)] {
        VmReport::Seen(observed) => observed.state,
        VmReport::Gone(_) => panic!("gone"),
    }
}

#[test]
fn a_vm_is_prepared_started_and_reported_running() {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.settle();
    assert_eq!((world.starts, told(&world, 1)), (1, DomainState::Running));
}

#[test]
fn a_daemon_that_comes_back_without_controllers_starts_nothing_and_stops_nothing() {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.want(vm(2), |epoch, _| Some(always(2, epoch)));
    world.settle();
    world.guest_ends(vm(2), true);
    world.kill_daemon(0);
    let steps = world.steps;
    for _ in 0..100 {
        world.work(0, Ending::Failed);
        world.work(0, Ending::Good);
        world.lose_session(false);
        world.pass(1000);
    }
    assert_eq!(world.steps, steps);
    assert_eq!(world.domains[&vm(1)].state, DomainState::Running);
}

#[test]
fn a_daemon_that_comes_back_adopts_what_runs() {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.settle();
    world.kill_daemon(u64::MAX);
    world.settle();
    assert_eq!((world.starts, told(&world, 1)), (1, DomainState::Running));
}

#[test]
fn a_vm_deleted_while_the_daemon_was_away_is_gone_after_its_return() {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.settle();
    world.kill_daemon(0);
    world.want(vm(1), |epoch, _| Some(absent(1, epoch)));
    world.settle();
    assert_eq!(world.view[&vm(1)], VmReport::Gone(stamp(2)));
    assert!(world.domains.is_empty() && world.overlays.is_empty());
}

#[test]
fn a_vm_that_the_controllers_forgot_runs_on_as_an_orphan() {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.settle();
    world.set.clear();
    world.kill_daemon(0);
    world.settle();
    assert_eq!(world.domains[&vm(1)].state, DomainState::Running);
    assert_eq!(world.orphans.len(), 1);
    assert_eq!(world.orphans[0].called, "default/web1");
}

#[test]
fn a_start_that_is_under_way_when_its_vm_leaves_the_set_is_an_orphan_until_a_scan_tells() {
    let mut world = World::new();
    world.settle();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    while !world.work_but_starts() {
        world.answer_heartbeat(10_000);
        world.pass(100);
    }
    world.set.clear();
    world.say(vec![], vec![vm(1)]);
    for _ in 0..20 {
        assert!(world.work_but_starts(), "it is still under way");
        world.commit_report();
        world.pass(1000);
    }
    let orphans = |world: &World| world.orphans.iter().map(|orphan| (orphan.vm, orphan.running)).collect::<Vec<_>>();
    assert_eq!(orphans(&world), [(vm(1), true)], "no scan shows it, and it may come");
    world.settle();
    assert_eq!((world.starts, orphans(&world)), (1, vec![(vm(1), true)]));
}

#[test]
fn a_restart_asks_waits_ends_and_starts_with_the_new_count() {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.settle();
    world.want(vm(1), |epoch, _| Some(restarted(1, epoch, 1)));
    let asked = world.millis;
    // The guest ignores every request until its grace is over.
    while world.domains[&vm(1)].mark.restart_count == 0 {
        world.answer_heartbeat(10_000);
        world.commit_report();
        world.work(0, Ending::GuestIgnores);
        world.pass(100);
    }
    assert!(world.millis - asked >= berth_model::vm::VmSpec::GRACE.0);
    world.settle();
    assert_eq!((world.starts, told(&world, 1)), (2, DomainState::Running));
    match &world.view[&vm(1)] {
        VmReport::Seen(observed) => assert_eq!((observed.restart_count, observed.failures), (1, 0)),
        VmReport::Gone(_) => panic!("gone"),
    }
}

#[test]
fn a_halted_vm_is_shut_down_and_said_to_have_been_asked() {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.settle();
    world.want(vm(1), |epoch, _| Some(halted(1, epoch)));
    world.settle();
    assert_eq!(told(&world, 1), DomainState::Stopped(StopReason::Asked));
    assert!(world.overlays.contains(&vm(1)), "its disk stays");
}

#[test]
fn a_guest_that_ends_or_crashes_is_started_again_after_a_growing_pause() {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.settle();
    world.guest_ends(vm(1), false);
    world.settle();
    assert_eq!(world.starts, 2);
    for _ in 0..3 {
        world.guest_ends(vm(1), true);
        let ended = world.millis;
        let starts = world.starts;
        while world.starts == starts {
            world.answer_heartbeat(10_000);
            world.commit_report();
            world.work(0, Ending::Good);
            world.pass(50);
        }
        let pause = world.millis - ended;
        let failures = world.agent.ledger().journal(vm(1)).failures;
        assert!(pause >= 500 << failures, "{pause} ms after {failures} failures");
    }
}

#[test]
fn a_domain_of_another_cluster_or_without_entry_is_never_touched() {
    let mut world = World::new();
    let mut foreign = running(1, 1);
    foreign.mark.cluster = "prod".parse().unwrap();
    world.domains.insert(vm(1), foreign.clone());
    world.domains.insert(vm(2), running(2, 1));
    world.settle();
    assert_eq!(world.steps, 0);
    assert_eq!(world.domains[&vm(1)], foreign);
    assert_eq!(world.orphans.iter().map(|orphan| orphan.vm).collect::<Vec<_>>(), [vm(2)]);
}

#[test]
fn a_draining_daemon_begins_nothing_more() {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.settle();
    let steps = world.steps;
    // The word is being written down when the daemon is told to end.
    world.want(vm(1), |epoch, _| Some(halted(1, epoch)));
    assert!(!world.agent.is_idle());
    world.feed(Input::Drain);
    for _ in 0..50 {
        world.work(0, Ending::Good);
        world.pass(100);
    }
    assert_eq!(world.steps, steps);
    assert!(world.agent.is_idle());
    assert_eq!(world.domains[&vm(1)].state, DomainState::Running);
}

#[test]
fn what_was_told_counts_only_when_that_very_report_is_acknowledged() {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.settle();
    world.guest_ends(vm(1), false);
    let before = world.reports();
    while world.reports() == before {
        world.work(0, Ending::Good);
        world.answer_heartbeat(0);
        world.pass(100);
    }
    world.acknowledge_wrongly();
    for _ in 0..20 {
        world.work(0, Ending::Good);
        world.answer_heartbeat(0);
        world.pass(100);
    }
    assert_eq!(world.reports(), before + 1, "the next report waits for the right acknowledgement");
    world.settle();
    assert_eq!(told(&world, 1), DomainState::Running);
}

/// A VM of this strategy that came to run, or to rest.
fn living(run: RunStrategy) -> World {
    let mut world = World::new();
    world.want(vm(1), |epoch, _| Some(always(1, epoch)));
    world.change(vm(1), |present| present.spec.run = run);
    world.settle();
    world
}

fn failures(world: &World) -> u32 {
    world.agent.ledger().journal(vm(1)).failures
}

#[test]
fn what_ends_a_run_is_followed_by_what_the_strategy_says() {
    use RunStrategy::{Always, Manual, Once, RerunOnFailure};
    for (run, after_shutdown, after_crash) in [(Always, 2, 2), (RerunOnFailure, 1, 2), (Once, 1, 1)] {
        for (crashed, starts) in [(false, after_shutdown), (true, after_crash)] {
            let mut world = living(run);
            world.guest_ends(vm(1), crashed);
            world.settle();
            assert_eq!(world.starts, starts, "{run}, crashed: {crashed}");
        }
        let mut world = living(run);
        world.guest_panics(vm(1));
        world.settle();
        assert_eq!((world.starts, failures(&world)), (after_crash, 1), "{run}, panicked");
    }
    let mut world = living(Manual);
    assert_eq!((world.starts, told(&world, 1)), (0, DomainState::Stopped(StopReason::NeverStarted)));
    world.change(vm(1), |present| present.restart_count += 1);
    world.settle();
    world.guest_ends(vm(1), true);
    world.settle();
    assert_eq!((world.starts, told(&world, 1)), (1, DomainState::Stopped(StopReason::Crashed)));
}

#[test]
fn how_a_run_ended_is_remembered_over_a_restart_of_the_daemon_whoever_saw_it() {
    for seen in [true, false] {
        let mut world = living(RunStrategy::RerunOnFailure);
        if seen {
            world.guest_ends(vm(1), false);
            world.settle();
            world.kill_daemon(0);
        } else {
            world.kill_daemon(0);
            world.guest_ends(vm(1), false);
        }
        world.settle();
        assert_eq!((world.starts, told(&world, 1)), (1, DomainState::Stopped(StopReason::GuestShutdown)), "{seen}");
    }
}

#[test]
fn a_guest_that_crashes_again_and_again_waits_longer_each_time_also_over_restarts_of_the_daemon() {
    let mut world = living(RunStrategy::Always);
    let mut pauses = Vec::new();
    for round in 0..6 {
        world.guest_ends(vm(1), true);
        if round % 2 == 1 {
            world.kill_daemon(0);
        }
        let (crashed, starts) = (world.millis, world.starts);
        while world.starts == starts {
            while !world.pending.is_empty() {
                world.work(0, Ending::Good);
            }
            world.greet();
            world.send_set();
            world.answer_heartbeat(10_000);
            world.commit_report();
            world.pass(100);
        }
        pauses.push((world.millis - crashed) / 1000);
    }
    assert_eq!(failures(&world), 6);
    assert!(pauses.is_sorted() && pauses[5] >= 32, "{pauses:?}");
}

#[test]
fn a_run_that_may_have_begun_is_not_begun_again_and_one_that_did_not_is() {
    for (ending, starts) in [(Ending::Unreachable, 0), (Ending::EffectUnanswered, 1), (Ending::Failed, 1)] {
        let mut world = World::new();
        world.want(vm(1), |epoch, _| Some(always(1, epoch)));
        world.change(vm(1), |present| present.spec.run = RunStrategy::Once);
        while !world.work_but_starts() {
            world.greet();
            world.send_set();
            world.answer_heartbeat(10_000);
            world.pass(100);
        }
        let at = world.pending.iter().position(|pending| matches!(pending, world::Pending::Execute(_))).unwrap();
        world.work(at, ending);
        world.settle();
        assert_eq!(world.starts, starts, "{ending:?}");
        world.guest_ends(vm(1), true);
        world.kill_daemon(0);
        world.settle();
        assert_eq!(world.starts, starts, "{ending:?}");
    }
}

#[test]
fn a_paused_vm_stays_paused_over_a_restart_of_the_daemon_and_goes_on_when_asked() {
    let mut world = living(RunStrategy::Always);
    world.change(vm(1), |present| present.power.paused = true);
    world.settle();
    assert_eq!(told(&world, 1), DomainState::Paused);
    let steps = world.steps;
    world.kill_daemon(0);
    world.settle();
    assert_eq!((world.steps, world.domains[&vm(1)].state), (steps, DomainState::Paused));
    world.change(vm(1), |present| {
        present.power.paused = false;
        present.power.resume_count += 1;
    });
    world.settle();
    assert_eq!((told(&world, 1), world.starts), (DomainState::Running, 1));
}

#[test]
fn a_guest_that_is_held_and_shall_go_down_goes_on_first_so_that_it_hears() {
    let mut world = living(RunStrategy::Manual);
    world.change(vm(1), |present| present.restart_count = 1);
    world.settle();
    world.change(vm(1), |present| present.power.paused = true);
    world.settle();
    let steps = world.steps;
    world.change(vm(1), |present| {
        (present.power.off, present.power.paused) = (true, false);
        present.power.resume_count += 1;
    });
    world.settle();
    assert_eq!(told(&world, 1), DomainState::Stopped(StopReason::Asked));
    assert_eq!(world.steps, steps + 2, "it is let go and asked, and then needs no force");
}

#[test]
fn a_reset_is_done_once_and_not_again_by_the_next_daemon() {
    let mut world = living(RunStrategy::Always);
    let steps = world.steps;
    world.change(vm(1), |present| present.power.reset_count += 1);
    world.settle();
    assert_eq!(world.steps, steps + 1);
    world.kill_daemon(0);
    world.settle();
    assert_eq!(world.steps, steps + 1);
}
