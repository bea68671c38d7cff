//! Joins the parts and takes them down in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use berth_control::{Control, Publisher, leader};
use berth_pki::{Allow, Credentials, Limits, Role, SealingKey};
use berth_telemetry::Metrics;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::consensus::Log;
use crate::environment::Machine as Clock;
use crate::grpc;
use crate::guard::{self, Halt};
use crate::links::{TlsLinks, incoming};
use crate::machine::Machine;
use crate::metrics::{self, ApiMetrics, Counting, HostMetrics};
use crate::peers::Peers;
use crate::sealing::FileKey;
use crate::trouble;

/// How long calls in flight may take to end at a shutdown.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// The longest entry of the log: whatever the API takes in one request, sealed, fits.
const LARGEST_ENTRY: usize = 3 << 20;

/// Runs one member until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let credentials = credentials(&config)?;
    let key = SealingKey::load(&config.sealing_key).context("cannot load the sealing key")?;
    let shutdown = berth_telemetry::shutdown_signal().context("cannot listen for signals")?;
    let api = bind(&config.api_listen).await?;
    let raft = bind(&config.raft_listen).await?;
    let metrics_at = match &config.metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let metrics = Metrics::new("berth-controller");

    let (publisher, views) = Publisher::new();
    let halt = Halt::new();
    let links = Arc::new(TlsLinks(credentials.clone()));
    let mut options = berth_raft::Options::new(config.id(), &config.data_dir, config.members(), links);
    options.max_payload_bytes = LARGEST_ENTRY;
    let store_limit = options.max_store_bytes;
    // The process outlives a failure of its disk: it says so, and takes part again when there is room.
    let (log, service) = berth_raft::supervise(options, {
        let (halt, commands) = (halt.clone(), metrics.register(metrics::commands_applied));
        move || Machine::new(publisher.clone(), halt.clone()).counting(commands.clone())
    })
    .await?;

    let members =
        berth_pki::accept(raft, credentials.server_config(Allow::only([Role::Controller])), Limits::default());
    let raft_stop = tokio_util::sync::CancellationToken::new();
    let raft_served = tokio::spawn(service.run(incoming(members), raft_stop.clone().cancelled_owned()));

    let control =
        Control::new(Arc::new(Log::new(log.clone(), halt.clone())), Arc::new(Clock), Arc::new(FileKey(key)), views);
    let leading = tokio::spawn(leader::run(control.clone(), config.cluster()));

    let peers = Peers::new(credentials.clone());
    let guarding = tokio::spawn(guard::run(control.clone(), log.clone(), peers, halt));

    metrics.register(|registry| {
        log.metrics().register(registry.sub_registry_with_prefix("berth"));
        registry.register_collector(Box::new(HostMetrics(control.clone())));
    });
    if let Some(listener) = metrics_at {
        let mut readers = (*credentials.server_config(Allow::only([Role::Scraper, Role::Operator]))).clone();
        // Monitoring systems say in the handshake which HTTP they speak.
        readers.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let readers = berth_pki::accept(listener, Arc::new(readers), Limits::default());
        tokio::spawn(metrics::serve(metrics.clone(), readers, shutdown.clone()));
    }

    let clients = berth_pki::accept(api, credentials.server_config(Allow::AnyRole), Limits::default());
    let shared = grpc::Shared {
        control,
        log: log.clone(),
        peers: Peers::new(credentials),
        seat: config.seat(),
        store_limit,
        trouble: trouble::follow(log.clone(), shutdown.clone()),
        counting: Counting(metrics.register(ApiMetrics::new)),
        shutdown: shutdown.clone(),
    };
    tracing::info!(name = %config.name, api = config.api_listen, raft = config.raft_listen, "controller is up");
    let serving = grpc::serve(shared, clients);
    tokio::pin!(serving);
    let outcome = tokio::select! {
        ended = &mut serving => ended.context("the API stopped"),
        () = shutdown.cancelled() => {
            tracing::info!("going down");
            // Another member takes over before this one is gone, so that writes hardly pause. One that is alone need not wait.
            if log.leadership().borrow().is_leader
                && hears_another(&log.status())
                && let Err(why) = log.transfer_leadership(None, DRAIN_WITHIN).await
            {
                tracing::info!("leadership was not passed on: {why}");
            }
            match tokio::time::timeout(DRAIN_WITHIN, &mut serving).await {
                Ok(ended) => ended.context("the API stopped"),
                Err(_) => {
                    tracing::info!("calls that did not end in time are cut off");
                    Ok(())
                }
            }
        }
    };
    leading.abort();
    guarding.abort();
    raft_stop.cancel();
    log.shutdown().await;
    if let Ok(Err(error)) = raft_served.await {
        tracing::warn!("{error}");
    }
    outcome
}

/// Whether another member answered a moment ago: somewhere between a few heartbeats and a lost member.
fn hears_another(status: &berth_raft::Status) -> bool {
    const MOMENT_MS: u64 = 2000;
    let others = status.members.iter().filter(|member| member.member.id != status.id);
    others.into_iter().any(|member| member.silent_ms.is_some_and(|silent| silent < MOMENT_MS))
}

fn credentials(config: &Config) -> anyhow::Result<Credentials> {
    let credentials = Credentials::load_files(&config.tls.ca, &config.tls.cert, &config.tls.key)
        .context("cannot load this controller's certificate")?;
    let identity = credentials.identity();
    anyhow::ensure!(
        identity.role() == Role::Controller && identity.name() == config.name.as_str(),
        "the certificate is that of {} {:?}, this is controller {:?}; use the certificate made for it",
        identity.role().as_str(),
        identity.name(),
        config.name
    );
    anyhow::ensure!(
        identity.cluster() == config.cluster().to_string(),
        "the certificate is of cluster {:?}, the configuration says {:?}",
        identity.cluster(),
        config.cluster()
    );
    Ok(credentials)
}

async fn bind(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))
}

#[cfg(test)]
mod tests {
    use berth_raft::{Member, MemberStatus, Status};

    use super::hears_another;

    fn leader_with(silences: &[Option<u64>]) -> Status {
        let member = |id, silent_ms| MemberStatus {
            member: Member { id, ..Member::default() },
            is_leader: id == 1,
            silent_ms,
            ..MemberStatus::default()
        };
        let others = silences.iter().zip(2..).map(|(silent, id)| member(id, *silent));
        Status {
            id: 1,
            term: 1,
            members: std::iter::once(member(1, Some(0))).chain(others).collect(),
            ..Status::default()
        }
    }

    #[test]
    fn the_lead_is_handed_over_only_when_somebody_is_there_to_take_it() {
        assert!(hears_another(&leader_with(&[None, Some(100)])));
        for alone in [&[][..], &[None, None], &[Some(60_000), None]] {
            assert!(!hears_another(&leader_with(alone)), "{alone:?}");
        }
    }
}
