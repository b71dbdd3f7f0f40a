//! AEAD_AES_128_GCM and AEAD_AES_256_GCM for RTP and RTCP (RFC 7714 §8, §9).
//!
//! ```text
//! nonce  = salt XOR ( 00 00 | SSRC | ROC | SEQ )             SRTP
//! nonce  = salt XOR ( 00 00 | SSRC | 00 00 | SRTCP index )   SRTCP
//! ```

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::SrtpError;

/// Bytes of the authentication tag, in RTP and RTCP.
pub const TAG_LEN: usize = 16;

/// Bytes of the salt.
pub const SALT_LEN: usize = 12;

/// A session key with its schedule, and its salt.
pub struct GcmKey {
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
}

impl GcmKey {
    /// `key` of 16 or 32 bytes.
    pub fn new(key: &[u8], salt: [u8; SALT_LEN]) -> Result<Self, SrtpError> {
        let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
        let key = UnboundKey::new(algorithm, key).map_err(|_| SrtpError::BadKey)?;
        Ok(Self { key: LessSafeKey::new(key), salt })
    }

    /// Encrypts `text` in place; returns the tag.
    pub fn seal(
        &self,
        ssrc: u32,
        index: u64,
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG_LEN], SrtpError> {
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(ssrc, index), Aad::from(aad), text)
            .map_err(|_| SrtpError::TooLong)?;
        Ok(tag.as_ref().try_into().expect("a GCM tag has 16 bytes"))
    }

    /// Verifies and decrypts `text`, which ends with the tag, in place.
    pub fn open(&self, ssrc: u32, index: u64, aad: &[u8], text: &mut [u8]) -> Result<(), SrtpError> {
        self.key
            .open_in_place(self.nonce(ssrc, index), Aad::from(aad), text)
            .map(|_| ())
            .map_err(|_| SrtpError::Forged)
    }

    /// The 48-bit index is ROC and sequence number for RTP; for RTCP it has 31 bits.
    fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let mut nonce = [0; SALT_LEN];
        nonce[2..6].copy_from_slice(&ssrc.to_be_bytes());
        nonce[6..].copy_from_slice(&index.to_be_bytes()[2..]);
        for (byte, salt) in nonce.iter_mut().zip(self.salt) {
            *byte ^= salt;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}
