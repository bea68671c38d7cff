//! The messages, and connections over mutual TLS that carry them.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_pki::{Credentials, Expect, Role};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The generated messages.
#[expect(
    unreachable_pub,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto files are where it is documented"
)]
pub(crate) mod proto {
    pub(crate) mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    pub(crate) mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    pub(crate) mod counters {
        tonic::include_proto!("berth.bench.v1");
    }
}

/// The credentials in a folder.
pub(crate) fn credentials(folder: &Path) -> Result<Credentials> {
    Credentials::load(folder).with_context(|| format!("cannot load the certificate in {}", folder.display()))
}

/// A channel of one connection to a member, which both systems' members prove to be by the same kind of certificate. It
/// connects when it is first used, and again when it broke.
pub(crate) fn channel(address: &str, credentials: &Credentials) -> Channel {
    let config = credentials.client_config(Expect::any(Role::Controller));
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, config) = (address.clone(), Arc::clone(&config));
        async move { Ok::<_, io::Error>(TokioIo::new(berth_pki::connect(&address, config, CONNECT_WITHIN).await?)) }
    });
    // The connector does TLS; the address only labels the calls.
    Endpoint::from_static("http://member.bench.invalid").connect_with_connector_lazy(connector)
}
