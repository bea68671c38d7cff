//! Start, stop, restart, reset, pause and resume: under each strategy, asked twice, and asked of what is not in a state for it.

use berth_model::host::Liveness;
use berth_model::session::{Report, VmReport};
use berth_model::testing::{Machine, host_uid, observed, vm_spec};
use berth_model::vm::{DomainState, Observed, RunStrategy, StopReason, VmSpec};
use berth_model::{Bytes, Epoch, VmUid};

use crate::command::{Body, Expect};
use crate::outcome::Rejection;
use crate::testing::{World, report};

const ANY: Expect = Expect { revision: None };
const RUNNING: DomainState = DomainState::Running;
const SHUT_DOWN: DomainState = DomainState::Stopped(StopReason::GuestShutdown);

/// A VM of this strategy with its berth on a living host.
struct Case {
    world: World,
    vm: VmUid,
    epoch: Epoch,
}

impl Case {
    fn new(run: RunStrategy) -> Self {
        let mut world = World::new();
        let host = world.host(1, Machine::cores(8).inventory());
        let vm = world.vm(1, VmSpec { run, ..vm_spec(2, Bytes::mib(128)) });
        let epoch = world.assign(vm, host, [0, 1], 0);
        Self { world, vm, epoch }
    }

    /// Its host reports it so, with this many runs begun.
    fn seen(&mut self, state: DomainState, restart_count: u64) {
        let said = VmReport::Seen(Observed { restart_count, ..observed(self.epoch, state) });
        let vms = vec![(self.vm, said)];
        self.world.done(report(1, Report { number: 2, vms, ..Report::default() }));
    }

    fn start(&self) -> Body {
        Body::StartVm { vm: self.vm, expect: ANY }
    }

    fn stop(&self, force: bool) -> Body {
        Body::StopVm { vm: self.vm, force, expect: ANY }
    }

    fn restart(&self) -> Body {
        Body::RestartVm { vm: self.vm, force: false, expect: ANY }
    }

    fn runs_asked(&self) -> u64 {
        self.world.vm_now(self.vm).restart_count
    }

    fn changes_nothing(&mut self, body: Body) {
        let before = self.world.cluster.revision;
        self.world.done(body);
        assert_eq!(self.world.cluster.revision, before);
    }

    fn why_not(&mut self, body: Body) -> String {
        match self.world.refused(body) {
            Rejection::NotNow { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn who_always_runs_is_halted_by_a_stop_and_always_runs_again_after_a_start() {
    let mut case = Case::new(RunStrategy::Always);
    case.changes_nothing(case.start());
    case.world.done(case.stop(false));
    case.changes_nothing(case.stop(false));
    let held = case.world.vm_now(case.vm);
    assert_eq!((held.spec.run, held.run_now(), held.power.off), (RunStrategy::Halted, RunStrategy::Halted, false));
    case.world.done(case.start());
    assert_eq!((case.world.vm_now(case.vm).spec.run, case.runs_asked()), (RunStrategy::Always, 0));
}

#[test]
fn the_other_strategies_outlive_a_stop() {
    for run in [RunStrategy::RerunOnFailure, RunStrategy::Manual] {
        let mut case = Case::new(run);
        case.seen(RUNNING, 0);
        case.world.done(case.stop(false));
        case.changes_nothing(case.stop(false));
        let held = case.world.vm_now(case.vm);
        assert_eq!((held.spec.run, held.run_now()), (run, RunStrategy::Halted));
        case.world.done(case.start());
        let held = case.world.vm_now(case.vm);
        assert_eq!((held.run_now(), held.restart_count), (run, 1), "during a stop: it goes down, and runs once more");
        case.changes_nothing(case.start());
    }
}

#[test]
fn a_start_asks_for_one_more_run_only_of_what_rests() {
    let mut manual = Case::new(RunStrategy::Manual);
    manual.world.done(manual.start());
    assert_eq!(manual.runs_asked(), 1);
    manual.changes_nothing(manual.start());
    manual.seen(RUNNING, 1);
    manual.changes_nothing(manual.start());
    manual.seen(DomainState::Stopped(StopReason::Crashed), 1);
    manual.world.done(manual.start());
    assert_eq!(manual.runs_asked(), 2);

    let mut rerun = Case::new(RunStrategy::RerunOnFailure);
    rerun.seen(DomainState::Stopped(StopReason::Crashed), 0);
    rerun.changes_nothing(rerun.start());
    rerun.seen(SHUT_DOWN, 7);
    rerun.world.done(rerun.start());
    assert_eq!(rerun.runs_asked(), 8, "more than its host has ever begun, whatever an older state said");
}

#[test]
fn what_runs_once_is_neither_restarted_nor_started_again() {
    let mut case = Case::new(RunStrategy::Once);
    case.changes_nothing(case.start());
    assert!(case.why_not(case.restart()).contains("Once"));
    case.seen(RUNNING, 0);
    case.changes_nothing(case.start());
    case.seen(SHUT_DOWN, 0);
    assert!(case.why_not(case.start()).contains("Once"));
    let mut stopped = Case::new(RunStrategy::Once);
    stopped.world.done(stopped.stop(true));
    assert!(stopped.why_not(stopped.start()).contains("Once"));
}

#[test]
fn a_restart_of_what_is_down_for_good_is_refused_and_a_forced_one_gives_no_time() {
    let mut case = Case::new(RunStrategy::RerunOnFailure);
    case.seen(SHUT_DOWN, 0);
    assert!(case.why_not(case.restart()).contains("berth vm start"));
    case.world.done(case.start());
    case.world.done(Body::RestartVm { vm: case.vm, force: true, expect: ANY });
    assert!(case.world.vm_now(case.vm).power.forced);
    case.world.done(case.restart());
    assert!(!case.world.vm_now(case.vm).power.forced, "the last word counts");
}

#[test]
fn only_what_runs_is_paused_or_reset_and_only_what_is_held_resumed() {
    let mut case = Case::new(RunStrategy::Always);
    let (pause, resume) = (Body::PauseVm { vm: case.vm, expect: ANY }, Body::ResumeVm { vm: case.vm, expect: ANY });
    let reset = Body::ResetVm { vm: case.vm, expect: ANY };
    for body in [&pause, &reset] {
        assert!(case.why_not(body.clone()).contains("does not run"));
    }
    assert!(case.why_not(resume.clone()).contains("not paused"));
    case.seen(RUNNING, 0);
    case.world.done(reset.clone());
    case.world.done(pause.clone());
    case.changes_nothing(pause.clone());
    assert!(case.why_not(reset.clone()).contains("paused"));
    assert!(case.why_not(case.start()).contains("berth vm resume"));
    case.world.done(resume.clone());
    let power = case.world.vm_now(case.vm).power;
    assert_eq!((power.paused, power.resume_count, power.reset_count), (false, 1, 1));
    case.seen(DomainState::Paused, 0);
    case.world.done(resume);
    assert_eq!(case.world.vm_now(case.vm).power.resume_count, 2, "held by QEMU, not as asked");

    case.seen(RUNNING, 0);
    case.world.liveness(host_uid(1), Liveness::Suspect);
    for body in [pause, reset] {
        assert!(case.why_not(body).contains("Suspect"));
    }
    case.world.done(case.stop(false));
}

#[test]
fn a_stop_and_a_restart_let_a_held_guest_go_on_so_that_it_hears() {
    for restart in [false, true] {
        let mut case = Case::new(RunStrategy::Always);
        case.seen(RUNNING, 0);
        case.world.done(Body::PauseVm { vm: case.vm, expect: ANY });
        case.world.done(if restart { case.restart() } else { case.stop(false) });
        let power = case.world.vm_now(case.vm).power;
        assert_eq!((power.paused, power.resume_count), (false, 1));
    }
}

#[test]
fn after_its_host_was_given_up_a_vm_runs_elsewhere_only_if_its_strategy_says_so() {
    let table = [
        (RunStrategy::Always, SHUT_DOWN, 0, false),
        (RunStrategy::RerunOnFailure, RUNNING, 0, false),
        (RunStrategy::RerunOnFailure, SHUT_DOWN, 0, true),
        (RunStrategy::Manual, RUNNING, 1, true),
        (RunStrategy::Manual, DomainState::Stopped(StopReason::NeverStarted), 0, false),
        (RunStrategy::Once, DomainState::Stopped(StopReason::NeverStarted), 0, true),
    ];
    for (run, state, begun, rests) in table {
        let mut case = Case::new(run);
        if run == RunStrategy::Manual {
            case.world.done(case.start());
        }
        case.seen(state, begun);
        case.world.liveness(host_uid(1), Liveness::Lost);
        case.world.done(Body::ConfirmDead { host: host_uid(1), expect: ANY });
        let held = case.world.vm_now(case.vm);
        assert_eq!((held.assignment.is_none(), held.power.off), (true, rests), "{run}, {state:?}");
    }
}
