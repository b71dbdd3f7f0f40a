//! AES128_CM_SHA1_80: AES in counter mode with HMAC-SHA1 cut to 80 bits (RFC 3711 §4.1.1, §4.2.1).

use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use super::SrtpError;

/// Bytes of the authentication tag, in RTP and RTCP.
pub const TAG_LEN: usize = 10;

/// Bytes of the salt.
pub const SALT_LEN: usize = 14;

/// Bytes of the authentication key.
pub const AUTH_KEY_LEN: usize = 20;

/// Session keys with their schedules, and the salt.
pub struct CmKey {
    cipher: EncryptingKey,
    hmac: hmac::Key,
    salt: [u8; SALT_LEN],
}

impl CmKey {
    /// From the three derived keys of RTP or of RTCP.
    pub fn new(
        key: &[u8; 16],
        authentication: &[u8; AUTH_KEY_LEN],
        salt: [u8; SALT_LEN],
    ) -> Result<Self, SrtpError> {
        let key = UnboundCipherKey::new(&AES_128, key).map_err(|_| SrtpError::BadKey)?;
        Ok(Self {
            cipher: EncryptingKey::ctr(key).map_err(|_| SrtpError::BadKey)?,
            hmac: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, authentication),
            salt,
        })
    }

    /// Encrypts or decrypts `text` in place: the same operation.
    pub fn crypt(&self, ssrc: u32, index: u64, text: &mut [u8]) {
        let mut iv = [0; 16];
        iv[..SALT_LEN].copy_from_slice(&self.salt);
        xor(&mut iv[4..8], &ssrc.to_be_bytes());
        xor(&mut iv[8..14], &index.to_be_bytes()[2..]);
        self.cipher
            .less_safe_encrypt(text, EncryptionContext::Iv128(iv.into()))
            .expect("CTR takes any length and a 128-bit IV");
    }

    /// The tag over `packet` followed by `suffix` (the ROC for RTP, nothing for RTCP).
    pub fn tag(&self, packet: &[u8], suffix: &[u8]) -> [u8; TAG_LEN] {
        let mut context = hmac::Context::with_key(&self.hmac);
        context.update(packet);
        context.update(suffix);
        context.sign().as_ref()[..TAG_LEN].try_into().expect("HMAC-SHA1 has 20 bytes")
    }

    /// Compares in constant time.
    pub fn verify(&self, packet: &[u8], suffix: &[u8], tag: &[u8]) -> Result<(), SrtpError> {
        verify_slices_are_equal(&self.tag(packet, suffix), tag).map_err(|_| SrtpError::Forged)
    }
}

fn xor(bytes: &mut [u8], with: &[u8]) {
    for (byte, with) in bytes.iter_mut().zip(with) {
        *byte ^= with;
    }
}
