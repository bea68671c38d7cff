//! The host daemon: moves bytes, keeps the ledger, executes what the host's brain decides.
