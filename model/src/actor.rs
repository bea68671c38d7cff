//! Who asks: the role and name that a certificate proved.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an identity may be, as its certificate's URI SAN says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum ActorRole {
    /// A member of the controller: the planner, the fold of reports.
    Controller,
    /// A host daemon, which may only report of itself.
    Host,
    /// A person or program at the admin API.
    Operator,
}

/// One identity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Actor {
    /// Its role.
    pub role: ActorRole,
    /// Its name within the role.
    pub name: String,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            ActorRole::Controller => "controller",
            ActorRole::Host => "host",
            ActorRole::Operator => "operator",
        };
        write!(f, "{role}/{}", self.name)
    }
}
