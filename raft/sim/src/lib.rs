//! The replicated log under turmoil.
