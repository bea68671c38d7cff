//! Calls to other members' APIs and to hosts, over connections whose certificates are checked.

use std::time::Duration;

use berth_pki::{Credentials, Expect, Role};
use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// Makes connections with this member's certificate.
#[derive(Clone)]
pub(crate) struct Peers(pub(crate) Credentials);

impl Peers {
    /// A channel to another controller's API.
    pub(crate) async fn controller(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        self.channel(address, Expect::any(Role::Controller)).await
    }

    /// A channel to the daemon of the host of this name.
    pub(crate) async fn host(&self, address: &str, name: &str) -> Result<Channel, tonic::transport::Error> {
        self.channel(address, Expect::named(Role::Host, name)).await
    }

    async fn channel(&self, address: &str, expect: Expect) -> Result<Channel, tonic::transport::Error> {
        let (config, address) = (self.0.client_config(expect), address.to_owned());
        // The scheme is what the library wants to see; the connector below does TLS and looks at identities.
        let endpoint = Endpoint::from_static("http://peer.berth")
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        let connector = tower::service_fn(move |_: Uri| {
            let (config, address) = (config.clone(), address.clone());
            async move { berth_pki::connect(&address, config, CONNECT_WITHIN).await.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(connector).await
    }
}
