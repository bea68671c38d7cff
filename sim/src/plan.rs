//! What a seed means: the cluster, who asks what of it when, and what goes wrong. A pure function of the seed.

use std::ops::Range;

use crate::dice::Dice;

/// One history. Times are milliseconds of virtual time.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) hosts: usize,
    /// How many VMs clients try to keep.
    pub(crate) vms: usize,
    /// One way, between any two.
    pub(crate) network: Range<u64>,
    /// From a proposal to its commit.
    pub(crate) commit: Range<u64>,
    /// Until a host's ledger is synced.
    pub(crate) disk: Range<u64>,
    /// When clients ask for something.
    pub(crate) operations: Vec<u64>,
    /// In the order of their times.
    pub(crate) faults: Vec<Fault>,
    /// When everything is repaired.
    pub(crate) heal: u64,
    /// For everything that is drawn on the way.
    pub(crate) dice: Dice,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) lasts: u64,
    pub(crate) kind: FaultKind,
    /// Whom it hits, counted round.
    pub(crate) whom: u64,
}

/// What it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum FaultKind {
    /// The leading controller dies and comes back.
    LeaderCrash,
    /// The leading controller and the others do not hear each other; hosts still hear it.
    LeaderIsolated,
    /// A controller that does not lead dies and comes back.
    FollowerCrash,
    /// All controllers die and come back.
    Blackout,
    /// The leader hands its office over.
    Transfer,
    /// Proposers do not hear what became of what they proposed; most of it is carried out later.
    LostAnswers,
    /// A controller applies what was committed only much later.
    Laggard,
    /// A controller's key does not open secrets.
    KeyMissing,
    /// A controller's wall clock is wrong.
    ClockStep,
    /// A host and all controllers do not hear each other.
    Cut,
    /// Controllers do not hear a host, which hears them.
    CutUp,
    /// A host does not hear the controllers, which hear it.
    CutDown,
    /// Words to and from a host take long.
    SlowNetwork,
    /// A host's daemon is killed and started again.
    DaemonKilled,
    /// A host's daemon is killed and started without its data; later its data is put back.
    LedgerMissing,
    /// A host loses its power and gets it back.
    PowerCut,
    /// A host loses its power and comes back with less threads and memory; later with all of it.
    ReturnsSmaller,
    /// A host's disk is slow.
    SlowDisk,
    /// A host's hypervisor daemon is away; guests run on.
    HypervisorAway,
    /// A host's hypervisor loses the definitions of some domains, and the guests with them.
    DomainsForgotten,
    /// A host's hypervisor tells nothing of what happens to its domains.
    EventsLost,
    /// Steps on a host fail, with or without an effect.
    StepsFail,
    /// A guest crashes.
    GuestCrash,
    /// A guest shuts itself down.
    GuestShutdown,
    /// A guest's kernel gives up.
    GuestPanic,
    /// A host's guests do not heed when they are asked to shut down.
    DeafGuests,
    /// A second host of the same name knocks.
    Twin,
    /// An older state is put back on all controllers, as the restore command does.
    Restore,
    /// A controller of the time before a restore is switched on again in the place of another.
    Revenant,
}

impl FaultKind {
    /// All kinds with how often each is drawn, compared to the others.
    pub(crate) const ALL: [(Self, u64); 29] = [
        (Self::LeaderCrash, 10),
        (Self::LeaderIsolated, 10),
        (Self::FollowerCrash, 5),
        (Self::Blackout, 3),
        (Self::Transfer, 6),
        (Self::LostAnswers, 10),
        (Self::Laggard, 8),
        (Self::KeyMissing, 5),
        (Self::ClockStep, 4),
        (Self::Cut, 8),
        (Self::CutUp, 6),
        (Self::CutDown, 6),
        (Self::SlowNetwork, 6),
        (Self::DaemonKilled, 10),
        (Self::LedgerMissing, 3),
        (Self::PowerCut, 6),
        (Self::ReturnsSmaller, 5),
        (Self::SlowDisk, 4),
        (Self::HypervisorAway, 8),
        (Self::DomainsForgotten, 4),
        (Self::EventsLost, 4),
        (Self::StepsFail, 6),
        (Self::GuestCrash, 8),
        (Self::GuestShutdown, 8),
        (Self::GuestPanic, 4),
        (Self::DeafGuests, 4),
        (Self::Twin, 2),
        (Self::Restore, 3),
        (Self::Revenant, 0),
    ];

    /// The name in traces and tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::LeaderCrash => "leader crash",
            Self::LeaderIsolated => "leader isolated",
            Self::FollowerCrash => "follower crash",
            Self::Blackout => "blackout",
            Self::Transfer => "transfer",
            Self::LostAnswers => "lost answers",
            Self::Laggard => "laggard",
            Self::KeyMissing => "key missing",
            Self::ClockStep => "clock step",
            Self::Cut => "cut",
            Self::CutUp => "cut up",
            Self::CutDown => "cut down",
            Self::SlowNetwork => "slow network",
            Self::DaemonKilled => "daemon killed",
            Self::LedgerMissing => "ledger missing",
            Self::PowerCut => "power cut",
            Self::ReturnsSmaller => "returns smaller",
            Self::SlowDisk => "slow disk",
            Self::HypervisorAway => "hypervisor away",
            Self::DomainsForgotten => "domains forgotten",
            Self::EventsLost => "events lost",
            Self::StepsFail => "steps fail",
            Self::GuestCrash => "guest crash",
            Self::GuestShutdown => "guest shutdown",
            Self::GuestPanic => "guest panic",
            Self::DeafGuests => "deaf guests",
            Self::Twin => "twin",
            Self::Restore => "restore",
            Self::Revenant => "revenant",
        }
    }

    /// Whether nothing but its end is needed to recover from it: no operator must look at anything.
    pub(crate) const fn heals_by_itself(self) -> bool {
        !matches!(self, Self::Twin | Self::Restore | Self::Revenant | Self::LedgerMissing | Self::ClockStep)
    }

    /// How long this one lasts.
    pub(crate) fn draw_length(self, dice: &mut Dice) -> u64 {
        dice.within(self.lasts())
    }

    /// How long it lasts.
    const fn lasts(self) -> Range<u64> {
        match self {
            Self::LeaderCrash | Self::FollowerCrash => 200..8000,
            Self::LeaderIsolated | Self::Laggard => 1000..9000,
            Self::Blackout => 500..30_000,
            Self::Transfer
            | Self::DaemonKilled
            | Self::GuestCrash
            | Self::GuestShutdown
            | Self::GuestPanic
            | Self::DomainsForgotten
            | Self::Restore => 1..2,
            Self::LostAnswers => 200..4000,
            Self::KeyMissing | Self::ClockStep | Self::EventsLost | Self::StepsFail | Self::DeafGuests => 2000..20_000,
            Self::Cut | Self::CutUp | Self::CutDown => 500..25_000,
            Self::SlowNetwork | Self::SlowDisk => 2000..15_000,
            Self::LedgerMissing | Self::ReturnsSmaller | Self::Twin => 3000..25_000,
            // Some long enough for an operator to give the host up.
            Self::PowerCut => 1000..45_000,
            Self::HypervisorAway => 500..12_000,
            Self::Revenant => 10_000..20_000,
        }
    }
}

/// What a client or a fault does is an event of the history; there are at least so many.
pub(crate) const LEAST_EVENTS: usize = 300;

impl Plan {
    /// The history that a seed means.
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let heal = dice.within(50_000..90_000);
        let mut faults = Vec::new();
        // In a few histories two hosts of one name come up together.
        if dice.percent(4) {
            faults.push(Fault { at: 0, lasts: 20_000, kind: FaultKind::Twin, whom: dice.next() });
        }
        // In some the first leader does not hear what became of the first entry.
        if dice.percent(6) {
            faults.push(Fault { at: 0, lasts: 3000, kind: FaultKind::LostAnswers, whom: 0 });
        }
        // One history in four begins with a fault, when the cluster has no identity and no host is known.
        let mut at = if dice.percent(25) { dice.within(0..1500) } else { dice.within(4000..12_000) };
        while at < heal - 2000 {
            let kind = dice.weighted(&FaultKind::ALL);
            let lasts = dice.within(kind.lasts()).min(heal - at);
            faults.push(Fault { at, lasts, kind, whom: dice.next() });
            at += dice.within(300..9000);
        }
        // After a restore, in most cases, somebody forgets to switch an old controller off for good.
        let restored = faults.iter().find(|fault| fault.kind == FaultKind::Restore).map(|fault| fault.at);
        if let Some(restored) = restored.filter(|restored| restored + 32_000 < heal)
            && dice.percent(70)
        {
            let (kind, whom) = (FaultKind::Revenant, dice.next());
            let at = dice.within(restored + 12_000..heal - 15_000);
            faults.push(Fault { at, lasts: dice.within(kind.lasts()).min(heal - at), kind, whom });
        }
        faults.sort_by_key(|fault| fault.at);
        let operations = LEAST_EVENTS + dice.index(60);
        let mut operations: Vec<_> = (0..operations).map(|_| dice.within(50..heal)).collect();
        // Some come before the cluster has its identity.
        operations.extend((0..3).map(|_| dice.within(2..40)));
        operations.sort_unstable();
        let network = dice.pick(&[(1, 3), (1, 10), (5, 30), (1, 60)]).expect("there are some");
        let commit = dice.pick(&[(1, 8), (5, 30), (5, 120)]).expect("there are some");
        let disk = dice.pick(&[(1, 5), (2, 20), (5, 100)]).expect("there are some");
        Self {
            hosts: 3 + dice.index(3),
            vms: 20 + dice.index(10),
            network: network.0..network.1,
            commit: commit.0..commit.1,
            disk: disk.0..disk.1,
            operations,
            faults,
            heal,
            dice: dice.fork(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_history_is_large_enough_and_has_enough_that_goes_wrong() {
        for seed in 0..500 {
            let plan = Plan::new(seed);
            assert!(plan.hosts >= 3 && plan.vms >= 20);
            assert!(plan.operations.len() + plan.faults.len() >= LEAST_EVENTS);
            let kinds: BTreeSet<_> = plan.faults.iter().map(|fault| fault.kind).collect();
            assert!(plan.faults.len() >= 4 && kinds.len() >= 2, "seed {seed}: {:?}", plan.faults);
        }
    }
}
