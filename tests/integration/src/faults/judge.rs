//! What a run amounts to.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use berth_linearizability::register::{Input, Output, Register, RegisterOperation, prepared};
use berth_linearizability::{Limits, Moment, Outcome, Verdict, check_keys};

use super::Plan;
use super::leaders::Terms;
use super::load::{History, Record};
use super::nemesis::{Kind, Window};

/// A change of leader that comes so soon after the cluster was well again still belongs to the fault.
const AFTERMATH: Duration = Duration::from_secs(1);

/// One kind of fault in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fired {
    /// How often it was there.
    pub times: usize,
    /// Operations that were answered while it was.
    pub operations: usize,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The plan's seed.
    pub seed: u64,
    /// How long it took, from the first operation to the last.
    pub took: Duration,
    /// Operations that were answered.
    pub completed: usize,
    /// Changes of which nobody knows whether they were made.
    pub unknown: usize,
    /// Answered reads on members that did not lead.
    pub follower_reads: usize,
    /// Registers.
    pub keys: usize,
    /// Each kind of fault of the plan.
    pub fired: BTreeMap<Kind, Fired>,
    /// Keys whose history no register explains, and the first answer that does not fit.
    pub not_linearizable: Vec<String>,
    /// Other things that must not be.
    pub wrong: Vec<String>,
    /// Members that did not come back by themselves.
    pub helped: Vec<String>,
    /// Changes of leader.
    pub leader_changes: usize,
    /// Those of them that no fault explains.
    pub unprovoked: Vec<String>,
    /// How long the search took.
    pub searched: Duration,
    counts: BTreeMap<&'static str, usize>,
}

/// At least so many reads of a hundred operations are to be answered by members that do not lead.
const FOLLOWER_READS_PERCENT: usize = 30;

impl Report {
    /// Everything for which a run of this plan has failed, in words.
    pub fn failures(&self, plan: &Plan) -> Vec<String> {
        let mut failures = self.not_linearizable.clone();
        failures.extend(self.wrong.iter().cloned());
        failures.extend(self.helped.iter().cloned());
        failures.extend(self.unprovoked.iter().map(|change| format!("unprovoked change of leader: {change}")));
        if self.completed < plan.operations {
            failures.push(format!("{} operations were completed, {} are wanted", self.completed, plan.operations));
        }
        if self.follower_reads * 100 < self.completed * FOLLOWER_READS_PERCENT {
            let (reads, all) = (self.follower_reads, self.completed);
            failures.push(format!("{reads} of {all} operations are reads on members that did not lead"));
        }
        for (kind, fired) in &self.fired {
            if fired.times == 0 || fired.operations == 0 {
                failures.push(format!("{kind}: fired {} times, {} operations inside", fired.times, fired.operations));
            }
        }
        failures
    }

    /// # Panics
    /// When the run has failed, with everything for which it has.
    pub fn assert_clean(&self, plan: &Plan) {
        let failures = self.failures(plan);
        assert!(failures.is_empty(), "seed {}: {}\n\n{self}", self.seed, failures.join("\n"));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, completed, unknown, keys, searched, leader_changes, .. } = self;
        let seconds = self.took.as_secs_f32();
        writeln!(
            f,
            "seed {seed}: {completed} operations on {keys} keys in {seconds:.0} s, {unknown} of unknown outcome"
        )?;
        let counts: Vec<_> = self.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        writeln!(f, "  {}", counts.join(", "))?;
        let share = self.follower_reads * 100 / completed.max(&1);
        writeln!(f, "  {} reads on members that did not lead ({share} %)", self.follower_reads)?;
        for (kind, Fired { times, operations }) in &self.fired {
            writeln!(f, "  {kind:<17}  fired {times:>3} times, {operations:>6} operations inside")?;
        }
        for helped in &self.helped {
            writeln!(f, "  not back by itself: {helped}")?;
        }
        let (anomalies, unprovoked) = (self.not_linearizable.len() + self.wrong.len(), self.unprovoked.len());
        writeln!(f, "  {leader_changes} changes of leader, {unprovoked} unprovoked")?;
        write!(f, "  {anomalies} anomalies; the search took {:.1} s", searched.as_secs_f32())
    }
}

pub(super) fn judge(plan: &Plan, windows: &[Window], history: History, terms: &Terms) -> Report {
    let History { records, refused, unanswered, unexpected } = history;
    let answered: Vec<&Record> = records.iter().filter(|record| record.answered().is_some()).collect();
    let mut fired: BTreeMap<Kind, Fired> = plan.kinds.iter().map(|kind| (*kind, Fired::default())).collect();
    for window in windows.iter().filter(|window| window.missed.is_none()) {
        let inside =
            |record: &&&Record| record.answered().is_some_and(|at| (window.began..=window.ended).contains(&at));
        let of_kind = fired.entry(window.kind).or_default();
        of_kind.times += 1;
        of_kind.operations += answered.iter().filter(inside).count();
    }
    let mut wrong = unexpected;
    let helped = windows.iter().filter_map(|window| {
        let Window { kind, what, helped, .. } = window;
        helped.as_ref().map(|helped| format!("{kind} ({what}): {helped}"))
    });
    let helped: Vec<_> = helped.collect();
    wrong.extend(out_of_order(&records));
    wrong.extend(unaccounted(&records, plan.keys));

    let began = Instant::now();
    let mut by_key: BTreeMap<usize, Vec<RegisterOperation>> = BTreeMap::new();
    for record in &records {
        by_key.entry(record.key).or_default().push(record.operation.clone());
    }
    let by_key: BTreeMap<usize, Vec<_>> = by_key.into_iter().map(|(key, all)| (key, prepared(&all))).collect();
    let histories = by_key.iter().map(|(key, history)| (*key, &history[..]));
    let not_linearizable = check_keys(histories, &Register, Limits::default())
        .into_iter()
        .map(|(key, verdict)| match verdict {
            Verdict::Violation(violation) => format!("key {key} is not linearizable: {violation}"),
            Verdict::Undecided { explained, steps } => {
                format!("key {key}: undecided after {explained} answers and {steps} steps")
            }
            Verdict::Linearizable => unreachable!("only the others are given"),
        })
        .collect();
    let searched = began.elapsed();

    let unprovoked = unprovoked(windows, terms);
    let is = |record: &&&Record, wanted: fn(&Input, &Output) -> bool| match &record.operation.outcome {
        Outcome::Answered { output, .. } => wanted(&record.operation.input, output),
        Outcome::Unknown => false,
    };
    let count = |wanted: fn(&Input, &Output) -> bool| answered.iter().filter(|record| is(record, wanted)).count();
    let is_read = |input: &Input, _: &Output| *input == Input::Read;
    let counts = BTreeMap::from([
        ("reads", count(is_read)),
        ("writes", count(|input, _| matches!(input, Input::Write(_)))),
        ("swaps", count(|input, output| matches!(input, Input::Swap { .. }) && *output != Output::Refused)),
        ("swaps that found another version", count(|_, output| *output == Output::Refused)),
        ("changes refused without a leader", refused),
        ("reads without an answer", unanswered),
    ]);
    Report {
        seed: plan.seed,
        took: Duration::from_nanos(records.iter().filter_map(Record::answered).max().unwrap_or_default()),
        completed: answered.len(),
        unknown: records.len() - answered.len(),
        follower_reads: answered.iter().filter(|record| record.on_follower && is(record, is_read)).count(),
        keys: plan.keys,
        fired,
        not_linearizable,
        wrong,
        helped,
        leader_changes: terms.len().saturating_sub(1),
        unprovoked,
        searched,
        counts,
    }
}

/// Changes of leader outside of all faults.
fn unprovoked(windows: &[Window], terms: &Terms) -> Vec<String> {
    let aftermath = u64::try_from(AFTERMATH.as_nanos()).expect("a second is not long");
    let changes = terms.iter().skip(1);
    let provoked =
        |at: Moment| windows.iter().any(|window| window.began <= at && at <= window.healed.saturating_add(aftermath));
    let alone = changes.filter(|(_, (_, at))| !provoked(*at));
    alone.map(|(term, (leader, at))| format!("{leader} in term {term} at {} ms", at / 1_000_000)).collect()
}

/// Answers that contradict the order of revisions, which is one for the whole cluster: what was answered before something
/// else was asked has a lower revision, and no revision is given to two changes. This sees across keys, which the search
/// does not.
fn out_of_order(records: &[Record]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut drawn: HashMap<u64, &Record> = HashMap::new();
    // Moment, whether it is an answer, and whose: questions come before answers of the same moment.
    let mut events: Vec<(Moment, bool, usize)> = Vec::new();
    for (place, record) in records.iter().enumerate() {
        let (Some(at), Some(revision)) = (record.answered(), record.revision) else { continue };
        events.extend([(record.operation.called, false, place), (at, true, place)]);
        if record.operation.input != Input::Read
            && let Some(other) = drawn.insert(revision, record)
        {
            wrong.push(format!(
                "two changes drew revision {revision}: {:?} and {:?}",
                other.operation, record.operation
            ));
        }
    }
    events.sort_unstable();
    let mut highest = 0;
    let mut at_least = vec![0; records.len()];
    for (_, is_answer, place) in events {
        let revision = records[place].revision.unwrap_or_default();
        if !is_answer {
            at_least[place] = highest;
            continue;
        }
        let is_change = records[place].operation.input != Input::Read;
        let lowest = at_least[place] + u64::from(is_change);
        if revision < lowest {
            wrong.push(format!(
                "an answer at revision {revision}, after one at {} was known: {:?}",
                at_least[place], records[place].operation
            ));
        }
        highest = highest.max(revision);
    }
    wrong.truncate(SHOWN);
    wrong
}

/// So many contradictions of one kind are shown.
const SHOWN: usize = 5;

/// Acknowledged changes that the last reads do not account for: what each register holds at the end was written by
/// someone, and nothing that was acknowledged came after it.
fn unaccounted(records: &[Record], keys: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    for key in 0..keys {
        let of_key = || records.iter().filter(move |record| record.key == key);
        let last =
            of_key().filter(|record| record.operation.input == Input::Read).max_by_key(|record| record.answered());
        let Some(Outcome::Answered { output: Output::Seen { value, version }, .. }) =
            last.map(|record| &record.operation.outcome)
        else {
            wrong.push(format!("key {key} was not read at the end"));
            continue;
        };
        let mut is_whose = false;
        for record in of_key() {
            let (Input::Write(written) | Input::Swap { value: written, .. }) = record.operation.input else { continue };
            let drew = match &record.operation.outcome {
                Outcome::Answered { output: Output::Changed { version }, .. } => Some(*version),
                Outcome::Answered { .. } => continue,
                Outcome::Unknown => None,
            };
            is_whose |= written == *value && drew.is_none_or(|drew| drew == *version);
            if drew.is_some_and(|drew| drew > *version) {
                wrong.push(format!(
                    "key {key} holds {value} of revision {version}, after {written} was acknowledged at {drew:?}"
                ));
            }
        }
        if !is_whose {
            wrong.push(format!("key {key} holds {value} of revision {version}, which nobody wrote"));
        }
    }
    wrong.truncate(SHOWN);
    wrong
}

#[cfg(test)]
mod tests;
