//! Connections to controllers: mTLS by our own rules, HTTP/2 by tonic.

use std::time::Duration;

use berth_pki::{Credentials, Expect, Problem, Role};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

/// How often an idle connection is probed, and how long the answer may take: a controller whose machine died is
/// noticed while a watch or a console waits.
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBE_ANSWER: Duration = Duration::from_secs(5);

/// Connects as one identity.
pub(super) struct Dialer {
    credentials: Credentials,
}

impl Dialer {
    pub(super) const fn new(credentials: Credentials) -> Self {
        Self { credentials }
    }

    /// Connects to a controller, within `at_most`.
    pub(super) async fn dial(&self, address: &str, at_most: Duration) -> Result<Channel, Problem> {
        let config = self.credentials.client_config(Expect::any(Role::Controller));
        // The scheme is only for HTTP's sake: the connector below makes the TLS.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Problem::Unreachable(format!("{address:?} is no address: {error}")))?
            .http2_keep_alive_interval(PROBE_EVERY)
            .keep_alive_timeout(PROBE_ANSWER)
            .keep_alive_while_idle(true);
        let target = address.to_owned();
        let connector = tower::service_fn(move |_: tonic::codegen::http::Uri| {
            let (target, config) = (target.clone(), config.clone());
            async move { berth_pki::connect(&target, config, at_most).await.map(TokioIo::new) }
        });
        endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| berth_pki::explain(&error).unwrap_or_else(|| Problem::Io(error.to_string())))
    }
}
