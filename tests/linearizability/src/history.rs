//! What a client saw: when it asked, what it asked, when it was answered, and what.

/// Nanoseconds since a moment that is the same for the whole history, by a clock that never goes back.
pub type Moment = u64;

/// How an operation ended, as its client knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome<O> {
    /// With an answer.
    Answered {
        /// When the client had it.
        at: Moment,
        /// What it was.
        output: O,
    },
    /// The client gave up waiting, or the connection broke: it may happen at any time after its call, or never.
    Unknown,
}

/// One operation of one client. One that is known not to have happened is no part of a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation<I, O> {
    /// Whose; only for reports.
    pub client: u64,
    /// When it was asked for.
    pub called: Moment,
    /// What was asked.
    pub input: I,
    /// How it ended.
    pub outcome: Outcome<O>,
}

impl<I, O> Operation<I, O> {
    /// When it was answered, and with what.
    pub(crate) fn answer(&self) -> Option<(Moment, &O)> {
        match &self.outcome {
            Outcome::Answered { at, output } => Some((*at, output)),
            Outcome::Unknown => None,
        }
    }
}

/// Something that happened to an operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Event {
    /// It was called. Before answers of the same moment: then the two overlapped.
    Called(usize),
    /// It was answered.
    Answered(usize),
}

/// All events in the order of their moments.
pub(crate) fn events<I, O>(history: &[Operation<I, O>]) -> Vec<Event> {
    let mut events: Vec<(Moment, Event)> = Vec::with_capacity(history.len() * 2);
    for (at, operation) in history.iter().enumerate() {
        events.push((operation.called, Event::Called(at)));
        if let Some((moment, _)) = operation.answer() {
            // An answer before the call would be a fault of the tester's clock.
            events.push((moment.max(operation.called), Event::Answered(at)));
        }
    }
    events.sort_unstable();
    events.into_iter().map(|(_, event)| event).collect()
}
