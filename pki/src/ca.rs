//! The cluster's certificate authority: one P-256 key that says who belongs to the cluster.
//!
//! Leaf certificates are issued by it directly, with key usage and extended key usage that fit the role, so that an
//! operator's certificate cannot serve as a controller's even where only a stock TLS library looks at it.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::files::{FileError, read_private, read_public, write_private, write_public};
use crate::identity::{Identity, IdentityError, check_part};

/// File names within a folder of credentials.
pub(crate) const CA_FILE: &str = "ca.pem";
pub(crate) const CERTIFICATE_FILE: &str = "cert.pem";
pub(crate) const KEY_FILE: &str = "key.pem";
const CA_KEY_FILE: &str = "ca-key.pem";

/// How far before "now" a certificate begins to hold: what clocks of one cluster may differ, generously.
const BACKDATED: Duration = Duration::from_secs(5 * 60);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why the authority could not be made, loaded or asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The cluster id or an identity has odd characters.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The identity belongs to another cluster than this authority.
    #[error("this authority issues for cluster {authority:?} and not for {asked:?}")]
    OtherCluster {
        /// The authority's cluster.
        authority: String,
        /// The cluster of the identity asked for.
        asked: String,
    },
    /// The certificate is not one of an authority made here.
    #[error("not a cluster CA's certificate: {0}")]
    NotAnAuthority(String),
    /// Certificate and key do not belong together.
    #[error("the CA's key does not belong to its certificate")]
    KeyMismatch,
    /// Making or signing failed.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// From when to when a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its first moment.
    pub not_before: SystemTime,
    /// Its last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// From five minutes before `now`, so that clocks may differ a little, until `lasting` after it.
    pub fn starting(now: SystemTime, lasting: Duration) -> Self {
        Self { not_before: now - BACKDATED, not_after: now + lasting }
    }

    /// [`Self::starting`] with the length in days.
    pub fn days(now: SystemTime, days: u32) -> Self {
        Self::starting(now, DAY * days)
    }
}

/// A further name in a certificate, for clients that look at names; ours look at the identity only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum San {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// An authority as text, to be kept.
#[derive(Clone)]
pub struct AuthorityPem {
    /// The certificate.
    pub cert_pem: String,
    /// The private key: a secret.
    pub key_pem: Zeroizing<String>,
}

impl fmt::Debug for AuthorityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityPem").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// A certificate just issued, with its new key.
#[derive(Clone)]
pub struct Issued {
    /// Whom it speaks for.
    pub identity: Identity,
    /// The certificate of the authority.
    pub ca_pem: String,
    /// The certificate.
    pub cert_pem: String,
    /// Its private key: a secret.
    pub key_pem: Zeroizing<String>,
}

impl Issued {
    /// Writes `ca.pem`, `cert.pem` and `key.pem` (mode 0600) into `folder`, which must exist.
    ///
    /// The key comes first: a reader that comes in between finds a pair that does not match, refuses it, and keeps what
    /// it had.
    pub fn save(&self, folder: &Path) -> Result<(), FileError> {
        write_private(&folder.join(KEY_FILE), self.key_pem.as_bytes())?;
        write_public(&folder.join(CERTIFICATE_FILE), self.cert_pem.as_bytes())?;
        write_public(&folder.join(CA_FILE), self.ca_pem.as_bytes())
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A cluster's certificate authority.
pub struct Authority {
    cluster: String,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority with a new key for this cluster.
    pub fn generate(cluster: &str, validity: Validity) -> Result<Self, AuthorityError> {
        check_part(cluster)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.not_before = validity.not_before.into();
        params.not_after = validity.not_after.into();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, cluster);
        params.distinguished_name.push(DnType::CommonName, "Berth cluster CA");
        // Zero: the authority signs leaves only, no further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert_pem = params.self_signed(&key)?.pem();
        Ok(Self { cluster: cluster.into(), cert_pem, issuer: Issuer::new(params, key) })
    }

    /// The authority kept as text.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let odd = |what: &dyn fmt::Display| AuthorityError::NotAnAuthority(what.to_string());
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|error| odd(&error))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| odd(&error))?;
        if !parsed.is_ca() {
            return Err(odd(&"it may not issue certificates"));
        }
        let cluster = parsed
            .subject()
            .iter_organization()
            .next()
            .and_then(|organization| organization.as_str().ok())
            .ok_or_else(|| odd(&"it names no cluster"))?
            .to_owned();
        check_part(&cluster)?;
        let key = KeyPair::from_pem(key_pem)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(AuthorityError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { cluster, cert_pem: cert_pem.into(), issuer })
    }

    /// Certificate and key as text.
    pub fn to_pem(&self) -> AuthorityPem {
        AuthorityPem { cert_pem: self.cert_pem.clone(), key_pem: Zeroizing::new(self.issuer.key().serialize_pem()) }
    }

    /// Writes `ca.pem` and `ca-key.pem` (mode 0600) into `folder`, which must exist.
    pub fn save(&self, folder: &Path) -> Result<(), AuthorityError> {
        write_private(&folder.join(CA_KEY_FILE), self.to_pem().key_pem.as_bytes())?;
        Ok(write_public(&folder.join(CA_FILE), self.cert_pem.as_bytes())?)
    }

    /// The authority that [`Self::save`] wrote.
    pub fn load(folder: &Path) -> Result<Self, AuthorityError> {
        let cert = read_public(&folder.join(CA_FILE))?;
        let key = Zeroizing::new(read_private(&folder.join(CA_KEY_FILE))?);
        let text =
            |bytes| std::str::from_utf8(bytes).map_err(|error| AuthorityError::NotAnAuthority(error.to_string()));
        Self::from_pem(text(&cert)?, text(&key)?)
    }

    /// The cluster it issues for.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// A certificate with a new P-256 key for `identity`, which must be of this cluster.
    pub fn issue(&self, identity: &Identity, sans: &[San], validity: Validity) -> Result<Issued, AuthorityError> {
        if identity.cluster() != self.cluster {
            return Err(AuthorityError::OtherCluster {
                authority: self.cluster.clone(),
                asked: identity.cluster().into(),
            });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.not_before = validity.not_before.into();
        params.not_after = validity.not_after.into();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, self.cluster.as_str());
        params.distinguished_name.push(DnType::OrganizationalUnitName, identity.role().as_str());
        params.distinguished_name.push(DnType::CommonName, identity.name());
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if identity.role().serves() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.subject_alt_names.push(SanType::URI(identity.to_string().try_into()?));
        for san in sans {
            params.subject_alt_names.push(match san {
                San::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                San::Ip(address) => SanType::IpAddress(*address),
            });
        }
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued {
            identity: identity.clone(),
            ca_pem: self.cert_pem.clone(),
            cert_pem,
            key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(cluster: &str) -> Authority {
        Authority::generate(cluster, Validity::days(SystemTime::now(), 2)).unwrap()
    }

    fn issue(authority: &Authority, role: Role) -> Issued {
        let identity = Identity::new(authority.cluster(), role, "n1").unwrap();
        authority.issue(&identity, &[San::Dns("n1.example".into())], Validity::days(SystemTime::now(), 1)).unwrap()
    }

    use crate::identity::Role;

    #[test]
    fn a_certificate_names_its_identity_and_may_do_what_its_role_needs() {
        let authority = authority("lab");
        for role in Role::ALL {
            let issued = issue(&authority, role);
            let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
            assert_eq!(Identity::from_certificate(&der).unwrap(), issued.identity);
            let (_, parsed) = X509Certificate::from_der(&der).unwrap();
            let usage = parsed.extended_key_usage().unwrap().unwrap().value;
            assert!(usage.client_auth && !usage.any);
            assert_eq!(usage.server_auth, role.serves(), "{role}");
            assert!(!parsed.is_ca());
            let usage = parsed.key_usage().unwrap().unwrap().value;
            assert!(usage.digital_signature() && !usage.key_cert_sign());
        }
    }

    #[test]
    fn an_authority_survives_being_saved_and_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let first = authority("lab");
        first.save(folder.path()).unwrap();
        let second = Authority::load(folder.path()).unwrap();
        assert_eq!(second.cluster(), "lab");
        assert_eq!(second.cert_pem(), first.cert_pem());
        let issued = issue(&second, Role::Host);
        crate::Trust::from_pem("lab", first.cert_pem().as_bytes())
            .unwrap()
            .verify_client(&[CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()], SystemTime::now())
            .unwrap();
    }

    #[test]
    fn an_authority_refuses_other_clusters_and_keys_that_are_not_its_own() {
        let (lab, other) = (authority("lab"), authority("other"));
        let stranger = Identity::new("other", Role::Host, "n1").unwrap();
        let refused = lab.issue(&stranger, &[], Validity::days(SystemTime::now(), 1)).unwrap_err();
        assert!(matches!(refused, AuthorityError::OtherCluster { .. }));
        let refused = Authority::from_pem(lab.cert_pem(), &other.to_pem().key_pem).unwrap_err();
        assert!(matches!(refused, AuthorityError::KeyMismatch));
        let leaf = issue(&lab, Role::Controller);
        let refused = Authority::from_pem(&leaf.cert_pem, &leaf.key_pem).unwrap_err();
        assert!(matches!(refused, AuthorityError::NotAnAuthority(_)));
        assert!(Authority::generate("Not A Cluster", Validity::days(SystemTime::now(), 1)).is_err());
    }

    #[test]
    fn debug_output_shows_no_key() {
        let authority = authority("lab");
        let issued = issue(&authority, Role::Host);
        let shown = format!("{authority:?} {:?} {issued:?}", authority.to_pem());
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }
}
