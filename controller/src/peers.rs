//! Calls to other members' APIs and to hosts, over connections whose certificates are checked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_pki::{ConnectError, Credentials, Expect, Role};
use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

/// A connection, whatever it is made of.
type Stream = Box<dyn berth_raft::Io>;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// Makes connections with this member's certificate. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    /// What this member shows.
    pub(crate) credentials: Credentials,
    /// Connections to controllers, which are few; one that broke is made again when it is used.
    controllers: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Peers {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, controllers: Arc::default() }
    }

    /// A channel to another controller's API.
    pub(crate) fn controller(&self, address: &str) -> Channel {
        let mut controllers = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = controllers.get(address) {
            return channel.clone();
        }
        let dialer = dialer(&self.credentials, address, Expect::any(Role::Controller));
        let channel = endpoint().connect_with_connector_lazy(dialer);
        controllers.insert(address.to_owned(), channel.clone());
        channel
    }

    /// Forgets controllers that are at none of these addresses any more.
    pub(crate) fn keep_controllers(&self, addresses: &[&str]) {
        let mut controllers = self.controllers.lock().unwrap_or_else(PoisonError::into_inner);
        controllers.retain(|address, _| addresses.contains(&address.as_str()));
    }

    /// A channel to the daemon of the host of this name.
    pub(crate) async fn host(&self, address: &str, name: &str) -> Result<Channel, tonic::transport::Error> {
        let dialer = dialer(&self.credentials, address, Expect::named(Role::Host, name));
        endpoint().connect_with_connector(dialer).await
    }
}

/// Makes the TLS, and looks who is there.
fn dialer(
    credentials: &Credentials,
    address: &str,
    expect: Expect,
) -> impl Service<Uri, Response = TokioIo<Stream>, Error = ConnectError, Future = impl Send + use<>> + Send + 'static + use<>
{
    let (config, address) = (credentials.client_config(expect), address.to_owned());
    tower::service_fn(move |_: Uri| {
        let (config, address) = (config.clone(), address.clone());
        async move {
            let stream = berth_pki::connect(&address, config, CONNECT_WITHIN).await?;
            Ok(TokioIo::new(Box::new(stream) as Stream))
        }
    })
}

/// How connections are kept.
fn endpoint() -> Endpoint {
    // The scheme is what the library wants to see; the dialer does TLS and looks at identities.
    Endpoint::from_static("http://peer.berth")
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
}
