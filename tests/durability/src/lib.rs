//! Power cuts, kill -9 and damaged bytes over everything that Berth keeps on a disk.
