//! Drives a host's session: reads what arrives, asks [`HostSession`], sends and proposes what it says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_model::session::{ToController, ToHost};
use berth_model::{HostUid, Millis};
use berth_state::Body;
use tokio::sync::{Notify, mpsc};

use crate::error::Error;
use crate::handle::Control;
use crate::reception::{self, Away, REPORTS_WAITING};
use crate::session::{self, Deed, HostSession};

/// When each host was last heard of by this member, by its own clock, since the leader last asked; and how many heartbeats
/// there were in all.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    since: Arc<Mutex<BTreeMap<HostUid, Millis>>>,
    heartbeats: Arc<AtomicU64>,
}

impl Heard {
    pub(crate) fn note(&self, host: HostUid, now: Millis) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).insert(host, now);
    }

    pub(crate) fn take(&self) -> BTreeMap<HostUid, Millis> {
        std::mem::take(&mut self.since.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which session of each host is the newest on this member. A host has one: the connection of an older one may hang, or a
/// copy of the host may hold it, and two that may start VMs would be one too many.
#[derive(Clone, Debug, Default)]
pub struct Sessions(Arc<Mutex<BTreeMap<HostUid, Arc<Notify>>>>);

impl Sessions {
    /// Begins a session and ends the one before it. The bell rings when this one is ended by a newer.
    fn begin(&self, host: HostUid) -> Arc<Notify> {
        let bell = Arc::new(Notify::new());
        let older = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(host, Arc::clone(&bell));
        if let Some(older) = older {
            older.notify_one();
        }
        bell
    }

    /// Forgets a session, unless a newer one took its place.
    fn end(&self, host: HostUid, bell: &Arc<Notify>) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(&host).is_some_and(|newest| Arc::ptr_eq(newest, bell)) {
            sessions.remove(&host);
        }
    }
}

/// How long a host may take to say its first word.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(10);

impl Control {
    /// How many heartbeats of hosts this member has answered.
    pub fn heartbeats(&self) -> u64 {
        self.heard.heartbeats.load(Ordering::Relaxed)
    }

    /// How many hosts have a session with this member.
    pub fn host_sessions(&self) -> usize {
        self.sessions.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Holds one host's session until it ends. `proved` is the name in the host's certificate.
    ///
    /// Ends when the host goes, when this member stops leading, or when the host is refused; the last word to the
    /// host says which.
    pub async fn serve_host(
        &self,
        proved: &str,
        inbound: &mut mpsc::Receiver<ToController>,
        outbound: &mpsc::Sender<ToHost>,
    ) -> Result<(), Error> {
        let first = tokio::time::timeout(FIRST_WORD_WITHIN, inbound.recv()).await;
        let Ok(Some(ToController::Hello(hello))) = first else {
            return Err(Error::invalid("BE-1012", "a session begins with a Hello"));
        };
        let mut leadership = self.consensus.leadership();
        let lead = leadership.borrow_and_update().clone();
        let arrival = match reception::arrive(&hello, proved, &lead, self.now_applied().info) {
            Ok(arrival) => arrival,
            Err(away) => return turn_away(proved, away, outbound).await,
        };
        // Law 4: what is sent next was read after this host said Hello.
        if let Err(error) = self.consensus.read_barrier().await {
            send(outbound, ToHost::Redirect { leader: None }).await;
            return Err(error.into());
        }
        if let Some((higher, term)) = arrival.overrides() {
            tracing::warn!(
                host.name = proved,
                "the host has heard term {higher} and a majority knows of none above {term}: the controllers' data was put \
                 back; VMs that it does not know run on and are listed as orphans"
            );
        }
        let now = leadership.borrow_and_update().clone();
        let (mut session, welcome) = match arrival.enter(&now, &self.now_applied()) {
            Ok(entered) => entered,
            Err(away) => return turn_away(proved, away, outbound).await,
        };
        tracing::info!(host.name = proved, host.id = %session.host(), boot = %hello.boot, "host session begins");
        // The older session ends before this host is told anything that lets it start.
        let superseded = self.sessions.begin(session.host());
        let bell = self.views.bells.of(session.host());
        self.heard.note(session.host(), self.environment.uptime());
        send(outbound, welcome).await;
        self.send_desired(&mut session, outbound).await;
        self.send_controllers(&mut session, outbound).await;
        let ended = tokio::select! {
            ended = self.converse(&mut session, inbound, outbound, &bell, &mut leadership, &lead) => ended,
            () = superseded.notified() => {
                tracing::warn!(host.name = proved, host.id = %session.host(), "a newer session of this host ends this one");
                Ok(())
            }
        };
        self.sessions.end(session.host(), &superseded);
        if let Err(error) = &ended {
            send(outbound, reception::last_word(error)).await;
        }
        tracing::info!(host.name = proved, host.id = %session.host(), "host session ends");
        ended
    }

    async fn converse(
        &self,
        session: &mut HostSession,
        inbound: &mut mpsc::Receiver<ToController>,
        outbound: &mpsc::Sender<ToHost>,
        bell: &Notify,
        leadership: &mut tokio::sync::watch::Receiver<crate::ports::Leadership>,
        lead: &crate::ports::Leadership,
    ) -> Result<(), Error> {
        let (to_fold, mut folding) = mpsc::channel::<(u64, Vec<Body>)>(REPORTS_WAITING);
        let fold = async {
            while let Some((number, bodies)) = folding.recv().await {
                self.fold(bodies).await?;
                send(outbound, ToHost::ReportAck { number }).await;
            }
            Ok::<(), Error>(())
        };
        let listen = async {
            loop {
                tokio::select! {
                    changed = leadership.changed() => {
                        let now = leadership.borrow_and_update().clone();
                        if changed.is_err() || !now.here || now.term != lead.term {
                            send(outbound, ToHost::Redirect { leader: now.leader_api }).await;
                            return Ok(());
                        }
                    }
                    () = bell.notified() => self.send_desired(session, outbound).await,
                    message = inbound.recv() => match message {
                        None => return Ok(()),
                        Some(message) => {
                            self.heard.note(session.host(), self.environment.uptime());
                            if matches!(message, ToController::Heartbeat { .. }) {
                                self.heard.heartbeats.fetch_add(1, Ordering::Relaxed);
                            }
                            match session.hear(message)? {
                                Deed::Answer(word) => send(outbound, word).await,
                                Deed::Fold { number, bodies } => {
                                    if to_fold.try_send((number, bodies)).is_err() {
                                        return Err(Error::invalid("BE-1009", "more reports than were acknowledged"));
                                    }
                                }
                            }
                            // Members come and go so seldom that a look at each word is soon enough.
                            self.send_controllers(session, outbound).await;
                        }
                    },
                }
            }
        };
        tokio::select! {
            ended = listen => ended,
            failed = fold => failed,
        }
    }

    async fn send_desired(&self, session: &mut HostSession, outbound: &mpsc::Sender<ToHost>) {
        let view = self.now_applied();
        let (word, unopened) = session.desired(&view, &*self.seal);
        for (vm, why) in unopened {
            tracing::error!(vm.id = %vm, "the VM's user data cannot be opened, so its host is not told of it: {why}");
        }
        if let Some(word) = word {
            send(outbound, word).await;
        }
    }

    async fn send_controllers(&self, session: &mut HostSession, outbound: &mpsc::Sender<ToHost>) {
        if let Some(message) = session.controllers(self.consensus.controllers()) {
            send(outbound, message).await;
        }
    }

    async fn fold(&self, bodies: Vec<Body>) -> Result<(), Error> {
        for applied in self.consensus.propose_leading(&session::batch(bodies, self.environment.now())).await? {
            if let Err(rejection) = applied.result {
                tracing::warn!("a host's report was not accepted: {rejection}");
                return Err(rejection.into());
            }
        }
        Ok(())
    }
}

async fn turn_away(proved: &str, away: Away, outbound: &mpsc::Sender<ToHost>) -> Result<(), Error> {
    send(outbound, away.word()).await;
    match away {
        Away::Elsewhere { .. } => Ok(()),
        Away::Refused(refused) => {
            tracing::warn!(host.name = proved, code = refused.code(), "{refused}");
            Ok(())
        }
        Away::Malformed(why) => Err(Error::invalid("BE-1009", why)),
    }
}

/// A receiver that is gone ends the session elsewhere.
async fn send(outbound: &mpsc::Sender<ToHost>, message: ToHost) {
    let _ = outbound.send(message).await;
}

#[cfg(test)]
mod tests;
