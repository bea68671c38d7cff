//! What `./x bench` runs: Berth against its yardsticks, on this machine, in the same run.
//!
//! One program with the roles of a bench as sub-commands, each a process of its own: the driver, the load generator, and a
//! key-value member over our log.

mod cluster;
mod failover;
mod fleet;
mod host;
mod load;
mod machine;
mod planner;
mod raft;
mod report;
mod rounds;
mod scale;
mod server;
mod space;
mod usage;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// As in the controller.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures Berth against its yardsticks.
#[derive(Debug, Parser)]
#[command(name = "berth-bench", version, disable_help_subcommand = true)]
struct Cli {
    /// What to log to standard error.
    #[arg(long, global = true, default_value = "warn,openraft=error", env = "BERTH_LOG")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One member of a key-value store over our log, with the interface of etcd's
    KvServer(server::Args),
    /// Clients in a closed loop against one member, of ours or of etcd
    Load(load::Args),
    /// Our log against etcd's
    Raft(raft::Args),
    /// How many VMs a second find their berths
    Planner(planner::Args),
    /// Three controllers, a fleet of simulated hosts, and their VMs
    Scale(scale::Args),
    /// One host's daemon
    Host(host::Args),
}

fn main() -> ExitCode {
    let Cli { log, command } = Cli::parse();
    let outcome =
        berth_telemetry::init(berth_telemetry::Format::Text, &log).map_err(Into::into).and_then(|()| match command {
            Command::KvServer(args) => server::run(&args),
            Command::Load(args) => load::run(&args),
            Command::Raft(args) => raft::run(&args),
            Command::Planner(args) => planner::run(&args),
            Command::Scale(args) => scale::run(&args),
            Command::Host(args) => host::run(&args),
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

#[expect(clippy::print_stderr, reason = "a program's last words must reach whoever started it")]
fn complain(error: &anyhow::Error) -> ExitCode {
    eprintln!("berth-bench: {error:#}");
    ExitCode::FAILURE
}
