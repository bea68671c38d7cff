//! A replicated log as a product of its own, on openraft, sled and tonic.
