//! Reasons why a VM waits, kept in the replicated state for whoever asks any member.

use berth_model::Name;
use berth_model::vm::Vm;
use berth_state::Body;

use crate::plan::Refused;

/// How many VMs may wait while each figure in their reasons is still followed.
///
/// Each berth given or freed changes a figure in the reasons of every VM that waits: with thousands of them that would
/// be thousands of log entries for one event.
const FEW_WAIT: usize = 64;

/// The longest reason that is kept, in characters; a host's own words may be part of it.
const REASON_LIMIT: usize = 240;

#[derive(Clone, Copy)]
pub(crate) enum Figures {
    /// A reason is noted anew when anything in it changed.
    Follow,
    /// A reason is noted anew when it became another one, whatever its figures.
    Let,
}

impl Figures {
    pub(crate) const fn of_waiting(count: usize) -> Self {
        if count <= FEW_WAIT { Self::Follow } else { Self::Let }
    }
}

/// The command that keeps new reasons; none when the same reasons are kept already.
pub(crate) fn note(vm: &Vm, refused: &Refused, figures: Figures) -> Option<Body> {
    let hosts = u32::try_from(refused.hosts).unwrap_or(u32::MAX);
    let listed: Vec<(Name, String)> = refused
        .listed
        .iter()
        .map(|(name, why)| (name.clone(), why.to_string().chars().take(REASON_LIMIT).collect()))
        .collect();
    let same = |held: &str, now: &str| match figures {
        Figures::Follow => held == now,
        Figures::Let => words(held).eq(words(now)),
    };
    let known = vm.unplaced.as_ref().is_some_and(|held| {
        held.hosts == hosts
            && held.refusals.len() == listed.len()
            && held.refusals.iter().zip(&listed).all(|(held, now)| held.0 == now.0 && same(&held.1, &now.1))
    });
    (!known).then(|| Body::NoteUnplaced { vm: vm.uid(), hosts, refusals: listed })
}

/// A reason without its figures: the words in which no digit is.
fn words(reason: &str) -> impl Iterator<Item = &str> {
    reason.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit()))
}
