//! Why a connection failed, in words that a person can act on.
//!
//! The reason hides differently on the two sides. What we refuse in a server's certificate is our own verifier's error.
//! What the server refuses in ours reaches us as a TLS alert, and under TLS 1.3 only after our side of the handshake is
//! over: [`crate::connect()`] waits for it, but a caller with another transport sees it at its first read. [`explain`]
//! finds either inside whatever the layers above have wrapped around it.

use std::error::Error;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::connect::ConnectError;
use crate::trust::{PeerRefusal, TrustError};

/// Why a connection could not be made or did not last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Nothing listens there.
    Refused,
    /// No answer in time.
    TimedOut,
    /// The address cannot be reached or resolved.
    Unreachable(String),
    /// The other side closed the connection without a word.
    Closed,
    /// What answers does not speak TLS.
    NotTls,
    /// The server's certificate was issued by another CA.
    ServerOfOtherCa,
    /// The server's certificate has expired, does not hold yet, or is not for servers.
    ServerCertificate(String),
    /// The server is of another cluster, role or name than expected.
    ServerIsOther(PeerRefusal),
    /// The server wants a client certificate and we have none.
    NoCertificate,
    /// Our certificate was issued by a CA that the server does not know.
    CertificateOfOtherCa,
    /// Our certificate is of another cluster than the server.
    CertificateOfOtherCluster,
    /// Our role is not let in there.
    RoleRefused,
    /// Our certificate has expired or does not hold yet.
    CertificateExpired,
    /// The server cannot use our certificate.
    CertificateInvalid(String),
    /// Another TLS failure.
    Tls(String),
    /// Another failure of the system.
    Io(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused; check the address and that the server runs"),
            Self::TimedOut => f.write_str("no answer in time; check the address, the network and the server's load"),
            Self::Unreachable(why) => write!(f, "the address cannot be reached: {why}"),
            Self::Closed => f.write_str("the server closed the connection; see its log"),
            Self::NotTls => f.write_str("what answers there does not speak TLS; check the port"),
            Self::ServerOfOtherCa => f.write_str(
                "the server's certificate was issued by another CA; check the address, or that ca.pem is this cluster's",
            ),
            Self::ServerCertificate(why) => write!(f, "the server's certificate is not acceptable: {why}"),
            Self::ServerIsOther(refusal) => write!(f, "the wrong server answered: {refusal}"),
            Self::NoCertificate => {
                f.write_str("the server wants a client certificate and none was sent; give one with its key")
            }
            Self::CertificateOfOtherCa => f.write_str(
                "the server does not know the CA that issued our certificate; use a certificate of this cluster",
            ),
            Self::CertificateOfOtherCluster => {
                f.write_str("our certificate is of another cluster than the server; use a certificate of its cluster")
            }
            Self::RoleRefused => {
                f.write_str("the role in our certificate is not let in there; use a certificate of another role")
            }
            Self::CertificateExpired => {
                f.write_str("our certificate has expired or does not hold yet; renew it, and check the clocks")
            }
            Self::CertificateInvalid(why) => write!(f, "the server cannot use our certificate ({why}); issue a new one"),
            Self::Tls(why) => write!(f, "TLS failed: {why}"),
            Self::Io(why) => write!(f, "the connection failed: {why}"),
        }
    }
}

impl Problem {
    /// Whether our own credentials are to blame, so that trying again or elsewhere in the cluster is of no use.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::NoCertificate
            | Self::CertificateOfOtherCa
            | Self::CertificateOfOtherCluster
            | Self::RoleRefused
            | Self::CertificateExpired
            | Self::CertificateInvalid(_) => true,
            Self::Refused
            | Self::TimedOut
            | Self::Unreachable(_)
            | Self::Closed
            | Self::NotTls
            | Self::ServerOfOtherCa
            | Self::ServerCertificate(_)
            | Self::ServerIsOther(_)
            | Self::Tls(_)
            | Self::Io(_) => false,
        }
    }

    pub(crate) fn from_tls(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::AlertReceived(alert) => Self::from_alert(*alert),
            E::InvalidCertificate(CertificateError::UnknownIssuer) => Self::ServerOfOtherCa,
            E::InvalidCertificate(CertificateError::Other(other)) => match other.0.downcast_ref::<TrustError>() {
                Some(TrustError::Peer(refusal)) => Self::ServerIsOther(refusal.clone()),
                _ => Self::ServerCertificate(other.0.to_string()),
            },
            E::InvalidCertificate(other) => Self::ServerCertificate(other.to_string()),
            E::InvalidMessage(_) => Self::NotTls,
            other => Self::Tls(other.to_string()),
        }
    }

    /// The alerts are those that our own server's verifier chooses.
    fn from_alert(alert: AlertDescription) -> Self {
        use AlertDescription as A;
        match alert {
            A::CertificateRequired | A::NoCertificate => Self::NoCertificate,
            A::UnknownCA => Self::CertificateOfOtherCa,
            A::CertificateUnknown => Self::CertificateOfOtherCluster,
            A::AccessDenied => Self::RoleRefused,
            A::CertificateExpired => Self::CertificateExpired,
            A::BadCertificate | A::UnsupportedCertificate | A::CertificateRevoked | A::DecryptError => {
                Self::CertificateInvalid(format!("{alert:?}"))
            }
            other => Self::Tls(format!("the server answered with the alert {other:?}")),
        }
    }

    pub(crate) fn from_io(error: &io::Error) -> Self {
        if let Some(inner) = error.get_ref()
            && let Some(found) = explain(inner)
        {
            return found;
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::NotFound
            | io::ErrorKind::InvalidInput => Self::Unreachable(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}

/// The reason for a failed connection, if one can be found in this error or in what caused it.
///
/// Looks through `source()` and inside `io::Error`, which hides what it wraps from `source()`; so it also works on the
/// errors of HTTP and gRPC libraries. The innermost reason that says more than "closed" wins.
pub fn explain(error: &(dyn Error + 'static)) -> Option<Problem> {
    let mut closed = None;
    let mut next = Some(error);
    while let Some(error) = next {
        let found = if let Some(connect) = error.downcast_ref::<ConnectError>() {
            Some(connect.problem.clone())
        } else if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            Some(Problem::from_tls(tls))
        } else {
            error.downcast_ref::<io::Error>().map(Problem::from_io)
        };
        match found {
            Some(found @ (Problem::Closed | Problem::Io(_))) => closed = Some(found),
            Some(found) => return Some(found),
            None => {}
        }
        next = error.source();
    }
    closed
}
