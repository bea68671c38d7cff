//! A VM's serial console as two plain streams of bytes, usable from two threads.
//!
//! libvirt's blocking streams cannot be used for this: inside one process a blocking read holds the stream's lock, so
//! that nobody could write. The stream is non-blocking, therefore, and libvirt's event loop tells when bytes can go
//! through. What the guest sends is taken out inside the event itself, because libvirt throws away what was not read
//! when the other side hangs up; a reader that does not keep up stops the taking (and with it, in time, the guest's
//! serial port) rather than filling memory.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_host::backend::BackendError;
use berth_model::VmUid;
use virt_sys as sys;

use crate::execute::{LibvirtBackend, find};
use crate::ffi::{self, RawStream, Transfer};
use crate::link::{Connection, Link};

/// Bytes of guest output that wait for a reader.
const INBOX: usize = 256 << 10;

/// What one event takes out at most, so that a talkative guest does not hold up the events of others.
const TAKEN_AT_ONCE: usize = 64 << 10;

const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// An open serial console. Dropping it closes it.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    /// Kept open for as long as the stream lives; one of its own, so that nothing else is held up.
    connection: Arc<Connection>,
    has_close: bool,
}

#[derive(Debug)]
struct Shared {
    stream: RawStream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    inbox: VecDeque<u8>,
    /// What the stream's callback is called for.
    watched: u32,
    /// Bytes may be sent, as far as is known.
    may_send: bool,
    end: End,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    /// The console is open.
    Open,
    /// The domain stopped, or libvirt ended the stream.
    HungUp,
    /// Closed on this side.
    Closed,
}

impl LibvirtBackend {
    /// Opens the serial console of a running VM.
    ///
    /// One session at a time holds it. With `take_over` a present session is ended, else the attempt is refused with
    /// reason `ConsoleBusy`. A VM that does not run is refused with reason `NotRunning`.
    pub fn open_console(&self, vm: VmUid, take_over: bool) -> Result<Console, BackendError> {
        let options = self.options().clone();
        let link = Link::new(&options.uri, "console");
        let inner = link.clone();
        link.call(OPEN_LIMIT, move |connection| {
            let what = format!("opening the console of VM {vm}");
            let refused = |reason, why: &str| BackendError::Failed { reason, what: what.clone(), why: why.to_owned() };
            let found = find(connection, &inner, options.cluster, vm, &what)?
                .ok_or_else(|| refused("NotRunning", "no such VM is defined on this host"))?;
            let failed = |error| inner.failure("ConsoleFailed", &what, &error);
            if !found.domain.is_active().map_err(failed)? {
                return Err(refused("NotRunning", "the VM does not run"));
            }
            let stream = RawStream::new(connection).map_err(failed)?;
            let flags = sys::VIR_DOMAIN_CONSOLE_SAFE | if take_over { sys::VIR_DOMAIN_CONSOLE_FORCE } else { 0 };
            if let Err(error) = stream.open_console(&found.domain, flags) {
                let busy = error.message().contains("Active console session exists");
                return Err(if busy {
                    refused("ConsoleBusy", "another session holds it; end that one, or take over")
                } else {
                    failed(error)
                });
            }
            Console::over(stream, Arc::clone(connection)).map_err(failed)
        })
    }
}

impl Console {
    fn over(stream: RawStream, connection: Arc<Connection>) -> Result<Self, virt::error::Error> {
        let watched = RawStream::READABLE | RawStream::ENDED;
        let state = State { inbox: VecDeque::new(), watched, may_send: true, end: End::Open };
        let shared = Arc::new(Shared { stream, state: Mutex::new(state), changed: Condvar::new() });
        // Weak, or stream and callback would keep each other alive.
        let weak = Arc::downgrade(&shared);
        shared.stream.add_callback(
            watched,
            Box::new(move |events| {
                if let Some(shared) = weak.upgrade() {
                    shared.on_event(events);
                }
            }),
        )?;
        // A stream is not told when libvirtd dies under it; the connection is.
        let weak = Arc::downgrade(&shared);
        let closed = move |_reason| {
            if let Some(shared) = weak.upgrade() {
                shared.end(&mut shared.lock(), End::HungUp);
            }
        };
        let has_close = ffi::register_close(&connection, Box::new(closed)).is_ok();
        Ok(Self { shared, connection, has_close })
    }

    /// Waits for output of the guest and takes some. `Ok(0)` is the end: the VM stopped or the console was closed.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.shared.lock();
        while state.inbox.is_empty() {
            if state.end != End::Open {
                return Ok(0);
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let count = buffer.len().min(state.inbox.len());
        for (slot, byte) in buffer.iter_mut().zip(state.inbox.drain(..count)) {
            *slot = byte;
        }
        if state.end == End::Open && state.inbox.len() < INBOX {
            self.shared.watch(&mut state, RawStream::READABLE, true);
        }
        Ok(count)
    }

    /// Gives bytes to the guest, waiting until some can go through. Returns how many went.
    ///
    /// Fails with [`io::ErrorKind::BrokenPipe`] when the VM stopped or the console was closed.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        let mut state = self.shared.lock();
        loop {
            if state.end != End::Open {
                return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the console is closed"));
            }
            if state.may_send {
                match self.shared.stream.send(data) {
                    Ok(Transfer::Bytes(count)) => return Ok(count),
                    Ok(Transfer::WouldBlock) => {
                        state.may_send = false;
                        self.shared.watch(&mut state, RawStream::WRITABLE, true);
                    }
                    Err(error) => {
                        self.shared.end(&mut state, End::HungUp);
                        return Err(io::Error::new(io::ErrorKind::BrokenPipe, error.message().to_owned()));
                    }
                }
            } else {
                state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Gives all bytes to the guest.
    pub fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            data = &data[self.write(data)?..];
        }
        Ok(())
    }

    /// Ends the session. Whoever waits in [`Console::read`] gets what is left and then the end. May be called twice.
    pub fn close(&self) {
        if std::mem::replace(&mut self.shared.lock().end, End::Closed) == End::Closed {
            return;
        }
        self.shared.changed.notify_all();
        // Without our lock: libvirt may wait for the callback, which takes it.
        self.shared.stream.abort();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.close();
        if self.has_close {
            ffi::deregister_close(&self.connection);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs on the event loop's thread.
    fn on_event(&self, events: u32) {
        let mut state = self.lock();
        if state.end != End::Open {
            return;
        }
        let hung_up = events & RawStream::ENDED != 0;
        if events & RawStream::READABLE != 0 || hung_up {
            self.take(&mut state, hung_up);
        }
        if events & RawStream::WRITABLE != 0 {
            state.may_send = true;
            self.watch(&mut state, RawStream::WRITABLE, false);
        }
        if hung_up {
            self.end(&mut state, End::HungUp);
        }
        self.changed.notify_all();
    }

    /// Takes guest output into the inbox; after a hang-up all that is left, as it cannot be had later.
    fn take(&self, state: &mut State, hung_up: bool) {
        let mut buffer = [0_u8; 4096];
        let mut taken = 0;
        let mut room = TAKEN_AT_ONCE;
        while room > 0 {
            if !hung_up && state.inbox.len() >= INBOX {
                self.watch(state, RawStream::READABLE, false);
                return;
            }
            match self.stream.receive(&mut buffer) {
                Ok(Transfer::Bytes(0)) => return self.end(state, End::HungUp),
                Ok(Transfer::Bytes(count)) => {
                    state.inbox.extend(&buffer[..count]);
                    taken += count;
                }
                Ok(Transfer::WouldBlock) => return,
                // A terminal whose other side is gone answers with an error: that is its way to say the end.
                Err(error) => {
                    tracing::debug!(%error, "console stream ended");
                    return self.end(state, End::HungUp);
                }
            }
            room = TAKEN_AT_ONCE.saturating_sub(taken);
        }
    }

    fn watch(&self, state: &mut State, event: u32, wanted: bool) {
        let watched = if wanted { state.watched | event } else { state.watched & !event };
        if watched != state.watched {
            state.watched = watched;
            if let Err(error) = self.stream.watch(watched) {
                tracing::debug!(%error, "console stream ended");
                self.end(state, End::HungUp);
            }
        }
    }

    /// The first end counts.
    fn end(&self, state: &mut State, end: End) {
        if state.end == End::Open {
            state.end = end;
        }
        self.changed.notify_all();
    }
}
