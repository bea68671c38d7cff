//! Images, overlays and NoCloud seeds on a host's disk.
