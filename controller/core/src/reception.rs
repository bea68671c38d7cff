//! How a host's session begins and ends: the order of things, free of I/O.
//!
//! ```text
//!   Hello --arrive--> Arrival --(linearizable read)--> enter --> HostSession
//!             \-----------------------\------------------------> Away
//! ```
//!
//! The driver ([`crate::hosts`]) and the simulation do exactly this.

use berth_model::session::{Hello, ToHost, Welcome};
use berth_model::{HostUid, Term};
use berth_state::{Cluster, ClusterInfo};

use crate::bounds;
use crate::error::{Error, Kind};
use crate::ports::Leadership;
use crate::session::{HostSession, Leading, Refused};

/// Reports of one session that wait for their commit, at most. A host sends its next report only after the last was
/// acknowledged; one more may be on its way.
pub const REPORTS_WAITING: usize = 2;

/// Why a host gets no session here.
#[derive(Debug)]
pub enum Away {
    /// Another member leads, or nobody does; where, if it is known.
    Elsewhere {
        /// `address:port` of the leader.
        leader: Option<String>,
    },
    /// It is refused.
    Refused(Refused),
    /// Its first word cannot be kept; a sentence.
    Malformed(String),
}

impl Away {
    /// The last word to the host.
    pub fn word(&self) -> ToHost {
        match self {
            Self::Elsewhere { leader } => ToHost::Redirect { leader: leader.clone() },
            Self::Refused(refused) => ToHost::Refuse { code: refused.code().into(), message: refused.to_string() },
            Self::Malformed(why) => ToHost::Refuse { code: "BE-1009".into(), message: why.clone() },
        }
    }
}

/// A host that said its first word, and waits until this member has shown that it leads.
#[derive(Debug)]
pub struct Arrival {
    session: HostSession,
    welcome: ToHost,
    term: Term,
}

/// Takes a host's first word. `proved` is the name in its certificate; `lead` and `info` are what this member knows now.
pub fn arrive(hello: &Hello, proved: &str, lead: &Leadership, info: Option<ClusterInfo>) -> Result<Arrival, Away> {
    bounds::check_hello(hello).map_err(Away::Malformed)?;
    let (true, Some(info)) = (lead.here, info) else {
        return Err(Away::Elsewhere { leader: lead.leader_api.clone() });
    };
    let leading = Leading { cluster: info.id, incarnation: info.incarnation, term: lead.term };
    let (session, welcome) = HostSession::accept(leading, hello, proved).map_err(Away::Refused)?;
    Ok(Arrival { session, welcome, term: lead.term })
}

impl Arrival {
    /// Whose it is.
    pub fn host(&self) -> HostUid {
        self.session.host()
    }

    /// The term that the host must obey although it has heard a higher one, if it has: that one, and ours.
    pub fn overrides(&self) -> Option<(Term, Term)> {
        match &self.welcome {
            ToHost::Welcome(Welcome { overrides: Some(higher), term, .. }) => Some((*higher, *term)),
            _ => None,
        }
    }

    /// The session and its first word. `lead` and `view` are what this member knows after a linearizable read that began
    /// after the Hello (law 4).
    pub fn enter(self, lead: &Leadership, view: &Cluster) -> Result<(HostSession, ToHost), Away> {
        if !lead.here || lead.term != self.term {
            return Err(Away::Elsewhere { leader: lead.leader_api.clone() });
        }
        self.session.check_identity(view).map_err(Away::Refused)?;
        Ok((self.session, self.welcome))
    }
}

/// The last word to a host whose session ends by an error.
pub fn last_word(error: &Error) -> ToHost {
    match error.kind {
        // The host did nothing wrong: it may try again at once.
        Kind::Unavailable | Kind::Exhausted | Kind::Unknown | Kind::Internal => ToHost::Redirect { leader: None },
        Kind::Invalid
        | Kind::AlreadyExists
        | Kind::NotFound
        | Kind::Conflict
        | Kind::Precondition
        | Kind::Denied
        | Kind::OutOfRange => ToHost::Refuse { code: error.code.into(), message: error.message.clone() },
    }
}

#[cfg(test)]
mod tests {
    use berth_model::testing::{Machine, cluster_id};
    use berth_state::testing::World;

    use super::*;
    use crate::testing::{hello, led_by_another, led_by_none, led_by_us};

    #[test]
    fn who_does_not_lead_sends_the_host_to_who_does() {
        let info = World::new().cluster.info;
        for lead in [led_by_another(1), led_by_none(1)] {
            let Err(Away::Elsewhere { leader }) = arrive(&hello(1), "h1", &lead, info) else { panic!("not sent away") };
            assert_eq!(leader, lead.leader_api);
        }
        assert!(matches!(arrive(&hello(1), "h1", &led_by_us(1), None), Err(Away::Elsewhere { .. })), "no identity yet");
    }

    #[test]
    fn who_lost_its_office_during_the_read_welcomes_nobody() {
        let world = World::new();
        let arrival = || arrive(&hello(1), "h1", &led_by_us(1), world.cluster.info).unwrap();
        for lead in [led_by_another(2), led_by_us(2)] {
            assert!(matches!(arrival().enter(&lead, &world.cluster), Err(Away::Elsewhere { .. })));
        }
        let (_, welcome) = arrival().enter(&led_by_us(1), &world.cluster).unwrap();
        assert!(matches!(welcome, ToHost::Welcome(Welcome { cluster, .. }) if cluster == cluster_id()));
    }

    #[test]
    fn who_bears_anothers_name_is_refused_by_what_was_read() {
        let mut world = World::new();
        world.host(1, Machine::cores(8).inventory());
        let mut twin = hello(2);
        twin.name = hello(1).name;
        let arrival = arrive(&twin, "h1", &led_by_us(1), world.cluster.info).unwrap();
        let Err(away) = arrival.enter(&led_by_us(1), &world.cluster) else { panic!("let in") };
        assert!(matches!(away.word(), ToHost::Refuse { code, .. } if code == "BE-2001"));
    }
}
