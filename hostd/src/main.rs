//! `berth-hostd`: the host daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use berth_hostd::config::{Config, ConfigError};
#[cfg(feature = "sim")]
use berth_hostd::fleet::{self, Fleet};
use berth_hostd::service::{self, StartError};
use berth_hostsys::kvm;
use berth_telemetry::{BUILD, Format};
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

/// What a configuration that cannot be used ends with (EX_USAGE).
const BAD_CONFIG: u8 = 64;

/// Berth's host daemon: keeps the VMs of one host as the controllers want them.
#[derive(Debug, Parser)]
#[command(name = "berth-hostd", version = BUILD.version)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/berth/hostd.toml")]
    config: PathBuf,
    /// Only check the configuration.
    #[arg(long)]
    check_config: bool,
    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text", env = "BERTH_LOG_FORMAT")]
    log_format: Format,
    /// What is logged: a level, or levels by module such as info,berth_hostd=debug.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "BERTH_LOG")]
    log: String,
    #[cfg(feature = "sim")]
    #[command(flatten)]
    fleet: fleet::Order,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to run.
enum Work {
    /// The host that this machine is.
    Host(Box<Config>),
    /// Hosts on simulated machines.
    #[cfg(feature = "sim")]
    Fleet(Fleet),
}

impl Work {
    fn load(arguments: &Arguments) -> Result<Self, ConfigError> {
        #[cfg(feature = "sim")]
        if let Some(fleet::Kind::Sim) = arguments.fleet.backend {
            return Fleet::load(&arguments.config, arguments.fleet.clone()).map(Self::Fleet);
        }
        Config::load(&arguments.config).map(Box::new).map(Self::Host)
    }

    async fn run(self, stop: CancellationToken) -> Result<(), StartError> {
        match self {
            Self::Host(config) => service::run(*config, stop).await,
            #[cfg(feature = "sim")]
            Self::Fleet(fleet) => fleet.run(stop).await,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find out whether KVM really runs guest code on this machine, and say what was found.
    Preflight,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Preflight) => preflight(),
        None => serve(&arguments),
    }
}

#[expect(clippy::print_stdout, reason = "what was found is the data that was asked for")]
fn preflight() -> ExitCode {
    let found = kvm::preflight(kvm::DEADLINE);
    for step in &found.passed {
        println!("passed  {step}");
    }
    if let Some((step, detail)) = &found.failure {
        println!("failed  {step}: {detail}");
        println!("KVM cannot be used here; VMs will run by QEMU's translator (TCG)");
    } else {
        println!("KVM can be used here");
    }
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "there is no log yet, or none was asked for")]
fn serve(arguments: &Arguments) -> ExitCode {
    let work = match Work::load(arguments) {
        Ok(work) => work,
        Err(error) => {
            eprintln!("berth-hostd: {error}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if arguments.check_config {
        eprintln!("berth-hostd: {} is good", arguments.config.display());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = berth_telemetry::init(arguments.log_format, &arguments.log) {
        eprintln!("berth-hostd: {error}");
        return ExitCode::from(BAD_CONFIG);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot begin");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        let stop = berth_telemetry::shutdown_signal().map_err(anyhow::Error::from)?;
        work.run(stop).await.map_err(anyhow::Error::from)
    });
    // A blocking call that does not return must not keep the process: libvirt finishes its part without us.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the host daemon cannot go on");
            ExitCode::FAILURE
        }
    }
}
