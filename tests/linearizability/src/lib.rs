//! Checks histories of operations for linearizability.
