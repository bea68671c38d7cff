//! From apply to readers: the view of this member, its event window, and word to the hosts concerned.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use berth_model::HostUid;
use berth_state::{Change, Cluster};
use tokio::sync::{Notify, watch};

use crate::desired::concerned;
use crate::window::{self, Window};

/// Who waits for changes of which host's desired set.
#[derive(Clone, Debug, Default)]
pub struct Bells(Arc<Mutex<BTreeMap<HostUid, Vec<Arc<Notify>>>>>);

impl Bells {
    /// A bell that rings when the desired set of a host may have changed. Dropping it ends the interest.
    pub fn of(&self, host: HostUid) -> Arc<Notify> {
        let bell = Arc::new(Notify::new());
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = bells.entry(host).or_default();
        waiting.retain(|held| Arc::strong_count(held) > 1);
        waiting.push(Arc::clone(&bell));
        bell
    }

    fn ring(&self, host: HostUid) {
        let bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in bells.get(&host).into_iter().flatten() {
            bell.notify_one();
        }
    }

    fn ring_all(&self) {
        let bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in bells.values().flatten() {
            bell.notify_one();
        }
    }
}

/// What readers of this member hold.
#[derive(Clone, Debug)]
pub struct Views {
    /// The applied state.
    pub cluster: watch::Receiver<Arc<Cluster>>,
    /// Recent events.
    pub window: Window,
    /// Word to hosts' sessions.
    pub bells: Bells,
}

/// The writing end, held by the replicated machine. A clone is for the machine that takes the place of one whose log failed:
/// it goes over what was published before, of which readers are told nothing a second time.
#[derive(Clone, Debug)]
pub struct Publisher {
    cluster: Arc<watch::Sender<Arc<Cluster>>>,
    window: Window,
    bells: Bells,
}

impl Publisher {
    /// A publisher of an empty state, and what readers hold.
    pub fn new() -> (Self, Views) {
        let (cluster, receiver) = watch::channel(Arc::new(Cluster::default()));
        let window = Window::new(berth_model::Revision::default());
        let bells = Bells::default();
        let views = Views { cluster: receiver, window: window.clone(), bells: bells.clone() };
        (Self { cluster: Arc::new(cluster), window, bells }, views)
    }

    /// The state after some entries, and what they changed.
    pub fn applied(&self, cluster: &Cluster, changes: &[Change]) {
        let shown = self.cluster.borrow().revision;
        if cluster.revision < shown {
            // Opened again, and not yet where it was: readers keep what they have, which is the same history.
            return;
        }
        let new = changes.partition_point(|change| change.revision <= shown);
        let changes = &changes[new..];
        let events = window::events(cluster, changes);
        self.cluster.send_replace(Arc::new(cluster.clone()));
        self.window.push(cluster.revision, events);
        for change in changes {
            concerned(change).for_each(|host| self.bells.ring(host));
        }
    }

    /// The state was replaced as a whole by a snapshot.
    pub fn replaced(&self, cluster: &Cluster) {
        if cluster.revision < self.cluster.borrow().revision {
            return;
        }
        self.cluster.send_replace(Arc::new(cluster.clone()));
        self.window.reset(cluster.revision);
        self.bells.ring_all();
    }
}

#[cfg(test)]
mod tests;
