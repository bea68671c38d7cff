//! Tracing, build information, signals and drain.
