//! Why the lab could not do something.

use std::io;
use std::path::PathBuf;

/// Why the lab could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces, mounts and hugepages belong to root.
    #[error("the lab needs root: it makes network namespaces, mounts and hugepages")]
    NotRoot,
    /// Programs that it calls are not installed.
    #[error("the lab needs {0}, which are not installed; `./x setup` installs them")]
    Missing(String),
    /// A number of members that no lab has.
    #[error("a lab has at most {limit} {what}, not {asked}")]
    TooMany {
        /// Controllers or hosts.
        what: &'static str,
        /// The most there may be.
        limit: u8,
        /// What was asked for.
        asked: u8,
    },
    /// The state directory cannot be used.
    #[error("{} cannot hold a lab's state: {why}", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// The lab in this state directory runs.
    #[error("lab {number} in {} is up; take it down first", state_dir.display())]
    AlreadyUp {
        /// Its number.
        number: u8,
        /// Where its state is.
        state_dir: PathBuf,
    },
    /// Another process is changing or owns this lab.
    #[error("lab {0} is in the hands of another process; wait for that to end")]
    Busy(u8),
    /// All numbers are taken.
    #[error("all {0} lab numbers are in use on this machine; take a lab down")]
    NoNumber(u8),
    /// There is no lab in this state directory.
    #[error("there is no lab in {}; bring one up first", .0.display())]
    NoLab(PathBuf),
    /// The hosts' slices do not fit the machine together.
    #[error(
        "{hosts} hosts of {each} bytes need more memory than the {available} bytes this machine has left; use fewer hosts or smaller slices"
    )]
    Memory {
        /// How many hosts.
        hosts: u8,
        /// One host's slice.
        each: u64,
        /// `MemAvailable`.
        available: u64,
    },
    /// The kernel gave fewer hugepages than the labs on this machine need together.
    #[error("the kernel gave {given} of {wanted} hugepages of 2 MiB; free memory, or use fewer hosts")]
    Hugepages {
        /// What all labs and the machine before them need together.
        wanted: u64,
        /// What `nr_hugepages` says.
        given: u64,
    },
    /// No member or process of this lab has that name.
    #[error("this lab has no {0:?}; its processes are c1, c2, …, h1, h2, … and h1-libvirtd, …")]
    NoSuchName(String),
    /// A process that had to run does not.
    #[error("{name} does not run; its log ends:\n{log}")]
    NotRunning {
        /// The process.
        name: String,
        /// The end of its log.
        log: String,
    },
    /// A process was to be started and runs.
    #[error("{name} runs already as process {pid}")]
    Running {
        /// The process.
        name: String,
        /// Its pid.
        pid: i32,
    },
    /// A process did not get ready, or did not end, in time.
    #[error("{name} was not {what} within {seconds} s; its log ends:\n{log}")]
    Timeout {
        /// The process.
        name: String,
        /// What was waited for.
        what: &'static str,
        /// For how long.
        seconds: u64,
        /// The end of its log.
        log: String,
    },
    /// A command failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its status and what it said.
        output: String,
    },
    /// Something outlived a thorough clean-up.
    #[error("lab {number} left behind: {}", what.join(", "))]
    LeftBehind {
        /// The lab.
        number: u8,
        /// Each thing, in words.
        what: Vec<String>,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// Read, write, make, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file of the lab's own does not hold what the lab wrote.
    #[error("{} is damaged; remove it and the lab's other files", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it is odd.
        #[source]
        source: serde_json::Error,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] berth_pki::AuthorityError),
    /// A certificate or key could not be written.
    #[error(transparent)]
    KeyFile(#[from] berth_pki::FileError),
    /// An identity has a name that cannot be.
    #[error(transparent)]
    Identity(#[from] berth_pki::IdentityError),
    /// A sealing key could not be made or written.
    #[error(transparent)]
    Sealing(#[from] berth_pki::SealError),
}

/// What the lab's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds the file to an I/O error.
pub(crate) trait At<T> {
    /// `action` is a verb in the infinitive.
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::File { action, path: path.into(), source: source.into() })
    }
}
