//! Threads that write ledgers down: syncing blocks, and must not wait behind steps.
//!
//! The daemon has one such thread and one ledger. Many hosts in one process share a few threads; each host still has at most
//! one write under way, so the order of its own is kept.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use berth_host::agent::Input;
use berth_host::ledger::Record;
use tokio::sync::mpsc as inputs;

use crate::ledger_store::LedgerStore;

/// Pause before a write of the ledger that failed is tried again. Nothing is done meanwhile, by law.
const WRITE_AGAIN: Duration = Duration::from_secs(2);

/// Hears of records that have just become durable, on the thread that wrote them.
pub type Listener = Arc<dyn Fn(&[Record]) + Send + Sync>;

type Write = Box<dyn FnOnce() + Send>;

/// The threads. They end with the last clone and the last `Writer`.
#[derive(Clone)]
pub struct LedgerWriters {
    /// Unbounded, and never longer than there are hosts.
    writes: mpsc::Sender<Write>,
    listener: Option<Listener>,
}

impl fmt::Debug for LedgerWriters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerWriters").finish_non_exhaustive()
    }
}

impl LedgerWriters {
    /// So many threads.
    pub fn new(threads: usize) -> Self {
        let (writes, waiting) = mpsc::channel::<Write>();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..threads {
            let waiting = Arc::clone(&waiting);
            let work = move || {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(write) = next else { return };
                    write();
                }
            };
            std::thread::Builder::new().name("ledger".into()).spawn(work).expect("a thread can be started at start-up");
        }
        Self { writes, listener: None }
    }

    /// The same, and `listener` hears of all that is written.
    #[must_use]
    pub fn heard_by(self, listener: Listener) -> Self {
        Self { listener: Some(listener), ..self }
    }

    /// Who writes one host's ledger, and tells its agent so.
    pub(crate) fn writer(&self, store: LedgerStore, inputs: inputs::Sender<Input>) -> Writer {
        Writer { writers: self.clone(), store: Arc::new(Mutex::new(store)), inputs }
    }
}

/// Writes one host's ledger.
#[derive(Debug)]
pub(crate) struct Writer {
    writers: LedgerWriters,
    /// Never waited for: there is one write at a time.
    store: Arc<Mutex<LedgerStore>>,
    inputs: inputs::Sender<Input>,
}

impl Writer {
    /// Begins to write records down; that they are durable is told to the agent. The agent never has two writes under way.
    pub(crate) fn write(&self, number: u64, records: Vec<Record>) {
        let (store, inputs) = (Arc::clone(&self.store), self.inputs.clone());
        let listener = self.writers.listener.clone();
        let write = move || {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            while let Err(error) = store.append(records.clone()) {
                tracing::error!(%error, "the ledger cannot be written; nothing is begun until it can");
                if inputs.is_closed() {
                    return;
                }
                std::thread::sleep(WRITE_AGAIN);
            }
            drop(store);
            if let Some(listener) = listener {
                listener(&records);
            }
            // Refused only when the agent has ended.
            let _ = inputs.blocking_send(Input::Persisted(number));
        };
        self.writers.writes.send(Box::new(write)).expect("the threads live as long as a writer does");
    }
}
