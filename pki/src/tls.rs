//! One program's credentials, and the rustls configurations made from them.
//!
//! A configuration is made once and stays; certificate, key and CA are looked up at each handshake, so
//! [`Credentials::reload`] takes effect without a restart and without touching connections that exist.
//!
//! Sessions are never resumed: a resumed session would carry on the trust of the day it began, past a new CA or a
//! withdrawn certificate. The server still sends one session ticket, which nobody can redeem, as the sign that it has
//! accepted the client's certificate; [`crate::connect()`] waits for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, ResolvesServerCert, StoresServerSessions};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::ca::{CA_FILE, CERTIFICATE_FILE, Issued, KEY_FILE};
use crate::files::{FileError, read_private, read_public};
use crate::identity::{Identity, IdentityError};
use crate::trust::{Allow, ClientVerifier, Expect, ServerVerifier, SharedTrust, Trust, TrustError, provider};

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file could not be read, or the key is open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificates or the key cannot be read.
    #[error("{what} is not usable: {reason}")]
    Pem {
        /// Which of them.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The certificate names no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key does not belong to the certificate.
    #[error("the key does not belong to the certificate: {0}")]
    KeyMismatch(rustls::Error),
    /// The certificate does not fit the CA that stands beside it, or does not hold now.
    #[error("the certificate of {identity} cannot be used: {source}")]
    Trust {
        /// Whom it speaks for.
        identity: Box<Identity>,
        /// Why.
        source: Box<TrustError>,
    },
    /// The CA's certificate is not usable.
    #[error(transparent)]
    Roots(Box<TrustError>),
    /// A reload found another identity.
    #[error("these are the credentials of {found}, and this program runs as {running}; restart it to change that")]
    OtherIdentity {
        /// What this program runs as.
        running: Box<Identity>,
        /// What was found.
        found: Box<Identity>,
    },
    /// A reload was asked of credentials that came from no files.
    #[error("these credentials were not loaded from files")]
    NoFiles,
}

/// A program's certificate, key and trust. Clones share one state.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    files: Option<Files>,
    trust: SharedTrust,
    own: Arc<ArcSwap<CertifiedKey>>,
}

impl Credentials {
    /// The credentials in `ca.pem`, `cert.pem` and `key.pem` of this folder; otherwise as [`Credentials::load_files`].
    ///
    /// Refused if others may read the key, or if certificate, key and CA do not fit together or do not hold now.
    pub fn load(folder: &Path) -> Result<Self, CredentialsError> {
        Self::load_files(&folder.join(CA_FILE), &folder.join(CERTIFICATE_FILE), &folder.join(KEY_FILE))
    }

    /// The credentials in these files.
    ///
    /// Refused if others may read the key, or if certificate, key and CA do not fit together or do not hold now.
    pub fn load_files(ca: &Path, certificate: &Path, key: &Path) -> Result<Self, CredentialsError> {
        let files = Files { ca: ca.into(), certificate: certificate.into(), key: key.into() };
        let (identity, trust, own) = files.read()?;
        Ok(Self::assemble(identity, Some(files), trust, own))
    }

    /// The credentials in these texts; `cert_pem` may hold intermediate certificates after the first.
    pub fn from_pem(ca_pem: &[u8], cert_pem: &[u8], key_pem: &[u8]) -> Result<Self, CredentialsError> {
        let (identity, trust, own) = parse(ca_pem, cert_pem, key_pem)?;
        Ok(Self::assemble(identity, None, trust, own))
    }

    /// The credentials just issued.
    pub fn from_issued(issued: &Issued) -> Result<Self, CredentialsError> {
        Self::from_pem(issued.ca_pem.as_bytes(), issued.cert_pem.as_bytes(), issued.key_pem.as_bytes())
    }

    fn assemble(identity: Identity, files: Option<Files>, trust: Trust, own: CertifiedKey) -> Self {
        Self {
            identity,
            files,
            trust: Arc::new(ArcSwap::from_pointee(trust)),
            own: Arc::new(ArcSwap::from_pointee(own)),
        }
    }

    /// Reads the files again; from the next handshake on, every configuration made from these credentials uses what
    /// was found. On an error nothing changes. Returns whether the certificate is another one than before.
    pub fn reload(&self) -> Result<bool, CredentialsError> {
        let files = self.files.as_ref().ok_or(CredentialsError::NoFiles)?;
        let (found, trust, own) = files.read()?;
        if found != self.identity {
            return Err(CredentialsError::OtherIdentity {
                running: Box::new(self.identity.clone()),
                found: Box::new(found),
            });
        }
        let changed = self.own.load().cert != own.cert;
        self.trust.store(Arc::new(trust));
        self.own.store(Arc::new(own));
        Ok(changed)
    }

    /// Whom they speak for.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The cluster and CA they trust, as of now.
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.load_full()
    }

    /// Certificate chain and key, as of now.
    pub(crate) fn own(&self) -> Arc<CertifiedKey> {
        self.own.load_full()
    }

    /// For servers: TLS 1.3, ALPN `h2`, a client certificate of this cluster and of an allowed role required.
    ///
    /// # Panics
    /// Never: the provider is ours and offers TLS 1.3.
    pub fn server_config(&self, allow: Allow) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the ring provider offers TLS 1.3")
            .with_client_cert_verifier(Arc::new(ClientVerifier { trust: self.trust.clone(), allow }))
            .with_cert_resolver(Arc::new(Own(self.own.clone())));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoSessions);
        config.send_tls13_tickets = 1;
        Arc::new(config)
    }

    /// For clients: TLS 1.3, ALPN `h2`, our certificate, and a server of this cluster that is the expected one.
    ///
    /// # Panics
    /// Never: the provider is ours and offers TLS 1.3.
    pub fn client_config(&self, expect: Expect) -> Arc<ClientConfig> {
        finish(client_builder(self.trust.clone(), expect).with_client_cert_resolver(Arc::new(Own(self.own.clone()))))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// For a client that has no certificate yet: it knows whom to believe and cannot say who it is itself.
pub fn anonymous_client_config(trust: Trust, expect: Expect) -> Arc<ClientConfig> {
    finish(client_builder(Arc::new(ArcSwap::from_pointee(trust)), expect).with_no_client_auth())
}

fn client_builder(
    trust: SharedTrust,
    expect: Expect,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the ring provider offers TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier { trust, expect }))
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// Where credentials came from.
#[derive(Clone, Debug)]
struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn read(&self) -> Result<(Identity, Trust, CertifiedKey), CredentialsError> {
        let ca = read_public(&self.ca)?;
        let certificate = read_public(&self.certificate)?;
        let key = Zeroizing::new(read_private(&self.key)?);
        parse(&ca, &certificate, &key)
    }
}

fn parse(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<(Identity, Trust, CertifiedKey), CredentialsError> {
    let odd = |what, reason: String| CredentialsError::Pem { what, reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| odd("the certificate", error.to_string()))?;
    let first = chain.first().ok_or_else(|| odd("the certificate", "the text holds none".into()))?;
    let identity = Identity::from_certificate(first)?;
    let trust = Trust::from_pem(identity.cluster(), ca).map_err(|error| CredentialsError::Roots(Box::new(error)))?;
    trust
        .verify_client(&chain, SystemTime::now())
        .map_err(|source| CredentialsError::Trust { identity: Box::new(identity.clone()), source: Box::new(source) })?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| odd("the key", error.to_string()))?;
    let own = CertifiedKey::from_der(chain, key, &provider()).map_err(CredentialsError::KeyMismatch)?;
    Ok((identity, trust, own))
}

/// The certificate of the moment, for either side.
struct Own(Arc<ArcSwap<CertifiedKey>>);

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own")
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Claims to keep sessions, so that a ticket is sent, and forgets each at once, so that none is resumed.
#[derive(Debug)]
struct NoSessions;

impl StoresServerSessions for NoSessions {
    fn put(&self, _key: Vec<u8>, _value: Vec<u8>) -> bool {
        true
    }

    fn get(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, _key: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn can_cache(&self) -> bool {
        true
    }
}
