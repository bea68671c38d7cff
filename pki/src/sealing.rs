//! Sealing secrets: user data, passwords and keys are stored and replicated only as ciphertext.
//!
//! The key is a file of each controller, never in the log, a snapshot or a backup. A sealed value names the key that
//! opens it, so that keys can be replaced one value at a time; the additional data binds it to the object that holds it,
//! so that it cannot be moved to another.

use std::fmt;
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::files::{FileError, read_private, write_private};

/// Bytes in a nonce.
pub const NONCE_LENGTH: usize = 12;

const KEY_LENGTH: usize = 32;

/// The first line of a key file.
const HEADER: &str = "berth-sealing-key v1";

/// Why a secret cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file could not be read or written, or is open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds no key.
    #[error("the file is no sealing key: it must hold the line \"{HEADER}\" and 64 hexadecimal digits")]
    NotAKey,
    /// Sealed with another key.
    #[error("the value is sealed with key {needed}, and this is key {present}")]
    OtherKey {
        /// The key that opens it.
        needed: String,
        /// The key at hand.
        present: String,
    },
    /// Altered, or sealed for another object.
    #[error("the sealed value was altered or belongs to another object")]
    Altered,
    /// The system gave no random bytes, or the secret is too long for the cipher.
    #[error("cannot seal: {0}")]
    Cannot(&'static str),
}

/// A secret as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedBytes {
    /// Which key opens it.
    pub key_id: String,
    /// Used once per key.
    pub nonce: [u8; NONCE_LENGTH],
    /// The secret, encrypted, and its authentication tag.
    pub ciphertext: Vec<u8>,
}

impl fmt::Debug for SealedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedBytes({} bytes under key {})", self.ciphertext.len(), self.key_id)
    }
}

/// An opened secret: not printed by `Debug`, and wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// The secret.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret, for a place that looks after it from now on.
    pub fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plaintext({} bytes)", self.0.len())
    }
}

/// A nonce of random bytes. 96 random bits stay distinct, to one in 2^32, over 2^32 values under one key.
pub fn fresh_nonce() -> Result<[u8; NONCE_LENGTH], SealError> {
    let mut nonce = [0; NONCE_LENGTH];
    fill(&mut nonce)?;
    Ok(nonce)
}

fn fill(bytes: &mut [u8]) -> Result<(), SealError> {
    SystemRandom::new().fill(bytes).map_err(|_| SealError::Cannot("the system gave no random bytes"))
}

/// A 256-bit key for AES-256-GCM.
#[derive(Clone)]
pub struct SealingKey {
    bytes: Zeroizing<[u8; KEY_LENGTH]>,
    id: String,
}

impl SealingKey {
    /// A new key of random bytes.
    pub fn generate() -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
        fill(bytes.as_mut())?;
        Ok(Self::from_bytes(bytes))
    }

    fn from_bytes(bytes: Zeroizing<[u8; KEY_LENGTH]>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes.as_ref());
        let id = hex(&digest.as_ref()[..8]);
        Self { bytes, id }
    }

    /// The key in this file; refused if others may read it.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        Self::parse(&Zeroizing::new(read_private(path)?))
    }

    /// Writes the key to this file with mode 0600.
    pub fn save(&self, path: &Path) -> Result<(), SealError> {
        Ok(write_private(path, self.to_text().as_bytes())?)
    }

    /// The key as the text of its file: a secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{HEADER}\n{}\n", Zeroizing::new(hex(self.bytes.as_ref())).as_str()))
    }

    /// The key in the text of its file.
    pub fn parse(text: &[u8]) -> Result<Self, SealError> {
        let digits = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.strip_prefix(HEADER)?.strip_prefix('\n'))
            .map(|rest| rest.strip_suffix('\n').unwrap_or(rest).as_bytes())
            .filter(|digits| digits.len() == 2 * KEY_LENGTH)
            .ok_or(SealError::NotAKey)?;
        let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self::from_bytes(bytes))
    }

    /// Its name: the first 8 bytes of its SHA-256, as 16 hexadecimal digits.
    pub fn key_id(&self) -> &str {
        &self.id
    }

    /// Encrypts `plaintext` and binds it to `aad`, which must be given again to open it.
    ///
    /// A nonce must never be used twice with one key; [`fresh_nonce`] makes one.
    pub fn seal(&self, plaintext: &[u8], aad: &[u8], nonce: [u8; NONCE_LENGTH]) -> Result<SealedBytes, SealError> {
        let mut ciphertext = Vec::with_capacity(plaintext.len() + AES_256_GCM.tag_len());
        ciphertext.extend_from_slice(plaintext);
        self.cipher()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut ciphertext)
            .map_err(|_| SealError::Cannot("the secret is too long"))?;
        Ok(SealedBytes { key_id: self.id.clone(), nonce, ciphertext })
    }

    /// Decrypts what [`Self::seal`] made with the same key and `aad`.
    pub fn open(&self, key_id: &str, nonce: &[u8], ciphertext: &[u8], aad: &[u8]) -> Result<Plaintext, SealError> {
        if key_id != self.id {
            return Err(SealError::OtherKey { needed: key_id.into(), present: self.id.clone() });
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Altered)?;
        let mut bytes = Zeroizing::new(ciphertext.to_vec());
        let plaintext =
            self.cipher().open_in_place(nonce, Aad::from(aad), &mut bytes).map_err(|_| SealError::Altered)?;
        Ok(Plaintext(Zeroizing::new(plaintext.to_vec())))
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.bytes.as_ref()).expect("AES-256 takes keys of 32 bytes"))
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

fn digit(byte: u8) -> Result<u8, SealError> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(SealError::NotAKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(key: &SealingKey, sealed: &SealedBytes, aad: &[u8]) -> Result<Plaintext, SealError> {
        key.open(&sealed.key_id, &sealed.nonce, &sealed.ciphertext, aad)
    }

    proptest::proptest! {
        #[test]
        fn what_is_sealed_opens_with_the_same_key_and_data_only(
            secret: Vec<u8>, aad: Vec<u8>, other_aad: Vec<u8>, position: proptest::sample::Index, bit in 0..8_u8,
        ) {
            let key = SealingKey::generate().unwrap();
            let sealed = key.seal(&secret, &aad, fresh_nonce().unwrap()).unwrap();
            assert_eq!(open(&key, &sealed, &aad).unwrap().as_bytes(), secret);
            if other_aad != aad {
                assert!(matches!(open(&key, &sealed, &other_aad), Err(SealError::Altered)));
            }
            let mut flipped = sealed.clone();
            *position.get_mut(&mut flipped.ciphertext) ^= 1_u8 << bit;
            assert!(matches!(open(&key, &flipped, &aad), Err(SealError::Altered)));
            let other = SealingKey::generate().unwrap();
            assert!(matches!(open(&other, &sealed, &aad), Err(SealError::OtherKey { .. })));
        }
    }

    #[test]
    fn a_key_survives_its_file_and_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing.key");
        let key = SealingKey::generate().unwrap();
        key.save(&path).unwrap();
        let loaded = SealingKey::load(&path).unwrap();
        assert_eq!(loaded.key_id(), key.key_id());
        assert_eq!(key.key_id().len(), 16);
        let sealed = key.seal(b"secret", b"", fresh_nonce().unwrap()).unwrap();
        assert_eq!(open(&loaded, &sealed, b"").unwrap().into_bytes(), b"secret");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let text = SealingKey::generate().unwrap().to_text();
        assert!(SealingKey::parse(text.as_bytes()).is_ok());
        assert!(SealingKey::parse(text.trim_end().as_bytes()).is_ok());
        for odd in ["", HEADER, &text[1..], &text[..text.len() - 2], &text.to_uppercase(), &format!("{}\n", *text)] {
            assert!(matches!(SealingKey::parse(odd.as_bytes()), Err(SealError::NotAKey)), "{odd:?}");
        }
        assert!(SealingKey::parse(&[0xff; 80]).is_err());
    }

    #[test]
    fn the_key_of_zeros_has_the_published_digest_for_a_name() {
        let text = format!("{HEADER}\n{}\n", "0".repeat(64));
        // SHA-256 of 32 zero bytes begins 66687aadf862bd77.
        assert_eq!(SealingKey::parse(text.as_bytes()).unwrap().key_id(), "66687aadf862bd77");
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let key = SealingKey::generate().unwrap();
        let sealed = key.seal(b"hunter2", b"", fresh_nonce().unwrap()).unwrap();
        let opened = open(&key, &sealed, b"").unwrap();
        let shown = format!("{key:?} {sealed:?} {opened:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
        assert!(!shown.contains(&hex(key.bytes.as_ref())), "{shown}");
    }
}
