//! Arguments of `berth cluster`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

/// What to do with the cluster.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Show the controllers: who leads, who is reachable, how far each has come, and what needs a look
    Status,
    /// Write a backup of the cluster's state to a file, while it runs; or check one
    Backup {
        /// The file; it must not exist yet, unless it is to be checked
        file: PathBuf,
        /// Check the file instead: whether it is whole, and what it is of
        #[arg(long)]
        verify: bool,
    },
    /// The controllers as members of the cluster
    #[command(subcommand)]
    Member(MemberVerb),
    /// Hand the lead to another controller, such as before its machine is worked on
    TransferLeader {
        /// The controller that shall lead; otherwise the present leader chooses the one that is furthest
        name: Option<String>,
    },
}

/// What to do with members.
#[derive(Subcommand, Debug)]
pub(crate) enum MemberVerb {
    /// List the members
    #[command(alias = "ls")]
    List,
    /// Add a controller: register it, write its bundle, wait until it runs and has caught up, and give it a vote
    Add(Add),
    /// Give a member that was added with --no-wait its vote once it has caught up
    Promote {
        /// The member's name
        name: String,
        #[command(flatten)]
        waiting: Patience,
    },
    /// Tell the cluster that a member moved to another address
    Update {
        /// The member's name
        name: String,
        /// Its new address, an IP address or DNS name without port
        #[arg(long, value_name = "HOST", required_unless_present = "domain")]
        address: Option<String>,
        /// Its failure domain: its rack, room or machine
        #[arg(long, value_name = "NAME")]
        domain: Option<String>,
    },
    /// Take a member out for good
    #[command(alias = "rm")]
    Remove(Remove),
    /// Put a new controller in the place of a dead one
    Replace(Replace),
}

/// How long to wait for a member.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// How long to wait until it runs and has caught up
    #[arg(long, value_name = "SPAN", value_parser = crate::duration::parse, default_value = "30m")]
    pub(crate) wait_timeout: Duration,
}

/// A controller that is to be.
#[derive(Args, Debug)]
pub(crate) struct Newcomer {
    /// Its address, an IP address or DNS name without port
    #[arg(long, value_name = "HOST")]
    pub(crate) address: String,
    /// Its failure domain: its rack, room or machine
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) domain: String,
    /// The folder of the cluster's authority, which issues its certificate
    #[arg(long, value_name = "DIR", default_value = "/etc/berth/authority")]
    pub(crate) authority: PathBuf,
    /// The cluster's sealing key, to go into the bundle [default: sealing.key beside the authority, if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) sealing_key: Option<PathBuf>,
    /// Where to write its bundle, which holds its keys [default: NAME.bundle]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) waiting: Patience,
}

/// Add a controller.
#[derive(Args, Debug)]
pub(crate) struct Add {
    /// Its name, unique among the controllers
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) newcomer: Newcomer,
    /// Write the bundle and end; give it its vote later with 'berth cluster member promote'
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Take a member out.
#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// The member's name
    pub(crate) name: String,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Take it out even though the cluster is then no longer safe against a loss
    #[arg(long)]
    pub(crate) force: bool,
}

/// Replace a dead member.
#[derive(Args, Debug)]
pub(crate) struct Replace {
    /// The name of the dead member
    pub(crate) dead: String,
    /// The name of the new one
    #[arg(long = "with", value_name = "NAME")]
    pub(crate) with: String,
    #[command(flatten)]
    pub(crate) newcomer: Newcomer,
    /// Write the bundle and end; the exchange happens when the new one has caught up
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}
