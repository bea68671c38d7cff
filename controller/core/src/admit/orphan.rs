//! Orphans, as operators name them.

use berth_model::{HostUid, Revision, VmUid};
use berth_state::{Cluster, Expect};

use super::name;
use crate::error::{Error, Kind};

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
    let called = name("host name", &target.host)?;
    let host = view.host_by_name(&called).ok_or_else(|| {
        Error::new(Kind::NotFound, "BE-3003", format!("there is no host {called:?}"))
            .hint("'berth host list' shows what is there")
    })?;
    if !target.host_uid.is_empty() && host.meta.uid.as_str() != target.host_uid {
        let (expected, has) = (&target.host_uid, host.meta.uid);
        let message = format!("host {called:?} is another one than you saw: expected uid {expected}, it has {has}");
        return Err(Error::new(Kind::Conflict, "BE-2003", message)
            .hint("read it again and repeat the request if it still makes sense"));
    }
    let vm = target.vm.parse().map_err(|why| {
        Error::invalid("BE-1001", format!("the orphan's uid is not valid: {why}"))
            .hint("'berth host orphans' shows the uids")
    })?;
    Ok((host.uid(), vm))
}
