//! The leader's brain, free of I/O, and the Control handle around it.
