//! Stamps.

use berth_model::{Epoch, Incarnation, Stamp};

use super::ConvertError;
use crate::v1;

impl From<&Stamp> for v1::Stamp {
    fn from(stamp: &Stamp) -> Self {
        let Stamp { incarnation, epoch } = stamp;
        Self { incarnation: incarnation.0, epoch: epoch.0 }
    }
}

impl TryFrom<v1::Stamp> for Stamp {
    type Error = ConvertError;

    fn try_from(wire: v1::Stamp) -> Result<Self, ConvertError> {
        let v1::Stamp { incarnation, epoch } = wire;
        Ok(Self { incarnation: Incarnation(incarnation), epoch: Epoch(epoch) })
    }
}
