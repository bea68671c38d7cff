//! How often everything occurred, so that nothing is claimed of what never happened.

use std::collections::BTreeMap;
use std::fmt;

use berth_host::step::Step;
use berth_model::session::{ToController, ToHost};
use berth_state::Rejection;

use crate::plan::FaultKind;

/// What is counted together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Group {
    /// Kinds of faults.
    Fault,
    /// Commands in the log.
    Command,
    /// Commands that apply refused.
    Rejection,
    /// Steps that began on hosts.
    Step,
    /// Words to hosts.
    ToHost,
    /// Words to controllers.
    ToController,
    /// Refusals at admission, by their codes.
    Admission,
    /// What else shows that a history was worth its time.
    Noted,
}

impl Group {
    const fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Command => "command",
            Self::Rejection => "rejection",
            Self::Step => "step",
            Self::ToHost => "to host",
            Self::ToController => "to controller",
            Self::Admission => "admission",
            Self::Noted => "noted",
        }
    }
}

/// Counts by group and name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally(BTreeMap<(Group, &'static str), u64>);

/// Every command that is expected in the log of a run. `NoteProposals` is not: no history is as long as the pause before a
/// leader looks whether other placements would be better.
const COMMANDS: [&str; 28] = [
    "Bootstrap",
    "CreateVm",
    "SetRun",
    "RestartVm",
    "StartVm",
    "StopVm",
    "ResetVm",
    "PauseVm",
    "ResumeVm",
    "DeleteVm",
    "CreateImage",
    "DeleteImage",
    "ReportHost",
    "SetLiveness",
    "Assign",
    "NoteUnplaced",
    "SetLabels",
    "NoteHoldings",
    "AdoptOrphan",
    "RemoveOrphan",
    "SetSpec",
    "UpdateHost",
    "ConfirmDead",
    "RemoveHost",
    "CreateInstanceType",
    "DeleteInstanceType",
    "CreatePreference",
    "DeletePreference",
];

/// Every rejection that is expected. `NeedsClusterVersion` is not: there is one version of the rules, and every program that
/// speaks to this log has it.
const REJECTIONS: [&str; 25] = [
    "AlreadyBootstrapped",
    "NotBootstrapped",
    "NameTaken",
    "NotFound",
    "Changed",
    "Deleting",
    "Halted",
    "ImageInUse",
    "RequestReused",
    "RequestExpired",
    "RequestFromFuture",
    "PlanOutdated",
    "DoesNotFit",
    "HostNotTaking",
    "HostNameTaken",
    "TooManyLabels",
    "NoOrphan",
    "NothingHeld",
    "OrphanIsVm",
    "Placed",
    "HostHeardOf",
    "HostInUse",
    "BuiltIn",
    "TooMany",
    "NotNow",
];

const STEPS: [&str; 10] =
    ["prepare", "start", "shutdown", "force-off", "repin", "read-back", "pause", "resume", "reset", "remove"];
const TO_HOST: [&str; 8] =
    ["Redirect", "Refuse", "Welcome", "DesiredSet", "DesiredDelta", "HeartbeatAck", "ReportAck", "Controllers"];
const TO_CONTROLLER: [&str; 3] = ["Hello", "Heartbeat", "Report"];

impl Tally {
    pub(crate) fn count(&mut self, group: Group, name: &'static str) {
        *self.0.entry((group, name)).or_default() += 1;
    }

    /// How often this was.
    pub fn of(&self, group: Group, name: &'static str) -> u64 {
        self.0.get(&(group, name)).copied().unwrap_or(0)
    }

    /// How often anything of this group was.
    pub fn sum(&self, group: Group) -> u64 {
        self.0.iter().filter(|((held, _), _)| *held == group).map(|(_, count)| count).sum()
    }

    /// Adds what another run counted.
    pub fn add(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            *self.0.entry(*key).or_default() += count;
        }
    }

    /// What should have occurred and never did.
    pub fn missing(&self) -> Vec<String> {
        let expected = Self::expected().filter(|(group, name)| self.of(*group, name) == 0);
        expected.map(|(group, name)| format!("{} {name}", group.name())).collect()
    }

    fn expected() -> impl Iterator<Item = (Group, &'static str)> {
        let of = |group: Group, names: &'static [&'static str]| names.iter().map(move |name| (group, *name));
        FaultKind::ALL
            .into_iter()
            .map(|(kind, _)| (Group::Fault, kind.name()))
            .chain(of(Group::Command, &COMMANDS))
            .chain(of(Group::Rejection, &REJECTIONS))
            .chain(of(Group::Step, &STEPS))
            .chain(of(Group::ToHost, &TO_HOST))
            .chain(of(Group::ToController, &TO_CONTROLLER))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: BTreeMap<Group, Vec<(&str, u64)>> = BTreeMap::new();
        for (group, name) in Self::expected() {
            if self.of(group, name) == 0 {
                all.entry(group).or_default().push((name, 0));
            }
        }
        for ((group, name), count) in &self.0 {
            all.entry(*group).or_default().push((name, *count));
        }
        for (group, counts) in all {
            for (number, (name, count)) in counts.iter().enumerate() {
                let title = if number == 0 { group.name() } else { "" };
                writeln!(f, "  {title:<14}{name:<22}{count:>12}")?;
            }
        }
        Ok(())
    }
}

pub(crate) const fn rejection(why: &Rejection) -> &'static str {
    match why {
        Rejection::AlreadyBootstrapped => "AlreadyBootstrapped",
        Rejection::NotBootstrapped => "NotBootstrapped",
        Rejection::NeedsClusterVersion { .. } => "NeedsClusterVersion",
        Rejection::NameTaken { .. } => "NameTaken",
        Rejection::NotFound { .. } => "NotFound",
        Rejection::Changed { .. } => "Changed",
        Rejection::Deleting { .. } => "Deleting",
        Rejection::Halted { .. } => "Halted",
        Rejection::ImageInUse { .. } => "ImageInUse",
        Rejection::RequestReused { .. } => "RequestReused",
        Rejection::RequestExpired { .. } => "RequestExpired",
        Rejection::RequestFromFuture { .. } => "RequestFromFuture",
        Rejection::PlanOutdated => "PlanOutdated",
        Rejection::DoesNotFit(_) => "DoesNotFit",
        Rejection::HostNotTaking { .. } => "HostNotTaking",
        Rejection::HostNameTaken { .. } => "HostNameTaken",
        Rejection::TooManyLabels { .. } => "TooManyLabels",
        Rejection::NoOrphan { .. } => "NoOrphan",
        Rejection::NothingHeld { .. } => "NothingHeld",
        Rejection::OrphanIsVm { .. } => "OrphanIsVm",
        Rejection::Placed { .. } => "Placed",
        Rejection::HostHeardOf { .. } => "HostHeardOf",
        Rejection::HostInUse { .. } => "HostInUse",
        Rejection::BuiltIn { .. } => "BuiltIn",
        Rejection::TooMany { .. } => "TooMany",
        Rejection::NotNow { .. } => "NotNow",
    }
}

pub(crate) const fn step(step: &Step) -> &'static str {
    step.name()
}

pub(crate) const fn to_host(word: &ToHost) -> &'static str {
    match word {
        ToHost::Redirect { .. } => "Redirect",
        ToHost::Refuse { .. } => "Refuse",
        ToHost::Welcome(_) => "Welcome",
        ToHost::DesiredSet { .. } => "DesiredSet",
        ToHost::DesiredDelta { .. } => "DesiredDelta",
        ToHost::HeartbeatAck { .. } => "HeartbeatAck",
        ToHost::ReportAck { .. } => "ReportAck",
        ToHost::Controllers { .. } => "Controllers",
    }
}

pub(crate) const fn to_controller(word: &ToController) -> &'static str {
    match word {
        ToController::Hello(_) => "Hello",
        ToController::Heartbeat { .. } => "Heartbeat",
        ToController::Report(_) => "Report",
    }
}
