//! The search for an order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Debug, Display};
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::history::{Event, Operation, events};
use crate::model::Model;

/// How much is tried before the search gives up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Applications of the model, for each key.
    pub steps: u64,
    /// Time, for each key.
    pub time: Duration,
}

impl Default for Limits {
    /// Some hundred times what a history without contradiction of 20,000 operations takes.
    fn default() -> Self {
        Self { steps: 50_000_000, time: Duration::from_secs(60) }
    }
}

/// What came out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is an order that explains every answer.
    Linearizable,
    /// There is none.
    Violation(Box<Violation>),
    /// The limit was reached. No pass: nothing is known.
    Undecided {
        /// Operations answered before the search gave up.
        explained: usize,
        /// Applications of the model.
        steps: u64,
    },
}

impl Verdict {
    /// Whether there is an order.
    pub fn is_linearizable(&self) -> bool {
        *self == Self::Linearizable
    }
}

/// The first answer that nothing explains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its place in the history that was checked.
    pub operation: usize,
    /// The operation with its answer, in words.
    pub shown: String,
    /// What the object can have been just before, in words.
    pub states: Vec<String>,
    /// The operations that were under way at that moment, in words.
    pub open: Vec<String>,
    /// Answers before it that are explained.
    pub explained: usize,
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "after {} answers that fit together, nothing explains {}", self.explained, self.shown)?;
        writeln!(f, "  before it the object was one of: {}", self.states.join(" | "))?;
        write!(f, "  under way beside it: {}", if self.open.is_empty() { "nothing" } else { "" })?;
        for open in &self.open {
            write!(f, "\n    {open}")?;
        }
        Ok(())
    }
}

/// One way in which the history may have gone so far.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Way<S> {
    state: S,
    /// Operations that have happened and are not answered yet, in ascending order.
    done: Vec<usize>,
    /// How many of each class of unknown operations have happened.
    spent: Vec<u32>,
}

impl<S: Clone> Way<S> {
    fn with_done(&self, state: S, operation: usize) -> Self {
        let mut done = self.done.clone();
        let at = done.binary_search(&operation).unwrap_or_else(|at| at);
        done.insert(at, operation);
        Self { state, done, spent: self.spent.clone() }
    }

    fn with_spent(&self, state: S, class: usize) -> Self {
        let mut spent = self.spent.clone();
        if spent.len() <= class {
            spent.resize(class + 1, 0);
        }
        spent[class] += 1;
        Self { state, done: self.done.clone(), spent }
    }

    fn has(&self, operation: usize) -> bool {
        self.done.binary_search(&operation).is_ok()
    }

    fn spent(&self, class: usize) -> u32 {
        self.spent.get(class).copied().unwrap_or_default()
    }
}

/// Whether whatever can follow a way that spent the others can follow one that spent these too: an unknown operation
/// need never happen, so the fewer were needed the better.
fn is_at_least_as_good(these: &[u32], others: &[u32]) -> bool {
    these.iter().enumerate().all(|(class, spent)| *spent <= others.get(class).copied().unwrap_or_default())
}

/// Unknown operations that are alike.
struct Class {
    /// One of them stands for all.
    example: usize,
    /// How many were called by now.
    called: u32,
}

/// Checks the history of one object.
pub fn check<M: Model>(model: &M, history: &[Operation<M::Input, M::Output>], limits: Limits) -> Verdict {
    let until = Instant::now() + limits.time;
    let mut search = Search {
        model,
        history,
        open: Vec::new(),
        classes: Vec::new(),
        class_of: BTreeMap::new(),
        ways: vec![Way { state: model.initial(), done: Vec::new(), spent: Vec::new() }],
        steps: 0,
    };
    let mut explained = 0;
    for event in events(history) {
        match event {
            Event::Called(operation) => search.call(operation),
            Event::Answered(operation) => {
                match search.answer(operation, limits.steps, until) {
                    Some(ways) if ways.is_empty() => {
                        return Verdict::Violation(Box::new(search.violation(operation, explained)));
                    }
                    Some(ways) => search.ways = ways,
                    None => return Verdict::Undecided { explained, steps: search.steps },
                }
                search.open.retain(|open| *open != operation);
                explained += 1;
            }
        }
    }
    Verdict::Linearizable
}

/// Checks each object by itself, and gives those that are not found to be linearizable.
pub fn check_keys<'a, K, M>(
    histories: impl IntoIterator<Item = (K, &'a [Operation<M::Input, M::Output>])>,
    model: &M,
    limits: Limits,
) -> Vec<(K, Verdict)>
where
    M: Model,
    M::Input: 'a,
    M::Output: 'a,
{
    let verdicts = histories.into_iter().map(|(key, history)| (key, check(model, history, limits)));
    verdicts.filter(|(_, verdict)| !verdict.is_linearizable()).collect()
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Operation<M::Input, M::Output>],
    /// Operations that were called, will be answered, and are not yet.
    open: Vec<usize>,
    classes: Vec<Class>,
    /// By the model's number.
    class_of: BTreeMap<u64, usize>,
    ways: Vec<Way<M::State>>,
    steps: u64,
}

impl<M: Model> Search<'_, M> {
    fn call(&mut self, operation: usize) {
        let called = &self.history[operation];
        if called.answer().is_some() {
            self.open.push(operation);
            let ways = std::mem::take(&mut self.ways);
            self.ways = ways.into_iter().map(|way| self.with_idle(way)).collect();
            return;
        }
        let next = self.classes.len();
        let class = match self.model.class(&called.input) {
            Some(number) => *self.class_of.entry(number).or_insert(next),
            None => next,
        };
        if class == next {
            self.classes.push(Class { example: operation, called: 0 });
        }
        self.classes[class].called += 1;
    }

    /// Every way on which this operation has happened by now; none at the limit.
    fn answer(&mut self, operation: usize, steps: u64, until: Instant) -> Option<Vec<Way<M::State>>> {
        let (mut kept, mut lost) = (Kept::default(), Kept::default());
        let mut seen = HashSet::new();
        let mut to_look_at = Vec::new();
        for way in &self.ways {
            if let Ok(at) = way.done.binary_search(&operation) {
                let mut way = way.clone();
                way.done.remove(at);
                kept.keep(way);
            } else {
                to_look_at.push(way.clone());
            }
        }
        while let Some(way) = to_look_at.pop() {
            if self.steps >= steps || Instant::now() >= until {
                return None;
            }
            if let Some(state) = self.step(&way.state, operation) {
                let mut next = self.with_idle(way.with_done(state, operation));
                next.done.retain(|done| *done != operation);
                // It is over now, and cannot be lost.
                let into = if self.loses(&next, Some(operation)) { &mut lost } else { &mut kept };
                into.keep(next);
            }
            // What may have happened just before it, to make it possible.
            let others = self.open.iter().filter(|other| **other != operation && !way.has(**other));
            let others: Vec<usize> = others.copied().collect();
            let by_others = others.into_iter().filter_map(|other| {
                let state = self.step(&way.state, other)?;
                Some(way.with_done(state, other))
            });
            let mut next: Vec<_> = by_others.collect();
            for class in 0..self.classes.len() {
                if way.spent(class) < self.classes[class].called
                    && let Some(state) = self.step(&way.state, self.classes[class].example)
                    && state != way.state
                {
                    next.push(way.with_spent(state, class));
                }
            }
            for way in next {
                let way = self.with_idle(way);
                if !self.loses(&way, None) && seen.insert(way.clone()) {
                    to_look_at.push(way);
                }
            }
        }
        // If each way loses something, what it loses is found when that is answered, and is named then.
        let ways = if kept.by_place.is_empty() { lost.into_ways() } else { kept.into_ways() };
        self.forget_classes(&ways);
        Some(ways)
    }

    fn step(&mut self, state: &M::State, operation: usize) -> Option<M::State> {
        self.steps += 1;
        let operation = &self.history[operation];
        self.model.apply(state, &operation.input, operation.answer().map(|(_, output)| output))
    }

    /// The same way with every open operation done that is possible and changes nothing: it could not be done at a better
    /// moment. What can no longer be done is not counted as spent.
    fn with_idle(&mut self, mut way: Way<M::State>) -> Way<M::State> {
        for at in 0..self.open.len() {
            let open = self.open[at];
            if !way.has(open) && self.step(&way.state, open).is_some_and(|state| state == way.state) {
                way = way.with_done(way.state.clone(), open);
            }
        }
        for class in 0..way.spent.len() {
            if self.is_lost(&way.state, self.classes[class].example) {
                way.spent[class] = 0;
            }
        }
        way
    }

    fn is_lost(&self, state: &M::State, operation: usize) -> bool {
        let operation = &self.history[operation];
        self.model.is_lost(state, &operation.input, operation.answer().map(|(_, output)| output))
    }

    /// Whether some operation other than this one can no longer be answered as it was.
    fn loses(&self, way: &Way<M::State>, but: Option<usize>) -> bool {
        self.open.iter().any(|open| Some(*open) != but && !way.has(*open) && self.is_lost(&way.state, *open))
    }

    /// Forgets unknown operations that can do nothing any more on any way.
    fn forget_classes(&mut self, ways: &[Way<M::State>]) {
        for class in 0..self.classes.len() {
            let (example, called) = (self.classes[class].example, self.classes[class].called);
            if called > 0 && ways.iter().all(|way| self.is_lost(&way.state, example)) {
                self.classes[class].called = 0;
            }
        }
    }

    fn violation(&self, operation: usize, explained: usize) -> Violation {
        // What was lost before it was answered is what does not fit; this one came to no harm of its own.
        let is_lost = |at: usize| self.ways.iter().all(|way| !way.has(at) && self.is_lost(&way.state, at));
        let operation = self.open.iter().copied().find(|open| is_lost(*open)).unwrap_or(operation);
        let shown = |at: usize| {
            let operation = &self.history[at];
            let answer = operation.answer().map_or_else(
                || "of unknown outcome".to_owned(),
                |(moment, output)| format!("answered at {} ms with {output:?}", moment / 1_000_000),
            );
            let Operation { client, called, input, .. } = operation;
            format!("{input:?} of client {client}, called at {} ms, {answer}", called / 1_000_000)
        };
        let states: HashSet<_> = self.ways.iter().map(|way| format!("{:?}", way.state)).collect();
        let mut states: Vec<_> = states.into_iter().take(SHOWN).collect();
        states.sort();
        let open = self.open.iter().filter(|open| **open != operation).take(SHOWN);
        let unknown = self.classes.iter().filter(|class| class.called > 0).take(SHOWN);
        Violation {
            operation,
            shown: shown(operation),
            states,
            open: open
                .map(|open| shown(*open))
                .chain(unknown.map(|class| format!("{} like {}", class.called, shown(class.example))))
                .collect(),
            explained,
        }
    }
}

/// So many states and operations are shown of a contradiction; more would not be read.
const SHOWN: usize = 12;

/// Ways, without those to which another is at least as good.
struct Kept<S> {
    by_place: HashMap<(S, Vec<usize>), Vec<Vec<u32>>>,
}

impl<S> Default for Kept<S> {
    fn default() -> Self {
        Self { by_place: HashMap::new() }
    }
}

impl<S: Clone + Eq + Hash> Kept<S> {
    fn keep(&mut self, way: Way<S>) {
        let best = self.by_place.entry((way.state.clone(), way.done.clone())).or_default();
        if best.iter().any(|held| is_at_least_as_good(held, &way.spent)) {
            return;
        }
        best.retain(|held| !is_at_least_as_good(&way.spent, held));
        best.push(way.spent);
    }

    fn into_ways(self) -> Vec<Way<S>> {
        let place = |((state, done), best): ((S, Vec<usize>), Vec<Vec<u32>>)| {
            best.into_iter().map(move |spent| Way { state: state.clone(), done: done.clone(), spent })
        };
        self.by_place.into_iter().flat_map(place).collect()
    }
}
