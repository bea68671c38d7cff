//! What tests of a failing disk share: a member that is alone, what it keeps, and a disk that breaks when it is told to.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::machine::{BoxError, Entry, StateMachine};
use crate::options::{Io, Links, Member};
use crate::store::engine::{Batch, Engine, Visit};

/// Nobody else is there.
pub(crate) struct Alone;

impl Links for Alone {
    fn connect(&self, _: &Member) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

/// Keeps what it applied; it does not know the payload `unknown`.
#[derive(Clone, Default)]
pub(crate) struct Journal(pub(crate) Arc<Mutex<Vec<Bytes>>>);

impl StateMachine for Journal {
    type Snapshot = ();

    fn apply(&mut self, entries: &[Entry]) -> Vec<Bytes> {
        let is_known = |entry: &Entry| entry.payload != Bytes::from_static(b"unknown");
        assert!(entries.iter().all(is_known), "a record from the future");
        self.0.lock().unwrap().extend(entries.iter().map(|entry| entry.payload.clone()));
        vec![Bytes::new(); entries.len()]
    }

    fn snapshot(&self) {}

    fn write((): &(), _: &mut dyn Write) -> Result<(), BoxError> {
        Err("not asked for here".into())
    }

    fn restore(&mut self, _: &mut dyn io::Read) -> Result<(), BoxError> {
        Err("not asked for here".into())
    }
}

/// A disk that can be broken and mended.
pub(crate) struct Breakable {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) is_broken: Arc<AtomicBool>,
}

impl Engine for Breakable {
    fn begin(&self) -> io::Result<()> {
        self.engine.begin()
    }

    fn write(&self, batch: Batch) -> io::Result<()> {
        self.engine.write(batch)
    }

    fn barrier(&self) -> io::Result<()> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on the device"));
        }
        self.engine.barrier()
    }

    fn read(&self, start: u64, end: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        self.engine.read(start, end, visit)
    }

    fn size(&self) -> u64 {
        self.engine.size()
    }

    fn seal(&self) -> io::Result<()> {
        self.engine.seal()
    }
}
