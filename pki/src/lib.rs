//! Certificates that carry cluster, role and name, and the rustls configurations made from them.
//!
//! Every connection inside a cluster is TLS 1.3 with a certificate on both sides, issued by the cluster's own CA. Who a
//! peer is stands in its certificate as one URI, `berth://CLUSTER/ROLE/NAME` ([`Identity`]); DNS names and addresses
//! decide nothing, so hosts may be renumbered and several may share one address. The same identities sign the short
//! tickets with which a controller opens a console stream on a host ([`ticket`]).
//!
//! | To do | Use |
//! |---|---|
//! | make a cluster's CA, issue certificates | [`Authority`] |
//! | load `ca.pem`, `cert.pem`, `key.pem`; swap them at run time | [`Credentials`] |
//! | serve | [`Credentials::server_config`], [`accept()`] |
//! | call | [`Credentials::client_config`], [`connect()`], [`explain`] |
//! | sign and check one-minute tickets | [`ticket::sign`], [`ticket::Gate`] |
//! | keep secrets encrypted | [`SealingKey`] |
//! | carry a controller's place and keys to its machine | [`Bundle`] |

mod accept;
pub mod bundle;
mod ca;
mod connect;
mod files;
mod identity;
mod problem;
mod sealing;
pub mod ticket;
mod tls;
mod trust;

pub use accept::{Accepted, Incoming, Limits, accept};
pub use bundle::{Bundle, BundleError, Seat};
pub use ca::{Authority, AuthorityError, AuthorityPem, Issued, San, Validity};
pub use connect::{ConnectError, connect};
pub use files::{FileError, read_private, write_private, write_public};
pub use identity::{Identity, IdentityError, Role};
pub use problem::{Problem, explain};
pub use sealing::{NONCE_LENGTH, Plaintext, SealError, SealedBytes, SealingKey, fresh_nonce};
pub use tls::{Credentials, CredentialsError, anonymous_client_config};
pub use trust::{Allow, Expect, PeerRefusal, Trust, TrustError};
