//! Lifecycle events: a hint that something happened, for whoever scans.
//!
//! An event names a VM by its domain's name alone and says roughly what happened; truth is what a scan finds. Events
//! are lost while libvirtd is away, so each new connection begins with [`Event::Connected`]: scan everything.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use berth_model::VmUid;
use virt_sys as sys;

use crate::ffi;
use crate::link::{Connection, prepare_process};
use crate::mark;

/// Pause before libvirt is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often a quiet connection is looked at: drivers inside the process have no close callback.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What happened to a domain, roughly.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lifecycle {
    /// Defined, undefined or changed.
    Definition,
    /// Began to run.
    Started,
    /// Held, or held no more.
    Paused,
    /// The guest is going down or has gone down, QEMU is still there.
    Shutdown,
    /// Ended.
    Stopped,
    /// Crashed, or something that this version does not know.
    Other,
}

/// A hint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Events flow from here on; what happened before is unknown, so scan everything.
    Connected,
    /// libvirt cannot be reached; it is tried again without end.
    Disconnected,
    /// Something happened to a domain that is called like one of ours.
    Domain {
        /// By its name.
        vm: VmUid,
        /// Roughly what.
        what: Lifecycle,
    },
}

/// A running subscription. Dropping it ends it; an event that is under way may still arrive.
#[derive(Debug)]
pub struct Watch {
    signals: mpsc::Sender<Signal>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Signal {
    Stop,
    /// The connection of this number is closed.
    Closed(u64),
}

impl Watch {
    /// Calls `handler` for each event, from threads of its own, until dropped. Never fails: a libvirt that is away is
    /// waited for.
    ///
    /// The handler must return quickly and must not call libvirt: it holds up all events of the process.
    pub fn start(uri: &str, handler: impl Fn(Event) + Send + Sync + 'static) -> Self {
        prepare_process();
        let (signals, received) = mpsc::channel();
        let watcher = Watcher { uri: uri.to_owned(), handler: Arc::new(handler), signals: signals.clone(), received };
        if let Err(error) = thread::Builder::new().name("libvirt-watch".to_owned()).spawn(move || watcher.run()) {
            tracing::error!(%error, "no thread for libvirt's events; only scans will notice changes");
        }
        Self { signals }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.signals.send(Signal::Stop); // refused when its thread has ended
    }
}

struct Watcher<H> {
    uri: String,
    handler: Arc<H>,
    signals: mpsc::Sender<Signal>,
    received: mpsc::Receiver<Signal>,
}

impl<H: Fn(Event) + Send + Sync + 'static> Watcher<H> {
    fn run(self) {
        let mut told = false;
        for number in 0_u64.. {
            match Subscription::open(&self.uri, number, &self.handler, &self.signals) {
                Ok(subscription) => {
                    told = false;
                    (self.handler)(Event::Connected);
                    if self.wait(&subscription, number) == Signal::Stop {
                        return;
                    }
                    tracing::warn!(uri = self.uri, "the connection to libvirt is lost; events may be missed");
                    (self.handler)(Event::Disconnected);
                }
                // Told once, then quiet until it has worked again.
                Err(error) if told => tracing::debug!(uri = self.uri, %error, "libvirt is still away"),
                Err(error) => {
                    told = true;
                    tracing::warn!(uri = self.uri, %error, "libvirt cannot be reached for events");
                }
            }
            let pause_ends = Instant::now() + RETRY_AFTER;
            while let Some(left) = pause_ends.checked_duration_since(Instant::now()) {
                match self.received.recv_timeout(left) {
                    Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                    Ok(Signal::Closed(_)) | Err(RecvTimeoutError::Timeout) => {}
                }
            }
        }
    }

    /// Waits until this connection is closed or the watch is dropped.
    fn wait(&self, subscription: &Subscription, number: u64) -> Signal {
        loop {
            match self.received.recv_timeout(LOOK_EVERY) {
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return Signal::Stop,
                Ok(Signal::Closed(which)) if which == number => return Signal::Closed(number),
                Ok(Signal::Closed(_)) => {} // an earlier connection's late word
                Err(RecvTimeoutError::Timeout) => {
                    if !subscription.connection.is_alive().unwrap_or(false) {
                        return Signal::Closed(number);
                    }
                }
            }
        }
    }
}

/// One connection with its callbacks.
struct Subscription {
    connection: Connection,
    lifecycle: i32,
    has_close: bool,
}

impl Subscription {
    fn open<H: Fn(Event) + Send + Sync + 'static>(
        uri: &str,
        number: u64,
        handler: &Arc<H>,
        signals: &mpsc::Sender<Signal>,
    ) -> Result<Self, virt::error::Error> {
        let connection = Connection::open(uri)?;
        let handler = Arc::clone(handler);
        let told = move |raw: ffi::RawEvent| {
            if let Some(vm) = mark::vm_of_name(&raw.domain_name) {
                let what = lifecycle(raw.event);
                tracing::debug!(vm.id = %vm, ?what, detail = raw.detail, "libvirt event");
                handler(Event::Domain { vm, what });
            }
        };
        let lifecycle = ffi::register_lifecycle(&connection, Box::new(told))?;
        let signals = signals.clone();
        let closed = move |_reason| {
            let _ = signals.send(Signal::Closed(number)); // refused when the watch has ended
        };
        let has_close = ffi::register_close(&connection, Box::new(closed)).is_ok();
        Ok(Self { connection, lifecycle, has_close })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Err(error) = ffi::deregister_lifecycle(&self.connection, self.lifecycle) {
            tracing::debug!(%error, "ending a subscription"); // it ended with its connection
        }
        if self.has_close {
            ffi::deregister_close(&self.connection);
        }
    }
}

fn lifecycle(event: u32) -> Lifecycle {
    match event {
        sys::VIR_DOMAIN_EVENT_DEFINED | sys::VIR_DOMAIN_EVENT_UNDEFINED => Lifecycle::Definition,
        sys::VIR_DOMAIN_EVENT_STARTED => Lifecycle::Started,
        sys::VIR_DOMAIN_EVENT_SUSPENDED | sys::VIR_DOMAIN_EVENT_RESUMED | sys::VIR_DOMAIN_EVENT_PMSUSPENDED => {
            Lifecycle::Paused
        }
        sys::VIR_DOMAIN_EVENT_SHUTDOWN => Lifecycle::Shutdown,
        sys::VIR_DOMAIN_EVENT_STOPPED => Lifecycle::Stopped,
        _ => Lifecycle::Other,
    }
}
