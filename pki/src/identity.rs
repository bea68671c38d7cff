//! Who a certificate speaks for: a cluster, a role and a name, as one URI in the subject alternative names.
//!
//! The URI is `berth://CLUSTER/ROLE/NAME`. Reading is strict, because two spellings of one identity would be two keys in
//! a table of rights: only the form that [`Identity`] prints is accepted, and a certificate with more than one berth URI
//! speaks for nobody.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const SCHEME: &str = "berth://";

/// The longest cluster or peer name, in characters: that of a DNS label.
const LONGEST: usize = 63;

/// Why a text or a certificate holds no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not of the form `berth://CLUSTER/ROLE/NAME`.
    #[error("{0:?} is not of the form berth://CLUSTER/ROLE/NAME")]
    Form(String),
    /// A role that this version does not know.
    #[error("unknown role {0:?}; the roles are controller, host, operator, facade and scraper")]
    Role(String),
    /// A cluster or name that is empty, too long or holds odd characters.
    #[error("{0:?} cannot stand in an identity: 1 to 63 of a-z, 0-9, '-' and '.', with a letter or digit at both ends")]
    Part(String),
    /// The certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// The certificate has no berth URI.
    #[error("the certificate names no identity: it has no berth:// URI among its subject alternative names")]
    Missing,
    /// The certificate has several berth URIs.
    #[error("the certificate names more than one identity")]
    Several,
}

/// What a certificate's holder may act as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A member of the control plane.
    Controller,
    /// A host's daemon.
    Host,
    /// A person, or a program acting for one, at the admin API.
    Operator,
    /// A client of the Kubernetes-compatible API.
    Facade,
    /// A reader of metrics.
    Scraper,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Controller, Self::Host, Self::Operator, Self::Facade, Self::Scraper];

    /// The word for it in the URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Host => "host",
            Self::Operator => "operator",
            Self::Facade => "facade",
            Self::Scraper => "scraper",
        }
    }

    /// Whether a holder accepts connections, and so needs a server's certificate too.
    pub fn serves(self) -> bool {
        match self {
            Self::Controller | Self::Host => true,
            Self::Operator | Self::Facade | Self::Scraper => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| IdentityError::Role(text.into()))
    }
}

/// A holder of a certificate: `berth://CLUSTER/ROLE/NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    cluster: String,
    role: Role,
    name: String,
}

impl Identity {
    /// The identity of these parts; refuses parts that could not be printed and read back.
    pub fn new(cluster: impl Into<String>, role: Role, name: impl Into<String>) -> Result<Self, IdentityError> {
        let (cluster, name) = (cluster.into(), name.into());
        for part in [&cluster, &name] {
            check_part(part)?;
        }
        Ok(Self { cluster, role, name })
    }

    /// The identity that a certificate names in its one berth URI.
    ///
    /// This reads only: whether the certificate is to be believed is for [`crate::Trust`] to say.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (rest, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| IdentityError::Certificate(error.to_string()))?;
        if !rest.is_empty() {
            return Err(IdentityError::Certificate("bytes follow its end".into()));
        }
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| IdentityError::Certificate(error.to_string()))?
            .ok_or(IdentityError::Missing)?;
        let mut uris = names.value.general_names.iter().filter_map(|name| match name {
            // The scheme is compared without case so that an odd spelling is refused below and not overlooked.
            GeneralName::URI(uri)
                if uri.split(':').next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("berth")) =>
            {
                Some(*uri)
            }
            _ => None,
        });
        let uri = uris.next().ok_or(IdentityError::Missing)?;
        if uris.next().is_some() {
            return Err(IdentityError::Several);
        }
        uri.parse()
    }

    /// The cluster's id.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// What it may act as.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its name, unique within cluster and role.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Whether a text can stand as the cluster or the name of an identity.
pub(crate) fn check_part(part: &str) -> Result<(), IdentityError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let good = bytes.len() <= LONGEST
        && bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.iter().all(|&byte| plain(byte) || byte == b'-' || byte == b'.');
    if good { Ok(()) } else { Err(IdentityError::Part(part.into())) }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.cluster, self.role, self.name)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(text.into());
        let mut parts = text.strip_prefix(SCHEME).ok_or_else(form)?.split('/');
        let (Some(cluster), Some(role), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        Self::new(cluster, role.parse()?, name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PART: &str = "[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?";

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(cluster in PART, name in PART, role in prop::sample::select(Role::ALL.to_vec())) {
            let identity = Identity::new(cluster, role, name).unwrap();
            prop_assert_eq!(identity.to_string().parse::<Identity>().unwrap(), identity);
        }

        #[test]
        fn what_is_read_prints_the_same(text in "(berth|BERTH|http)?(:|://)?[a-zA-Z0-9/%?#:@ ._-]{0,40}") {
            if let Ok(identity) = text.parse::<Identity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }

    #[test]
    fn odd_texts_are_refused() {
        for text in [
            "",
            "berth://",
            "berth://lab/host",
            "berth://lab/host/",
            "berth:///host/h1",
            "berth://lab/host/h1/",
            "berth://lab/host/h1/x",
            "berth://lab//h1",
            "berth://lab/Host/h1",
            "berth://lab/root/h1",
            "BERTH://lab/host/h1",
            "https://lab/host/h1",
            "berth://Lab/host/h1",
            "berth://lab:1/host/h1",
            "berth://a@lab/host/h1",
            "berth://lab/host/h%31",
            "berth://lab/host/h1?x",
            "berth://lab/host/h1#x",
            "berth://lab/host/..",
            "berth://lab/host/-h",
            "berth://lab/host/h\0",
            "berth://lab/host/h1\n",
            " berth://lab/host/h1",
            "berth://lab/host/hé",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?}");
        }
        assert!(Identity::new("lab", Role::Host, "h".repeat(64)).is_err());
        assert!(Identity::new("lab", Role::Host, "h".repeat(63)).is_ok());
    }

    fn certificate_with(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_speaks_for_exactly_one_identity() {
        let read = |uris: &[&str]| Identity::from_certificate(&certificate_with(uris));
        let h1 = "berth://lab/host/h1";
        assert_eq!(read(&[h1]).unwrap().to_string(), h1);
        assert_eq!(read(&["https://example.com/", h1]).unwrap().to_string(), h1);
        assert_eq!(read(&[]), Err(IdentityError::Missing));
        assert_eq!(read(&["https://example.com/"]), Err(IdentityError::Missing));
        assert_eq!(read(&[h1, "berth://lab/controller/c1"]), Err(IdentityError::Several));
        assert_eq!(read(&[h1, h1]), Err(IdentityError::Several));
        assert_eq!(read(&[h1, "BERTH://lab/controller/c1"]), Err(IdentityError::Several));
        assert!(matches!(read(&["Berth://lab/host/h1"]), Err(IdentityError::Form(_))));
        assert!(matches!(
            Identity::from_certificate(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])),
            Err(IdentityError::Certificate(_))
        ));
    }
}
