//! The first words of a session: [`Hello`] and [`Welcome`].

use berth_model::session::{Hello, ProtocolRange, Welcome};
use berth_model::{BootId, Incarnation, Millis, Term};

use super::{ConvertError, parsed};
use crate::v1;

impl From<&Hello> for v1::Hello {
    fn from(hello: &Hello) -> Self {
        let Hello { cluster, incarnation, term, protocol, host, name, address, boot, start, version } = hello;
        let ProtocolRange { oldest, newest } = *protocol;
        let BootId(boot) = boot;
        Self {
            cluster: cluster.as_ref().map(ToString::to_string),
            incarnation: incarnation.0,
            term: term.0,
            protocol: Some(v1::ProtocolRange { oldest, newest }),
            host: host.to_string(),
            name: name.to_string(),
            address: address.clone(),
            boot: boot.clone(),
            start: *start,
            version: version.clone(),
        }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = ConvertError;

    fn try_from(wire: v1::Hello) -> Result<Self, ConvertError> {
        let v1::Hello { cluster, incarnation, term, protocol, host, name, address, boot, start, version } = wire;
        let v1::ProtocolRange { oldest, newest } = protocol.ok_or_else(|| ConvertError::missing("protocol"))?;
        Ok(Self {
            cluster: cluster.map(|id| parsed(&id, "cluster")).transpose()?,
            incarnation: Incarnation(incarnation),
            term: Term(term),
            protocol: ProtocolRange { oldest, newest },
            host: parsed(&host, "host")?,
            name: parsed(&name, "name")?,
            address,
            boot: BootId(boot),
            start,
            version,
        })
    }
}

impl From<&Welcome> for v1::Welcome {
    fn from(welcome: &Welcome) -> Self {
        let Welcome { cluster, incarnation, term, protocol, heartbeat_every, overrides } = welcome;
        Self {
            cluster: cluster.to_string(),
            incarnation: incarnation.0,
            term: term.0,
            protocol: *protocol,
            heartbeat_every_ms: heartbeat_every.0,
            overrides: overrides.map(|term| term.0),
        }
    }
}

impl TryFrom<v1::Welcome> for Welcome {
    type Error = ConvertError;

    fn try_from(wire: v1::Welcome) -> Result<Self, ConvertError> {
        let v1::Welcome { cluster, incarnation, term, protocol, heartbeat_every_ms, overrides } = wire;
        Ok(Self {
            cluster: parsed(&cluster, "cluster")?,
            incarnation: Incarnation(incarnation),
            term: Term(term),
            protocol,
            heartbeat_every: Millis(heartbeat_every_ms),
            overrides: overrides.map(Term),
        })
    }
}
