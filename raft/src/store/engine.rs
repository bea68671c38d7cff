//! The seam between the log and what keeps it on the disk.
//!
//! The log needs little: ordered keys, batches that become visible as a whole, and a barrier after which everything
//! written before survives a power cut. Tests put an engine that fails or that keeps a diary in the place of the real one.

use std::io;

/// Changes that become visible, and after a crash are found, together or not at all.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// In the order of their making; a later one on the same key wins.
    pub(crate) changes: Vec<Change>,
}

/// One change of a batch.
#[derive(Debug)]
pub(crate) enum Change {
    /// The key gets this value.
    Put(Vec<u8>, Vec<u8>),
    /// The key is gone.
    Remove(Vec<u8>),
}

impl Batch {
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push(Change::Put(key, value));
    }

    pub(crate) fn remove(&mut self, key: Vec<u8>) {
        self.changes.push(Change::Remove(key));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Ordered keys with values on a disk. All calls block.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Makes a batch visible. It is not durable before the next [`barrier`](Self::barrier).
    fn write(&self, batch: Batch) -> io::Result<()>;

    /// Returns when everything written so far survives a power cut.
    fn barrier(&self) -> io::Result<()>;

    /// The keys from `start` up to but not including `end`, in order, with their values, until `visit` returns `false`.
    fn scan(&self, start: &[u8], end: &[u8], visit: &mut Visit<'_>) -> io::Result<()>;
}

/// Sees a key and its value; `false` ends the scan.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;
