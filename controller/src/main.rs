//! `berth-controller`: one member of the replicated controller.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_controller::config::Config;
use berth_controller::formation::{Init, Join};
use berth_controller::restore::{ForceNewCluster, Restore};
use clap::{Parser, Subcommand};

/// What a leader does most is to allocate and free small messages (docs/decisions/0006).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// One member of Berth's replicated controller.
#[derive(Parser)]
#[command(name = "berth-controller", version = env!("CARGO_PKG_VERSION"), args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Without one, the member runs.
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration.
    #[arg(long, default_value = "/etc/berth/controller.toml")]
    config: PathBuf,
    /// Check the configuration and exit: 0 if it is good, 64 if not.
    #[arg(long)]
    check_config: bool,
    /// How to log: text or json.
    #[arg(long, default_value = "text", env = "BERTH_LOG_FORMAT")]
    log_format: berth_telemetry::Format,
    /// What to log, such as info or berth_control=debug.
    #[arg(long, default_value = "info,openraft=error", env = "BERTH_LOG")]
    log: String,
}

/// What to do instead of running.
#[derive(Subcommand)]
enum Command {
    Init(Init),
    Join(Join),
    Restore(Restore),
    ForceNewCluster(ForceNewCluster),
}

impl Command {
    fn run(&self) -> anyhow::Result<String> {
        match self {
            Self::Init(init) => init.run(),
            Self::Join(join) => join.run(),
            Self::Restore(restore) => restore.run(),
            Self::ForceNewCluster(force) => force.run(),
        }
    }
}

/// The exit code for a configuration that cannot work (EX_USAGE of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(command) = &arguments.command {
        return match command.run() {
            Ok(told) => {
                tell(&told);
                ExitCode::SUCCESS
            }
            Err(error) => complain(&error, 1),
        };
    }
    if let Err(error) = berth_telemetry::init(arguments.log_format, &arguments.log) {
        return complain(&error.into(), BAD_CONFIGURATION);
    }
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return complain(&error, BAD_CONFIGURATION),
    };
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.into(), 1),
    };
    match runtime.block_on(berth_controller::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, 1),
    }
}

/// Says what was done. A closed pipe is nobody's concern here.
fn tell(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Says why the program cannot go on, with the whole chain of causes.
#[expect(clippy::print_stderr, reason = "the program's last words must reach the operator even without a log")]
fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("berth-controller: {error:#}");
    ExitCode::from(code)
}
