//! The host's brain, free of I/O: session, plan, ledger as values.
