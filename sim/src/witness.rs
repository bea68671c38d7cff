//! Sees everything that happens, and says at once when a law is broken.
//!
//! | law | how it is seen |
//! |---|---|
//! | a VM runs on at most one host | every start and end of a guest on any machine |
//! | a bound VM starts | what a machine says when a start is carried out |
//! | starting needs a live word | what leaders granted on the wire, and what is committed, when a start begins |
//! | absence is never an instruction | every stop and removal against the words that were ever committed |
//! | bookings go on the host's word alone, or an operator's that it is dead | every change that takes an assignment away, against the machine |
//! | epochs only grow | every assignment |
//! | replicas are equal | the digest after each entry, on each replica |
//! | a request is carried out once, and an answer stays true | every answer of apply and every one that a client heard |
//! | reports count in the order in which they were said | every report that is applied |
//! | what a host is told never goes back | the revision of every set and change that reaches a host |
//! | a VM that runs once is started at most once | every start of a VM that was never anything else |
//! | a clean shutdown lets a VM rest that is rerun on failure | every start after one, against the runs asked for |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_model::vm::RunStrategy;
use berth_model::{HostUid, Incarnation, RequestId, Revision, Stamp, VmUid};
use berth_state::{Applied, Batch, Body, Change, Digest, Object, Rejection};

use crate::tally::{self, Group, Tally};

/// What was ever committed about one VM that may end its guest.
#[derive(Clone, Debug, Default)]
struct Words {
    /// Where it was to be removed.
    deleted_on: BTreeSet<HostUid>,
    /// Whether it was ever to be down.
    halted: bool,
    /// Whether it was ever to be held.
    paused: bool,
    /// Every strategy that it ever had.
    runs: Vec<RunStrategy>,
    /// How often it was started since the last restore.
    starts: u64,
    /// Where its guest shut itself down, and in which run, as long as its host must know.
    clean: Option<(usize, Stamp, u64)>,
    /// The most restarts that were asked for.
    restarts: u64,
}

/// A request by its id and what was asked.
pub(crate) type RequestKey = (RequestId, [u8; 32]);

/// One report on its way: whose it is, on which line it was said, and its number there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Said {
    pub(crate) host: usize,
    pub(crate) line: u64,
    pub(crate) number: u64,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// Milliseconds of virtual time.
    pub(crate) now: u64,
    /// Events so far.
    pub(crate) events: u64,
    /// The first law that was broken.
    pub(crate) broken: Option<String>,
    pub(crate) tally: Tally,
    trace: u64,
    is_verbose: bool,
    /// Where guests run, by VM.
    active: BTreeMap<VmUid, BTreeSet<usize>>,
    running: usize,
    stamps: BTreeMap<VmUid, Stamp>,
    words: BTreeMap<VmUid, Words>,
    to_go: BTreeSet<VmUid>,
    /// Hosts that an operator's word just ended.
    given_up: BTreeSet<HostUid>,
    answers: BTreeMap<RequestKey, (u64, Applied)>,
    digests: BTreeMap<u64, Digest>,
    folded: BTreeMap<usize, (u64, u64)>,
    told: BTreeMap<usize, (Incarnation, Revision)>,
}

impl Witness {
    pub(crate) fn new(is_verbose: bool) -> Self {
        Self { is_verbose, ..Self::default() }
    }

    /// Takes an event into the trace.
    #[expect(clippy::print_stdout, reason = "showing the trace is what the option is for")]
    pub(crate) fn event(&mut self, what: fmt::Arguments<'_>) {
        self.events += 1;
        self.mix(self.now);
        if self.is_verbose {
            println!("{:>8} ms  {what}", self.now);
        }
    }

    /// Takes a number into the trace.
    pub(crate) fn mix(&mut self, number: u64) {
        self.trace = (self.trace ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// A digest of all events.
    pub(crate) const fn trace(&self) -> u64 {
        self.trace
    }

    /// Notes that a law is broken; the first one counts.
    pub(crate) fn broken(&mut self, law: &str, how: fmt::Arguments<'_>) {
        self.event(format_args!("BROKEN {law}: {how}"));
        let now = self.now;
        self.broken.get_or_insert_with(|| format!("{law}: broken at {now} ms: {how}"));
    }

    pub(crate) fn count(&mut self, group: Group, name: &'static str) {
        self.tally.count(group, name);
    }

    /// A guest began on a machine.
    pub(crate) fn began(&mut self, host: usize, vm: VmUid) {
        let on = self.active.entry(vm).or_default();
        self.running += usize::from(on.is_empty());
        on.insert(host);
        if on.len() > 1 {
            let on = on.clone();
            self.broken("a VM runs on at most one host", format_args!("{vm} runs on hosts {on:?}"));
        }
    }

    /// A VM is started on a machine, for the run of this number.
    pub(crate) fn judge_run(&mut self, host: usize, vm: VmUid, stamp: Stamp, run: u64) {
        let Some(words) = self.words.get_mut(&vm) else { return };
        words.starts += 1;
        let (starts, clean) = (words.starts, words.clean.take());
        let is_always = |only| words.runs.iter().all(|run| *run == only);
        let (is_once, is_rerun) = (is_always(RunStrategy::Once), is_always(RunStrategy::RerunOnFailure));
        if is_once && starts > 1 {
            let law = "a VM that runs once is started at most once";
            self.broken(law, format_args!("{vm} is started on host {host} for the {starts}. time"));
        }
        if is_rerun && clean.is_some_and(|(on, by, which)| on == host && by == stamp && run <= which) {
            let law = "a clean shutdown lets a VM rest that is rerun on failure";
            self.broken(law, format_args!("{vm} is started again on host {host} for run {run}"));
        }
    }

    /// Whether it was ever to be held.
    pub(crate) fn was_paused(&self, vm: VmUid) -> bool {
        self.words.get(&vm).is_some_and(|words| words.paused)
    }

    /// A guest shut itself down in this run, and its host will see that.
    pub(crate) fn shut_itself_down(&mut self, host: usize, vm: VmUid, stamp: Stamp, run: u64) {
        self.words.entry(vm).or_default().clean = Some((host, stamp, run));
    }

    /// How the runs of VMs on this machine ended is not to be seen there any more; none: on no machine.
    pub(crate) fn ends_forgotten(&mut self, host: Option<usize>) {
        for words in self.words.values_mut() {
            if host.is_none() {
                words.starts = 0;
            }
            if words.clean.is_some_and(|(on, ..)| host.is_none_or(|host| host == on)) {
                words.clean = None;
            }
        }
    }

    /// A guest ended on a machine.
    pub(crate) fn ended(&mut self, host: usize, vm: VmUid) {
        if let Some(on) = self.active.get_mut(&vm)
            && on.remove(&host)
            && on.is_empty()
        {
            self.active.remove(&vm);
            self.running -= 1;
        }
    }

    /// How many VMs run anywhere.
    pub(crate) const fn running(&self) -> usize {
        self.running
    }

    /// Whether a running guest may be ended, or anything of it removed, on this host: only a word that was committed says so.
    pub(crate) fn judge_end(&mut self, host: HostUid, vm: VmUid, restart_count: u64, is_removal: bool) {
        let nothing = Words::default();
        let words = self.words.get(&vm).unwrap_or(&nothing);
        let may_end =
            words.deleted_on.contains(&host) || (!is_removal && (words.halted || words.restarts > restart_count));
        if !may_end {
            let what = if is_removal { "removed" } else { "taken down" };
            self.broken(
                "absence is never an instruction",
                format_args!("{vm} is {what} on {host}, and no word of that was ever committed"),
            );
        }
    }

    /// A replica is at this index with this digest.
    pub(crate) fn replica(&mut self, member: usize, index: u64, digest: Digest) {
        match self.digests.get(&index) {
            None => {
                self.digests.insert(index, digest);
            }
            Some(first) if *first == digest => {}
            Some(_) => self.broken(
                "replicas are equal",
                format_args!("controller {member} has another state after entry {index} than who applied it first"),
            ),
        }
    }

    /// Entries up to this index are applied everywhere.
    pub(crate) fn everywhere(&mut self, index: u64) {
        if self.digests.len() > 1000 {
            self.digests = self.digests.split_off(&index);
        }
    }

    /// An entry was applied for the first time anywhere. `is_there` says whether anything of a VM is left on a host.
    pub(crate) fn applied(
        &mut self,
        index: u64,
        incarnation: Incarnation,
        batch: &Batch,
        answers: &[Applied],
        changes: &[Change],
        is_there: impl Fn(HostUid, VmUid) -> Option<&'static str>,
    ) {
        for (command, answer) in batch.commands.iter().zip(answers) {
            self.count(Group::Command, command.body.name());
            if let Err(why) = &answer.result {
                self.count(Group::Rejection, tally::rejection(why));
            }
            match &command.body {
                Body::DeleteVm { vm, .. } => drop(self.to_go.insert(*vm)),
                Body::RemoveOrphan { vm, host, .. } => {
                    self.to_go.insert(*vm);
                    if answer.result.is_ok() {
                        self.words.entry(*vm).or_default().deleted_on.insert(*host);
                    }
                }
                Body::ConfirmDead { host, .. } if answer.result.is_ok() => drop(self.given_up.insert(*host)),
                _ => {}
            }
            if let Some(key) = command.request {
                self.answered(index, key, answer);
            }
        }
        for change in changes {
            if let Object::Vm { before, after } = &change.object {
                self.vm_changed(change, incarnation, before.as_deref(), after.as_deref(), &is_there);
            }
        }
        self.given_up.clear();
    }

    fn answered(&mut self, index: u64, key: RequestKey, answer: &Applied) {
        if is_passing(answer) {
            return;
        }
        match self.answers.get(&key) {
            None => {
                self.answers.insert(key, (index, answer.clone()));
            }
            Some((_, first)) if first == answer => self.count(Group::Noted, "request repeated"),
            Some((at, first)) => {
                let (at, first) = (*at, first.clone());
                self.broken(
                    "a request is carried out once",
                    format_args!("{} gave {first:?} at entry {at} and {answer:?} at entry {index}", key.0),
                );
            }
        }
    }

    /// A client heard an answer.
    pub(crate) fn acknowledged(&mut self, key: RequestKey, answer: &Applied) {
        if is_passing(answer) {
            return;
        }
        let is_true = self.answers.get(&key).is_none_or(|(_, first)| first == answer);
        let is_known = self.answers.contains_key(&key) || answer.result.is_err();
        if !is_true || !is_known {
            self.broken(
                "what was acknowledged is in the state",
                format_args!("a client heard {answer:?} to {}, which is not what was committed", key.0),
            );
        }
    }

    /// A state of the time of this entry was put back: what was acknowledged later is lost by the operator's will.
    pub(crate) fn put_back(&mut self, index: u64) {
        self.answers.retain(|_, (at, _)| *at <= index);
        self.ends_forgotten(None);
        self.digests.clear();
    }

    fn vm_changed(
        &mut self,
        change: &Change,
        incarnation: Incarnation,
        before: Option<&berth_model::vm::Vm>,
        after: Option<&berth_model::vm::Vm>,
        is_there: &impl Fn(HostUid, VmUid) -> Option<&'static str>,
    ) {
        let Some(vm) = after.or(before).map(berth_model::vm::Vm::uid) else { return };
        if let Some(after) = after {
            let words = self.words.entry(vm).or_default();
            words.halted |= after.run_now() == RunStrategy::Halted;
            words.paused |= after.power.paused;
            if !words.runs.contains(&after.spec.run) {
                words.runs.push(after.spec.run);
            }
            words.restarts = words.restarts.max(after.restart_count);
            if let Some(held) = after.assignment.as_ref().filter(|_| after.meta.is_deleting()) {
                words.deleted_on.insert(held.host);
            }
        } else if !self.to_go.contains(&vm) {
            self.broken("what was acknowledged is in the state", format_args!("{vm} went, and nobody asked for it"));
        }
        let (old, new) = (before.and_then(|vm| vm.assignment.as_ref()), after.and_then(|vm| vm.assignment.as_ref()));
        if let Some(new) = new.filter(|new| old.is_none_or(|old| old.epoch != new.epoch)) {
            let stamp = Stamp { incarnation, epoch: new.epoch };
            let last = self.stamps.insert(vm, stamp);
            if new.epoch.0 != change.revision.0 || last.is_some_and(|last| last >= stamp) {
                self.broken("epochs only grow", format_args!("{vm} is assigned by {stamp} after {last:?}"));
            }
        }
        let Some(old) = old.filter(|old| new.is_none_or(|new| new.host != old.host)) else { return };
        if self.given_up.contains(&old.host) {
            self.words.entry(vm).or_default().deleted_on.insert(old.host);
        } else if let Some(what) = is_there(old.host, vm) {
            self.broken(
                "bookings go on the host's word alone",
                format_args!("{vm} lost its berth on {}, where {what}", old.host),
            );
        }
    }

    /// A host hears what it shall hold, of this incarnation and at this revision. Each set was read linearizably after the
    /// host's first word, so it is never older than anything that the host was told before.
    pub(crate) fn told(&mut self, host: usize, now: (Incarnation, Revision)) {
        let last = self.told.entry(host).or_insert(now);
        if last.0 == now.0 && now.1 < last.1 {
            let last = last.1;
            self.broken(
                "what a host is told never goes back",
                format_args!("host {host} was told of {last} and then of {}", now.1),
            );
        } else if *last < now {
            *last = now;
        }
    }

    /// A report is applied.
    pub(crate) fn report_applied(&mut self, said: Said) {
        let now = (said.line, said.number);
        let last = self.folded.entry(said.host).or_default();
        if *last >= now {
            let last = *last;
            self.broken(
                "reports count in the order in which they were said",
                format_args!("of host {} the report {now:?} is applied after {last:?} (line, number)", said.host),
            );
        } else {
            *last = now;
        }
    }
}

/// Answers that are said without being remembered, each time anew.
const fn is_passing(answer: &Applied) -> bool {
    matches!(
        answer.result,
        Err(Rejection::NotBootstrapped
            | Rejection::NeedsClusterVersion { .. }
            | Rejection::RequestReused { .. }
            | Rejection::RequestExpired { .. }
            | Rejection::RequestFromFuture { .. })
    )
}
