//! Who led when: members are asked all the time, whatever happens to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_linearizability::Moment;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Cluster;

/// How often each member is asked.
const EVERY: Duration = Duration::from_millis(100);

/// When a term was first heard to have a leader, and who that was.
pub(super) type Terms = BTreeMap<u64, (String, Moment)>;

/// The watch over it.
pub(super) struct Leaders {
    known: watch::Receiver<Option<usize>>,
    terms: Arc<Mutex<Terms>>,
    watching: JoinSet<()>,
}

impl Leaders {
    /// Begins to watch.
    pub(super) fn watch(cluster: &Arc<Cluster>, began: Instant) -> Self {
        let terms = Arc::new(Mutex::new(Terms::new()));
        let (sender, known) = watch::channel(None);
        let sender = Arc::new(sender);
        let mut watching = JoinSet::new();
        for api in cluster.connections(Duration::from_secs(1)) {
            let (cluster, terms, sender) = (Arc::clone(cluster), Arc::clone(&terms), Arc::clone(&sender));
            watching.spawn(async move {
                let mut ticks = tokio::time::interval(EVERY);
                loop {
                    ticks.tick().await;
                    if let Some((term, leader)) = cluster.lead_by(&api).await {
                        let mut terms = terms.lock().unwrap_or_else(PoisonError::into_inner);
                        let now = moment(began);
                        terms.entry(term).or_insert_with(|| (leader, now));
                        let newest = terms.last_key_value().map(|(_, (leader, _))| leader.clone());
                        let place = newest.and_then(|leader| cluster.members().iter().position(|name| *name == leader));
                        sender.send_if_modified(|known| std::mem::replace(known, place) != place);
                    }
                }
            });
        }
        Self { known, terms, watching }
    }

    /// The place of the leader among the members, by the newest term that was heard of.
    pub(super) fn known(&self) -> watch::Receiver<Option<usize>> {
        self.known.clone()
    }

    /// Ends the watch.
    pub(super) async fn finish(mut self) -> Terms {
        self.watching.shutdown().await;
        let terms = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        terms.clone()
    }
}

/// Nanoseconds since the run began.
pub(super) fn moment(began: Instant) -> Moment {
    u64::try_from(began.elapsed().as_nanos()).expect("a run takes less than centuries")
}
