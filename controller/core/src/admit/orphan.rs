//! Orphans, as operators name them.

use berth_model::{HostUid, Revision, VmUid};
use berth_state::{Cluster, Expect};

use super::{HostTarget, find_host};
use crate::error::Error;

/// Which orphan of which host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OrphanTarget {
    /// The host's name.
    pub host: String,
    /// The host's uid as the client saw it; empty means any.
    pub host_uid: String,
    /// The host's revision as the client saw it.
    pub revision: Option<u64>,
    /// The uid of the VM that the orphan was.
    pub vm: String,
}

impl OrphanTarget {
    pub(crate) fn expect(&self) -> Expect {
        Expect { revision: self.revision.map(Revision) }
    }
}

/// Finds the host of an orphan. Whether it lists the orphan is for apply to say.
pub fn find_orphan(view: &Cluster, target: &OrphanTarget) -> Result<(HostUid, VmUid), Error> {
    let OrphanTarget { host, host_uid, revision, vm: _ } = target.clone();
    let host = find_host(view, &HostTarget { name: host, uid: host_uid, revision })?;
    let vm = target.vm.parse().map_err(|why| {
        Error::invalid("BE-1001", format!("the orphan's uid is not valid: {why}"))
            .hint("'berth host orphans' shows the uids")
    })?;
    Ok((host.uid(), vm))
}
