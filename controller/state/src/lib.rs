//! The replicated machine: a command goes in, an outcome and changes come out.
