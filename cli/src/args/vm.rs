//! Arguments of `berth vm`.

use std::path::PathBuf;
use std::time::Duration;

use berth_model::Bytes;
use berth_proto::v1;
use clap::{Args, Subcommand, ValueEnum};

use super::placement::Placement;

/// What to do with VMs.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Create a VM, and wait until it runs
    Create(Box<Create>),
    /// List VMs
    #[command(alias = "ls")]
    List(List),
    /// Show one VM: what was asked, where it lies and why, how it is
    Show {
        /// The VM's name
        name: String,
        /// Show it as it was at this revision
        #[arg(long, value_name = "REVISION")]
        revision: Option<u64>,
    },
    /// Say of each host whether it could take a VM and why not, and what would help
    Explain {
        /// The VM's name
        name: String,
    },
    /// Change what is asked of a VM: anything while it waits for a host, its rules always
    Update(Box<Update>),
    /// Make a VM of an orphan: one that runs on a host and that the cluster does not know
    Adopt {
        /// The orphan's uid, as 'berth host orphans' shows it
        uid: String,
        /// The host that lists it; needed only if several do
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// Name the request, to send it again safely: a UUID of version 7
        #[arg(long, value_name = "UUID")]
        request_id: Option<String>,
    },
    /// Let a VM run
    Start(Change),
    /// Shut a VM down; it keeps its disk and its place
    Stop(Down),
    /// Restart a VM
    Restart(Down),
    /// Reset a VM that runs, as its reset button would
    Reset(Change),
    /// Hold the guest code of a VM that runs
    Pause(Change),
    /// Let a VM that is paused go on
    Resume(Change),
    /// Delete a VM and its disk
    #[command(alias = "rm")]
    Delete(Change),
    /// Set and remove labels of a VM; the others stay
    Label(Label),
    /// Join the serial console of a VM; Ctrl-] leaves it
    Console(Console),
    /// Follow changes of VMs, one line each
    Watch(Watch),
}

/// Create a VM.
#[derive(Args, Debug)]
pub(crate) struct Create {
    /// The VM's name, a DNS label; the guest's hostname
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(crate) name: Option<String>,
    /// Read VMs from a manifest instead; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// What is asked.
    #[command(flatten)]
    pub(crate) spec: Spec,
    /// How and where.
    #[command(flatten)]
    pub(crate) placement: Placement,
    /// Say where it would go and why not elsewhere, and create nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Whether to wait.
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    /// Name the request, to send it again safely: a UUID of version 7
    #[arg(long, value_name = "UUID", conflicts_with = "file")]
    pub(crate) request_id: Option<String>,
}

/// What is asked of a VM.
#[derive(Args, Debug, Default)]
pub(crate) struct Spec {
    /// The image that the disk starts as
    #[arg(long, value_name = "NAME", required_unless_present = "file", conflicts_with = "file")]
    pub(crate) image: Option<String>,
    /// The instance type that gives the size
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub(crate) instancetype: Option<String>,
    /// Virtual CPUs
    #[arg(long, value_name = "COUNT", conflicts_with = "file")]
    pub(crate) cpus: Option<u32>,
    /// Guest memory: 256MiB, 8GiB
    #[arg(long, value_name = "AMOUNT", conflicts_with = "file")]
    pub(crate) memory: Option<Bytes>,
    /// The size of the disk [default: the image's]
    #[arg(long, value_name = "AMOUNT", conflicts_with = "file")]
    pub(crate) disk_size: Option<Bytes>,
    /// A file with cloud-init user data
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) user_data: Option<PathBuf>,
    /// A label, KEY=VALUE; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value, conflicts_with = "file")]
    pub(crate) labels: Vec<(String, String)>,
    /// An annotation, KEY=VALUE; may be repeated
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = key_value, conflicts_with = "file")]
    pub(crate) annotations: Vec<(String, String)>,
    /// Do not start it
    #[arg(long, conflicts_with = "file")]
    pub(crate) halted: bool,
    /// When it runs [default: always]
    #[arg(long, value_name = "STRATEGY", conflicts_with_all = ["file", "halted"])]
    pub(crate) run_strategy: Option<RunStrategy>,
    /// How long its guest has to shut down before it is ended [default: 30s]
    #[arg(long, value_name = "SPAN", value_parser = crate::duration::parse, conflicts_with = "file")]
    pub(crate) grace: Option<Duration>,
}

/// When a VM runs.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RunStrategy {
    /// It runs; whatever ends it, it is started again
    Always,
    /// It runs; it is started again unless its guest shut itself down
    RerunOnFailure,
    /// It runs once for each 'berth vm start'
    Manual,
    /// It runs once
    Once,
    /// It does not run
    Halted,
}

impl From<RunStrategy> for v1::RunStrategy {
    fn from(run: RunStrategy) -> Self {
        match run {
            RunStrategy::Always => Self::Always,
            RunStrategy::RerunOnFailure => Self::RerunOnFailure,
            RunStrategy::Manual => Self::Manual,
            RunStrategy::Once => Self::Once,
            RunStrategy::Halted => Self::Halted,
        }
    }
}

/// Change what is asked of a VM.
#[derive(Args, Debug)]
pub(crate) struct Update {
    /// The VM's name
    pub(crate) name: String,
    /// The instance type that gives the size
    #[arg(long, value_name = "NAME", conflicts_with_all = ["cpus", "memory"])]
    pub(crate) instancetype: Option<String>,
    /// Virtual CPUs
    #[arg(long, value_name = "COUNT")]
    pub(crate) cpus: Option<u32>,
    /// Guest memory: 256MiB, 8GiB
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) memory: Option<Bytes>,
    /// The image that the disk starts as
    #[arg(long, value_name = "NAME")]
    pub(crate) image: Option<String>,
    /// The size of the disk
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) disk_size: Option<Bytes>,
    /// When it runs
    #[arg(long, value_name = "STRATEGY")]
    pub(crate) run_strategy: Option<RunStrategy>,
    /// How long its guest has to shut down before it is ended
    #[arg(long, value_name = "SPAN", value_parser = crate::duration::parse)]
    pub(crate) grace: Option<Duration>,
    /// How and where: what is given replaces all that was said of its kind.
    #[command(flatten)]
    pub(crate) placement: Placement,
    /// Drop all that was said of this kind; may be repeated
    #[arg(long, value_name = "KIND")]
    pub(crate) drop: Vec<Dropped>,
    /// Refuse unless the VM has this uid
    #[arg(long, value_name = "UID")]
    pub(crate) expected_uid: Option<String>,
    /// Refuse unless the VM is at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) expected_revision: Option<u64>,
    /// Name the request, to send it again safely: a UUID of version 7
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<String>,
}

/// What can be dropped.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dropped {
    /// The preference.
    Preference,
    /// Wishes about CPUs and memory.
    Tuning,
    /// PCI devices.
    Devices,
    /// Every rule.
    Rules,
    /// --on-hosts
    OnHosts,
    /// --prefer-hosts
    PreferHosts,
    /// --host-group
    HostGroup,
    /// --tolerate
    Tolerate,
    /// --near and --apart
    Affinity,
    /// --spread
    Spread,
    /// --priority
    Priority,
}

impl Dropped {
    /// As the wire calls it.
    pub(crate) const fn field(self) -> &'static str {
        match self {
            Self::Preference => "preference",
            Self::Tuning => "tuning",
            Self::Devices => "devices",
            Self::Rules => "rules",
            Self::OnHosts => "rules.hosts",
            Self::PreferHosts => "rules.host_wishes",
            Self::HostGroup => "rules.host_group",
            Self::Tolerate => "rules.tolerations",
            Self::Affinity => "rules.affinity",
            Self::Spread => "rules.spread",
            Self::Priority => "rules.priority",
        }
    }
}

/// Whether to wait for the effect.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// Wait until it is so; the default
    #[arg(long, overrides_with = "wait")]
    pub(crate) wait: bool,
    /// Return when the cluster has accepted the request
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "SPAN", value_parser = crate::duration::parse, default_value = "5m")]
    pub(crate) wait_timeout: Duration,
}

/// Change one VM.
#[derive(Args, Debug)]
pub(crate) struct Change {
    /// The VM's name
    pub(crate) name: String,
    /// Refuse unless the VM has this uid
    #[arg(long, value_name = "UID")]
    pub(crate) expected_uid: Option<String>,
    /// Refuse unless the VM is at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) expected_revision: Option<u64>,
    /// Name the request, to send it again safely: a UUID of version 7
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<String>,
    /// Whether to wait.
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// Take one VM down.
#[derive(Args, Debug)]
pub(crate) struct Down {
    /// Which and how.
    #[command(flatten)]
    pub(crate) change: Change,
    /// Give the guest no time: what it did not write to its disk is lost
    #[arg(long)]
    pub(crate) force: bool,
}

/// Change labels of one VM.
#[derive(Args, Debug)]
pub(crate) struct Label {
    /// The VM's name
    pub(crate) name: String,
    /// KEY=VALUE sets a label, KEY- removes one
    #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = label_change)]
    pub(crate) changes: Vec<LabelChange>,
    /// Refuse unless the VM has this uid
    #[arg(long, value_name = "UID")]
    pub(crate) expected_uid: Option<String>,
    /// Refuse unless the VM is at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) expected_revision: Option<u64>,
    /// Name the request, to send it again safely: a UUID of version 7
    #[arg(long, value_name = "UUID")]
    pub(crate) request_id: Option<String>,
}

/// What shall happen to one label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum LabelChange {
    /// It shall be there, with this value.
    Set(String, String),
    /// It shall not be there.
    Remove(String),
}

/// Which VMs.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Of every project
    #[arg(short = 'A', long)]
    pub(crate) all_projects: bool,
    /// Only VMs with these labels: app=web,tier!=cache
    #[arg(short = 'l', long, value_name = "TERMS", default_value = "", hide_default_value = true)]
    pub(crate) selector: String,
}

/// Which VMs to follow.
#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// Only the VM of this name
    pub(crate) name: Option<String>,
    /// Which VMs.
    #[command(flatten)]
    pub(crate) list: List,
    /// Only changes after this revision, without the present state
    #[arg(long, value_name = "REVISION")]
    pub(crate) from_revision: Option<u64>,
}

/// Join a console.
#[derive(Args, Debug)]
pub(crate) struct Console {
    /// The VM's name
    pub(crate) name: String,
    /// Print the console until this text appears, then end; with --timeout, for at most so long
    #[arg(long, value_name = "TEXT")]
    pub(crate) until: Option<String>,
}

pub(super) fn label_change(text: &str) -> Result<LabelChange, String> {
    if let Ok((key, value)) = key_value(text) {
        return Ok(LabelChange::Set(key, value));
    }
    match text.strip_suffix('-') {
        Some(key) if !key.is_empty() && !text.contains('=') => Ok(LabelChange::Remove(key.to_owned())),
        _ => Err(format!("{text:?} is neither KEY=VALUE nor KEY-")),
    }
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))
}
