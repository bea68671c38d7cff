//! What a controller says to a host.

use berth_model::session::ToHost;
use berth_model::{Millis, Revision};

use super::{ConvertError, all, each, parsed, required};
use crate::v1;
use crate::v1::to_host::Word;

impl From<&ToHost> for v1::ToHost {
    fn from(word: &ToHost) -> Self {
        let word = match word {
            ToHost::Redirect { leader } => Word::Redirect(v1::Redirect { leader: leader.clone() }),
            ToHost::Refuse { code, message } => {
                Word::Refuse(v1::Refuse { code: code.clone(), message: message.clone() })
            }
            ToHost::Welcome(welcome) => Word::Welcome(welcome.into()),
            ToHost::DesiredSet { revision, entries } => {
                Word::DesiredSet(v1::DesiredSet { revision: revision.0, entries: all(entries) })
            }
            ToHost::DesiredDelta { revision, entries, forgotten } => Word::DesiredDelta(v1::DesiredDelta {
                revision: revision.0,
                entries: all(entries),
                forgotten: forgotten.iter().map(ToString::to_string).collect(),
            }),
            ToHost::HeartbeatAck { number, may_start_for } => {
                Word::HeartbeatAck(v1::HeartbeatAck { number: *number, may_start_for_ms: may_start_for.0 })
            }
            ToHost::ReportAck { number } => Word::ReportAck(v1::ReportAck { number: *number }),
            ToHost::Controllers { addresses } => Word::Controllers(v1::Controllers { addresses: addresses.clone() }),
        };
        Self { word: Some(word) }
    }
}

impl TryFrom<v1::ToHost> for ToHost {
    type Error = ConvertError;

    fn try_from(wire: v1::ToHost) -> Result<Self, ConvertError> {
        let v1::ToHost { word } = wire;
        Ok(match word.ok_or_else(|| ConvertError::missing("word"))? {
            Word::Redirect(v1::Redirect { leader }) => Self::Redirect { leader },
            Word::Refuse(v1::Refuse { code, message }) => Self::Refuse { code, message },
            Word::Welcome(welcome) => Self::Welcome(required(Some(welcome), "welcome")?),
            Word::DesiredSet(v1::DesiredSet { revision, entries }) => {
                Self::DesiredSet { revision: Revision(revision), entries: each(entries, "desired_set.entries")? }
            }
            Word::DesiredDelta(v1::DesiredDelta { revision, entries, forgotten }) => Self::DesiredDelta {
                revision: Revision(revision),
                entries: each(entries, "desired_delta.entries")?,
                forgotten: forgotten
                    .iter()
                    .enumerate()
                    .map(|(at, uid)| parsed(uid, &format!("desired_delta.forgotten[{at}]")))
                    .collect::<Result<_, _>>()?,
            },
            Word::HeartbeatAck(v1::HeartbeatAck { number, may_start_for_ms }) => {
                Self::HeartbeatAck { number, may_start_for: Millis(may_start_for_ms) }
            }
            Word::ReportAck(v1::ReportAck { number }) => Self::ReportAck { number },
            Word::Controllers(v1::Controllers { addresses }) => Self::Controllers { addresses },
        })
    }
}
