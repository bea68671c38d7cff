//! Arguments of `berth instancetype`, `berth preference` and `berth capacity`.

use berth_model::Bytes;
use clap::{Args, Subcommand};

use super::placement::{Placement, Wishes};

/// What to do with instance types.
#[derive(Subcommand, Debug)]
pub(crate) enum InstanceTypeVerb {
    /// List instance types
    #[command(alias = "ls")]
    List,
    /// Show one instance type
    Show {
        /// Its name
        name: String,
    },
    /// Make an instance type known
    Create {
        /// Its name, a DNS label
        name: String,
        /// Virtual CPUs
        #[arg(long, value_name = "COUNT")]
        cpus: u32,
        /// Guest memory: 256MiB, 8GiB
        #[arg(long, value_name = "AMOUNT")]
        memory: Bytes,
        /// Name the request, to send it again safely: a UUID of version 7
        #[arg(long, value_name = "UUID")]
        request_id: Option<String>,
    },
    /// Forget an instance type; VMs made with it stay as they are
    #[command(alias = "rm")]
    Delete(Forget),
}

/// What to do with preferences.
#[derive(Subcommand, Debug)]
pub(crate) enum PreferenceVerb {
    /// List preferences
    #[command(alias = "ls")]
    List,
    /// Show one preference
    Show {
        /// Its name
        name: String,
    },
    /// Make a preference known; what it does not name is left to the template
    Create {
        /// Its name, a DNS label
        name: String,
        /// What it wishes
        #[command(flatten)]
        wishes: Wishes,
        /// Name the request, to send it again safely: a UUID of version 7
        #[arg(long, value_name = "UUID")]
        request_id: Option<String>,
    },
    /// Forget a preference; VMs made with it stay as they are
    #[command(alias = "rm")]
    Delete(Forget),
}

/// What to forget.
#[derive(Args, Debug)]
pub(crate) struct Forget {
    /// Its name
    pub(crate) name: String,
    /// Name the request, to send it again safely: a UUID of version 7
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<String>,
}

/// How much room there is.
#[derive(Args, Debug)]
pub(crate) struct Capacity {
    /// Whether every VM could be placed anew if any one host were lost
    #[arg(long, conflicts_with_all = ["instancetype", "cpus", "memory", "image"])]
    pub(crate) survives: bool,
    /// Only the loss of this host
    #[arg(long, value_name = "NAME", requires = "survives")]
    pub(crate) host: Option<String>,
    /// VMs of this size
    #[arg(long, value_name = "NAME", required_unless_present_any = ["survives", "cpus"])]
    pub(crate) instancetype: Option<String>,
    /// Virtual CPUs, instead
    #[arg(long, value_name = "COUNT", conflicts_with = "instancetype", requires = "memory")]
    pub(crate) cpus: Option<u32>,
    /// Guest memory, instead: 256MiB, 8GiB
    #[arg(long, value_name = "AMOUNT", conflicts_with = "instancetype", requires = "cpus")]
    pub(crate) memory: Option<Bytes>,
    /// Only hosts that have this image [default: any image]
    #[arg(long, value_name = "NAME")]
    pub(crate) image: Option<String>,
    /// A label that each would have, KEY=VALUE; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::vm::key_value)]
    pub(crate) labels: Vec<(String, String)>,
    /// How and where
    #[command(flatten)]
    pub(crate) placement: Placement,
}
