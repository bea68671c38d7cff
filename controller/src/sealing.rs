//! The sealing key as the port that control asks for.

use berth_control::Seal;
use berth_model::Sealed;
use berth_model::session::UserData;
use berth_pki::{SealingKey, fresh_nonce};

/// The key of this member's file.
#[derive(Debug)]
pub(crate) struct FileKey(pub(crate) SealingKey);

impl Seal for FileKey {
    fn seal(&self, secret: &[u8], context: &[u8]) -> Result<Sealed, String> {
        let nonce = fresh_nonce().map_err(|error| error.to_string())?;
        let sealed = self.0.seal(secret, context, nonce).map_err(|error| error.to_string())?;
        Ok(Sealed { key_id: sealed.key_id, nonce: sealed.nonce.to_vec(), ciphertext: sealed.ciphertext })
    }

    fn open(&self, sealed: &Sealed, context: &[u8]) -> Result<UserData, String> {
        let plain = self.0.open(&sealed.key_id, &sealed.nonce, &sealed.ciphertext, context);
        plain.map(|plain| UserData(plain.into_bytes())).map_err(|error| error.to_string())
    }
}
