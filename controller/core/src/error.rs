//! The one public error: what every door shows, each in its own form.
//!
//! A message says what and why, a hint what to do next; `context` is for the log alone. Codes are a contract: each has
//! a page in `docs/errors`.

use berth_state::Rejection;
use berth_state::history::NotAt;

use crate::ports::ConsensusError;

/// What sort of failure it is; doors translate this and nothing else into their status words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The request is wrong in itself.
    Invalid,
    /// An object of that name is there.
    AlreadyExists,
    /// No such object.
    NotFound,
    /// The object is not as the client saw it.
    Conflict,
    /// The object is not in a state for this.
    Precondition,
    /// The caller may not.
    Denied,
    /// Nobody can take it at present; it was not carried out.
    Unavailable,
    /// Whether it was carried out is not known.
    Unknown,
    /// What was asked for is no longer kept.
    OutOfRange,
    /// There is no room for it; it was not carried out.
    Exhausted,
    /// A fault of ours.
    Internal,
}

/// A refusal or failure, for people and programs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What sort.
    pub kind: Kind,
    /// `BE-NNNN`.
    pub code: &'static str,
    /// What and why.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// For the log alone.
    pub context: Option<String>,
}

impl Error {
    /// An error without hint.
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), hint: None, context: None }
    }

    /// A request that is wrong in itself.
    pub fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, code, message)
    }

    /// The same error with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        let message = rejection.to_string();
        match rejection {
            Rejection::NotBootstrapped => Self::new(Kind::Unavailable, "BE-5001", message)
                .hint("the cluster is starting; try again in a moment"),
            Rejection::NameTaken { kind, .. } => Self::new(Kind::AlreadyExists, "BE-2001", message)
                .hint(format!("pick another name, or delete the {kind} of that name first")),
            Rejection::NotFound { .. } => Self::new(Kind::NotFound, "BE-2002", message),
            Rejection::Changed { .. } => Self::new(Kind::Conflict, "BE-2003", message)
                .hint("read the object again and repeat the request if it still makes sense"),
            Rejection::Deleting { .. } => Self::new(Kind::Precondition, "BE-2004", message)
                .hint("wait until it is gone"),
            Rejection::Halted { .. } => {
                Self::new(Kind::Precondition, "BE-2008", message).hint("start it with 'berth vm start'")
            }
            Rejection::ImageInUse { .. } => {
                Self::new(Kind::Precondition, "BE-2009", message).hint("delete the VMs that use it first")
            }
            Rejection::RequestReused { .. } => Self::new(Kind::Conflict, "BE-2005", message)
                .hint("use a new request id for a new request"),
            Rejection::RequestExpired { .. } => Self::new(Kind::Conflict, "BE-2006", message)
                .hint("look at what is there, then repeat with a new request id; if the id is new, check this machine's clock"),
            Rejection::RequestFromFuture { .. } => {
                Self::new(Kind::Invalid, "BE-2007", message).hint("check this machine's clock")
            }
            Rejection::HostNameTaken { .. } => Self::new(Kind::AlreadyExists, "BE-2001", message)
                .hint("give the host another name, or its old data directory back: a host is known by the uid that lies there"),
            Rejection::TooManyLabels { .. } => Self::new(Kind::Invalid, "BE-1013", message)
                .hint("remove some, or keep in annotations what nothing selects by"),
            Rejection::NoOrphan { .. } => Self::new(Kind::NotFound, "BE-5034", message)
                .hint("'berth host orphans' shows what hosts list; an orphan that went away needs nothing more"),
            Rejection::NothingHeld { .. } => Self::new(Kind::Precondition, "BE-5035", message)
                .hint("create a VM anew and move the data over, then remove the orphan with 'berth host remove-orphan'"),
            Rejection::OrphanIsVm { .. } => Self::new(Kind::Precondition, "BE-5036", message)
                .hint("look at it with 'berth vm show'; adopt the orphan if the VM waits for a host, remove it if the VM is elsewhere"),
            Rejection::Placed { .. } => Self::new(Kind::Precondition, "BE-2010", message)
                .hint("delete it and create it anew to change its size, its template or its devices"),
            Rejection::HostHeardOf { .. } => Self::new(Kind::Precondition, "BE-2011", message)
                .hint("stop its daemon, or wait until the host is Suspect or Lost in 'berth host list', if it really is to go"),
            Rejection::HostInUse { .. } => Self::new(Kind::Precondition, "BE-2012", message).hint(
                "delete or move what it carries first; for a machine that is dead, 'berth host confirm-dead' ends its VMs' \
                 berths, and '--never-returns' forgets what it may still hold",
            ),
            Rejection::BuiltIn { .. } => Self::new(Kind::Precondition, "BE-2013", message)
                .hint("create one of your own under another name"),
            Rejection::TooMany { .. } => Self::new(Kind::Invalid, "BE-1013", message).hint("remove some first"),
            Rejection::NotNow { .. } => Self::new(Kind::Precondition, "BE-2014", message)
                .hint("'berth vm show' shows how it is; docs/operations/vm-lifecycle.md tells what can be done then"),
            Rejection::AlreadyBootstrapped
            | Rejection::NeedsClusterVersion { .. }
            | Rejection::PlanOutdated
            | Rejection::DoesNotFit(_)
            | Rejection::HostNotTaking { .. } => Self::new(Kind::Precondition, "BE-2003", message),
        }
    }
}

impl From<NotAt> for Error {
    fn from(error: NotAt) -> Self {
        let message = error.to_string();
        match error {
            NotAt::Compacted { oldest, .. } => Self::new(Kind::OutOfRange, "BE-5005", message)
                .hint(format!("the oldest revision that can be asked for is {oldest}")),
            NotAt::Future { .. } => {
                Self::new(Kind::OutOfRange, "BE-5030", message).hint("ask for a revision that was, or without one")
            }
            NotAt::Record(error) => {
                let mut problem = Self::new(Kind::Internal, "BE-9001", "the history of this controller cannot be read");
                problem.context = Some(error.to_string());
                problem
            }
        }
    }
}

impl From<ConsensusError> for Error {
    fn from(error: ConsensusError) -> Self {
        match error {
            ConsensusError::NoLeader => {
                Self::new(Kind::Unavailable, "BE-5001", "the cluster has no leader at present; nothing was changed")
                    .hint("a majority of controllers must run and reach each other; see 'berth cluster status'")
            }
            ConsensusError::Unknown(why) => {
                Self::new(Kind::Unknown, "BE-5002", format!("whether it was carried out is not known: {why}"))
                    .hint("repeat with the same request id: it is never carried out twice")
            }
            ConsensusError::Differs(why) => {
                Self::new(Kind::Unavailable, "BE-5031", format!("this controller does not serve: {why}"))
                    .hint("ask another controller; this one's operator finds in its log what to do")
            }
            ConsensusError::Stopped(why) => {
                Self::new(Kind::Unavailable, "BE-5003", format!("this controller cannot serve: {why}"))
                    .hint("ask another controller, and look at this one's log")
            }
            ConsensusError::Full(why) => Self::new(
                Kind::Exhausted,
                "BE-5018",
                format!("the controllers' store has no room, nothing was changed: {why}"),
            )
            .hint("see 'berth cluster status'; give the controllers' disks room, or find what grows"),
            ConsensusError::TooLarge { bytes, limit } => Self::new(
                Kind::Invalid,
                "BE-1009",
                format!("the request takes {bytes} bytes in the log, at most {limit} are allowed"),
            ),
        }
    }
}

#[cfg(test)]
mod tests;
