//! What goes into the agent and what comes out.

use std::collections::BTreeMap;

use berth_model::condition::Condition;
use berth_model::host::Inventory;
use berth_model::image::{ImageOnHost, Sha256Digest};
use berth_model::session::{ToController, ToHost};
use berth_model::{BootId, Name, VmUid};

use crate::backend::{BackendError, DomainSeen};
use crate::clock::BootTime;
use crate::ledger::{EntryRefusal, Record};
use crate::session::ConnectionId;
use crate::step::Step;

/// Who speaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The host's name, as in its certificate.
    pub name: Name,
    /// Where its daemon answers controllers.
    pub address: String,
    /// This boot of the machine.
    pub boot: BootId,
    /// This start of the daemon: a number drawn at start.
    pub start: u64,
    /// The version of the program.
    pub version: String,
}

/// How a step ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// As wanted.
    Done,
    /// It was not begun: the permission ran out while it waited its turn.
    Lapsed,
    /// Not as wanted.
    Failed(BackendError),
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Input {
    /// The time that [`Output::WakeAt`] named has come. Harmless at any other time.
    Tick,
    /// A connection stands.
    Dialed(ConnectionId),
    /// A connection could not be had, or ended, and why.
    Ended(ConnectionId, String),
    /// A word from a controller.
    Received(ConnectionId, ToHost),
    /// The write of this number is on disk.
    Persisted(u64),
    /// The step of this VM ended.
    Executed(VmUid, Outcome),
    /// The scan of this number ended.
    Scanned(u64, Result<Vec<DomainSeen>, BackendError>),
    /// Whether anything is left of a VM.
    Looked(VmUid, Result<bool, BackendError>),
    /// Something happened to a domain; what, a scan will tell.
    DomainEvent,
    /// What the host is.
    Inventory(Box<Inventory>),
    /// Facts about the host; those of other kinds stay.
    Conditions(Vec<Condition>),
    /// All image files that were looked at so far.
    Images(BTreeMap<Sha256Digest, ImageOnHost>),
    /// The daemon goes down: no more steps, and no session. VMs run on.
    Drain,
}

/// What must be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Open a connection; answered by [`Input::Dialed`] or [`Input::Ended`].
    Connect {
        /// It is named so.
        connection: ConnectionId,
        /// `address:port`.
        address: String,
    },
    /// Send a word.
    Send {
        /// On this connection.
        connection: ConnectionId,
        /// It.
        message: ToController,
    },
    /// Close a connection or give up opening it.
    Close {
        /// Which.
        connection: ConnectionId,
    },
    /// Write these records so that they outlive a power cut; answered by [`Input::Persisted`]. Never two at once.
    Persist {
        /// Named so.
        number: u64,
        /// In this order.
        records: Vec<Record>,
    },
    /// Carry out a step; answered by [`Input::Executed`]. Never two for one VM at once.
    Execute {
        /// Which.
        step: Step,
        /// It must not be begun at or after this moment.
        before: Option<BootTime>,
    },
    /// Look at all domains; answered by [`Input::Scanned`]. Never two at once.
    Scan {
        /// Named so.
        number: u64,
    },
    /// See whether anything of this VM is left; answered by [`Input::Looked`].
    Look {
        /// Which.
        vm: VmUid,
    },
    /// Write down where the controllers are, for the next start. Advice: nothing waits for it, and the newest list counts.
    Remember {
        /// `address:port` of each.
        controllers: Vec<String>,
    },
    /// Send [`Input::Tick`] then; replaces the moment named before.
    WakeAt(BootTime),
    /// For the log.
    Tell(Event),
}

/// What an operator who reads the log should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A leader holds the session.
    SessionOpened {
        /// A sentence on whose word it is.
        leader: String,
    },
    /// A session was lost, refused, or could not be had.
    SessionLost {
        /// Why.
        why: String,
    },
    /// Entries were taken.
    Accepted {
        /// How many are new or different.
        changed: usize,
        /// VMs that are spoken of no more; what runs of them is an orphan.
        left: Vec<VmUid>,
    },
    /// An entry was not taken.
    EntryRefused(EntryRefusal),
    /// A step failed.
    StepFailed {
        /// Of which VM.
        vm: VmUid,
        /// Its name.
        step: &'static str,
        /// Why.
        error: String,
    },
    /// A VM is gone as asked.
    Gone(VmUid),
}
