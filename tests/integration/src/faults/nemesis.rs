//! Which fault comes when, and when it is over.
//!
//! Faults come in rounds: each round has every kind once, in an order of its own, so that a run that is long enough has
//! seen all of them. Between two faults the cluster is well for a while; a change of leader then is nobody's doing, and
//! counts against it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_linearizability::Moment;
use berth_proto::v1;

use super::Plan;
use super::cluster::{Cluster, HEALED_WITHIN};
use super::dice::Dice;
use super::leaders::{Leaders, moment};
use crate::request;

/// What is done to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// The leader is killed with SIGKILL, and started again.
    KillLeader,
    /// A member is stopped with SIGSTOP, and goes on as if nothing had been.
    Freeze,
    /// Members do not hear each other.
    Partition,
    /// One hears the other, the other does not hear the one.
    OneWayPartition,
    /// A member's disk takes long for each barrier.
    SlowDisk,
    /// A member's disk has no block free, and has room again later.
    FullDisk,
    /// A member's time of day jumps, and jumps back.
    ClockStep,
    /// Each member is asked to end, and started again, one after the other.
    RollingRestart,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::KillLeader,
        Self::Freeze,
        Self::Partition,
        Self::OneWayPartition,
        Self::SlowDisk,
        Self::FullDisk,
        Self::ClockStep,
        Self::RollingRestart,
    ];
}

impl FromStr for Kind {
    type Err = String;

    /// From the name that is shown, with hyphens for blanks if one likes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = text.replace('-', " ");
        let names = Self::ALL.map(|kind| (kind, kind.to_string().replace('-', " ")));
        let found = names.iter().find(|(_, name)| *name == wanted);
        found.map(|(kind, _)| *kind).ok_or_else(|| {
            let known = names.map(|(_, name)| name.replace(' ', "-"));
            format!("there is no such fault; there are {}", known.join(", "))
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KillLeader => "leader killed",
            Self::Freeze => "frozen",
            Self::Partition => "partition",
            Self::OneWayPartition => "one-way partition",
            Self::SlowDisk => "slow disk",
            Self::FullDisk => "full disk",
            Self::ClockStep => "clock step",
            Self::RollingRestart => "rolling restart",
        })
    }
}

/// One fault, from its beginning until the cluster was well again.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) kind: Kind,
    /// What exactly was done.
    pub(super) what: String,
    /// When it began.
    pub(super) began: Moment,
    /// When it was taken away.
    pub(super) ended: Moment,
    /// When the cluster was well again.
    pub(super) healed: Moment,
    /// Why it did not do what it is for, if it did not.
    pub(super) missed: Option<String>,
    /// What a person had to do to bring the cluster back, if it did not come back by itself.
    pub(super) helped: Option<String>,
}

/// How long nothing is broken between two faults.
const CALM_MS: std::ops::Range<u64> = 2500..4500;
/// How long a member may take to notice that its disk is full.
const NOTICED_WITHIN: Duration = Duration::from_secs(25);

/// Breaks the cluster until the time is over and enough operations are completed.
pub(super) async fn run(
    cluster: &Arc<Cluster>,
    plan: &Plan,
    leaders: &Leaders,
    began: Instant,
    completed: impl Fn() -> usize,
) -> Vec<Window> {
    let mut dice = Dice::new(plan.seed, u64::MAX);
    let mut windows: Vec<Window> = Vec::new();
    let mut round: Vec<Kind> = Vec::new();
    let from = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(dice.within(CALM_MS))).await;
        let every_kind = plan.kinds.iter().all(|kind| windows.iter().any(|window| window.kind == *kind));
        let (took, done) = (from.elapsed(), completed());
        let enough = took >= plan.lasting && done >= plan.operations && every_kind;
        if enough || took >= plan.lasting * 2 {
            return windows;
        }
        if round.is_empty() {
            round.clone_from(&plan.kinds);
            dice.shuffle(&mut round);
        }
        let kind = round.pop().expect("a plan has at least one kind of fault");
        let mut window = Nemesis { cluster, dice: &mut dice, leaders, began }.fire(kind).await;
        cluster.healed().await;
        window.healed = moment(began);
        say(&window, done);
        windows.push(window);
    }
}

#[expect(clippy::print_stdout, reason = "who waits for half an hour wants to see that something goes on")]
fn say(window: &Window, done: usize) {
    let seconds = |from: Moment, to: Moment| Duration::from_nanos(to.saturating_sub(from)).as_secs_f32();
    let Window { kind, what, began, ended, healed, missed, helped } = window;
    let (lasted, healing) = (seconds(*began, *ended), seconds(*ended, *healed));
    println!(
        "{:>6.1} s  {kind:<17}  {what}; lasted {lasted:.1} s, well again after {healing:.1} s; {done} operations before it{}{}",
        seconds(0, *began),
        missed.as_ref().map(|why| format!("; MISSED: {why}")).unwrap_or_default(),
        helped.as_ref().map(|how| format!("; HELPED: {how}")).unwrap_or_default(),
    );
}

struct Nemesis<'a> {
    cluster: &'a Arc<Cluster>,
    dice: &'a mut Dice,
    leaders: &'a Leaders,
    began: Instant,
}

impl Nemesis<'_> {
    /// The leader as it was last heard of; anyone if nobody was.
    fn leader(&mut self) -> String {
        let place = *self.leaders.known().borrow();
        let place = place.unwrap_or_else(|| self.dice.index(self.cluster.members().len()));
        self.cluster.members()[place].clone()
    }

    /// The leader more often than not: most faults hurt there.
    fn victim(&mut self) -> String {
        if self.dice.chance(60) { self.leader() } else { self.dice.pick(self.cluster.members()).clone() }
    }

    fn others(&self, member: &str) -> Vec<String> {
        self.cluster.members().iter().filter(|other| *other != member).cloned().collect()
    }

    fn describe(&self, member: &str) -> String {
        let leads = self.leaders.known().borrow().is_some_and(|place| self.cluster.members()[place] == member);
        format!("{member}{}", if leads { ", which led" } else { "" })
    }

    async fn for_ms(&mut self, range: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.dice.within(range))).await;
    }

    /// Does what waits for processes where it holds up nobody.
    async fn aside(&self, act: impl FnOnce(&Cluster) + Send + 'static) {
        let cluster = Arc::clone(self.cluster);
        let done = tokio::task::spawn_blocking(move || act(&cluster)).await;
        if let Err(error) = done {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    async fn fire(&mut self, kind: Kind) -> Window {
        let began = moment(self.began);
        let mut missed = None;
        let mut helped = None;
        let what = match kind {
            Kind::KillLeader => self.kill_leader().await,
            Kind::Freeze => self.freeze().await,
            Kind::Partition => self.partition().await,
            Kind::OneWayPartition => self.one_way_partition().await,
            Kind::SlowDisk => {
                missed = (!self.cluster.can_be_slowed()).then(|| "the controllers have no switch for it".to_owned());
                self.slow_disk().await
            }
            Kind::FullDisk => {
                let outcome = self.full_disk().await;
                (missed, helped) = (outcome.missed, outcome.helped);
                outcome.what
            }
            Kind::ClockStep => {
                let (what, why) = self.step_clock().await;
                missed = why;
                what
            }
            Kind::RollingRestart => self.restart_all().await,
        };
        let ended = moment(self.began);
        Window { kind, what, began, ended, healed: ended, missed, helped }
    }

    async fn kill_leader(&mut self) -> String {
        let leader = self.leader();
        let what = self.describe(&leader);
        let killed = leader.clone();
        self.aside(move |cluster| cluster.kill(&killed)).await;
        self.for_ms(1500..4000).await;
        self.aside(move |cluster| cluster.start(&leader)).await;
        what
    }

    async fn freeze(&mut self) -> String {
        let member = self.victim();
        let what = self.describe(&member);
        self.cluster.freeze(&member);
        self.for_ms(2000..6000).await;
        self.cluster.thaw(&member);
        what
    }

    async fn partition(&mut self) -> String {
        let member = self.victim();
        let mut others = self.others(&member);
        let whole = self.dice.chance(70);
        if !whole {
            // Only one link: the third hears both.
            others.remove(self.dice.index(others.len()));
        }
        let what = format!("{} from {}", self.describe(&member), others.join(" and "));
        self.cut(&member, &others, [true, true]).await;
        self.for_ms(3000..6500).await;
        self.aside(Cluster::heal).await;
        what
    }

    async fn one_way_partition(&mut self) -> String {
        let member = self.victim();
        let others = self.others(&member);
        let is_heard = self.dice.chance(50);
        let how = if is_heard { "hears nobody and is heard" } else { "hears everybody and is not heard" };
        let what = format!("{} {how}", self.describe(&member));
        self.cut(&member, &others, [!is_heard, is_heard]).await;
        self.for_ms(3000..6500).await;
        self.aside(Cluster::heal).await;
        what
    }

    /// Cuts what a member sends to others, and what others send to it.
    async fn cut(&self, member: &str, others: &[String], [sent, received]: [bool; 2]) {
        let (member, others) = (member.to_owned(), others.to_owned());
        self.aside(move |cluster| {
            for other in &others {
                if sent {
                    cluster.cut(&member, other);
                }
                if received {
                    cluster.cut(other, &member);
                }
            }
        })
        .await;
    }

    async fn slow_disk(&mut self) -> String {
        let member = self.victim();
        let delay = Duration::from_millis(*self.dice.pick(&[50, 200, 500, 1000]));
        let what = format!("{}, each barrier {} ms", self.describe(&member), delay.as_millis());
        self.cluster.set_delay(&member, delay);
        self.for_ms(3000..6500).await;
        self.cluster.set_delay(&member, Duration::ZERO);
        what
    }

    async fn full_disk(&mut self) -> FullDisk {
        let member = self.victim();
        let mut what = format!("{}, {} MB in use", self.describe(&member), self.cluster.used_mb(&member));
        let filled = member.clone();
        self.aside(move |cluster| cluster.fill_disk(&filled)).await;
        let noticed = self.until_noticed(&member).await;
        self.for_ms(1500..3000).await;
        let emptied = member.clone();
        self.aside(move |cluster| cluster.empty_disk(&emptied)).await;
        let missed = match noticed {
            Some((said, after)) => {
                what = format!("{what}; after {:.1} s it {said}", after.as_secs_f32());
                None
            }
            None => Some(format!("not noticed within {} s", NOTICED_WITHIN.as_secs())),
        };
        let mut helped = None;
        if !self.cluster.is_well_within(&member, HEALED_WITHIN).await {
            let was = if self.cluster.runs(&member) { "did not come back" } else { "had ended" };
            helped = Some(format!("{member} {was} and was started again"));
            let again = member.clone();
            self.aside(move |cluster| {
                if cluster.runs(&again) {
                    cluster.kill(&again);
                }
                cluster.start(&again);
            })
            .await;
        }
        FullDisk { what, missed, helped }
    }

    /// What a member does about its full disk, and after which time.
    ///
    /// A member takes room ahead of what it needs, so little writes would not show for long: here come some large ones.
    async fn until_noticed(&mut self, member: &str) -> Option<(String, Duration)> {
        let from = Instant::now();
        let apis = self.cluster.connections(Duration::from_secs(2));
        let mut made = Vec::new();
        let mut noticed = None;
        while from.elapsed() < NOTICED_WITHIN {
            if !self.cluster.runs(member) {
                noticed = Some(("ended".to_owned(), from.elapsed()));
                break;
            }
            if let Ok(said) = self.cluster.trouble(member).await
                && !said.is_empty()
            {
                noticed = Some((format!("said {said:?}"), from.elapsed()));
                break;
            }
            let name = format!("large-{}", request::id());
            // Whoever takes it: some member may just have no leader, or no room.
            let _ = self.dice.pick(&apis).send(large(&name)).await;
            made.push(name);
        }
        for name in made {
            // One that was not made cannot be deleted, and the members need not all be there.
            let _ = self.dice.pick(&apis).send(request::delete(&name)).await;
        }
        noticed
    }

    async fn step_clock(&mut self) -> (String, Option<String>) {
        let member = self.victim();
        // Certificates are valid from five minutes before they were made: a clock further back finds none valid, which is
        // as it should be and no fault of the log.
        let ahead = match self.dice.index(4) {
            0 => -i64::try_from(self.dice.within(1..240)).expect("it is a small number"),
            1 => i64::try_from(self.dice.within(1..60)).expect("it is a small number"),
            2 => i64::try_from(self.dice.within(60..7200)).expect("it is a small number"),
            _ => -1,
        };
        let what = format!("{} by {ahead:+} s and back", self.describe(&member));
        let missed = (!self.cluster.has_our_clock(&member)).then(|| "its clock is not in our hands".to_owned());
        self.cluster.set_clock(&member, ahead);
        self.for_ms(4000..7000).await;
        self.cluster.set_clock(&member, 0);
        // The library looks at the file once a second.
        self.for_ms(1200..1500).await;
        (what, missed)
    }

    async fn restart_all(&mut self) -> String {
        let mut members = self.cluster.members().to_vec();
        self.dice.shuffle(&mut members);
        for member in &members {
            let restarted = member.clone();
            self.aside(move |cluster| {
                cluster.stop(&restarted);
                cluster.start(&restarted);
            })
            .await;
            // As an operator would: the next only when this one is back.
            let back = self.cluster.is_well_within(member, HEALED_WITHIN).await;
            assert!(back, "{member} did not come back from a restart");
        }
        members.join(", ")
    }
}

/// A VM with much to say to its guest, which never runs.
fn large(name: &str) -> v1::CreateVmRequest {
    let mut asked = request::vm(name);
    let spec = asked.spec.as_mut().expect("a request for a VM has a spec");
    spec.run_strategy = v1::RunStrategy::Halted.into();
    spec.user_data = Some(vec![b'#'; 200 << 10]);
    asked
}

struct FullDisk {
    what: String,
    missed: Option<String>,
    helped: Option<String>,
}
