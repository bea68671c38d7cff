//! What a seed means: the cluster, its clients, and what goes wrong when. A pure function of the seed.

use std::ops::Range;

use crate::dice::Dice;

/// One simulated cluster's fate. Times are milliseconds of simulated time.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) members: u64,
    pub(crate) clients: u64,
    pub(crate) keys: u8,
    /// Pause of a client between two requests.
    pub(crate) think: Range<u64>,
    /// One way, between any two.
    pub(crate) network: Range<u64>,
    /// From a write to the end of its barrier, in microseconds.
    pub(crate) disk: Range<u64>,
    pub(crate) entries_between: u64,
    pub(crate) entries_kept: u64,
    pub(crate) faults: Vec<Fault>,
    /// When everything is repaired.
    pub(crate) heal: u64,
    /// When the clients end.
    pub(crate) end: u64,
    /// For everything that is drawn on the way.
    pub(crate) dice: Dice,
}

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) at: u64,
    pub(crate) lasts: u64,
    pub(crate) kind: Kind,
    pub(crate) who: Who,
}

/// Whom it hits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    /// The leader of the moment, or member 1 if there is none.
    Leader,
    /// The member with this number, counted after the leader of the moment.
    Follower(u64),
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The power of one member is cut, best while it has something unsynced, and comes back.
    Crash,
    /// The power of all members is cut at once.
    Blackout,
    /// One member is stopped in an orderly way and started again.
    Restart,
    /// One member and the others do not hear each other.
    Isolate,
    /// So long that it is not to be brought up by entries.
    Lag,
    /// Two members do not hear each other; the others hear both.
    Split,
    /// One member is not heard, and hears the others.
    Mute,
    /// One member does not hear the others, and is heard.
    Deaf,
    /// Messages between two members are held back, and come all at once later.
    Hold,
    /// Messages between two members take long.
    Delay,
    /// Links lose what is under way, now and then.
    Loss,
    /// One member's disk is slow.
    SlowDisk,
    /// One member's disk fails, and the member must be started anew.
    BrokenDisk,
    /// The leader hands its office over.
    Transfer,
    /// A member is added, and given its vote.
    Grow,
    /// A member is removed.
    Shrink,
    /// A member dies for good, and a new one takes its place.
    Replace,
    /// A leader that has just been elected is cut off, and the two others of a majority lose their power: who has forgotten
    /// its vote now votes twice.
    Succession,
}

impl Kind {
    /// All kinds with how often each is drawn, compared to the others.
    const ALL: [(Self, u64); 18] = [
        (Self::Crash, 18),
        (Self::Blackout, 6),
        (Self::Restart, 6),
        (Self::Isolate, 12),
        (Self::Lag, 6),
        (Self::Split, 6),
        (Self::Mute, 5),
        (Self::Deaf, 5),
        (Self::Hold, 5),
        (Self::Delay, 5),
        (Self::Loss, 5),
        (Self::SlowDisk, 5),
        (Self::BrokenDisk, 4),
        (Self::Transfer, 6),
        (Self::Succession, 6),
        (Self::Grow, 8),
        (Self::Shrink, 8),
        (Self::Replace, 5),
    ];

    /// The name in traces and totals.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Blackout => "blackout",
            Self::Restart => "restart",
            Self::Isolate => "isolate",
            Self::Lag => "lag",
            Self::Split => "split",
            Self::Mute => "mute",
            Self::Deaf => "deaf",
            Self::Hold => "hold",
            Self::Delay => "delay",
            Self::Loss => "loss",
            Self::SlowDisk => "slow disk",
            Self::BrokenDisk => "broken disk",
            Self::Transfer => "transfer",
            Self::Succession => "succession",
            Self::Grow => "grow",
            Self::Shrink => "shrink",
            Self::Replace => "replace",
        }
    }

    /// How long it lasts, in milliseconds.
    pub(crate) fn lasts(self) -> Range<u64> {
        match self {
            Self::Crash => 20..2000,
            Self::Blackout | Self::Restart => 20..1000,
            Self::Isolate | Self::Split | Self::Mute | Self::Deaf => 300..3000,
            Self::Lag => 2500..4500,
            Self::Hold => 200..2500,
            Self::Delay | Self::Loss | Self::SlowDisk => 500..3000,
            Self::BrokenDisk => 200..2000,
            Self::Transfer | Self::Grow => 1..2,
            Self::Shrink | Self::Replace => 1..2000,
            Self::Succession => 2000..4000,
        }
    }
}

/// What must have been at work in a long enough run: all kinds of faults, and what they are to bring about.
pub(crate) fn expected_faults() -> impl Iterator<Item = &'static str> {
    let brought_about = ["lost unsynced", "snapshot installed"];
    Kind::ALL.into_iter().map(|(kind, _)| kind.name()).chain(brought_about)
}

impl Plan {
    /// The fate that a seed means.
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let heal = 8000;
        let mut faults = Vec::new();
        let mut at = dice.within(1000..1600);
        while at < heal - 1000 {
            let kind = draw(&mut dice);
            let who = if dice.percent(45) { Who::Leader } else { Who::Follower(dice.within(0..4)) };
            faults.push(Fault { at, lasts: dice.within(kind.lasts()), kind, who });
            at += dice.within(50..1200);
        }
        let network = *dice.pick(&[(1, 3), (1, 10), (5, 20), (1, 40)]);
        let disk = *dice.pick(&[(100, 1000), (1000, 5000), (1000, 20_000), (5000, 40_000)]);
        let entries_between = dice.within(15..80);
        Self {
            members: if dice.percent(25) { 5 } else { 3 },
            clients: dice.within(3..7),
            keys: if dice.percent(50) { 1 } else { 3 },
            think: 5..dice.within(20..100),
            network: network.0..network.1,
            disk: disk.0..disk.1,
            entries_between,
            entries_kept: dice.within(0..entries_between),
            faults,
            heal,
            end: heal + 1000,
            dice: dice.fork(),
        }
    }
}

fn draw(dice: &mut Dice) -> Kind {
    let mut left = dice.within(0..Kind::ALL.iter().map(|(_, weight)| weight).sum());
    for (kind, weight) in Kind::ALL {
        if left < weight {
            return kind;
        }
        left -= weight;
    }
    Kind::Crash
}
