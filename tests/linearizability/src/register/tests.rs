//! Histories that are known to be linearizable or not, and random ones against every possible order.

use proptest::prelude::*;

use super::*;
use crate::search::{Limits, Verdict, check};

fn answered(called: Moment, at: Moment, input: Input, output: Output) -> RegisterOperation {
    Operation { client: 0, called, input, outcome: Outcome::Answered { at, output } }
}

fn unknown(called: Moment, input: Input) -> RegisterOperation {
    Operation { client: 0, called, input, outcome: Outcome::Unknown }
}

fn write(called: Moment, at: Moment, value: Value, version: Version) -> RegisterOperation {
    answered(called, at, Input::Write(value), Output::Changed { version })
}

fn read(called: Moment, at: Moment, value: Value, version: Version) -> RegisterOperation {
    answered(called, at, Input::Read, Output::Seen { value, version })
}

fn swap(called: Moment, at: Moment, expected: Version, value: Value, version: Option<Version>) -> RegisterOperation {
    let output = version.map_or(Output::Refused, |version| Output::Changed { version });
    answered(called, at, Input::Swap { expected, value }, output)
}

fn verdict(history: &[RegisterOperation]) -> Verdict {
    check(&Register, &prepared(history), Limits::default())
}

fn holds(history: &[RegisterOperation]) -> bool {
    match verdict(history) {
        Verdict::Linearizable => true,
        Verdict::Violation(_) => false,
        undecided @ Verdict::Undecided { .. } => panic!("{undecided:?}"),
    }
}

#[test]
fn one_after_another_holds() {
    assert!(holds(&[]));
    assert!(holds(&[read(0, 1, 0, 0), write(2, 3, 7, 10), read(4, 5, 7, 10), swap(6, 7, 10, 8, Some(12))]));
}

#[test]
fn a_read_beside_a_write_may_see_either() {
    for seen in [read(2, 3, 0, 0), read(2, 3, 7, 10)] {
        assert!(holds(&[write(0, 10, 7, 10), seen]));
    }
}

#[test]
fn two_reads_beside_a_write_may_not_go_back() {
    assert!(holds(&[write(0, 10, 7, 10), read(1, 2, 0, 0), read(3, 4, 7, 10)]));
    assert!(!holds(&[write(0, 10, 7, 10), read(1, 2, 7, 10), read(3, 4, 0, 0)]));
}

#[test]
fn a_stale_read_is_found_and_named() {
    let history = [write(0, 1, 7, 10), write(2, 3, 8, 11), read(4, 5, 7, 10), read(6, 7, 8, 11)];
    let Verdict::Violation(found) = verdict(&history) else { panic!("a stale read passed") };
    assert_eq!((found.operation, found.explained), (2, 2));
    assert!(found.to_string().contains("Seen { value: 7, version: 10 }"), "{found}");
}

#[test]
fn a_lost_write_is_found() {
    assert!(!holds(&[write(0, 1, 7, 10), read(2, 3, 0, 0)]));
    // And so is one that only its place in the order betrays.
    assert!(!holds(&[write(0, 1, 7, 10), write(2, 3, 8, 10)]));
    assert!(!holds(&[write(0, 1, 7, 11), write(2, 3, 8, 10)]));
}

#[test]
fn a_version_is_swapped_from_once() {
    let swaps = |second| [write(0, 1, 7, 10), swap(2, 9, 10, 8, Some(11)), swap(2, 9, 10, 9, second)];
    assert!(holds(&swaps(None)));
    assert!(!holds(&swaps(Some(12))));
}

#[test]
fn a_swap_is_refused_only_if_it_found_another_version() {
    assert!(!holds(&[write(0, 1, 7, 10), swap(2, 3, 10, 8, None)]));
    assert!(holds(&[write(0, 1, 7, 10), write(2, 9, 8, 11), swap(2, 9, 10, 9, None)]));
    // A write of unknown outcome explains it.
    assert!(holds(&[write(0, 1, 7, 10), unknown(2, Input::Write(8)), swap(3, 4, 10, 9, None)]));
    // But not twice, with the same version again between.
    let again = [unknown(2, Input::Write(8)), swap(3, 4, 10, 9, None), read(5, 6, 7, 10)];
    assert!(!holds(&[&[write(0, 1, 7, 10)][..], &again].concat()));
}

#[test]
fn a_write_of_unknown_outcome_may_show_late_or_never() {
    let lost = unknown(0, Input::Write(7));
    assert!(holds(&[lost.clone(), read(10, 11, 0, 0)]));
    assert!(holds(&[lost.clone(), read(10, 11, 0, 0), read(12, 13, 7, 10)]));
    assert!(!holds(&[lost.clone(), read(10, 11, 7, 10), read(12, 13, 0, 0)]), "it does not go away again");
    assert!(holds(&[lost.clone(), write(1, 2, 8, 5), read(10, 11, 8, 5), read(12, 13, 7, 10)]));
    assert!(!holds(&[lost, write(1, 2, 8, 15), read(10, 11, 8, 15), read(12, 13, 7, 10)]), "it is older");
}

#[test]
fn a_write_is_not_read_before_it_was_asked_for() {
    assert!(!holds(&[read(0, 1, 7, 10), write(2, 3, 7, 10)]));
    assert!(!holds(&[read(0, 1, 7, 10), unknown(2, Input::Write(7))]));
}

#[test]
fn a_swap_of_unknown_outcome_happens_at_its_version_or_not_at_all() {
    let lost = unknown(2, Input::Swap { expected: 10, value: 8 });
    assert!(holds(&[write(0, 1, 7, 10), lost.clone(), read(3, 4, 7, 10), read(5, 6, 8, 11)]));
    assert!(!holds(&[write(0, 1, 7, 10), write(1, 2, 9, 11), lost.clone(), read(3, 4, 8, 12)]));
    assert!(holds(&[write(0, 1, 7, 10), lost.clone(), swap(3, 4, 10, 9, None)]));
    assert!(!holds(&[write(0, 1, 7, 10), lost, swap(3, 4, 10, 9, None), read(5, 6, 7, 10)]));
}

#[test]
fn many_operations_of_unknown_outcome_do_not_outgrow_the_search() {
    let mut history = vec![write(0, 1, 1, 1)];
    for turn in 1..=400 {
        let at = turn * 10;
        history.push(unknown(at, Input::Write(10_000 + turn)));
        history.push(unknown(at + 1, Input::Swap { expected: turn, value: 20_000 + turn }));
        history.push(swap(at + 2, at + 3, turn, 30_000 + turn, None));
        history.push(write(at + 4, at + 6, turn + 1, turn + 1));
        history.push(read(at + 5, at + 7, turn + 1, turn + 1));
    }
    assert!(holds(&history));
    // A contradiction at the end is found as well.
    history.push(read(10_000, 10_001, 1, 1));
    assert!(!holds(&history));
}

#[test]
fn a_search_that_reached_its_limit_has_not_passed() {
    let history: Vec<_> = (1..50).map(|turn| write(turn * 10, turn * 10 + 1, turn, turn)).collect();
    let limits = Limits { steps: 10, ..Limits::default() };
    assert!(matches!(check(&Register, &history, limits), Verdict::Undecided { explained: 1..49, .. }));
}

/// Whether there is an order: each is tried.
fn some_order_holds(history: &[RegisterOperation], state: Held, done: &mut Vec<usize>) -> bool {
    let left = |at: &usize| !done.contains(at);
    let answers: Vec<Moment> = (0..history.len()).filter(left).filter_map(|at| Some(history[at].answer()?.0)).collect();
    let Some(first) = answers.iter().min() else { return true };
    let next: Vec<usize> = (0..history.len()).filter(left).filter(|at| history[*at].called <= *first).collect();
    next.into_iter().any(|at| {
        let output = history[at].answer().map(|(_, output)| output);
        Register.apply(&state, &history[at].input, output).is_some_and(|state| {
            done.push(at);
            let holds = some_order_holds(history, state, done);
            done.pop();
            holds
        })
    })
}

fn by_every_order(history: &[RegisterOperation]) -> bool {
    some_order_holds(history, Register.initial(), &mut Vec::new())
}

/// Few operations, with answers that often contradict each other.
fn wild() -> impl Strategy<Value = Vec<RegisterOperation>> {
    let kind = prop_oneof![
        3 => (0..4_u64, 0..4_u64).prop_map(|(value, version)| (Input::Read, Some(Output::Seen { value, version }))),
        3 => (0..4_u64).prop_map(|version| (Input::Write(0), Some(Output::Changed { version }))),
        2 => (0..4_u64, 0..5_u64).prop_map(|(expected, version)| {
            let output = if version == 4 { Output::Refused } else { Output::Changed { version } };
            (Input::Swap { expected, value: 0 }, Some(output))
        }),
        1 => Just((Input::Write(0), None)),
        1 => (0..4_u64).prop_map(|expected| (Input::Swap { expected, value: 0 }, None)),
    ];
    prop::collection::vec((kind, 0..8_u64, 0..8_u64), 1..7).prop_map(|all| {
        let mut next = 0;
        let operation = |((mut input, output), called, took): ((Input, Option<Output>), u64, u64)| {
            // The n-th write writes n: no value twice.
            if let Input::Write(value) | Input::Swap { value, .. } = &mut input {
                next += 1;
                *value = next;
            }
            match output {
                Some(output) => answered(called, called + took, input, output),
                None => unknown(called, input),
            }
        };
        all.into_iter().map(operation).collect()
    })
}

/// What a real register did, seen by clients that called a little before and heard a little after; some never heard.
fn real(longest: usize) -> impl Strategy<Value = Vec<RegisterOperation>> {
    let step = (0..10_u8, any::<prop::sample::Index>(), 0..25_u64, 0..25_u64, prop::bool::weighted(0.1), any::<bool>());
    prop::collection::vec(step, 1..longest).prop_map(|steps| {
        let mut state = (0, 0);
        let mut versions = vec![0];
        let mut history = Vec::new();
        for (turn, (kind, which, early, late, unheard, happened)) in (1..).zip(steps) {
            let moment = 100 + turn * 10;
            let (value, version) = (turn, turn * 3);
            let input = match kind {
                0..5 => Input::Read,
                5..8 => Input::Write(value),
                // Mostly the newest version, so that some succeed.
                _ => Input::Swap { expected: versions[versions.len() - 1 - which.index(versions.len().min(2))], value },
            };
            let takes_effect = !unheard || happened;
            let output = match input {
                Input::Read => Output::Seen { value: state.0, version: state.1 },
                Input::Swap { expected, .. } if expected != state.1 => Output::Refused,
                Input::Write(_) | Input::Swap { .. } => {
                    if takes_effect {
                        state = (value, version);
                        versions.push(version);
                    }
                    Output::Changed { version }
                }
            };
            history.push(if unheard {
                unknown(moment - early, input)
            } else {
                answered(moment - early, moment + late, input, output)
            });
        }
        history
    })
}

/// Makes a read answer what was overwritten, for certain, before it was called.
fn with_a_stale_read(
    mut history: Vec<RegisterOperation>,
    which: prop::sample::Index,
) -> Option<Vec<RegisterOperation>> {
    let changes: Vec<_> = history
        .iter()
        .filter_map(|operation| match (operation.input, operation.answer()?) {
            (Input::Write(value) | Input::Swap { value, .. }, (at, Output::Changed { version })) => {
                Some((at, value, *version))
            }
            _ => None,
        })
        .collect();
    let stale: Vec<_> = history
        .iter()
        .enumerate()
        .filter(|(_, operation)| operation.input == Input::Read && operation.answer().is_some())
        .filter_map(|(at, operation)| {
            let (_, _, newest) =
                changes.iter().filter(|(done, ..)| *done < operation.called).max_by_key(|(.., v)| *v)?;
            let (_, value, version) =
                changes.iter().filter(|(.., version)| version < newest).max_by_key(|(.., v)| *v)?;
            Some((at, *value, *version))
        })
        .collect();
    let (at, value, version) = *stale.get(which.index(stale.len().max(1)))?;
    let Outcome::Answered { output, .. } = &mut history[at].outcome else { return None };
    *output = Output::Seen { value, version };
    Some(history)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_search_finds_an_order_exactly_when_there_is_one(history in wild()) {
        let history = prepared(&history);
        let verdict = check(&Register, &history, Limits::default());
        prop_assert_eq!(verdict.is_linearizable(), by_every_order(&history), "{:?}", verdict);
    }

    #[test]
    fn the_search_finds_an_order_exactly_when_there_is_one_also_of_histories_that_are_almost_real(
        history in real(9),
        which in any::<prop::sample::Index>(),
    ) {
        let history = with_a_stale_read(history.clone(), which).unwrap_or(history);
        let history = prepared(&history);
        let verdict = check(&Register, &history, Limits::default());
        prop_assert_eq!(verdict.is_linearizable(), by_every_order(&history), "{:?}", verdict);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_a_real_register_did_is_accepted_and_one_stale_read_in_it_is_found(
        history in real(200),
        which in any::<prop::sample::Index>(),
    ) {
        prop_assert_eq!(verdict(&history), Verdict::Linearizable);
        if let Some(stale) = with_a_stale_read(history, which) {
            prop_assert!(matches!(verdict(&stale), Verdict::Violation(_)));
        }
    }
}

/// A generator of numbers that is the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A day of sixteen busy clients on one key, of whom some give up.
fn busy(operations: u64, seed: u64) -> Vec<RegisterOperation> {
    let mut dice = Dice(seed);
    let mut state = (0, 0);
    let mut history = Vec::new();
    for turn in 1..=operations {
        let moment = 1000 + turn * 10;
        let (called, at) = (moment - dice.below(80), moment + dice.below(80));
        let kind = dice.below(10);
        let gave_up = dice.below(50) == 0;
        let input = match kind {
            0..5 => Input::Read,
            5..8 => Input::Write(turn),
            _ => Input::Swap { expected: if dice.below(2) == 0 { state.1 } else { turn / 2 }, value: turn },
        };
        let output = match input {
            Input::Read => Output::Seen { value: state.0, version: state.1 },
            Input::Swap { expected, .. } if expected != state.1 => Output::Refused,
            Input::Write(_) | Input::Swap { .. } => {
                if !gave_up || dice.below(2) == 0 {
                    state = (turn, turn);
                }
                Output::Changed { version: turn }
            }
        };
        history.push(if gave_up { unknown(called, input) } else { answered(called, at, input, output) });
    }
    history
}

#[test]
fn tens_of_thousands_of_operations_on_twenty_keys_are_decided() {
    let histories: Vec<_> = (0..20).map(|key| prepared(&busy(2000, key))).collect();
    let keys = || histories.iter().enumerate().map(|(key, history)| (key, &history[..]));
    assert_eq!(crate::check_keys(keys(), &Register, Limits::default()), []);

    // One stale read among all of them.
    let mut histories = histories.clone();
    let stale = histories[13].iter().rposition(|operation| operation.input == Input::Read).unwrap();
    let Outcome::Answered { output, .. } = &mut histories[13][stale].outcome else { panic!("reads are answered") };
    *output = Output::Seen { value: 1, version: 1 };
    let keys = histories.iter().enumerate().map(|(key, history)| (key, &history[..]));
    let found = crate::check_keys(keys, &Register, Limits::default());
    assert!(matches!(&found[..], [(13, Verdict::Violation(violation))] if violation.operation == stale), "{found:?}");
}
