//! Orphans.

use berth_model::host::Orphan;

use super::{ConvertError, parsed};
use crate::v1;

impl From<&Orphan> for v1::Orphan {
    fn from(orphan: &Orphan) -> Self {
        let Orphan { vm, called, running } = orphan;
        Self { vm: vm.to_string(), called: called.clone(), running: *running }
    }
}

impl TryFrom<v1::Orphan> for Orphan {
    type Error = ConvertError;

    fn try_from(wire: v1::Orphan) -> Result<Self, ConvertError> {
        let v1::Orphan { vm, called, running } = wire;
        Ok(Self { vm: parsed(&vm, "vm")?, called, running })
    }
}
