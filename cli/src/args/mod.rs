//! The command line as it is written. Nothing is looked up or decided here; see [`crate::settings`].

pub(crate) mod catalog;
pub(crate) mod cluster;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod placement;
pub(crate) mod vm;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Gives virtual machines their berth, and shows where they lie.
#[derive(Parser, Debug)]
#[command(
    name = "berth",
    version = berth_telemetry::BUILD.version,
    after_long_help = crate::exit::HELP,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct Args {
    /// What holds for every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What holds for every command.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch that a person sets or does not")]
#[derive(ClapArgs, Debug, Clone, Default)]
pub(crate) struct Global {
    /// The configuration file [default: ~/.config/berth/config.yaml]
    #[arg(long, global = true, env = "BERTH_CONFIG", value_name = "FILE", help_heading = "Global options")]
    pub(crate) config: Option<PathBuf>,
    /// The cluster of the configuration to talk to [default: its `current`]
    #[arg(long, global = true, env = "BERTH_CLUSTER", value_name = "NAME", help_heading = "Global options")]
    pub(crate) cluster: Option<String>,
    /// Controllers to ask instead of the configured ones; may be repeated
    #[arg(
        long,
        global = true,
        env = "BERTH_ENDPOINT",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        help_heading = "Global options"
    )]
    pub(crate) endpoint: Vec<String>,
    /// How data is printed
    #[arg(
        short,
        long,
        global = true,
        env = "BERTH_OUTPUT",
        value_enum,
        default_value_t,
        hide_possible_values = true,
        value_name = "table|json|yaml",
        help_heading = "Global options"
    )]
    pub(crate) output: Output,
    /// The project of what is named
    #[arg(
        short,
        long,
        global = true,
        env = "BERTH_PROJECT",
        value_name = "NAME",
        default_value = "default",
        help_heading = "Global options"
    )]
    pub(crate) project: String,
    /// Take what the first controller has at hand, even if it may be out of date or there is no leader
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) stale: bool,
    /// Have the answer confirmed by the leader's lease instead of a majority: quicker, and right as long as clocks run evenly
    #[arg(long, global = true, conflicts_with = "stale", help_heading = "Global options")]
    pub(crate) lease: bool,
    /// How long to try to reach the cluster: 500ms, 30s, 5m [default: 30s]
    #[arg(long, global = true, value_name = "SPAN", value_parser = crate::duration::parse, help_heading = "Global options")]
    pub(crate) timeout: Option<Duration>,
    /// No colour; the same as setting NO_COLOR
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) no_color: bool,
    /// No progress and no remarks, only data and errors
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
}

/// How data is printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Virtual machines
    #[command(subcommand)]
    Vm(vm::Verb),
    /// Hosts: the machines that carry VMs
    #[command(subcommand)]
    Host(host::HostVerb),
    /// The past: who changed what, and how things were
    #[command(subcommand)]
    History(HistoryVerb),
    /// Images: names for the bytes that disks start as
    #[command(subcommand)]
    Image(image::Verb),
    /// Instance types: names for sizes
    #[command(subcommand, name = "instancetype")]
    InstanceType(catalog::InstanceTypeVerb),
    /// Preferences: names for wishes about how VMs get their CPUs and their memory
    #[command(subcommand)]
    Preference(catalog::PreferenceVerb),
    /// How many more VMs fit, or whether the cluster survives the loss of any one host
    Capacity(Box<catalog::Capacity>),
    /// Moves of VMs that would make the cluster better; Berth does not carry them out
    Proposals,
    /// The cluster of controllers itself
    #[command(subcommand)]
    Cluster(cluster::Verb),
    /// Print a completion script for a shell
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// The folder to write them to; it must exist
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Print the version of this program
    Version,
}

/// What to do with the past.
#[derive(Subcommand, Debug)]
pub(crate) enum HistoryVerb {
    /// Who changed a VM and when, or with --revision the VM as it was
    Vm(Past),
    /// Who changed a host and when, or with --revision the host as it was
    Host(Past),
    /// Who changed an image and when, or with --revision the image as it was
    Image(Past),
    /// Who changed an instance type and when, or with --revision the type as it was
    #[command(name = "instancetype")]
    InstanceType(Past),
    /// Who changed a preference and when, or with --revision the preference as it was
    Preference(Past),
    /// Changes of everything, the newest first
    #[command(alias = "ls")]
    List {
        /// Only after this revision
        #[arg(long, value_name = "REVISION")]
        since: Option<u64>,
        /// Only asked for by this actor, as `ada` or `operator/ada`
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        actor: String,
        /// At most this many
        #[arg(long, value_name = "COUNT", default_value_t = 50)]
        limit: u32,
    },
}

/// The past of one object.
#[derive(ClapArgs, Debug)]
pub(crate) struct Past {
    /// The object's name
    pub(crate) name: String,
    /// Show it as it was at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<u64>,
    /// At most this many changes
    #[arg(long, value_name = "COUNT", default_value_t = 50, conflicts_with = "revision")]
    pub(crate) limit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        crate::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_after_the_verb() {
        let args =
            Args::try_parse_from(["berth", "vm", "list", "-o", "json", "--endpoint", "a:1,b:2", "--timeout", "5s"]);
        let global = args.unwrap().global;
        assert_eq!(global.output, Output::Json);
        assert_eq!(global.endpoint, ["a:1", "b:2"]);
        assert_eq!(global.timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_manifest_excludes_what_it_says_itself() {
        assert!(Args::try_parse_from(["berth", "vm", "create", "-f", "vm.yaml"]).is_ok());
        assert!(Args::try_parse_from(["berth", "vm", "create", "x", "-f", "vm.yaml"]).is_err());
        assert!(Args::try_parse_from(["berth", "vm", "create"]).is_err());
        assert!(Args::try_parse_from(["berth", "vm", "create", "x", "--wait", "--no-wait"]).is_err());
    }
}
