//! One-minute tickets: the leader's signed word that a controller may open one stream to one VM on its host.
//!
//! A host has no table of rights; it believes the leader. A ticket names the placement (VM, epoch, incarnation), the
//! right, and the controller that may use it. It is signed with the leader's certificate key and carries that
//! certificate, so a host checks it with nothing but the cluster's CA. Stolen, it is of no use: it is bound to the
//! holder's certificate, opens one stream, once, within a minute.
//!
//! The bytes, all numbers big-endian:
//!
//! ```text
//! version 1 (u8) · body length (u16) · body · certificates (u8), each: length (u16) · DER · signature length (u16) · ASN.1 ECDSA
//! body: epoch (u64) · incarnation (u64) · expires_at_ms (u64) · right (u8) · nonce (16) · vm_uid: length (u8), text · holder: likewise
//! ```
//!
//! The signature covers the words `berth ticket`, the cluster's id and everything before the certificates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Identity, Role, check_part};
use crate::tls::Credentials;
use crate::trust::{Trust, TrustError};

/// The longest time that a ticket may still have to run, in milliseconds.
pub const LONGEST_MS: u64 = 60_000;

/// By how much the clocks of signer and host may differ, in milliseconds.
pub const SKEW_MS: u64 = 5_000;

/// The largest ticket, in bytes: a few certificates and a body of at most 300.
pub const LARGEST: usize = 16 * 1024;

const VERSION: u8 = 1;
const CONTEXT: &[u8] = b"berth ticket\0";
const MOST_CERTIFICATES: usize = 4;

/// Why a ticket was not signed or not accepted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TicketError {
    /// Not the bytes of a ticket.
    #[error("not a ticket: {0}")]
    Format(&'static str),
    /// A version that this program does not know.
    #[error("a ticket of version {0}, which this program does not know; upgrade it")]
    Version(u8),
    /// A VM uid or a holder that cannot stand in a ticket.
    #[error("{0:?} cannot stand in a ticket")]
    Text(String),
    /// Signed by one who is not of this cluster.
    #[error("the ticket's signer is not to be believed: {0}")]
    Signer(#[from] TrustError),
    /// Signed by one who is not a controller.
    #[error("the ticket was signed by {0}, and only controllers sign tickets")]
    NotAController(Identity),
    /// Altered, or signed with another key than that of its certificate.
    #[error("the ticket's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the ticket expired {late_ms} ms ago; ask for a new one")]
    Expired {
        /// By how many milliseconds.
        late_ms: u64,
    },
    /// It would be good for longer than any ticket may; the clocks differ, or the signer is wrong.
    #[error("the ticket is good for {left_ms} ms, longer than a ticket may be; compare the clocks")]
    TooLong {
        /// How many milliseconds it would still be good for.
        left_ms: u64,
    },
    /// Shown by another than its holder.
    #[error("the ticket was made out to controller {holder:?} and was shown by {bearer}")]
    OtherHolder {
        /// Whom it was made out to.
        holder: String,
        /// Who showed it.
        bearer: Identity,
    },
    /// Shown before.
    #[error("the ticket was used before; ask for a new one")]
    Used,
    /// More tickets within a minute than are remembered.
    #[error("too many tickets within one minute; try again shortly")]
    TooMany,
    /// The credentials' key cannot sign.
    #[error("cannot sign the ticket: {0}")]
    Cannot(String),
}

/// What a ticket's holder may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// Read and write the serial console.
    Console,
}

impl Right {
    fn code(self) -> u8 {
        match self {
            Self::Console => 1,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Console),
            _ => None,
        }
    }
}

/// A right to one stream to one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Which VM: 1 to 255 bytes.
    pub vm_uid: String,
    /// Which placement of it.
    pub epoch: u64,
    /// Within which incarnation of the cluster.
    pub incarnation: u64,
    /// To do what.
    pub right: Right,
    /// The name of the controller that may use it.
    pub holder: String,
    /// Random; what makes it good for one use.
    pub nonce: [u8; 16],
    /// Until when, in milliseconds since 1970; at most [`LONGEST_MS`] from now.
    pub expires_at_ms: u64,
}

/// Random bytes for a ticket's nonce.
pub fn fresh_nonce() -> Result<[u8; 16], TicketError> {
    let mut nonce = [0; 16];
    SystemRandom::new().fill(&mut nonce).map_err(|_| TicketError::Cannot("the system gave no random bytes".into()))?;
    Ok(nonce)
}

/// The bytes of `ticket`, signed with the key of `signer`, which must be a controller's P-256 key.
pub fn sign(signer: &Credentials, ticket: &Ticket) -> Result<Vec<u8>, TicketError> {
    if signer.identity().role() != Role::Controller {
        return Err(TicketError::NotAController(signer.identity().clone()));
    }
    if ticket.vm_uid.is_empty() || ticket.vm_uid.len() > 255 {
        return Err(TicketError::Text(ticket.vm_uid.clone()));
    }
    check_part(&ticket.holder).map_err(|_| TicketError::Text(ticket.holder.clone()))?;

    let mut body = Vec::with_capacity(128);
    body.extend_from_slice(&ticket.epoch.to_be_bytes());
    body.extend_from_slice(&ticket.incarnation.to_be_bytes());
    body.extend_from_slice(&ticket.expires_at_ms.to_be_bytes());
    body.push(ticket.right.code());
    body.extend_from_slice(&ticket.nonce);
    for text in [&ticket.vm_uid, &ticket.holder] {
        body.push(u8::try_from(text.len()).expect("checked above"));
        body.extend_from_slice(text.as_bytes());
    }
    let mut bytes = vec![VERSION];
    put(&mut bytes, &body)?;

    let own = signer.own();
    let key = own
        .key
        .choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256])
        .ok_or_else(|| TicketError::Cannot("the key is not of the kind ECDSA P-256".into()))?;
    let signature = key
        .sign(&signed_part(signer.identity().cluster(), &bytes))
        .map_err(|error| TicketError::Cannot(error.to_string()))?;
    if own.cert.len() > MOST_CERTIFICATES {
        return Err(TicketError::Cannot("the chain of certificates is too long".into()));
    }
    bytes.push(u8::try_from(own.cert.len()).expect("checked above"));
    for certificate in &own.cert {
        put(&mut bytes, certificate)?;
    }
    put(&mut bytes, &signature)?;
    if bytes.len() > LARGEST {
        return Err(TicketError::Cannot("the chain of certificates is too long".into()));
    }
    Ok(bytes)
}

/// The ticket in these bytes, if a controller of `trust`'s cluster signed it and it has not expired at `now_ms`
/// (milliseconds since 1970).
///
/// This does not ask who shows it, nor whether it was shown before: a host uses a [`Gate`].
pub fn verify(bytes: &[u8], trust: &Trust, now_ms: u64) -> Result<Ticket, TicketError> {
    if bytes.len() > LARGEST {
        return Err(TicketError::Format("too long"));
    }
    let mut reader = Reader(bytes);
    let version = reader.byte()?;
    if version != VERSION {
        return Err(TicketError::Version(version));
    }
    let body = reader.block()?;
    let covered = signed_part(trust.cluster(), &bytes[..bytes.len() - reader.0.len()]);
    let count = usize::from(reader.byte()?);
    if !(1..=MOST_CERTIFICATES).contains(&count) {
        return Err(TicketError::Format("a strange number of certificates"));
    }
    let chain: Vec<_> =
        (0..count).map(|_| Ok(CertificateDer::from(reader.block()?))).collect::<Result<_, TicketError>>()?;
    let signature = reader.block()?;
    reader.end()?;

    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms.min(i64::MAX as u64));
    let signer = trust.verify_server(&chain, now)?;
    if signer.role() != Role::Controller {
        return Err(TicketError::NotAController(signer));
    }
    let (_, certificate) = X509Certificate::from_der(&chain[0]).map_err(|_| TicketError::Signature)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &certificate.public_key().subject_public_key.data)
        .verify(&covered, signature)
        .map_err(|_| TicketError::Signature)?;

    let ticket = read_body(body)?;
    if ticket.expires_at_ms.saturating_add(SKEW_MS) < now_ms {
        return Err(TicketError::Expired { late_ms: now_ms - ticket.expires_at_ms });
    }
    let left_ms = ticket.expires_at_ms.saturating_sub(now_ms);
    if left_ms > LONGEST_MS + SKEW_MS {
        return Err(TicketError::TooLong { left_ms });
    }
    Ok(ticket)
}

fn signed_part(cluster: &str, head: &[u8]) -> Vec<u8> {
    [CONTEXT, cluster.as_bytes(), b"\0", head].concat()
}

fn read_body(body: &[u8]) -> Result<Ticket, TicketError> {
    let mut reader = Reader(body);
    let epoch = reader.number()?;
    let incarnation = reader.number()?;
    let expires_at_ms = reader.number()?;
    let right = Right::from_code(reader.byte()?).ok_or(TicketError::Format("an unknown right"))?;
    let nonce = reader.array()?;
    let vm_uid = reader.text()?;
    let holder = reader.text()?;
    reader.end()?;
    Ok(Ticket { vm_uid, epoch, incarnation, right, holder, nonce, expires_at_ms })
}

fn put(bytes: &mut Vec<u8>, block: &[u8]) -> Result<(), TicketError> {
    let length = u16::try_from(block.len()).map_err(|_| TicketError::Format("a part is too long"))?;
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(block);
    Ok(())
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], TicketError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(TicketError::Format("too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TicketError> {
        Ok(self.take(N)?.try_into().expect("exactly N bytes were taken"))
    }

    fn byte(&mut self) -> Result<u8, TicketError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, TicketError> {
        self.array().map(u64::from_be_bytes)
    }

    fn block(&mut self) -> Result<&'a [u8], TicketError> {
        let length = u16::from_be_bytes(self.array()?);
        self.take(length.into())
    }

    fn text(&mut self) -> Result<String, TicketError> {
        let length = self.byte()?;
        let text = std::str::from_utf8(self.take(length.into())?).map_err(|_| TicketError::Format("odd text"))?;
        if text.is_empty() { Err(TicketError::Format("an empty text")) } else { Ok(text.into()) }
    }

    fn end(&self) -> Result<(), TicketError> {
        if self.0.is_empty() { Ok(()) } else { Err(TicketError::Format("bytes follow its end")) }
    }
}

/// The nonces of tickets that were used and have not expired.
///
/// Bounded: when full of tickets that still run, further ones are refused rather than an old one forgotten.
#[derive(Debug)]
pub struct SeenTickets {
    /// Nonce to expiry.
    seen: BTreeMap<[u8; 16], u64>,
    capacity: usize,
}

impl SeenTickets {
    /// Remembers at most `capacity` tickets.
    pub fn new(capacity: usize) -> Self {
        Self { seen: BTreeMap::new(), capacity }
    }

    /// Marks a verified ticket as used; refuses one that was used before.
    pub fn claim(&mut self, ticket: &Ticket, now_ms: u64) -> Result<(), TicketError> {
        if self.seen.contains_key(&ticket.nonce) {
            return Err(TicketError::Used);
        }
        if self.seen.len() >= self.capacity {
            self.seen.retain(|_, expires_at_ms| expires_at_ms.saturating_add(SKEW_MS) >= now_ms);
            if self.seen.len() >= self.capacity {
                return Err(TicketError::TooMany);
            }
        }
        self.seen.insert(ticket.nonce, ticket.expires_at_ms);
        Ok(())
    }
}

/// How many used tickets a host remembers: 68 streams opened in each second of a ticket's life, in under a megabyte.
const REMEMBERED: usize = 4_096;

/// A host's check of tickets, whole: signature, time, holder and single use.
///
/// What was used is forgotten when the host's daemon restarts; until a minute later, the controller that the ticket was
/// made out to could use it a second time, and nobody else could.
#[derive(Debug)]
pub struct Gate {
    credentials: Credentials,
    seen: SeenTickets,
}

impl Gate {
    /// A gate that believes controllers of these credentials' cluster, by the CA certificates they hold at each time.
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, seen: SeenTickets::new(REMEMBERED) }
    }

    /// The ticket in `bytes`, if `bearer`, the peer of the TLS connection, may use it now.
    ///
    /// The caller still compares VM, epoch, incarnation and right with what is asked for.
    pub fn admit(&mut self, bytes: &[u8], bearer: &Identity, now_ms: u64) -> Result<Ticket, TicketError> {
        let trust: Arc<Trust> = self.credentials.trust();
        let ticket = verify(bytes, &trust, now_ms)?;
        let held =
            bearer.cluster() == trust.cluster() && bearer.role() == Role::Controller && bearer.name() == ticket.holder;
        if !held {
            return Err(TicketError::OtherHolder { holder: ticket.holder, bearer: bearer.clone() });
        }
        self.seen.claim(&ticket, now_ms)?;
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests;
