//! The controller's end of one host's session, free of I/O.
//!
//! ```text
//!   Hello -> Welcomed -> (linearizable read) -> Serving
//! ```
//!
//! The driver feeds what arrives and what changed, and carries out what comes back. The first set is sent only from a
//! view that was read linearizably after the Hello (law 4); later sets are deltas against what was sent.

use std::sync::Arc;

use berth_model::host::{Host, Liveness};
use berth_model::session::{Hello, PROTOCOL, Report, ToController, ToHost, Welcome};
use berth_model::{Actor, ActorRole, ClusterId, HostUid, Incarnation, Name, Revision, Term, Timestamp, VmUid};
use berth_state::{Batch, Body, Cluster, Command, HostFacts};

use crate::bounds;
use crate::desired::{News, Wanted};
use crate::error::Error;
use crate::liveness::{HEARTBEAT_EVERY, MAY_START_FOR};
use crate::ports::Seal;

/// Who this leader is, for comparison with what a host believes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leading {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// The term in which this member leads.
    pub term: Term,
}

/// Why a host gets no session.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It belongs to another cluster.
    #[error("host {host} belongs to cluster {theirs}, this is {ours}; give it a fresh data directory to move it")]
    OtherCluster {
        /// Its name.
        host: String,
        /// What it believes.
        theirs: ClusterId,
        /// What is so.
        ours: ClusterId,
    },
    /// It has obeyed a later restore of the cluster than this one.
    #[error(
        "host {host} has obeyed incarnation {theirs} of the cluster, this controller is at {ours}; it runs from an older copy"
    )]
    OlderIncarnation {
        /// Its name.
        host: String,
        /// What it has seen.
        theirs: Incarnation,
        /// What is here.
        ours: Incarnation,
    },
    /// The identity it claims is another host's.
    #[error(
        "host {host} claims the identity {uid}, which is that of host {holder}; give it its own data directory back, or \
         an empty one to let it join as a new host"
    )]
    OtherHosts {
        /// Its name, as its certificate proves it.
        host: String,
        /// What it claims.
        uid: HostUid,
        /// Whose that is.
        holder: Name,
    },
    /// Its name is another host's.
    #[error("the name {name:?} belongs to host {held_by}")]
    NameTaken {
        /// The name.
        name: Name,
        /// Whose it is.
        held_by: HostUid,
    },
    /// No common protocol version.
    #[error("host {host} speaks protocol {theirs}, this controller {ours}; upgrade the older of the two")]
    NoCommonProtocol {
        /// Its name.
        host: String,
        /// Its range.
        theirs: String,
        /// Our range.
        ours: String,
    },
    /// Its certificate bears another name.
    #[error("the host calls itself {said:?}, its certificate says {proved:?}")]
    OtherName {
        /// What it said.
        said: String,
        /// What it proved.
        proved: String,
    },
}

impl Refused {
    /// The `BE-NNNN` code of the refusal.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::OtherCluster { .. } | Self::OlderIncarnation { .. } => "BE-5007",
            Self::NoCommonProtocol { .. } => "BE-5006",
            Self::OtherName { .. } | Self::OtherHosts { .. } => "BE-4003",
            Self::NameTaken { .. } => "BE-2001",
        }
    }
}

/// What a host's word asks of the driver.
#[derive(Clone, PartialEq, Debug)]
pub enum Deed {
    /// Send this.
    Answer(ToHost),
    /// Have these carried out, in the order in which they were asked for, and acknowledge the report once they are.
    Fold {
        /// Of the report.
        number: u64,
        /// To be proposed as one entry.
        bodies: Vec<Body>,
    },
}

/// What a session wants, as an entry of the log.
pub fn batch(bodies: Vec<Body>, at: Timestamp) -> Batch {
    let actor = Actor { role: ActorRole::Controller, name: "session".into() };
    let commands = bodies.into_iter().map(|body| Command { request: None, actor: actor.clone(), body }).collect();
    Batch { at, commands }
}

/// The controller's end of one host's session.
#[derive(Debug)]
pub struct HostSession {
    facts: HostFacts,
    sent: Option<(Revision, Wanted)>,
    /// Whether the cluster counted on the host when the last set was looked up.
    is_counted_on: bool,
    controllers: Vec<String>,
    last_report: u64,
}

impl HostSession {
    /// Accepts a host, or says why not. `proved` is the name in its certificate. The welcome must be sent only after a
    /// linearizable read in this term that began after the Hello: a leader of the past fails it.
    pub fn accept(leading: Leading, hello: &Hello, proved: &str) -> Result<(Self, ToHost), Refused> {
        let host = hello.name.to_string();
        if host != proved {
            return Err(Refused::OtherName { said: host, proved: proved.to_owned() });
        }
        if let Some(theirs) = hello.cluster.filter(|theirs| *theirs != leading.cluster) {
            return Err(Refused::OtherCluster { host, theirs, ours: leading.cluster });
        }
        if hello.incarnation > leading.incarnation {
            return Err(Refused::OlderIncarnation { host, theirs: hello.incarnation, ours: leading.incarnation });
        }
        // Told only after a majority was asked, later than the host's word, and knew of no higher term than ours.
        let overrides = (hello.incarnation == leading.incarnation && hello.term > leading.term).then_some(hello.term);
        let range = |range: berth_model::session::ProtocolRange| format!("{} to {}", range.oldest, range.newest);
        let protocol = PROTOCOL.common(hello.protocol).ok_or_else(|| Refused::NoCommonProtocol {
            host,
            theirs: range(hello.protocol),
            ours: range(PROTOCOL),
        })?;
        let facts = HostFacts {
            uid: hello.host,
            name: hello.name.clone(),
            address: hello.address.clone(),
            boot: hello.boot.clone(),
        };
        let welcome = ToHost::Welcome(Welcome {
            cluster: leading.cluster,
            incarnation: leading.incarnation,
            term: leading.term,
            protocol,
            heartbeat_every: HEARTBEAT_EVERY,
            overrides,
        });
        Ok((Self { facts, sent: None, is_counted_on: false, controllers: Vec::new(), last_report: 0 }, welcome))
    }

    /// Refuses a host that claims the identity or bears the name of another one: a host's certificate gives it its own
    /// VMs and their secrets, and nobody else's. `view` must have been read linearizably after the Hello.
    pub fn check_identity(&self, view: &Cluster) -> Result<(), Refused> {
        let HostFacts { uid, name, .. } = &self.facts;
        if let Some(known) = view.hosts.get(uid).filter(|known| known.meta.name != *name) {
            return Err(Refused::OtherHosts { host: name.to_string(), uid: *uid, holder: known.meta.name.clone() });
        }
        match view.host_by_name(name) {
            Some(holder) if holder.uid() != *uid => {
                Err(Refused::NameTaken { name: name.clone(), held_by: holder.uid() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whose session it is.
    pub fn host(&self) -> HostUid {
        self.facts.uid
    }

    /// The host's desired set as one view shows it: what to say of it, if there is anything, and which VMs are left out of it
    /// because their secret cannot be opened, and why. The first call must come with a view that was read linearizably after
    /// the Hello.
    pub fn desired(&mut self, view: &Cluster, seal: &dyn Seal) -> (Option<ToHost>, Vec<(VmUid, String)>) {
        let revision = view.revision;
        if self.sent.as_ref().is_some_and(|(sent_at, _)| revision < *sent_at) {
            return (None, Vec::new());
        }
        let is_alive = |host: &Arc<Host>| host.liveness == Liveness::Alive;
        self.is_counted_on = view.hosts.get(&self.host()).is_some_and(is_alive);
        let mut wanted = Wanted::of(view, self.host());
        let before = self.sent.take();
        let is_first = before.is_none();
        let News { entries, forgotten, unopened } = wanted.news(&before.unwrap_or_default().1, seal);
        self.sent = Some((revision, wanted));
        let word = if is_first {
            Some(ToHost::DesiredSet { revision, entries })
        } else if entries.is_empty() && forgotten.is_empty() {
            None
        } else {
            Some(ToHost::DesiredDelta { revision, entries, forgotten })
        };
        (word, unopened)
    }

    /// Where the controllers are now: what to say of it, if the host was told otherwise or nothing yet.
    pub fn controllers(&mut self, mut addresses: Vec<String>) -> Option<ToHost> {
        addresses.sort_unstable();
        if addresses.is_empty() || addresses == self.controllers {
            return None;
        }
        self.controllers.clone_from(&addresses);
        Some(ToHost::Controllers { addresses })
    }

    /// A report arrived: what to propose for it. None for one out of turn: a stream neither repeats nor reorders, so
    /// such a host is not to be believed.
    pub fn report(&mut self, report: Report) -> Option<Body> {
        if report.number != self.last_report + 1 {
            return None;
        }
        self.last_report = report.number;
        Some(Body::ReportHost { facts: self.facts.clone(), report: Box::new(report) })
    }

    /// A word arrived: what to do about it. An error ends the session, and the host is told why.
    pub fn hear(&mut self, message: ToController) -> Result<Deed, Error> {
        match message {
            ToController::Hello(_) => Err(Error::invalid("BE-1007", "a second Hello in one session")),
            ToController::Heartbeat { number } => Ok(Deed::Answer(self.heartbeat(number))),
            ToController::Report(report) => {
                let (number, mut report) = (report.number, *report);
                bounds::take(&mut report).map_err(|why| Error::invalid("BE-1009", why))?;
                let holdings = std::mem::take(&mut report.holdings);
                let out_of_turn =
                    || Error::invalid("BE-1007", format!("report {number} is out of turn in its session"));
                let mut bodies = vec![self.report(report).ok_or_else(out_of_turn)?];
                if !holdings.is_empty() {
                    bodies.push(Body::NoteHoldings { host: self.host(), holdings });
                }
                Ok(Deed::Fold { number, bodies })
            }
        }
    }

    /// A heartbeat arrived: the answer. Permission to start is given only once the set was sent, and only while the cluster
    /// counts on the host: one that it does not hear of may be given up by an operator's word in the next moment, and what
    /// has its berths there would then be started elsewhere.
    pub fn heartbeat(&self, number: u64) -> ToHost {
        let may_start = self.sent.is_some() && self.is_counted_on;
        let may_start_for = if may_start { MAY_START_FOR } else { berth_model::Millis(0) };
        ToHost::HeartbeatAck { number, may_start_for }
    }
}

#[cfg(test)]
mod tests;
