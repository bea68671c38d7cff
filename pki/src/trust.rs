//! Whom to believe: a cluster's CA certificates, and the verifiers that ask of a peer its chain, cluster and role.
//!
//! Stock TLS clients match a server's DNS name. Here names prove nothing: the chain must end at the cluster's CA and the
//! identity in the certificate must be of the expected cluster, role and, where it matters, name. Both verifiers read
//! the trust through an `ArcSwap`, so a new CA certificate takes effect for the next handshake without new
//! configurations.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::identity::{Identity, IdentityError, Role};

/// The one cryptography provider, passed explicitly: no program depends on a process-wide default being installed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())).clone()
}

/// Why a peer whose chain is good is still not the right one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefusal {
    /// Its certificate names no identity.
    #[error(transparent)]
    NoIdentity(#[from] IdentityError),
    /// It belongs to another cluster.
    #[error("{presented} belongs to cluster {:?}, and this is cluster {expected:?}", presented.cluster())]
    OtherCluster {
        /// The cluster it should be of.
        expected: String,
        /// Who it is.
        presented: Identity,
    },
    /// It has a role that is not wanted here.
    #[error("{presented} is in the role {}; expected here: {expected}", presented.role())]
    WrongRole {
        /// The roles that are wanted.
        expected: Allow,
        /// Who it is.
        presented: Identity,
    },
    /// It has the right role and another name.
    #[error("{presented} answered where {expected:?} was expected")]
    WrongName {
        /// The name it should have.
        expected: String,
        /// Who it is.
        presented: Identity,
    },
}

/// Why a certificate or a set of CA certificates is not to be believed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrustError {
    /// The cluster id has odd characters.
    #[error(transparent)]
    Cluster(IdentityError),
    /// The text holds no usable CA certificate.
    #[error("no usable CA certificate: {0}")]
    NoRoots(String),
    /// The chain does not end at the cluster's CA, has expired, or is not for this use.
    #[error("the certificate is not to be trusted: {}", chain_reason(.0))]
    Chain(rustls::Error),
    /// The chain is good and the peer is not the right one.
    #[error(transparent)]
    Peer(#[from] PeerRefusal),
}

fn chain_reason(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "it was not issued by this cluster's CA".into()
        }
        other => other.to_string(),
    }
}

/// The roles that a server lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allow {
    /// Any role: each call decides for itself.
    AnyRole,
    /// These roles; others are refused in the handshake.
    Only(BTreeSet<Role>),
}

impl Allow {
    /// Only these roles.
    pub fn only(roles: impl IntoIterator<Item = Role>) -> Self {
        Self::Only(roles.into_iter().collect())
    }

    /// Whether this role may come in.
    pub fn admits(&self, role: Role) -> bool {
        match self {
            Self::AnyRole => true,
            Self::Only(roles) => roles.contains(&role),
        }
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyRole => f.write_str("any role"),
            Self::Only(roles) if roles.is_empty() => f.write_str("no role"),
            Self::Only(roles) => {
                let words: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
                f.write_str(&words.join(" or "))
            }
        }
    }
}

/// Who must answer when a client connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    role: Role,
    name: Option<String>,
}

impl Expect {
    /// Any holder of this role.
    pub fn any(role: Role) -> Self {
        Self { role, name: None }
    }

    /// The holder of this role with this name.
    pub fn named(role: Role, name: impl Into<String>) -> Self {
        Self { role, name: Some(name.into()) }
    }

    /// Whether this peer is the one.
    pub fn check(&self, presented: &Identity) -> Result<(), PeerRefusal> {
        if presented.role() != self.role {
            return Err(PeerRefusal::WrongRole { expected: Allow::only([self.role]), presented: presented.clone() });
        }
        match &self.name {
            Some(expected) if expected != presented.name() => {
                Err(PeerRefusal::WrongName { expected: expected.clone(), presented: presented.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// A cluster's id and its CA certificates.
#[derive(Clone)]
pub struct Trust {
    cluster: String,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("cluster", &self.cluster)
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// The trust in one or, while the CA is being replaced, several CA certificates.
    pub fn from_pem(cluster: &str, ca_pem: &[u8]) -> Result<Self, TrustError> {
        crate::identity::check_part(cluster).map_err(TrustError::Cluster)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate = certificate.map_err(|error| TrustError::NoRoots(error.to_string()))?;
            roots.add(certificate).map_err(|error| TrustError::NoRoots(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(TrustError::NoRoots("the text holds no certificate".into()));
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(|error| TrustError::NoRoots(error.to_string()))?;
        Ok(Self { cluster: cluster.into(), roots, clients })
    }

    /// The cluster's id.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Whom a chain (the holder's certificate first) speaks for, if it may act as a client in this cluster at `now`.
    pub fn verify_client(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Identity, TrustError> {
        let (first, rest) = split(chain)?;
        self.client(first, rest, unix_time(now))
    }

    /// Whom a chain (the holder's certificate first) speaks for, if it may act as a server in this cluster at `now`.
    pub fn verify_server(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Identity, TrustError> {
        let (first, rest) = split(chain)?;
        self.server(first, rest, unix_time(now))
    }

    fn client(
        &self,
        first: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, TrustError> {
        self.clients.verify_client_cert(first, rest, now).map_err(not_ours)?;
        self.member(first)
    }

    fn server(
        &self,
        first: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, TrustError> {
        let parsed = ParsedCertificate::try_from(first).map_err(not_ours)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, rest, now, algorithms).map_err(not_ours)?;
        self.member(first)
    }

    /// The identity in a certificate whose chain is already proven.
    fn member(&self, certificate: &CertificateDer<'_>) -> Result<Identity, TrustError> {
        let presented = Identity::from_certificate(certificate).map_err(PeerRefusal::NoIdentity)?;
        if presented.cluster() != self.cluster {
            return Err(PeerRefusal::OtherCluster { expected: self.cluster.clone(), presented }.into());
        }
        Ok(presented)
    }
}

fn split<'a, 'der>(
    chain: &'a [CertificateDer<'der>],
) -> Result<(&'a CertificateDer<'der>, &'a [CertificateDer<'der>]), TrustError> {
    chain.split_first().ok_or(TrustError::Chain(rustls::Error::NoCertificatesPresented))
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// Two CAs of clusters with one id have one subject; then the library reports a bad signature where the plain fact is
/// that another CA issued the certificate.
fn not_ours(error: rustls::Error) -> TrustError {
    TrustError::Chain(match error {
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)
        }
        other => other,
    })
}

/// The trust of the moment, shared with the configurations made from it.
pub(crate) type SharedTrust = Arc<ArcSwap<Trust>>;

/// Asks of a server: chain, cluster, role, and name if one is expected.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) trust: SharedTrust,
    pub(crate) expect: Expect,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self
            .trust
            .load()
            .server(end_entity, intermediates, now)
            .and_then(|presented| Ok(self.expect.check(&presented)?));
        match verdict {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(TrustError::Chain(error)) => Err(error),
            // Carried whole, because it is our own user who reads it (see `Problem`).
            Err(other) => Err(CertificateError::Other(OtherError(Arc::new(other))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Asks of a client: a certificate, its chain, cluster, and one of the allowed roles.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) trust: SharedTrust,
    pub(crate) allow: Allow,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Our clients have one certificate and do not choose by hints; strangers need not learn the CA's name.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verdict = self.trust.load().client(end_entity, intermediates, now).and_then(|presented| {
            if self.allow.admits(presented.role()) {
                Ok(())
            } else {
                Err(PeerRefusal::WrongRole { expected: self.allow.clone(), presented }.into())
            }
        });
        let Err(error) = verdict else { return Ok(ClientCertVerified::assertion()) };
        // The alert is all that the client learns, so each case has one of its own (see `Problem`); the full reason
        // stands in our log, in the span of the connection.
        tracing::debug!(reason = %error, "client certificate refused");
        Err(match error {
            TrustError::Chain(error) => error,
            TrustError::Peer(PeerRefusal::WrongRole { .. } | PeerRefusal::WrongName { .. }) => {
                CertificateError::ApplicationVerificationFailure.into()
            }
            TrustError::Peer(PeerRefusal::OtherCluster { .. }) => {
                CertificateError::Other(OtherError(Arc::new(error))).into()
            }
            TrustError::Peer(PeerRefusal::NoIdentity(_)) | TrustError::Cluster(_) | TrustError::NoRoots(_) => {
                CertificateError::BadEncoding.into()
            }
        })
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not offered".into())
}
