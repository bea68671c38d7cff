//! A connection to libvirt for one purpose, opened when needed, reopened when lost, and never waited for without end.
//!
//! libvirtd serves at most five calls per connection at a time (`max_client_requests`), so operations, scans, events
//! and each console have connections of their own. Every call runs on a thread of its own and is given up after a
//! limit: a hung libvirtd then costs a parked thread, not the daemon. Calls under way are counted and bounded.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use berth_host::backend::BackendError;
use virt::connect::Connect;
use virt::error::{Error, ErrorDomain, ErrorNumber};

/// Calls that may be under way on one link before further calls are refused: more than the daemon's pool ever has,
/// so that only calls which hang can fill it.
const UNDER_WAY_LIMIT: usize = 32;

/// Seconds between keepalive questions, and how many may stay unanswered: a dead daemon is noticed within 20 s.
const KEEPALIVE: (i32, u32) = (5, 3);

/// Starts the process-wide event loop and silences libvirt's own printing of errors. Must precede every open.
pub(crate) fn prepare_process() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        virt::error::clear_error_callback();
        if let Err(error) = virt::event::event_register_default_impl() {
            tracing::error!(%error, "libvirt's event loop cannot be registered; there will be no events and no consoles");
            return;
        }
        let run = || loop {
            if let Err(error) = virt::event::event_run_default_impl() {
                tracing::error!(%error, "libvirt's event loop stumbled");
                thread::sleep(Duration::from_millis(100)); // not to spin should it stumble for ever
            }
        };
        thread::Builder::new().name("libvirt-events".to_owned()).spawn(run).expect("a thread can be started at start-up");
    });
}

/// An open connection; closed when the last clone goes.
#[derive(Debug)]
pub(crate) struct Connection(Connect);

impl Connection {
    /// Opens a connection. Blocks, at worst for as long as libvirtd hangs.
    pub(crate) fn open(uri: &str) -> Result<Self, Error> {
        prepare_process();
        let connect = Connect::open(Some(uri))?;
        let connection = Self(connect);
        if let Err(error) = connection.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1) {
            tracing::debug!(%error, uri, "no keepalive on this connection"); // drivers inside the process have none
        }
        Ok(connection)
    }
}

impl std::ops::Deref for Connection {
    type Target = Connect;

    fn deref(&self) -> &Connect {
        &self.0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Err(error) = self.0.close() {
            tracing::debug!(%error, "closing a libvirt connection");
        }
    }
}

/// A lazily opened connection for one purpose.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    uri: String,
    purpose: &'static str,
    held: Mutex<Option<Arc<Connection>>>,
    under_way: AtomicUsize,
}

impl Link {
    pub(crate) fn new(uri: &str, purpose: &'static str) -> Self {
        let held = Mutex::new(None);
        Self { shared: Arc::new(Shared { uri: uri.to_owned(), purpose, held, under_way: AtomicUsize::new(0) }) }
    }

    /// Runs `work` on this link's connection, for `limit` at most.
    ///
    /// After the limit the answer is [`BackendError::Unreachable`] and nothing is known of the effect; the connection
    /// is given up, so that the next call opens a new one.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&Arc<Connection>) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let Some(place) = UnderWay::enter(&self.shared) else {
            return Err(self.shared.unreachable(format!("{UNDER_WAY_LIMIT} earlier calls still hang in it")));
        };
        let (answer, answered) = mpsc::sync_channel(1);
        let run = move || {
            let shared = Arc::clone(&place.0);
            let outcome = shared.connection().and_then(|connection| {
                let outcome = work(&connection);
                if !connection.is_alive().unwrap_or(false) {
                    shared.forget();
                }
                outcome
            });
            drop(place);
            let _ = answer.send(outcome); // refused when the caller has given up
        };
        thread::Builder::new()
            .name(format!("libvirt-{}", self.shared.purpose))
            .spawn(run)
            .map_err(|error| self.shared.unreachable(format!("no thread for the call: {error}")))?;
        match answered.recv_timeout(limit) {
            Ok(outcome) => outcome,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                self.shared.forget();
                Err(self.shared.unreachable(format!("no answer within {} s", limit.as_secs())))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(self.shared.unreachable("the call ended by a panic, which was printed".to_owned()))
            }
        }
    }

    /// Turns an error of libvirt into one of the port.
    pub(crate) fn failure(&self, reason: &'static str, what: &str, error: &Error) -> BackendError {
        if is_connection_loss(error) {
            self.shared.forget();
            return self.shared.unreachable(short(error.message()));
        }
        BackendError::Failed { reason, what: what.to_owned(), why: short(error.message()) }
    }
}

/// One call under way; leaving is its end, however it ends.
struct UnderWay(Arc<Shared>);

impl UnderWay {
    fn enter(shared: &Arc<Shared>) -> Option<Self> {
        let before = shared.under_way.fetch_add(1, Ordering::Relaxed);
        let place = Self(Arc::clone(shared));
        (before < UNDER_WAY_LIMIT).then_some(place)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn connection(&self) -> Result<Arc<Connection>, BackendError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = held.as_ref()
            && connection.is_alive().unwrap_or(false)
        {
            return Ok(Arc::clone(connection));
        }
        *held = None;
        let opened = Connection::open(&self.uri).map_err(|error| self.unreachable(short(error.message())))?;
        let connection = Arc::new(opened);
        *held = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Lets the next call open anew. Does not wait: whoever holds the lock is opening anew already.
    fn forget(&self) {
        if let Ok(mut held) = self.held.try_lock() {
            *held = None;
        }
    }

    fn unreachable(&self, why: String) -> BackendError {
        BackendError::Unreachable { what: format!("libvirt at {}", self.uri), why }
    }
}

/// Whether an error says that the connection is gone rather than that something was refused.
pub(crate) fn is_connection_loss(error: &Error) -> bool {
    matches!(error.code(), ErrorNumber::NoConnect | ErrorNumber::InvalidConn | ErrorNumber::Rpc)
        || (error.domain() == ErrorDomain::Rpc
            && matches!(error.code(), ErrorNumber::InternalError | ErrorNumber::SystemError))
}

/// An error text of libvirt may quote all that QEMU printed; enough is kept to see what is wrong.
pub(crate) fn short(text: &str) -> String {
    const KEPT: usize = 2000;
    if text.chars().count() <= KEPT {
        return text.trim_end().to_owned();
    }
    let mut kept: String = text.chars().take(KEPT).collect();
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_is_given_up_and_hanging_calls_are_bounded() {
        let link = Link::new("test:///default", "test");
        let (release, released) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(released));
        for _ in 0..UNDER_WAY_LIMIT {
            let gate = Arc::clone(&gate);
            let outcome = link.call(Duration::from_millis(1), move |_| {
                let _ = gate.lock().unwrap().recv();
                Ok(())
            });
            assert!(matches!(outcome, Err(BackendError::Unreachable { .. })));
        }
        let refused = link.call(Duration::from_secs(60), |_| Ok(())).unwrap_err();
        assert!(refused.to_string().contains("still hang"), "{refused}");
        drop(release);
        while link.shared.under_way.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        link.call(Duration::from_secs(60), |_| Ok(())).expect("the hanging calls have ended");
    }

    #[test]
    fn a_libvirt_that_is_not_there_is_unreachable_and_says_so() {
        let link = Link::new("qemu:///system?socket=/nonexistent/libvirt-sock", "test");
        let error = link.call(Duration::from_secs(60), |_| Ok(())).unwrap_err();
        assert!(matches!(error, BackendError::Unreachable { .. }), "{error}");
        assert!(error.to_string().starts_with("libvirt at qemu:///system?socket=/nonexistent/libvirt-sock cannot be"));
    }
}
