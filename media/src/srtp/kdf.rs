//! Session keys from master key and salt (RFC 3711 §4.3; RFC 7714 §11 for the 96-bit salts; RFC 6188 for AES-256).

use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};

use super::SrtpError;

/// What a derived key is for (RFC 3711 §4.3.2).
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub enum Label {
    /// Encryption of RTP.
    RtpEncryption = 0,
    /// Authentication of RTP.
    RtpAuthentication = 1,
    /// Salt of RTP.
    RtpSalt = 2,
    /// Encryption of RTCP.
    RtcpEncryption = 3,
    /// Authentication of RTCP.
    RtcpAuthentication = 4,
    /// Salt of RTCP.
    RtcpSalt = 5,
}

/// The pseudo-random function under one master key and salt.
pub struct Kdf {
    prf: EncryptingKey,
    /// The master salt, left-aligned in 112 bits.
    salt: [u8; 14],
}

impl Kdf {
    /// `master_key` of 16 or 32 bytes, `master_salt` of at most 14.
    pub fn new(master_key: &[u8], master_salt: &[u8]) -> Result<Self, SrtpError> {
        let algorithm = if master_key.len() == 32 { &AES_256 } else { &AES_128 };
        let key = UnboundCipherKey::new(algorithm, master_key).map_err(|_| SrtpError::BadKey)?;
        let mut salt = [0; 14];
        salt.get_mut(..master_salt.len()).ok_or(SrtpError::BadKey)?.copy_from_slice(master_salt);
        Ok(Self { prf: EncryptingKey::ctr(key).map_err(|_| SrtpError::BadKey)?, salt })
    }

    /// The first `N` bytes of the key stream for `label`; the key derivation rate is zero.
    pub fn derive<const N: usize>(&self, label: Label) -> [u8; N] {
        let mut iv = [0; 16];
        iv[..14].copy_from_slice(&self.salt);
        iv[7] ^= label as u8;
        let mut out = [0; N];
        self.prf
            .less_safe_encrypt(&mut out, EncryptionContext::Iv128(iv.into()))
            .expect("CTR takes any length and a 128-bit IV");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srtp::tests::hex;

    fn check(key: &str, salt: &str, label: Label, expected: &str) {
        let kdf = Kdf::new(&hex(key), &hex(salt)).expect("a good key");
        let derived = kdf.derive::<32>(label);
        let expected = hex(expected);
        assert_eq!(derived[..expected.len()], expected, "{label:?}");
    }

    #[test]
    fn rfc_3711_appendix_b_3() {
        let (key, salt) = ("E1F97A0D3E018BE0D64FA32C06DE4139", "0EC675AD498AFEEBB6960B3AABE6");
        check(key, salt, Label::RtpEncryption, "C61E7A93744F39EE10734AFE3FF7A087");
        check(key, salt, Label::RtpSalt, "30CBBC08863D8C85D49DB34A9AE1");
        check(key, salt, Label::RtpAuthentication, "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4");
    }

    #[test]
    fn keys_of_the_wrong_length_are_refused() {
        assert!(Kdf::new(&[0; 15], &[0; 14]).is_err());
        assert!(Kdf::new(&[0; 16], &[0; 15]).is_err());
    }
}
