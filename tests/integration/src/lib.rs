//! Black-box tests of the real binaries on the lab.
