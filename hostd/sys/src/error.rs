//! Why the host could not be read.

use std::io;
use std::path::PathBuf;

use berth_model::host::ThreadId;

/// Why the host could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that every supported kernel has could not be read.
    #[error("cannot read {}; is it below the right sysfs_root?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A setting could not be written.
    #[error("cannot write {text:?} to {}; this needs root and a writable /sys", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        text: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file says something that is not understood.
    #[error("{} says {text:?}, which is not {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its first characters.
        text: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// The kernel has NUMA nodes and puts this thread into none of them.
    #[error("CPU {thread} is online and belongs to no NUMA node: no cpulist below {} names it", folder.display())]
    ThreadWithoutNode {
        /// The thread.
        thread: ThreadId,
        /// Where the nodes are.
        folder: PathBuf,
    },
    /// A slice names a thread that is not there or not online.
    #[error("CPU {0} is not online on this machine; give a slice of the CPUs that are")]
    ThreadNotOnline(ThreadId),
    /// The machine has no hugepages of this size.
    #[error("this machine has no hugepages of {size}: there is no {}", folder.display())]
    NoSuchHugepages {
        /// The size asked for.
        size: berth_model::Bytes,
        /// The folder that would offer them.
        folder: PathBuf,
    },
}
