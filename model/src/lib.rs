//! The nouns of Berth and their laws: no async, no I/O, no wire, no storage.
