//! VMs, as operators read them.

use berth_model::vm::{Unplaced, Vm, VmStatus};

use super::all;
use crate::v1;

/// A VM with its status, which the caller derives from the state at the revision that it answers for.
pub fn vm_to_wire(vm: &Vm, status: &VmStatus) -> v1::Vm {
    let Vm { meta, spec, restart_count, power, assignment, unplaced, observed } = vm;
    let VmStatus { phase, message, host, conditions } = status;
    let (host, host_name) = host.as_ref().map(|(uid, name)| (uid.to_string(), name.to_string())).unwrap_or_default();
    let accelerator = observed.as_ref().and_then(|observed| observed.accelerator);
    v1::Vm {
        meta: Some(meta.into()),
        spec: Some(spec.into()),
        restart_count: *restart_count,
        power: Some(power.into()),
        assignment: assignment.as_ref().map(Into::into),
        unplaced: unplaced.as_ref().map(Into::into),
        observed: observed.as_ref().map(Into::into),
        status: Some(v1::VmStatus {
            phase: v1::VmPhase::from(*phase).into(),
            message: message.clone(),
            host,
            host_name,
            conditions: all(conditions),
            accelerator: accelerator.map(|accelerator| v1::Accelerator::from(accelerator).into()),
        }),
    }
}

impl From<&Unplaced> for v1::Unplaced {
    fn from(unplaced: &Unplaced) -> Self {
        let Unplaced { since, hosts, refusals } = unplaced;
        Self {
            since_ms: since.as_millis(),
            hosts: *hosts,
            refusals: refusals
                .iter()
                .map(|(host, why)| v1::HostRefusal { host: host.to_string(), why: why.clone() })
                .collect(),
        }
    }
}
