//! Sealing: what is secret in the store is unreadable without the key file. Owns the key and nothing else.
//!
//! XChaCha20-Poly1305 with a random 24-byte nonce in front; the id of the object is authenticated along, so that a sealed
//! value can't be moved to another object. Format: one byte (1), nonce, ciphertext with tag.

use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroize;

use super::StoreError;
use crate::entropy::Entropy;

const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 24;
/// Length of the key, in bytes; the file holds it as hex.
pub const KEY_BYTES: usize = 32;

/// Seals and opens with the store's key; cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    cipher: XChaCha20Poly1305,
    entropy: Entropy,
}

impl Sealer {
    #[must_use]
    pub fn new(mut key: [u8; KEY_BYTES], entropy: Entropy) -> Self {
        let cipher = XChaCha20Poly1305::new((&key).into());
        key.zeroize();
        Self { cipher, entropy }
    }

    /// Where nonces come from.
    pub(super) fn entropy(&self) -> &Entropy {
        &self.entropy
    }

    /// Seals `plain` for the object named `owner`.
    #[must_use]
    pub fn seal(&self, owner: &[u8], mut plain: Vec<u8>) -> Vec<u8> {
        let nonce: [u8; NONCE_BYTES] = self.entropy.bytes();
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), Payload { msg: &plain, aad: owner });
        plain.zeroize();
        let mut out = vec![FORMAT];
        out.extend_from_slice(&nonce);
        // The cipher refuses only what is longer than 256 GiB.
        out.extend_from_slice(&sealed.unwrap_or_default());
        out
    }

    /// Opens what was sealed for `owner`.
    ///
    /// # Errors
    /// `StoreError::WrongKey` when it was sealed with another key, for another object, or was changed.
    pub fn open(&self, owner: &[u8], sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let (format, rest) = sealed.split_first().ok_or(StoreError::WrongKey)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(StoreError::WrongKey)?;
        if *format != FORMAT {
            return Err(StoreError::WrongKey);
        }
        self.cipher.decrypt(&XNonce::from(*nonce), Payload { msg: text, aad: owner }).map_err(|_| StoreError::WrongKey)
    }
}

/// Why a key file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error(
        "the key file {path} can't be read: {source}; put it back from where it is kept, readable for whoever runs this: without it \
         nobody can read the secrets in the store"
    )]
    Read { path: String, source: std::io::Error },
    #[error("the key file {0} is open to others; run: chmod 600 {0}")]
    Open(String),
    #[error("the key file {0} does not hold 64 hex digits; put back the one that the store was made with")]
    Malformed(String),
    #[error("the key file {path} can't be written: {source}")]
    Write { path: String, source: std::io::Error },
}

/// Reads the key file.
///
/// # Errors
/// When it is missing, readable by others, or not 64 hex digits.
pub fn read_key_file(path: &Path) -> Result<[u8; KEY_BYTES], KeyFileError> {
    use std::os::unix::fs::PermissionsExt;
    let name = path.display().to_string();
    let failed = |source| KeyFileError::Read { path: name.clone(), source };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    // systemd hands credentials over as 0440 in a folder that only the service can enter.
    if mode & 0o007 != 0 || mode & 0o020 != 0 {
        return Err(KeyFileError::Open(name));
    }
    let mut text = std::fs::read_to_string(path).map_err(failed)?;
    let mut key = [0; KEY_BYTES];
    let read = hex::decode_to_slice(text.trim(), &mut key);
    text.zeroize();
    read.map_err(|_| KeyFileError::Malformed(name))?;
    Ok(key)
}

/// Makes a new key file, mode 0600; refuses to overwrite one.
///
/// # Errors
/// When it can't be written.
pub fn create_key_file(path: &Path, entropy: &Entropy) -> Result<[u8; KEY_BYTES], KeyFileError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let name = path.display().to_string();
    let failed = |source| KeyFileError::Write { path: name.clone(), source };
    let key: [u8; KEY_BYTES] = entropy.bytes();
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let mut text = hex::encode(key);
    let written = file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all());
    text.zeroize();
    written.map_err(failed)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_with_the_key_and_for_the_owner() {
        let sealer = Sealer::new([7; 32], Entropy::seeded(1));
        let sealed = sealer.seal(b"one", b"canary".to_vec());
        assert!(!sealed.windows(6).any(|w| w == b"canary"));
        assert_eq!(sealer.open(b"one", &sealed).unwrap(), b"canary");
        assert!(sealer.open(b"two", &sealed).is_err());
        assert!(Sealer::new([8; 32], Entropy::seeded(1)).open(b"one", &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(sealer.open(b"one", &sealed[..cut]).is_err());
        }
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        let key = create_key_file(&path, &Entropy::seeded(2)).unwrap();
        assert_eq!(read_key_file(&path).unwrap(), key);
        assert!(create_key_file(&path, &Entropy::seeded(3)).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
        assert!(matches!(read_key_file(&path), Err(KeyFileError::Open(_))));
    }
}
