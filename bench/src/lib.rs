//! What `./x bench` runs.
